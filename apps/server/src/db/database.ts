/**
 * The connection pool and what is read through it. 64-bit integers come as numbers and a number that JavaScript cannot hold exactly
 * is an error rather than a rounded value.
 */
import { Pool, types as pgTypes, type CustomTypesConfig, type PoolConfig } from 'pg'
import { Kysely, PostgresDialect } from 'kysely'
import { assert } from '@typevisor/base'
import { pgExecutor } from '@typevisor/runtime-node'
import type { SqlExecutor } from '@typevisor/saga'
import type { Database } from './schema.ts'

export type Db = Kysely<Database>

export interface DatabaseOptions {
  /** As pg takes it: `postgres://...`, or the parts. */
  readonly connection: PoolConfig
  readonly connectionCountMax?: number
  /** Told of errors of idle connections; the pool replaces them. */
  onIdleError?(error: Error): void
}

export interface DatabaseHandle extends AsyncDisposable {
  readonly db: Db
  readonly pool: Pool
  /** What the saga store and the migrations ask for. */
  readonly executor: SqlExecutor
  close(): Promise<void>
}

const INT8 = 20
const NUMERIC = 1700

function exactNumber(text: string): number {
  const value = Number(text)
  assert(Number.isSafeInteger(value), `database: ${text} does not fit a number exactly`)
  return value
}

/** Per pool, so that nobody else's pg is changed. */
const types: CustomTypesConfig = {
  getTypeParser: ((oid: number, format?: 'text' | 'binary') => {
    if (oid === INT8) return exactNumber
    if (oid === NUMERIC) return Number
    return pgTypes.getTypeParser(oid, format as 'text')
  }) as typeof pgTypes.getTypeParser,
}

export function openDatabase(options: DatabaseOptions): DatabaseHandle {
  const pool = new Pool({
    max: options.connectionCountMax ?? 20,
    connectionTimeoutMillis: 10_000,
    idleTimeoutMillis: 30_000,
    // A transaction that a dead request left open would hold back the outbox.
    idle_in_transaction_session_timeout: 30_000,
    statement_timeout: 60_000,
    application_name: 'typevisor',
    ...options.connection,
    types,
  })
  pool.on('error', (error) => {
    // Connections that are being closed may still be told that the database ends.
    if (!pool.ending) options.onIdleError?.(error)
  })
  // A connection that is lost between two statements of a transaction says so by an event, which without a listener would end the
  // process; the next statement on it fails and tells.
  pool.on('connect', (client) => client.on('error', () => {}))
  const db = new Kysely<Database>({ dialect: new PostgresDialect({ pool }) })
  let closing: Promise<void> | undefined
  const end = async (): Promise<void> => {
    await db.destroy()
    // Kysely ends the pool only when it has used it.
    if (!pool.ending) await pool.end()
  }
  const close = (): Promise<void> => (closing ??= end())
  return { db, pool, executor: pgExecutor(pool), close, [Symbol.asyncDispose]: close }
}
