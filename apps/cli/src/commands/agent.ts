/**
 * `typevisor agent`: this machine as a host of a server elsewhere. It opens the connection itself, and again for as long as it runs; guests
 * go on without it.
 */
import { isIP } from 'node:net'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { Fault, toFault } from '@typevisor/base'
import { isLabel, LABEL_WANT } from '@typevisor/model'
import { keepJoined, openHost, serveMetrics } from '@typevisor/agent'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import type { Command } from '../terminal.ts'
import { dataDirOf } from '../connect.ts'
import { oneOf, parseFlags, type FlagTable } from '../flags.ts'
import { VERSION } from '../version.ts'

const FLAGS = {
  server: { value: 'URL', text: "the server's address, such as https://cloud.example:8006" },
  token: {
    value: 'TOKEN',
    text: 'what `typevisor host token NAME` printed on the server; better by TYPEVISOR_HOST_TOKEN, which no other user sees',
  },
  name: { value: 'NAME', text: "the host's name, as the token was made for (default: this machine's)" },
  data: { value: 'DIR', text: 'data directory (default `agent` below the one of `typevisor start`)' },
  driver: { value: 'qemu|sim', text: 'qemu: real guests; sim: domains in memory, to try it out (default qemu)' },
  'migration-address': {
    value: 'ADDRESS',
    text: 'IP address of this machine by which other hosts reach it with instances that move (default 127.0.0.1)',
  },
  'metrics-port': {
    value: 'PORT',
    text: 'port of 127.0.0.1 on which /metrics is served for Prometheus; 0: any free one (default: none)',
  },
  log: { value: 'debug|info|warn|error', text: 'least weight of what is logged to standard error (default warn)' },
} as const satisfies FlagTable

export interface AgentOptions {
  readonly server: string
  readonly token: string
  readonly name: string
  readonly dataDir: string
  readonly driver: 'qemu' | 'sim'
  readonly migrationAddress: string | undefined
  readonly metricsPort?: number | undefined
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error'
}

/** @throws Fault `invalid` naming the flag. */
export function parseAgent(words: readonly string[], env: NodeJS.ProcessEnv): AgentOptions {
  const values = parseFlags('agent', FLAGS, words)
  const { server } = values
  if (server === undefined || !/^https?:\/\//.test(server) || !URL.canParse(server))
    throw new Fault(
      'invalid',
      `--server: got ${server === undefined ? 'nothing' : JSON.stringify(server)}, want the server's URL`,
    )
  const token = values.token ?? env['TYPEVISOR_HOST_TOKEN']
  if (token === undefined || token === '')
    throw new Fault('invalid', '--token: got nothing, want what `typevisor host token NAME` printed')
  const name = values.name ?? hostname().split('.')[0]?.toLowerCase() ?? 'host'
  if (!isLabel(name)) throw new Fault('invalid', `--name: got ${JSON.stringify(name)}, want ${LABEL_WANT}`)
  return {
    server,
    token,
    name,
    dataDir: values.data ?? join(dataDirOf(env), 'agent'),
    driver: oneOf('--driver', values.driver ?? 'qemu', ['qemu', 'sim']),
    migrationAddress: ipAddress(values['migration-address']),
    metricsPort: portNumber('--metrics-port', values['metrics-port']),
    logLevel: oneOf('--log', values.log ?? 'warn', ['debug', 'info', 'warn', 'error']),
  }
}

function portNumber(flag: string, value: string | undefined): number | undefined {
  if (value === undefined) return undefined
  if (/^\d{1,5}$/.test(value) && Number(value) <= 65_535) return Number(value)
  throw new Fault('invalid', `${flag}: got ${JSON.stringify(value)}, want 0 to 65535 (0: any free one)`)
}

/** @throws Fault `invalid`. */
export function ipAddress(value: string | undefined): string | undefined {
  if (value === undefined || isIP(value) !== 0) return value
  throw new Fault('invalid', `--migration-address: got ${JSON.stringify(value)}, want an IP address of this machine`)
}

export const agent: Command = {
  summary: 'Run the agent of a host for a server elsewhere',
  usage: 'typevisor agent --server URL [--flag VALUE ...]',
  flags: FLAGS,
  async run(words, terminal) {
    const { server, token, name, dataDir, driver, migrationAddress, metricsPort, logLevel } = parseAgent(words, terminal.env)
    const clock = realClock()
    const rng = realRng()
    const log = consoleLog({ level: logLevel })
    const ids = uuidv7Ids(clock, rng)
    const host = await openHost({ name, dataDir, driver, migrationAddress, version: VERSION, clock, rng, ids, log })
    const metrics =
      metricsPort === undefined
        ? null
        : await serveMetrics({ agent: host.agent, port: metricsPort, log }).catch(async (error: unknown) => {
            await host.close()
            throw error
          })
    if (metrics) terminal.out(`metrics: ${metrics.url}`)
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
    await metrics?.close()
    await host.close()
    // With the server's words; guests go on here as at every other end.
    if (refused) throw refused
    if (broken)
      throw new Fault('failed', `the journal cannot be trusted any more; start again to read it anew`, { cause: broken })
    terminal.out('stopped; guests go on')
    return 0
  },
}
