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
 * Not here: how the table is read (`event-log.ts`), what wakes the reader (`event-listener.ts`), what events mean, and who may see which.
 */
import type { Pool } from 'pg'
import { sql } from 'kysely'
import { Channel, Fault, millis, type Clock, type EpochMillis, type Log } from '@typevisor/base'
import type { Db } from './db/database.ts'
import { listenForEvents } from './event-listener.ts'
import {
  endPosition,
  eventFromRow,
  formatSequence,
  hasGap,
  isAfter,
  PAGE,
  parseSequence,
  past,
  readSettled,
  settled,
  type OutboxEvent,
  type Position,
} from './event-log.ts'

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
  /** Told of each event that comes, whether or not anybody subscribes. For counting. */
  readonly onEvent?: (event: OutboxEvent) => void
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
    options.onEvent?.(event)
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
        if (await hasGap(db, after, from)) {
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
        for await (const event of past(db, last, from, signal)) {
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
      position = await endPosition(db)
      running = readLoop()
      if (options.listen !== false) listener = listenForEvents({ pool, clock, log, signal: stopping.signal, wake })
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
