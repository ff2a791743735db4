/**
 * One server a database, until several are built: a session advisory lock on a connection of its own, held as long as the server runs.
 * PostgreSQL lets go of it when the connection ends, so that a killed server leaves nothing to clean up.
 *
 * When the connection breaks the lock is taken again on another one. Where another server has come in between, this one asks to be
 * stopped: it would answer from agents that it does not have any more.
 *
 * It needs the very session: a pooler that shares connections between transactions (PgBouncer's transaction mode) does not give one.
 */
import { Client, type PoolConfig } from 'pg'
import { Fault, millis, toFault, type Clock, type Log } from '@typevisor/base'

/** "TVSERV" in ASCII; `migrate.ts` has the other one. */
const LOCK_KEY = '92733210804822'
/** A server that was killed a moment ago may still be in PostgreSQL's books. */
const WAIT_MS = 3000
const LOOK_EVERY_MS = 200
/** How long the lock may be another's after a broken connection: our own dead session ends by its keepalives before. */
const LOST_MS = 60_000

export interface SingleServerOptions {
  readonly connection: PoolConfig
  readonly clock: Clock
  readonly log: Log
  /** Told when another server has taken the database. */
  onLost(): void
}

/** @throws Fault `conflict` when another server works on the database, `unavailable` when it is not reached. */
export async function holdDatabase(options: SingleServerOptions): Promise<AsyncDisposable> {
  const { clock, log } = options
  const stopping = new AbortController()
  const { signal } = stopping
  let client: Client | null = await take(options, WAIT_MS, signal)
  const keep = async (): Promise<void> => {
    while (!signal.aborted) {
      if (client) await endOf(client, signal)
      if (signal.aborted) return
      client = null
      log.warn('database.lock_lost', { consequence: 'it is taken again' })
      try {
        client = await take(options, LOST_MS, signal)
      } catch (error) {
        if (signal.aborted) return
        const fault = toFault(error)
        if (fault.code === 'conflict') {
          log.error('database.taken', { error: fault.message, consequence: 'this server stops' })
          options.onLost()
          return
        }
        await clock.sleep(millis(1000), { signal }).catch(() => {})
      }
    }
  }
  const keeping = keep()
  return {
    async [Symbol.asyncDispose]() {
      stopping.abort()
      await keeping
      await client?.end().catch(() => {})
    },
  }
}

/** Resolves when the connection has ended or the signal aborts. */
const endOf = (client: Client, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    client.once('end', resolve)
    signal.addEventListener('abort', () => resolve(), { once: true })
    if (signal.aborted) resolve()
  })

async function take(options: SingleServerOptions, waitMs: number, signal: AbortSignal): Promise<Client> {
  const { clock, connection } = options
  const client = new Client({ application_name: 'typevisor-lock', connectionTimeoutMillis: 10_000, ...connection })
  client.on('error', () => {}) // its `end` is what is listened to
  try {
    await client.connect()
    // PostgreSQL notices within half a minute that this machine is gone.
    await client.query(
      'SET idle_session_timeout = 0; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3',
    )
    const until = clock.now() + waitMs
    for (;;) {
      const { rows } = await client.query<{ held: boolean }>(`SELECT pg_try_advisory_lock(${LOCK_KEY}) AS held`)
      if (rows[0]?.held === true) return client
      if (clock.now() >= until)
        throw new Fault('conflict', 'database: another typevisor server works on it; one server a database, stop that one first')
      await clock.sleep(millis(LOOK_EVERY_MS), { signal })
    }
  } catch (error) {
    await client.end().catch(() => {})
    if (error instanceof Fault) throw error
    throw new Fault('unavailable', `database: connect: ${error instanceof Error ? error.message : String(error)}`, {
      cause: error,
    })
  }
}
