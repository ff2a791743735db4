/**
 * For tests of the server and of whatever talks to it: a real PostgreSQL of its own for the test process, a fresh migrated database for
 * each test, and the control plane's own parts on it.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Pool, type PoolConfig } from 'pg'
import { Fault, type Clock, type IdSource, type Log, type Rng } from '@typevisor/base'
import { createIdentity, type Identity, type IdentityPolicy } from '@typevisor/identity'
import { consoleLog, realClock, realRng, startEmbeddedPostgres, uuidv7Ids, type EmbeddedPostgres } from '@typevisor/runtime-node'
import { postgresAuditLog, type AuditLog } from './db/audit.ts'
import { openDatabase, type DatabaseHandle } from './db/database.ts'
import { postgresIdentityStore } from './db/identity-store.ts'
import { migrate } from './db/migrate.ts'
import { MIGRATIONS } from './db/migrations/index.ts'
import { controlHandlers } from './handlers/control.ts'
import type { Handlers } from './http/handler.ts'
import { createHttpServer, type HttpServer, type HttpServerOptions } from './http/server.ts'
import { createLocalCredentials, type LocalCredentials } from './local-credentials.ts'
import { createOutbox, type Outbox, type OutboxOptions } from './outbox.ts'
import { argonHasher, nodeSecretCrypto } from './secrets.ts'

export const testClock: Clock = realClock()
export const testRng: Rng = realRng()
export const testIds: IdSource = uuidv7Ids(testClock, testRng)
export const testLog: Log = consoleLog({ level: 'error' })

interface TestPostgres {
  readonly postgres: EmbeddedPostgres
  readonly admin: Pool
  readonly folder: string
}

const TEMPLATE = 'typevisor_template'
let shared: Promise<TestPostgres> | undefined
let databaseCount = 0

async function startShared(): Promise<TestPostgres> {
  const folder = await mkdtemp(join(tmpdir(), 'tv-pg-'))
  const postgres = await startEmbeddedPostgres({
    dataDir: join(folder, 'data'),
    runDir: folder,
    clock: testClock,
    log: testLog,
    settings: { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off', max_connections: '200' },
  })
  const admin = new Pool({ ...postgres.connection, max: 2 })
  admin.on('error', () => {}) // its idle connections end with the server
  await admin.query(`CREATE DATABASE ${TEMPLATE}`)
  const template = openDatabase({ connection: { ...postgres.connection, database: TEMPLATE } })
  await migrate(template.executor, MIGRATIONS)
  await template.close()
  return { postgres, admin, folder }
}

/** Ends what `testDatabase` started: in an `after` of each test file. */
export async function stopTestPostgres(): Promise<void> {
  if (!shared) return
  const { postgres, admin, folder } = await shared
  shared = undefined
  await admin.end()
  await postgres.stop()
  await rm(folder, { recursive: true, force: true })
}

export interface TestDatabase extends DatabaseHandle {
  readonly connection: PoolConfig
}

/** A database of its own. `empty`: without a single migration. */
export async function testDatabase(options: { empty?: boolean } = {}): Promise<TestDatabase> {
  shared ??= startShared()
  const { postgres, admin } = await shared
  const name = `test_${process.pid}_${(databaseCount += 1)}`
  await admin.query(`CREATE DATABASE ${name}${options.empty ? '' : ` TEMPLATE ${TEMPLATE}`}`)
  const connection = { ...postgres.connection, database: name }
  const handle = openDatabase({ connection, connectionCountMax: 10 })
  return { ...handle, connection, [Symbol.asyncDispose]: handle.close }
}

export interface TestServerOptions {
  readonly policy?: Partial<IdentityPolicy>
  readonly outbox?: Partial<OutboxOptions>
  readonly http?: Partial<HttpServerOptions>
  /** Operations besides the control plane's own; the others answer `unsupported`. */
  readonly handlers?: Partial<Handlers>
  readonly clock?: Clock
  /** That of the handlers, where they have one; it is not closed with the server. */
  readonly database?: TestDatabase
}

export interface TestServer extends AsyncDisposable {
  readonly http: HttpServer
  readonly url: string
  readonly database: TestDatabase
  readonly identity: Identity
  readonly local: LocalCredentials
  readonly outbox: Outbox
  readonly audit: AuditLog
}

/** The server's own operations over HTTP on 127.0.0.1, on a database of its own. Instances, hosts and images are left out. */
export async function testServer(options: TestServerOptions = {}): Promise<TestServer> {
  const clock = options.clock ?? testClock
  await using stack = new AsyncDisposableStack()
  const database = options.database ?? stack.use(await testDatabase())
  const identity = createIdentity({
    store: postgresIdentityStore(database.db),
    // The least that Argon2 takes: tests sign in often. `secrets.test.ts` runs the real parameters.
    hasher: argonHasher({ parameters: { memoryKib: 64, passCount: 1, laneCount: 1 } }),
    crypto: nodeSecretCrypto,
    clock,
    rng: testRng,
    ids: testIds,
    ...(options.policy ? { policy: options.policy } : {}),
  })
  const outbox = createOutbox({ db: database.db, pool: database.pool, clock: testClock, log: testLog, ...options.outbox })
  await outbox.start()
  stack.defer(() => outbox.stop())
  const local = createLocalCredentials(testRng, nodeSecretCrypto, testIds)
  const audit = postgresAuditLog(database.db)
  const own = controlHandlers({
    db: database.db,
    identity,
    clock,
    version: '0.0.0-test',
    database: 'embedded',
    pid: process.pid,
    requestStop: () => {},
  })
  const rest = new Proxy({} as Handlers, {
    get: (_target, name) => () => Promise.reject(new Fault('unsupported', `${String(name)}: not in this test's server`)),
  })
  const handlers = new Proxy(rest, {
    get: (target, name) => Reflect.get({ ...own, ...options.handlers }, name) ?? Reflect.get(target, name),
  })
  const http = await createHttpServer({
    handlers,
    identity,
    local,
    crypto: nodeSecretCrypto,
    audit,
    outbox,
    clock: testClock,
    ids: testIds,
    log: testLog,
    version: '0.0.0-test',
    port: 0,
    portalPath: null,
    checkReplies: true,
    ...options.http,
  })
  stack.use(http)
  const owned = stack.move()
  return { http, url: http.url, database, identity, local, outbox, audit, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}
