/** Stops the platform that runs on the data directory, by its API; waits until it is gone. */
import { parseArgs } from 'node:util'
import { Fault, toFault } from '@typevisor/base'
import type { Command } from '../terminal.ts'
import { connection } from '../connect.ts'
import { clientOf } from '../verb.ts'

const LIMIT_MS = 120_000

export const down: Command = {
  summary: 'Stop the platform; guests go on (--guests stops them too)',
  usage: 'typevisor down [--guests]',
  async run(words, terminal, json) {
    let guests: boolean
    try {
      guests = parseArgs({ args: [...words], options: { guests: { type: 'boolean' } } }).values.guests ?? false
    } catch (error) {
      throw new Fault('invalid', `down: ${(error as Error).message}`, { cause: error })
    }
    const client = clientOf(terminal)
    const { pid } = await client.call('platform.get')
    await client.call('platform.stop', { body: { guests } })
    const { url } = connection(terminal.env)
    const end = performance.now() + LIMIT_MS
    while (alive(pid)) {
      if (performance.now() > end)
        throw new Fault('timeout', `the platform at ${url} (process ${pid}) did not stop in ${LIMIT_MS / 1000} s`)
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    terminal.out(json ? JSON.stringify({ stopped: true, guests }) : guests ? 'stopped, with its guests' : 'stopped; guests go on')
    return 0
  },
}

/** Only of a process on this machine; elsewhere its own answer has to do. */
function alive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return toFault(error).cause instanceof Error && (toFault(error).cause as NodeJS.ErrnoException).code === 'EPERM'
  }
}
