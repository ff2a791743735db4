/**
 * `typevisor start`: the server and this machine's agent in one process. On an empty cloud it builds the starter image and boots one instance,
 * `hello`. Ctrl-C stops the platform; guests go on.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Fault, toFault, type Log } from '@typevisor/base'
import { openHost, type Host } from '@typevisor/agent'
import { startServer, type RunningServer } from '@typevisor/server'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { createClient, type Client } from '@typevisor/api/client'
import type { Command, Terminal } from '../terminal.ts'
import { dataDirOf } from '../connect.ts'
import { EXIT } from '../exit-codes.ts'
import { fetchFor } from '../node-fetch.ts'
import { VERSION } from '../version.ts'
import { waitForGuest } from './wait.ts'

const PORT = 8006
const USAGE =
  'typevisor start [--port P] [--listen ADDRESS] [--name NAME ...] [--trusted-proxy ADDRESS ...] [--trusted-origin URL ...] [--data DIR] [--empty] [--no-agent] [--driver qemu|sim] [--host NAME] [--tls-cert FILE --tls-key FILE] [--log LEVEL]'

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
  readonly tls: { certPath: string; keyPath: string } | undefined
  readonly logLevel: 'debug' | 'info' | 'warn' | 'error'
}

/** @throws Fault `invalid` naming the flag. */
export function parseStart(words: readonly string[], env: NodeJS.ProcessEnv): StartOptions {
  let values
  try {
    values = parseArgs({
      args: [...words],
      options: {
        port: { type: 'string' },
        listen: { type: 'string' },
        name: { type: 'string', multiple: true },
        'trusted-proxy': { type: 'string', multiple: true },
        'trusted-origin': { type: 'string', multiple: true },
        data: { type: 'string' },
        empty: { type: 'boolean' },
        'no-agent': { type: 'boolean' },
        driver: { type: 'string' },
        host: { type: 'string' },
        'tls-cert': { type: 'string' },
        'tls-key': { type: 'string' },
        log: { type: 'string' },
      },
    }).values
  } catch (error) {
    throw new Fault('invalid', `start: ${(error as Error).message}`, { cause: error })
  }
  const port = values.port === undefined ? PORT : Number(values.port)
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new Fault('invalid', `--port: got ${JSON.stringify(values.port)}, want 0 to 65535 (0: any free one)`)
  const driver = values.driver ?? 'qemu'
  if (driver !== 'qemu' && driver !== 'sim')
    throw new Fault('invalid', `--driver: got ${JSON.stringify(driver)}, want qemu or sim`)
  const hostName = values.host ?? 'local'
  if (!/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(hostName))
    throw new Fault('invalid', `--host: got ${JSON.stringify(hostName)}, want a name of a-z, 0-9 and -`)
  const [certPath, keyPath] = [values['tls-cert'], values['tls-key']]
  if ((certPath === undefined) !== (keyPath === undefined)) throw new Fault('invalid', '--tls-cert and --tls-key go together')
  const logLevel = values.log ?? 'warn'
  if (logLevel !== 'debug' && logLevel !== 'info' && logLevel !== 'warn' && logLevel !== 'error') {
    throw new Fault('invalid', `--log: got ${JSON.stringify(logLevel)}, want debug, info, warn or error`)
  }
  return {
    port,
    listen: values.listen,
    names: values.name ?? [],
    trustedProxies: values['trusted-proxy'] ?? [],
    trustedOrigins: values['trusted-origin'] ?? [],
    dataDir: values.data ?? dataDirOf(env),
    empty: values.empty ?? false,
    agent: !(values['no-agent'] ?? false),
    driver,
    hostName,
    tls: certPath !== undefined && keyPath !== undefined ? { certPath, keyPath } : undefined,
    logLevel,
  }
}

export const start: Command = {
  summary: 'Start the platform on this machine',
  usage: USAGE,
  async run(words, terminal) {
    const options = parseStart(words, terminal.env)
    // From here on, so that a Ctrl-C during the start stops what was started; a second one changes nothing.
    const interrupted = Promise.withResolvers<void>()
    const onSignal = () => interrupted.resolve()
    process.on('SIGINT', onSignal)
    process.on('SIGTERM', onSignal)
    const platform = await startPlatform(options, terminal.env)
    const { server } = platform
    terminal.out(`typevisor ${VERSION} on ${options.dataDir}`)
    terminal.out(`portal: ${server.url}`)
    if (options.listen !== undefined && options.tls === undefined && !/^(127\.|::1$|localhost$)/.test(options.listen)) {
      terminal.say(
        `typevisor: ${options.listen} is reached from elsewhere without TLS: passwords and tokens travel in clear (--tls-cert, --tls-key)`,
      )
    }
    if (server.firstAccount) {
      terminal.out(
        `sign in as ${server.firstAccount.name} with ${server.firstAccount.password} (shown this once; \`typevisor account password ${server.firstAccount.name}\` sets another)`,
      )
    }
    const stopped = untilStopped(platform, interrupted.promise, terminal)
    if (options.agent && !options.empty) {
      await firstInstance(
        createClient({ baseUrl: server.url, token: server.localToken, fetch: fetchFor(await certificateOf(options)) }),
        terminal,
        platform.stopping.signal,
      ).catch((error: unknown) => {
        if (!platform.stopping.signal.aborted) terminal.say(`typevisor: the first instance: ${toFault(error).message}`)
      })
    }
    return stopped
  },
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
    terminal.out(`instances: ${instances.total}`)
    return
  }
  const images = await client.call('image.list', {}, { signal })
  if (!images.items.some((image) => image.name === 'micro')) {
    terminal.out('building the starter image `micro` from Debian packages ...')
    await untilDone(client, await client.call('image.build', { params: { image: 'micro' }, body: {} }, { signal }), signal)
  }
  terminal.out('booting the first instance, `hello` ...')
  const begin = performance.now()
  const created = await client.call('instance.create', { body: { name: 'hello', image: 'micro' } }, { signal })
  await untilDone(client, created, signal)
  if (created.instance) await waitForGuest(client, created.instance.id, 'console', signal)
  terminal.out(
    `hello is up after ${((performance.now() - begin) / 1000).toFixed(1)} s; \`./typevisor instance console hello\` or the portal shows its console`,
  )
}

async function untilDone(
  client: Client,
  accepted: Awaited<ReturnType<typeof client.call<'instance.create'>>>,
  signal: AbortSignal,
): Promise<void> {
  let { operation } = accepted
  while (operation.state === 'running' || operation.state === 'undoing') {
    operation = await client.call('operation.get', { params: { operation: operation.id }, query: { wait: 20 } }, { signal })
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
      `stopped; ${running} ${go} on without it. The next start finds ${them}; \`typevisor down --guests\` stops guests too`,
    )
  } else terminal.out('stopped')
  return EXIT.ok
}
