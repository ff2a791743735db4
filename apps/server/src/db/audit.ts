/** Who did what. Written before the answer goes out, so that nobody is told of a change that the log does not have. */
import type { EpochMillis } from '@typevisor/base'
import type { Db } from './database.ts'
import type { AuditTable } from './schema.ts'

export interface AuditRecord {
  readonly at: EpochMillis
  readonly account: string | null
  readonly via: AuditTable['via']
  readonly operation: string
  readonly resource: string | null
  /** As it was then: it outlives the thing. */
  readonly resourceName: string | null
  /** `ok` or the fault's code. */
  readonly outcome: string
  readonly address: string | null
  readonly requestId: string
}

export interface AuditLog {
  write(record: AuditRecord): Promise<void>
  /** Removes what is older; answers how many. */
  prune(before: EpochMillis): Promise<number>
}

const bounded = (text: string | null): string | null =>
  text === null ? null : text.replaceAll('\0', '\u2400').toWellFormed().slice(0, 200)

export function postgresAuditLog(db: Db): AuditLog {
  return {
    async write(record) {
      await db
        .insertInto('audit')
        .values({
          at: new Date(record.at),
          account: bounded(record.account),
          via: record.via,
          operation: record.operation,
          resource: bounded(record.resource),
          resource_name: bounded(record.resourceName),
          outcome: record.outcome,
          address: bounded(record.address),
          request_id: record.requestId,
        })
        .execute()
    },
    async prune(before) {
      const result = await db.deleteFrom('audit').where('at', '<', new Date(before)).executeTakeFirst()
      return Number(result.numDeletedRows)
    },
  }
}
