import { sql } from 'kysely'
import type { Clock } from '@typevisor/base'
import type { Db } from '../db/database.ts'
import type { Handlers } from '../http/handler.ts'

export interface PlatformHandlerOptions {
  readonly db: Db
  readonly clock: Clock
  readonly version: string
  readonly database: 'embedded' | 'external'
  readonly pid: number
  /** Asked to stop by `platform.stop`. */
  readonly requestStop: (options: { guests: boolean }) => void
}

export function platformHandlers(options: PlatformHandlerOptions): Pick<Handlers, Extract<keyof Handlers, `platform.${string}`>> {
  const { db, clock, version, database, pid, requestStop } = options
  const startedAt = clock.monotonic()
  return {
    'platform.get': async () => {
      const counted = await db
        .selectNoFrom([
          sql<number>`(SELECT count(*) FROM instance WHERE destroyed_at IS NULL)`.as('instances'),
          sql<number>`(SELECT count(*) FROM host)`.as('hosts'),
        ])
        .executeTakeFirstOrThrow()
      const uptimeMs = Math.round(clock.monotonic() - startedAt)
      return { version, instanceCount: counted.instances, hostCount: counted.hosts, uptimeMs, database, pid }
    },
    // Serving means the database answers.
    'platform.health': async () => {
      await sql`SELECT 1`.execute(db)
      return { status: 'ok', version }
    },
    'platform.stop': async (call) => {
      await call.begin('platform', null)
      setImmediate(() => requestStop({ guests: call.body.guests }))
      return {}
    },
  }
}
