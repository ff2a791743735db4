/**
 * `typevisor start`: the server and this machine's agent in one process. On an empty cloud it builds the starter image and boots one instance,
 * `hello`. Ctrl-C stops the platform; guests go on.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault, toFault, type Log } from '@typevisor/base'
import { isLabel, LABEL_WANT } from '@typevisor/model'
import { openHost, type Host } from '@typevisor/agent'
import { startServer, type RunningServer } from '@typevisor/server'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { createClient, type Client } from '@typevisor/api/client'
import type { Command, Terminal } from '../terminal.ts'
import { dataDirOf, tellShell } from '../connect.ts'
import { EXIT } from '../exit-codes.ts'
import { oneOf, parseFlags, type FlagTable } from '../flags.ts'
import { fetchFor } from '../node-fetch.ts'
import { Progress } from '../progress.ts'
import { VERSION } from '../version.ts'
import { ipAddress } from './agent.ts'
import { waitForGuest } from './wait.ts'

const PORT = 8006
const USAGE = 'typevisor start [--flag VALUE ...]'
const FLAGS = {
  port: { value: 'PORT', text: `port of the portal and the API; 0: any free one (default ${PORT})` },
  listen: { value: 'ADDRESS', text: 'address to listen on (default 127.0.0.1)' },
  name: { value: 'NAME', many: true, text: 'a name that it is called by from elsewhere, such as cloud.example; again for more' },
  'trusted-proxy': { value: 'ADDRESS', many: true, text: 'a proxy whose word on the caller is taken; again for more' },
  'trusted-origin': { value: 'URL', many: true, text: 'another origin whose pages may call with a session; again for more' },
  data: {
    value: 'DIR',
    text: 'data directory (default TYPEVISOR_DATA, else /var/lib/typevisor as root, ~/.local/share/typevisor)',
  },
  empty: { text: 'no first instance' },
  'no-agent': { text: 'the server alone: no guests on this machine' },
  driver: { value: 'qemu|sim', text: 'qemu: real guests; sim: domains in memory, to try it out (default qemu)' },
  host: { value: 'NAME', text: 'what this machine is called as a host (default local)' },
  'migration-address': {
    value: 'ADDRESS',
    text: 'IP address of this machine by which other hosts reach it with instances that move (default 127.0.0.1)',
  },
  'tls-cert': { value: 'FILE', text: 'certificate (PEM), with --tls-key: speak TLS' },
  'tls-key': { value: 'FILE', text: 'its private key (PEM)' },
  log: { value: 'debug|info|warn|error', text: 'least weight of what is logged to standard error (default warn)' },
} as const satisfies FlagTable

export interface StartOptions {
  readonly port: number
  readonly listen: string | undefined
  readonly names: readonly string[]
  readonly trustedProxies: readonly string[]
  readonly trustedOrigins: readonly string[]
  readonly dataDir: string
  readonly empty: boolean
  readonly agent: boolean
  readonly driver: 'qemu' | 'sim'
  readonly hostName: string
  readonly migrationAddress?: string | undefined
  readonly tls: { certPath: string; keyPath: string } | undefined
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error'
}

/** @throws Fault `invalid` naming the flag. */
export function parseStart(words: readonly string[], env: NodeJS.ProcessEnv): StartOptions {
  const values = parseFlags('start', FLAGS, words)
  const port = values.port === undefined ? PORT : Number(values.port)
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new Fault('invalid', `--port: got ${JSON.stringify(values.port)}, want 0 to 65535 (0: any free one)`)
  const hostName = values.host ?? 'local'
  if (!isLabel(hostName)) throw new Fault('invalid', `--host: got ${JSON.stringify(hostName)}, want ${LABEL_WANT}`)
  const [certPath, keyPath] = [values['tls-cert'], values['tls-key']]
  if ((certPath === undefined) !== (keyPath === undefined)) throw new Fault('invalid', '--tls-cert and --tls-key go together')
  return {
    port,
    listen: values.listen,
    names: values.name ?? [],
    trustedProxies: values['trusted-proxy'] ?? [],
    trustedOrigins: values['trusted-origin'] ?? [],
    dataDir: values.data ?? dataDirOf(env),
    empty: values.empty ?? false,
    agent: !(values['no-agent'] ?? false),
    driver: oneOf('--driver', values.driver ?? 'qemu', ['qemu', 'sim']),
    hostName,
    migrationAddress: ipAddress(values['migration-address']),
    tls: certPath !== undefined && keyPath !== undefined ? { certPath, keyPath } : undefined,
    logLevel: oneOf('--log', values.log ?? 'warn', ['debug', 'info', 'warn', 'error']),
  }
}

export const start: Command = {
  summary: 'Start the platform on this machine',
  usage: USAGE,
  flags: FLAGS,
  async run(words, terminal) {
    const options = parseStart(words, terminal.env)
    // From here on, so that a Ctrl-C during the start stops what was started; a second one changes nothing.
    const interrupted = Promise.withResolvers<void>()
    const onSignal = () => interrupted.resolve()
    process.on('SIGINT', onSignal)
    process.on('SIGTERM', onSignal)
    const platform = await startPlatform(options, terminal.env)
    const { server } = platform
    greet(options, server, terminal)
    const stopped = untilStopped(platform, interrupted.promise, terminal)
    if (options.agent && !options.empty) {
      await firstInstance(
        createClient({ baseUrl: server.url, token: server.localToken, fetch: fetchFor(await certificateOf(options)) }),
        terminal,
        platform.stopping.signal,
      ).catch((error: unknown) => {
        if (platform.stopping.signal.aborted) return
        terminal.say(`typevisor: the first instance: ${toFault(error).message}`)
        terminal.say('the platform runs all the same; `typevisor doctor` says what is missing')
      })
    }
    if (!platform.stopping.signal.aborted)
      terminal.out(
        options.driver === 'sim' && options.agent
          ? 'Ctrl-C stops it; domains in memory end with it'
          : 'Ctrl-C stops it; guests go on without it, and the next start finds them (`typevisor down --guests` stops them too)',
      )
    return stopped
  },
}

/** For people: where it is, and how to get in. */
function greet(options: StartOptions, server: RunningServer, terminal: Terminal): void {
  terminal.out(`typevisor ${VERSION} on ${options.dataDir}`)
  terminal.out(`portal: ${server.url}`)
  if (options.listen !== undefined && options.tls === undefined && !/^(127\.|::1$|localhost$)/.test(options.listen)) {
    terminal.say(
      `typevisor: ${options.listen} is reached from elsewhere without TLS: passwords and tokens travel in clear (--tls-cert, --tls-key)`,
    )
  }
  if (server.firstAccount) {
    const { name, password } = server.firstAccount
    terminal.out(`account: ${name}`)
    terminal.out(`password: ${password}`)
    terminal.out(
      `  (until somebody has signed in with it, each start makes another; \`typevisor account password ${name}\` sets one of your own)`,
    )
  }
  const shell = tellShell(options.dataDir, terminal.env)
  if (shell !== null) terminal.out(`command line: \`${shell}\` first, since the data directory is not the default`)
}

export interface Platform {
  readonly server: RunningServer
  readonly host: Host | null
  readonly stopping: AbortController
  readonly stopRequested: Promise<{ guests: boolean }>
  close(): Promise<void>
}

/** Server and agent in this process. */
export async function startPlatform(options: StartOptions, env: NodeJS.ProcessEnv): Promise<Platform> {
  const clock = realClock()
  const rng = realRng()
  const ids = uuidv7Ids(clock, rng)
  const log: Log = consoleLog({ level: options.logLevel })
  const stopRequest = Promise.withResolvers<{ guests: boolean }>()
  const databaseUrl = env['DATABASE_URL']
  await using building = new AsyncDisposableStack()
  const server = await startServer({
    dataDir: options.dataDir,
    port: options.port,
    portalPath: join(import.meta.dirname, '../../../portal/dist'),
    version: VERSION,
    clock,
    rng,
    ids,
    log,
    names: options.names,
    trustedProxies: options.trustedProxies,
    trustedOrigins: options.trustedOrigins,
    onStopRequest: stopRequest.resolve,
    ...(options.listen === undefined ? {} : { host: options.listen }),
    ...(options.tls === undefined ? {} : { tls: options.tls }),
    ...(databaseUrl === undefined ? {} : { databaseUrl }),
  })
  building.use(server)
  let host: Host | null = null
  if (options.agent) {
    host = await openHost({
      name: options.hostName,
      migrationAddress: options.migrationAddress,
      dataDir: join(options.dataDir, 'agent'),
      driver: options.driver,
      version: VERSION,
      clock,
      rng,
      ids,
      log,
    })
    const opened = host
    // The server leaves first: it still answers what is under way by the agent.
    building.defer(async () => {
      await server.close()
      await opened.close()
    })
    const { joined } = server.join(options.hostName, host.agent)
    await joined
  }
  const parts = building.move()
  return { server, host, stopping: new AbortController(), stopRequested: stopRequest.promise, close: () => parts.disposeAsync() }
}

/** On an empty cloud: the starter image and one instance. */
async function firstInstance(client: Client, terminal: Terminal, signal: AbortSignal): Promise<void> {
  const instances = await client.call('instance.list', { query: { limit: 1 } }, { signal })
  if (instances.total > 0) {
    const running = await client.call('instance.list', { query: { limit: 1, state: 'running' } }, { signal })
    terminal.out(`instances: ${instances.total}, ${running.total} of them running`)
    return
  }
  const images = await client.call('image.list', {}, { signal })
  if (!images.items.some((image) => image.name === 'micro')) {
    terminal.out('building the starter image `micro` from Debian packages ...')
    const build = await client.call('image.build', { params: { image: 'micro' }, body: {} }, { signal })
    await untilDone(client, build, 'building micro', signal)
  }
  terminal.out('booting the first instance, `hello` ...')
  const begin = performance.now()
  const created = await client.call('instance.create', { body: { name: 'hello', image: 'micro' } }, { signal })
  await untilDone(client, created, 'booting hello', signal)
  if (created.instance) await waitForGuest(client, created.instance.id, 'console', signal)
  terminal.out(
    `hello is up after ${((performance.now() - begin) / 1000).toFixed(1)} s; \`./typevisor instance console hello\` or the portal shows its console`,
  )
}

/** With progress where somebody looks. */
async function untilDone(
  client: Client,
  accepted: Awaited<ReturnType<typeof client.call<'instance.create'>>>,
  title: string,
  signal: AbortSignal,
): Promise<void> {
  using progress = new Progress(title)
  let { operation } = accepted
  while (operation.state === 'running' || operation.state === 'undoing') {
    progress.show(operation.step ?? 'waiting', operation.progress)
    operation = await client.call('operation.get', { params: { operation: operation.id }, query: { wait: 1 } }, { signal })
  }
  if (operation.fault) throw new Fault('failed', operation.fault.message)
}

const certificateOf = (options: StartOptions): Promise<string | undefined> =>
  options.tls === undefined ? Promise.resolve(undefined) : readFile(options.tls.certPath, 'utf8')

async function untilStopped(platform: Platform, interrupted: Promise<void>, terminal: Terminal): Promise<number> {
  const broken = platform.host?.broken.then((fault) => ({ guests: false, fault })) ?? new Promise<never>(() => {})
  const why = await Promise.race([interrupted.then(() => ({ guests: false })), platform.stopRequested, broken])
  const { guests } = why
  if ('fault' in why)
    terminal.say(`typevisor: the agent's journal cannot be trusted any more (${why.fault.message}); start again to read it anew`)
  platform.stopping.abort(new Fault('aborted', 'the platform stops'))
  if (!guests) terminal.out('stopping ...')
  const running = platform.host?.runningCount() ?? 0
  let left: readonly string[] = []
  try {
    if (guests && platform.host) {
      if (running > 0) terminal.out(`stopping ${running} guest${running === 1 ? '' : 's'} ...`)
      left = await platform.host.stopGuests()
    }
  } finally {
    await platform.close()
  }
  if ('fault' in why) return EXIT.failed
  if (left.length > 0) {
    terminal.say(`typevisor: stopped, but these guests go on: ${left.join(', ')}`)
    return EXIT.failed
  }
  if (!guests && running > 0 && platform.host?.driver === 'sim') {
    terminal.out(`stopped; ${running} domain${running === 1 ? '' : 's'} in memory ended with it`)
  } else if (!guests && running > 0) {
    const [go, them] = running === 1 ? ['guest goes', 'it'] : ['guests go', 'them']
    terminal.out(
      `stopped; ${running} ${go} on without it. The next start finds ${them}; while it runs \`typevisor down --guests\` stops ${them} too`,
    )
  } else terminal.out('stopped')
  return EXIT.ok
}
