/**
 * A disk image as a disk: by a qemu-nbd of its own, which serves one client on a socket in a folder of its own and ends with it. It ends with
 * whoever runs this, too, however that ends.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, toFault } from '@typevisor/base'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { commandFault } from './command.ts'
import type { CommandRunner, OpenVolume } from './ports.ts'

const EXPORT = 'volume'
const POLL_MS = 10

/** @throws Fault `failed` with qemu-nbd's words: the image is damaged, or a guest has it. */
export async function openImage(runner: CommandRunner, path: string, format: 'qcow2' | 'raw'): Promise<OpenVolume> {
  await using building = new AsyncDisposableStack()
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-'))
  building.defer(() => rm(folder, { recursive: true, force: true }))
  const socketPath = join(folder, 'nbd')
  const served = ['qemu-nbd', `--format=${format}`, `--socket=${socketPath}`, `--export-name=${EXPORT}`, '--', `file:${path}`]
  const argv = ['setpriv', '--pdeathsig', 'KILL', ...served] as [string, ...string[]]
  const stop = new AbortController()
  const ended = runner.run(argv, { signal: stop.signal })
  ended.catch(() => {})
  building.defer(async () => {
    stop.abort(new Fault('aborted', 'nobody reads it any more'))
    await ended.catch(() => {})
  })
  const client = await connected(
    socketPath,
    ended.then((result) => Promise.reject(commandFault(argv, result))),
  )
  const parts = building.move()
  return Object.assign(client, {
    [Symbol.asyncDispose]: async () => {
      await client.close()
      // Behind its last client it writes back and ends.
      await ended.catch(() => {})
      await parts.disposeAsync()
    },
  })
}

async function connected(socketPath: string, ends: Promise<never>): Promise<NbdClient> {
  ends.catch(() => {})
  while (true) {
    try {
      return await connectNbd({ address: { socketPath }, exportName: EXPORT, extendedHeaders: true })
    } catch (error) {
      if (toFault(error).code !== 'unavailable') throw error
      await Promise.race([ends, sleep(POLL_MS)])
    }
  }
}
