/**
 * The control plane as one process: database, sagas, identity, outbox, HTTP, and (by default) the agent of this machine. It decides and
 * records; guests never depend on it to go on.
 *
 *   lock --> PostgreSQL --> migrate --> sagas, agents --> HTTP --> credentials file     close: the same, backwards
 */
import { join } from 'node:path'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { Fault, millis, toFault, type Clock, type IdSource, type Log, type Rng } from '@typevisor/base'
import { createIdentity } from '@typevisor/identity'
import { createSagaEngine, postgresSagaStore } from '@typevisor/saga'
import { faultOf, lockFile } from '@typevisor/runtime-node'
import type { AgentPort } from '@typevisor/api/agent-wire'
import { addAgentRoute, keepHost } from './agents/gateway.ts'
import { hostHandlers } from './agents/handlers.ts'
import { AgentRegistry } from './agents/registry.ts'
import { postgresAuditLog } from './db/audit.ts'
import { openDatabase } from './db/database.ts'
import { keepPostgres } from './db/embedded.ts'
import { postgresIdentityStore } from './db/identity-store.ts'
import { migrate } from './db/migrate.ts'
import { MIGRATIONS } from './db/migrations/index.ts'
import { pruneDatabase } from './db/prune.ts'
import { holdDatabase } from './db/single-server.ts'
import { ensureFirstAccount } from './first-start.ts'
import { controlHandlers } from './handlers/control.ts'
import type { Handlers } from './http/handler.ts'
import { createHttpServer, type HttpServerOptions } from './http/server.ts'
import { instanceHandlers } from './instances/handlers.ts'
import { INSTANCE_SAGAS, type InstanceServices } from './instances/sagas.ts'
import { createLocalCredentials } from './local-credentials.ts'
import { serverMetrics } from './metrics/metrics.ts'
import { addMetricsRoute } from './metrics/route.ts'
import { operationHandlers } from './operations/handlers.ts'
import { createOutbox } from './outbox.ts'
import { argonHasher, nodeSecretCrypto } from './secrets.ts'

export interface ServerOptions {
  readonly dataDir: string
  /** 0: any free one. */
  readonly port: number
  readonly host?: string
  readonly names?: readonly string[]
  readonly tls?: { readonly certPath: string; readonly keyPath: string }
  /** A PostgreSQL of the user's; without it the embedded one is started. */
  readonly databaseUrl?: string
  readonly portalPath: string | null
  readonly version: string
  readonly clock: Clock
  readonly rng: Rng
  readonly ids: IdSource
  readonly log: Log
  readonly trustedProxies?: HttpServerOptions['trustedProxies']
  readonly trustedOrigins?: readonly string[]
  readonly limits?: HttpServerOptions['limits']
  readonly checkReplies?: boolean
  /** Called by `platform.stop`. */
  readonly onStopRequest?: (options: { guests: boolean }) => void
}

export interface RunningServer extends AsyncDisposable {
  readonly url: string
  readonly port: number
  /** To be shown: at each start on this database until somebody has signed in by it or set another password. */
  readonly firstAccount: { readonly name: string; readonly password: string } | null
  /** The text of a bearer for this machine's own user. */
  readonly localToken: string
  /** Joins an agent of the same process, and joins it again whenever something parts them. `left` resolves when the server has stopped. */
  join(name: string, agent: AgentPort): { readonly joined: Promise<void>; readonly left: Promise<void> }
  close(): Promise<void>
}

const PRUNE_EVERY_MS = 3_600_000

/** A name of this server's own among the owners of sagas, the same over restarts on one data directory. */
async function serverName(dataDir: string, ids: IdSource): Promise<string> {
  const path = join(dataDir, 'server-id')
  const known = await readFile(path, 'utf8').catch(() => null)
  if (known !== null && known.trim() !== '') return known.trim()
  const name = ids.next()
  await writeFile(path, `${name}\n`, { mode: 0o600 })
  return name
}

export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const { dataDir, clock, rng, ids, log } = options
  await mkdir(dataDir, { recursive: true, mode: 0o711 }).catch((error: unknown) => {
    throw faultOf(`make the data directory ${dataDir}`, error)
  })
  await using building = new AsyncDisposableStack()
  building.use(lockFile(join(dataDir, 'server.lock')))

  const embedded =
    options.databaseUrl === undefined ? await keepPostgres({ dataDir: join(dataDir, 'postgresql'), clock, log }) : null
  if (embedded) building.defer(() => embedded.stop())
  const stop = { request: options.onStopRequest ?? (() => {}) }
  // The embedded one is kept from others by the locks of its data directory.
  if (options.databaseUrl !== undefined) {
    const connection = { connectionString: options.databaseUrl }
    building.use(await holdDatabase({ connection, clock, log, onLost: () => stop.request({ guests: false }) }))
  }
  const database = openDatabase({
    connection: embedded ? { ...embedded.connection } : { connectionString: options.databaseUrl },
    onIdleError: (error) => log.warn('database.connection_lost', { error: error.message }),
  })
  building.use(database)
  const { db, executor } = database
  await migrate(executor, MIGRATIONS)
  await executor.query('UPDATE host SET connected = false WHERE connected')

  const crypto = nodeSecretCrypto
  const hasher = argonHasher()
  const identity = createIdentity({ store: postgresIdentityStore(db), hasher, crypto, clock, rng, ids })
  const firstAccount = await ensureFirstAccount({ db, hasher, clock, rng, ids })
  const local = createLocalCredentials(rng, crypto, ids)
  const audit = postgresAuditLog(db)

  const stopping = new AbortController()
  const agents = new AgentRegistry(clock)
  const metrics = serverMetrics({ database: executor, agents, clock, version: options.version })
  const store = postgresSagaStore({ sql: executor })
  const services: InstanceServices = { agents, database: executor }
  const engine = createSagaEngine<InstanceServices>({
    store,
    sagas: Object.values(INSTANCE_SAGAS),
    services,
    clock,
    log,
    owner: `server:${await serverName(dataDir, ids)}`,
    onSettled: metrics.noteSettled,
  })
  building.defer(() => engine.stop())

  const outbox = createOutbox({ db, pool: database.pool, clock, log, onEvent: metrics.noteEvent })
  building.defer(() => outbox.stop())
  await outbox.start()

  const handlers: Handlers = {
    ...controlHandlers({
      db,
      identity,
      clock,
      version: options.version,
      database: embedded ? 'embedded' : 'external',
      pid: process.pid,
      requestStop: (asked) => stop.request(asked),
    }),
    ...instanceHandlers({ db, database: executor, agents, engine, store, ids, clock }),
    ...operationHandlers({ db, database: executor, engine, store, agents }),
    ...hostHandlers({ db, database: executor, agents, engine, ids, rng, crypto }),
  }
  const gateway = { database: executor, agents, crypto, ids, log, signal: stopping.signal }
  const http = await createHttpServer({
    handlers,
    identity,
    local,
    crypto,
    audit,
    outbox,
    clock,
    ids,
    log,
    version: options.version,
    port: options.port,
    portalPath: options.portalPath,
    onAnswer: metrics.noteAnswer,
    extend: (app, access) => {
      addAgentRoute(app, gateway)
      addMetricsRoute(app, access, metrics)
    },
    ...(options.host === undefined ? {} : { host: options.host }),
    ...(options.names === undefined ? {} : { names: options.names }),
    ...(options.tls === undefined ? {} : { tls: options.tls }),
    ...(options.trustedProxies === undefined ? {} : { trustedProxies: options.trustedProxies }),
    ...(options.trustedOrigins === undefined ? {} : { trustedOrigins: options.trustedOrigins }),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
    ...(options.checkReplies === undefined ? {} : { checkReplies: options.checkReplies }),
  })
  building.use(http)
  await local.write(dataDir, http.url, options.tls === undefined ? undefined : await readFile(options.tls.certPath, 'utf8'))
  building.defer(() => local.remove(dataDir))
  await engine.start()

  const pruning = keepPruned(stopping.signal)
  async function keepPruned(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await clock.sleep(millis(PRUNE_EVERY_MS), { signal }).catch(() => {})
      if (signal.aborted) return
      try {
        await pruneDatabase({ db, outbox, store, identity, audit, clock, signal })
      } catch (error) {
        log.warn('server.prune_failed', { error: toFault(error).message })
      }
    }
  }
  const lefts = new Set<Promise<void>>()
  building.defer(async () => {
    stopping.abort(new Fault('unavailable', 'the server stops'))
    await Promise.allSettled([pruning, ...lefts])
  })

  const parts = building.move()
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => (closing ??= parts.disposeAsync())
  return {
    url: http.url,
    port: http.port,
    firstAccount,
    localToken: local.token,
    join(name, agent) {
      const joined = Promise.withResolvers<void>()
      const left = keepHost({ ...gateway, clock }, name, agent, joined.resolve)
      void left.finally(() => joined.reject(stopping.signal.reason))
      joined.promise.catch(() => {})
      lefts.add(left)
      return { joined: joined.promise, left }
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}
