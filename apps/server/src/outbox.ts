/**
 * Events, at least once and in order. An event is a row inserted in the transaction of the change it tells of, so that there is no
 * change without its event and no event without its change.
 *
 *   writer   BEGIN; change; INSERT INTO event; COMMIT        a trigger NOTIFYs: "look", nothing more
 *   reader   every row with (xid, id) > last  and  xid < pg_snapshot_xmin(pg_current_snapshot())
 *
 * Why not `id > last`: ids are given when a row is inserted, and rows are seen when they are committed. A transaction that took id 7
 * and commits after id 8 was read would never be seen. Here a row is ordered by its transaction, and the reader stops below the
 * oldest transaction that still runs: nothing can be committed below that line any more. `outbox.test.ts` shows both.
 *
 *   reader --> ring of the last events --> Channel of each subscriber (bounded: who is too slow is cut off with `busy`, and resumes)
 *
 * A sequence is `xid-id`. Who asks to go on after one that was pruned, or that this database never gave, first gets one event
 * `event.gap`: it must load anew what it shows. A transaction that hangs open holds the line; the pool ends idle ones after 30 s.
 *
 * Not here: what events mean, and who may see which.
 */
import type { Pool } from 'pg'
import { sql } from 'kysely'
import { Channel, epochMillis, Fault, millis, type Clock, type EpochMillis, type Json, type Log } from '@typevisor/base'
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

export interface OutboxOptions {
  readonly db: Db
  /** Its own connection is taken from here for LISTEN. */
  readonly pool: Pool
  readonly clock: Clock
  readonly log: Log
  /** How often to look without being woken. */
  readonly pollEveryMs?: number
  /** Events that a subscriber may be behind before it is cut off. */
  readonly subscriberCapacity?: number
  readonly subscriberCountMax?: number
  /** false: reads by polling alone, as where a connection pooler forbids LISTEN. */
  readonly listen?: boolean
}

export interface Outbox {
  /** Starts the reader. Resolves when it stands at the end of what is there. */
  start(): Promise<void>
  /**
   * Events after `after` (a sequence), or from now on. The iteration ends when the signal aborts, and throws `busy` when the reader of
   * it is too slow. @throws Fault `invalid` for what is no sequence, `busy` when there are too many subscribers.
   */
  subscribe(options: { after?: string | undefined; signal: AbortSignal }): AsyncIterable<OutboxEvent>
  /** Looks at once: for a writer of the same process, right after its commit. */
  wake(): void
  /** Removes up to `limit` events older than `before`; answers how many. */
  prune(before: EpochMillis, limit?: number): Promise<number>
  stop(): Promise<void>
}

interface Position {
  readonly xid: string
  readonly id: number
}

const formatSequence = ({ xid, id }: Position): string => `${xid}-${id}`

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

const isAfter = (a: Position, b: Position): boolean => (a.xid === b.xid ? a.id > b.id : BigInt(a.xid) > BigInt(b.xid))

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

const PAGE = 500

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

interface Subscriber {
  readonly channel: Channel<OutboxEvent>
}

export function createOutbox(options: OutboxOptions): Outbox {
  const { db, pool, clock, log } = options
  const pollEveryMs = options.pollEveryMs ?? 1000
  const capacity = options.subscriberCapacity ?? 1000
  const subscriberCountMax = options.subscriberCountMax ?? 500
  const subscribers = new Set<Subscriber>()
  const stopping = new AbortController()
  let position: Position = { xid: '0', id: 0 }
  let woken = false
  let wakeReader: (() => void) | undefined
  let running: Promise<void> = Promise.resolve()
  let listener: Promise<void> = Promise.resolve()

  const wake = (): void => {
    woken = true
    wakeReader?.()
  }

  function deliver(event: OutboxEvent): void {
    for (const subscriber of subscribers) {
      try {
        subscriber.channel.push(event)
      } catch {
        subscribers.delete(subscriber)
        subscriber.channel.close(
          new Fault('busy', `events: more than ${capacity} wait to be read; go on after the last one you have`),
        )
      }
    }
  }

  /** True when there may be more at once. */
  async function advance(): Promise<boolean> {
    const rows = await readSettled(db, position, PAGE)
    for (const row of rows) {
      position = { xid: row.xid, id: row.id }
      deliver(eventFromRow(row))
    }
    return rows.length === PAGE
  }

  /**
   * After a wake-up an older transaction may still hold the line, and no further wake-up comes when it ends without an event: look again
   * soon a few times before going back to the slow poll.
   */
  async function readLoop(): Promise<void> {
    let quick = 0
    while (!stopping.signal.aborted) {
      try {
        const before = position
        while (await advance()) if (stopping.signal.aborted) return
        if (position !== before) quick = 0
      } catch (error) {
        if (stopping.signal.aborted) return
        log.warn('outbox.read-failed', { reason: error instanceof Error ? error.message : String(error) })
      }
      if (woken) {
        woken = false
        quick = 6
      }
      const pauseMs = quick > 0 ? Math.min(pollEveryMs, 5 * 2 ** (6 - quick)) : pollEveryMs
      quick = Math.max(0, quick - 1)
      const timer = new AbortController()
      await Promise.race([
        clock.sleep(millis(pauseMs), { signal: AbortSignal.any([timer.signal, stopping.signal]) }).catch(() => {}),
        new Promise<void>((resolve) => (wakeReader = resolve)),
      ])
      timer.abort()
      wakeReader = undefined
    }
  }

  async function listenLoop(): Promise<void> {
    while (!stopping.signal.aborted) {
      try {
        const client = await pool.connect()
        const ended = new Promise<void>((resolve) => {
          client.once('error', () => resolve())
          client.once('end', () => resolve())
          stopping.signal.addEventListener('abort', () => resolve(), { once: true })
          if (stopping.signal.aborted) resolve()
        })
        try {
          client.on('notification', wake)
          await client.query('LISTEN typevisor_event')
          wake()
          await ended
        } finally {
          client.release(true) // never back into the pool: it listens
        }
      } catch (error) {
        if (stopping.signal.aborted) return
        log.warn('outbox.listen-failed', { reason: error instanceof Error ? error.message : String(error) })
      }
      await clock.sleep(millis(1000), { signal: stopping.signal }).catch(() => {})
    }
  }

  async function endPosition(): Promise<Position> {
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
  async function* past(after: Position, upTo: Position, signal: AbortSignal): AsyncGenerator<OutboxEvent> {
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

  async function hasGap(after: Position, upTo: Position): Promise<boolean> {
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

  async function* follow(
    subscriber: Subscriber,
    after: Position | null,
    from: Position,
    signal: AbortSignal,
  ): AsyncGenerator<OutboxEvent> {
    try {
      let last = from
      if (after !== null) {
        last = after
        if (await hasGap(after, from)) {
          last = await db.selectFrom('event_horizon').select(['xid', 'id']).executeTakeFirstOrThrow()
          yield {
            sequence: formatSequence(last),
            at: clock.now(),
            kind: 'event.gap',
            resource: null,
            name: null,
            data: { after: formatSequence(after) },
          }
        }
        for await (const event of past(last, from, signal)) {
          last = parseSequence(event.sequence)
          yield event
        }
        if (isAfter(from, last)) last = from
      }
      for await (const event of subscriber.channel) {
        // A subscriber may come with a sequence of another server that reads ahead of this one.
        if (isAfter(parseSequence(event.sequence), last)) yield event
      }
    } finally {
      subscribers.delete(subscriber)
      subscriber.channel.close()
    }
  }

  return {
    async start() {
      // A dump that was loaded into another PostgreSQL brings events of transactions that this one has not come to yet. They are all
      // older than whatever is written now.
      await sql`UPDATE event SET xid = '1' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())`.execute(db)
      await sql`UPDATE event_horizon SET xid = '1' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())`.execute(db)
      position = await endPosition()
      running = readLoop()
      if (options.listen !== false) listener = listenLoop()
    },
    subscribe({ after, signal }) {
      const from = after === undefined ? null : parseSequence(after)
      if (subscribers.size >= subscriberCountMax)
        throw new Fault('busy', `events: ${subscriberCountMax} subscribers are the limit`)
      const ended = AbortSignal.any([signal, stopping.signal])
      // Registered at once: what comes between this call and the first read is not missed.
      const subscriber: Subscriber = { channel: new Channel(capacity) }
      const end = (): void => {
        subscribers.delete(subscriber)
        subscriber.channel.close()
      }
      if (ended.aborted) end()
      else subscribers.add(subscriber)
      ended.addEventListener('abort', end, { once: true })
      return follow(subscriber, from, position, ended)
    },
    wake,
    async prune(before, limit = 10_000) {
      return db.transaction().execute(async (tx) => {
        const { rows } = await sql<{ xid: string; id: number }>`
          DELETE FROM event WHERE id IN (
            SELECT id FROM event WHERE at < ${new Date(before)} AND ${settled} ORDER BY xid, id LIMIT ${limit}
          ) RETURNING xid, id`.execute(tx)
        let highest: Position = { xid: '0', id: 0 }
        for (const row of rows) if (isAfter(row, highest)) highest = row
        await sql`UPDATE event_horizon SET xid = ${highest.xid}::xid8, id = ${highest.id}::bigint
                  WHERE (xid, id) < (${highest.xid}::xid8, ${highest.id}::bigint)`.execute(tx)
        return rows.length
      })
    },
    async stop() {
      stopping.abort()
      wake()
      await Promise.all([running, listener])
      for (const { channel } of subscribers) channel.close()
    },
  }
}
