import { Fault, type Log } from '@typevisor/base'

/** What is needed of pg's `Pool`; named by shape so that neither package must know the other. */
export interface PgPool {
  query(config: PgQuery): Promise<PgResult>
  connect(): Promise<PgClient>
  on(event: 'error', listener: (error: Error) => void): unknown
}

export interface PgClient {
  query(config: PgQuery): Promise<PgResult>
  release(error?: Error | boolean): void
  on(event: 'error', listener: (error: Error) => void): unknown
  off(event: 'error', listener: (error: Error) => void): unknown
}

interface PgQuery {
  readonly text: string
  readonly values?: unknown[]
  readonly name?: string
}

interface PgResult {
  readonly rows: Record<string, unknown>[]
  readonly rowCount: number | null
}

/** The `SqlExecutor` port of `@typevisor/saga`, by shape. */
export interface PgExecutor {
  query(text: string, values?: readonly unknown[]): Promise<{ rows: Record<string, unknown>[]; rowCount: number }>
  transaction<T>(work: (tx: PgExecutor) => Promise<T>): Promise<T>
}

const heard = new WeakSet<PgPool>()

/**
 * Runs on a pool; each transaction takes one client of it. Errors are `Fault`s, with pg's own as the cause. A connection that breaks while
 * nobody asks on it is an `error` event of pg, which would end the process when nobody listens: here somebody does.
 */
export function pgExecutor(pool: PgPool, options: { log?: Log } = {}): PgExecutor {
  if (!heard.has(pool)) {
    heard.add(pool)
    pool.on('error', (error) => options.log?.warn('database.connection_lost', { reason: error.message }))
  }
  return {
    query: (text, values) => query(pool, text, values),
    async transaction(work) {
      const client = await attempt(() => pool.connect())
      const tx: PgExecutor = {
        query: (text, values) => query(client, text, values),
        // A transaction inside a transaction is the same transaction.
        transaction: (inner) => inner(tx),
      }
      let broken: Error | undefined
      const lost = (error: Error): void => void (broken = error)
      client.on('error', lost)
      try {
        await query(client, 'begin')
        const answer = await work(tx)
        await query(client, 'commit')
        return answer
      } catch (error) {
        await client.query({ text: 'rollback' }).catch(lost)
        throw error
      } finally {
        client.off('error', lost)
        client.release(broken)
      }
    },
  }
}

async function query(
  on: Pick<PgClient, 'query'>,
  text: string,
  values?: readonly unknown[],
): Promise<{ rows: Record<string, unknown>[]; rowCount: number }> {
  const { rows, rowCount } = await attempt(() => on.query({ text, ...(values ? { values: [...values] } : {}) }))
  return { rows, rowCount: rowCount ?? 0 }
}

async function attempt<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw faultOfPg(error)
  }
}

/**
 * Errors of PostgreSQL by the class of their SQLSTATE (appendix A of its manual), errors of the connection as `unavailable`.
 * The message of the server is kept: it names the constraint.
 */
export function faultOfPg(error: unknown): Fault {
  if (error instanceof Fault) return error
  const { code, message, severity } = error as { code?: unknown; message?: unknown; severity?: unknown }
  const text = `database: ${typeof message === 'string' ? message : String(error)}`
  // Only the server's own errors have a severity; EPIPE would look like a SQLSTATE.
  if (severity === undefined || typeof code !== 'string') return new Fault('unavailable', text, { cause: error })
  switch (code.slice(0, 2)) {
    case '08': // connection exceptions
    case '57': // operator intervention: shutdown, crash, cancel
      return new Fault('unavailable', text, { cause: error })
    case '40': // serialization failure, deadlock
    case '55': // lock not available, object in use
      return new Fault('busy', text, { cause: error })
    case '53': // no room on the disk, no memory, too many connections
      return code === '53300' ? new Fault('busy', text, { cause: error }) : new Fault('exhausted', text, { cause: error })
    case '23': // a constraint
      return new Fault('conflict', text, { cause: error })
    default:
      return new Fault('internal', text, { cause: error })
  }
}
