/**
 * The table of events as it is read: in the order of transactions, then ids, up to the oldest transaction that still runs (`outbox.ts` says
 * why). Positions, what is settled, what was missed and what is lost; nothing is kept in memory here.
 */
import { sql } from 'kysely'
import { epochMillis, Fault, type EpochMillis, type Json } from '@typevisor/base'
import type { Db } from './db/database.ts'

export interface NewEvent {
  readonly at: EpochMillis
  /** `noun.change`: `instance.state`. */
  readonly kind: string
  readonly resource: string | null
  readonly name: string | null
  readonly data: { readonly [key: string]: Json }
}

export interface OutboxEvent extends NewEvent {
  readonly sequence: string
}

export interface Position {
  readonly xid: string
  readonly id: number
}

export const formatSequence = ({ xid, id }: Position): string => `${xid}-${id}`

/** @throws Fault `invalid` naming `query.after`. */
export function parseSequence(text: string): Position {
  const match = /^(\d{1,20})-(\d{1,15})$/.exec(text)
  if (!match || BigInt(match[1] ?? '') >= 2n ** 64n) {
    const detail = {
      path: 'query.after',
      want: 'the sequence of an event, such as 742-18',
      got: JSON.stringify(text.slice(0, 60)),
    }
    throw new Fault('invalid', `${detail.path}: got ${detail.got}, want ${detail.want}`, { details: [detail] })
  }
  return { xid: BigInt(match[1] ?? '').toString(), id: Number(match[2]) }
}

export const isAfter = (a: Position, b: Position): boolean => (a.xid === b.xid ? a.id > b.id : BigInt(a.xid) > BigInt(b.xid))

/** The statement that puts an event into the outbox: run it in the transaction of the change (it is also a saga effect). */
export function eventInsert(event: NewEvent): { readonly text: string; readonly values: readonly unknown[] } {
  return {
    text: 'INSERT INTO event (at, kind, resource, name, content) VALUES ($1, $2, $3, $4, $5)',
    values: [new Date(event.at), event.kind, event.resource, event.name, JSON.stringify(event.data)],
  }
}

/** The same for a Kysely transaction. */
export async function insertEvents(tx: Db, events: readonly NewEvent[]): Promise<void> {
  if (events.length === 0) return
  await tx
    .insertInto('event')
    .values(
      events.map((event) => ({
        at: new Date(event.at),
        kind: event.kind,
        resource: event.resource,
        name: event.name,
        content: JSON.stringify(event.data),
      })),
    )
    .execute()
}

interface EventRow {
  readonly id: number
  readonly xid: string
  readonly at: Date
  readonly kind: string
  readonly resource: string | null
  readonly name: string | null
  readonly content: Record<string, Json>
}

export const eventFromRow = (row: EventRow): OutboxEvent => ({
  sequence: formatSequence(row),
  at: epochMillis(row.at.getTime()),
  kind: row.kind,
  resource: row.resource,
  name: row.name,
  data: row.content,
})

/** What no late commit can come below any more. */
export const settled = sql<boolean>`event.xid < pg_snapshot_xmin(pg_current_snapshot())`

export const PAGE = 500

/** Events after `last` that are settled, in order, at most `limit`. */
export async function readSettled(db: Db, last: Position, limit: number): Promise<EventRow[]> {
  return db
    .selectFrom('event')
    .select(['id', 'xid', 'at', 'kind', 'resource', 'name', 'content'])
    .where(sql<boolean>`(event.xid, event.id) > (${last.xid}::xid8, ${last.id}::bigint)`)
    .where(settled)
    .orderBy('xid')
    .orderBy('id')
    .limit(limit)
    .execute()
}

export async function endPosition(db: Db): Promise<Position> {
  const last = await db
    .selectFrom('event')
    .select(['xid', 'id'])
    .where(settled)
    .orderBy('xid', 'desc')
    .orderBy('id', 'desc')
    .limit(1)
    .executeTakeFirst()
  const horizon = await db.selectFrom('event_horizon').select(['xid', 'id']).executeTakeFirstOrThrow()
  return last && isAfter(last, horizon) ? last : horizon
}

/** What a subscriber missed: from `after` to `upTo`, read from the table. */
export async function* past(db: Db, after: Position, upTo: Position, signal: AbortSignal): AsyncGenerator<OutboxEvent> {
  let at = after
  while (isAfter(upTo, at) && !signal.aborted) {
    const rows = await readSettled(db, at, PAGE)
    for (const row of rows) {
      if (isAfter(row, upTo)) return
      at = { xid: row.xid, id: row.id }
      yield eventFromRow(row)
    }
    if (rows.length < PAGE) return
  }
}

/** Whether some of what came after `after` is lost, or it is no position of this database. */
export async function hasGap(db: Db, after: Position, upTo: Position): Promise<boolean> {
  if (isAfter(after, upTo)) {
    // Ahead of this reader, which may only be late: another server has shown it. Ahead of every transaction: another database gave it.
    const { unknown } = await db
      .selectNoFrom(sql<boolean>`${after.xid}::xid8 >= pg_snapshot_xmax(pg_current_snapshot())`.as('unknown'))
      .executeTakeFirstOrThrow()
    return unknown
  }
  const horizon = await db.selectFrom('event_horizon').select(['xid', 'id']).executeTakeFirstOrThrow()
  return isAfter(horizon, after)
}
