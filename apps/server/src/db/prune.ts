/** What the database keeps and for how long. In batches, so that no statement holds locks for long, however much has come together. */
import { epochMillis, type Clock } from '@typevisor/base'
import type { Identity } from '@typevisor/identity'
import type { PgSagaStore } from '@typevisor/saga'
import type { Outbox } from '../outbox.ts'
import type { AuditLog } from './audit.ts'
import type { Db } from './database.ts'

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const KEEP_EVENTS_MS = 30 * DAY_MS
const KEEP_AUDIT_MS = 365 * DAY_MS
const KEEP_SAGAS_MS = 7 * DAY_MS
const KEEP_DESTROYED_MS = 90 * DAY_MS
const BATCH_COUNT = 5000

export interface PruneOptions {
  readonly db: Db
  readonly outbox: Pick<Outbox, 'prune'>
  readonly store: Pick<PgSagaStore, 'prune'>
  readonly identity: Pick<Identity, 'prune'>
  readonly audit: Pick<AuditLog, 'prune'>
  readonly clock: Clock
  /** Rows a statement. */
  readonly batchCount?: number
  readonly signal: AbortSignal
}

/** Removes all that is older than it is kept. An abort ends it between two batches. */
export async function pruneDatabase(options: PruneOptions): Promise<void> {
  const { db, outbox, store, identity, audit, clock, signal, batchCount = BATCH_COUNT } = options
  const before = (keepMs: number) => epochMillis(clock.now() - keepMs)
  const batches = async (batch: () => Promise<number>): Promise<void> => {
    while (!signal.aborted && (await batch()) >= batchCount);
  }
  await batches(() => outbox.prune(before(KEEP_EVENTS_MS), batchCount))
  await batches(() => store.prune({ olderThanMs: KEEP_SAGAS_MS, limit: batchCount }))
  await batches(() => pruneInstances(db, new Date(before(KEEP_DESTROYED_MS)), batchCount))
  await identity.prune()
  await audit.prune(before(KEEP_AUDIT_MS))
}

async function pruneInstances(db: Db, before: Date, limit: number): Promise<number> {
  const result = await db
    .deleteFrom('instance')
    .where('id', 'in', (rows) =>
      rows.selectFrom('instance').select('id').where('destroyed_at', '<', before).orderBy('destroyed_at').limit(limit),
    )
    .executeTakeFirst()
  return Number(result.numDeletedRows)
}
