/**
 * The audit log's rows. The entry of a change is a statement, run in the transaction of the change (`recordEntry`); what changes nothing here
 * (a command in a guest, a console) has its entry before it begins, and its outcome afterwards; what was refused is written by itself.
 */
import { CompiledQuery, sql } from 'kysely'
import type { EpochMillis } from '@typevisor/base'
import type { AuditEntry } from '@typevisor/identity'
import type { SqlExecutor } from '@typevisor/saga'
import type { Db } from './database.ts'

export interface AuditLog {
  write(entry: AuditEntry): Promise<void>
  /** Writes the entry of what is about to begin; answers its id. */
  begin(entry: AuditEntry): Promise<number>
  /** How that ended. */
  finish(id: number, outcome: string): Promise<void>
  /** Removes what is older; answers how many. */
  prune(before: EpochMillis): Promise<number>
}

const bounded = (text: string | null): string | null =>
  text === null ? null : text.replaceAll('\0', '\u2400').toWellFormed().slice(0, 200)

const insertOf = (entry: AuditEntry): { text: string; values: unknown[] } => ({
  text: `INSERT INTO audit (at, account, via, operation, resource, resource_name, outcome, address, request_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id`,
  values: [
    new Date(entry.at),
    bounded(entry.account),
    entry.via,
    entry.operation,
    bounded(entry.resource),
    bounded(entry.resourceName),
    entry.outcome,
    bounded(entry.address),
    entry.requestId,
  ],
})

/** In the transaction of the change. */
export async function recordEntry(tx: Pick<SqlExecutor, 'query'>, entry: AuditEntry | null): Promise<void> {
  if (!entry) return
  const { text, values } = insertOf(entry)
  await tx.query(text, values)
}

/** The same for a Kysely transaction. */
export async function recordEntryIn(tx: Db, entry: AuditEntry | null): Promise<void> {
  if (!entry) return
  const { text, values } = insertOf(entry)
  await tx.executeQuery(CompiledQuery.raw(text, values))
}

export function postgresAuditLog(db: Db): AuditLog {
  return {
    write: (entry) => recordEntryIn(db, entry),
    async begin(entry) {
      const { text, values } = insertOf(entry)
      const { rows } = await db.executeQuery<{ id: number }>(CompiledQuery.raw(text, values))
      return Number(rows[0]?.id)
    },
    async finish(id, outcome) {
      await sql`UPDATE audit SET outcome = ${outcome} WHERE id = ${id}`.execute(db)
    },
    async prune(before) {
      const result = await db.deleteFrom('audit').where('at', '<', new Date(before)).executeTakeFirst()
      return Number(result.numDeletedRows)
    },
  }
}
