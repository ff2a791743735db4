import { hostname } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Fault, toFault } from '@typevisor/base'
import { keepJoined, openHost } from '@typevisor/agent'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import type { Command } from '../terminal.ts'
import { dataDirOf } from '../connect.ts'
import { VERSION } from '../version.ts'

export const agent: Command = {
  summary: 'Run the agent of a host for a server elsewhere',
  usage:
    'typevisor agent --server URL --token T [--data DIR] [--name NAME] [--driver qemu|sim]   (`typevisor host token NAME` makes the token; TYPEVISOR_HOST_TOKEN is read too)',
  async run(words, terminal) {
    let values
    try {
      values = parseArgs({
        args: [...words],
        options: {
          server: { type: 'string' },
          token: { type: 'string' },
          data: { type: 'string' },
          name: { type: 'string' },
          driver: { type: 'string' },
          log: { type: 'string' },
        },
      }).values
    } catch (error) {
      throw new Fault('invalid', `agent: ${(error as Error).message}`, { cause: error })
    }
    const { server, driver = 'qemu' } = values
    const token = values.token ?? terminal.env['TYPEVISOR_HOST_TOKEN']
    const name = values.name ?? hostname().split('.')[0]?.toLowerCase() ?? 'host'
    if (server === undefined || !/^https?:\/\//.test(server))
      throw new Fault('invalid', `--server: got ${JSON.stringify(server)}, want the server's URL`)
    if (token === undefined) throw new Fault('invalid', '--token: want what `typevisor host token NAME` printed')
    if (driver !== 'qemu' && driver !== 'sim')
      throw new Fault('invalid', `--driver: got ${JSON.stringify(driver)}, want qemu or sim`)
    const clock = realClock()
    const rng = realRng()
    const log = consoleLog({ level: values.log === 'debug' || values.log === 'info' ? values.log : 'warn' })
    const dataDir = join(values.data ?? dataDirOf(terminal.env), values.data === undefined ? 'agent' : '.')
    const host = await openHost({ name, dataDir, driver, version: VERSION, clock, rng, ids: uuidv7Ids(clock, rng), log })
    const stopping = new AbortController()
    const stop = () => stopping.abort(new Fault('aborted', 'the agent stops'))
    let broken: Fault | null = null
    void host.broken.then((fault) => {
      broken = fault
      stop()
    })
    process.once('SIGINT', stop)
    process.once('SIGTERM', stop)
    const refused = await keepJoined({
      agent: host.agent,
      serverUrl: server,
      token,
      clock,
      log,
      signal: stopping.signal,
      onState: (state, detail) => terminal.out(state === 'joined' ? `joined ${detail} as ${name}` : `away: ${detail}`),
    }).then(
      () => null,
      (error: unknown) => toFault(error),
    )
    await host.close()
    // With the server's words; guests go on here as at every other end.
    if (refused) throw refused
    if (broken)
      throw new Fault('failed', `the journal cannot be trusted any more; start again to read it anew`, { cause: broken })
    terminal.out('stopped; guests go on')
    return 0
  },
}
