import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { epochMillis, Fault } from '@typevisor/base'
import { eventInsert, insertEvents, parseSequence, readSettled, type NewEvent, type OutboxEvent } from './event-log.ts'
import { createOutbox, type Outbox, type OutboxOptions } from './outbox.ts'
import { stopTestPostgres, testClock, testDatabase, testLog, type TestDatabase } from './testing.ts'

after(stopTestPostgres)

const event = (name: string, at = Date.now()): NewEvent => ({
  at: epochMillis(at),
  kind: 'test.said',
  resource: null,
  name,
  data: { name },
})

async function started(database: TestDatabase, options: Partial<OutboxOptions> = {}): Promise<Outbox & AsyncDisposable> {
  const outbox = createOutbox({ db: database.db, pool: database.pool, clock: testClock, log: testLog, ...options })
  await outbox.start()
  return { ...outbox, [Symbol.asyncDispose]: () => outbox.stop() }
}

/** The next `count` events, or what came until the time was over. */
async function take(events: AsyncIterable<OutboxEvent>, count: number): Promise<OutboxEvent[]> {
  const found: OutboxEvent[] = []
  for await (const item of events) if (found.push(item) === count) break
  return found
}
const names = (events: readonly OutboxEvent[]): (string | null)[] => events.map((item) => item.name)
const within = (ms: number) => ({ signal: AbortSignal.timeout(ms) })

test('a reader by `id > last` never sees a late commit; this one does, and in order', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database)
  const events = outbox.subscribe(within(10_000))
  const slow = await database.pool.connect()
  await slow.query('BEGIN')
  const statement = eventInsert(event('took its id first, committed last'))
  await slow.query(statement.text, [...statement.values])
  await insertEvents(database.db, [event('took its id last, committed first')])

  // The naive reader: everything after the last id it saw.
  const naive: string[] = []
  let lastId = 0
  const readNaively = async (): Promise<void> => {
    const { rows } = await database.executor.query('SELECT id, name FROM event WHERE id > $1 ORDER BY id', [lastId])
    for (const row of rows) {
      lastId = Number(row['id'])
      naive.push(String(row['name']))
    }
  }
  await readNaively()
  // Ours waits below the transaction that still runs.
  assert.deepEqual(await readSettled(database.db, { xid: '0', id: 0 }, 10), [])
  await slow.query('COMMIT')
  slow.release()
  await readNaively()

  assert.deepEqual(naive, ['took its id last, committed first'])
  assert.deepEqual(names(await take(events, 2)), ['took its id first, committed last', 'took its id last, committed first'])
})

test('many writers at once: every event comes once, in the order of sequences, to each subscriber', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database)
  const signal = AbortSignal.timeout(20_000)
  const subscribers = [1, 2, 3].map(() => take(outbox.subscribe({ signal }), 400))
  await Promise.all(
    Array.from({ length: 8 }, async (_, writer) => {
      for (let count = 0; count < 25; count += 1) {
        await database.db.transaction().execute(async (tx) => {
          await insertEvents(tx, [event(`${writer}.${count}.a`)])
          if (count % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 3))
          await insertEvents(tx, [event(`${writer}.${count}.b`)])
        })
      }
    }),
  )
  const [one, two, three] = await Promise.all(subscribers)
  assert.equal(new Set(names(one ?? [])).size, 400)
  assert.deepEqual(two, one)
  assert.deepEqual(three, one)
  for (let index = 1; index < 400; index += 1) {
    const [before, now] = [parseSequence(one?.[index - 1]?.sequence ?? ''), parseSequence(one?.[index]?.sequence ?? '')]
    assert.ok(BigInt(before.xid) < BigInt(now.xid) || (before.xid === now.xid && before.id < now.id))
  }
})

test('an event of a change that is rolled back is never told', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database)
  const events = outbox.subscribe(within(10_000))
  await assert.rejects(
    database.db.transaction().execute(async (tx) => {
      await insertEvents(tx, [event('never')])
      throw new Error('undo')
    }),
  )
  await insertEvents(database.db, [event('really')])
  assert.deepEqual(names(await take(events, 1)), ['really'])
})

test('whoever comes back goes on after the last event it had, over a restart of the reader', async () => {
  await using database = await testDatabase()
  let last = ''
  {
    await using outbox = await started(database)
    const events = outbox.subscribe(within(10_000))
    await insertEvents(database.db, [event('a'), event('b'), event('c')])
    last = (await take(events, 2))[1]?.sequence ?? ''
  }
  await insertEvents(database.db, [event('d')])
  await using outbox = await started(database)
  const events = outbox.subscribe({ after: last, ...within(10_000) })
  await insertEvents(database.db, [event('e')])
  assert.deepEqual(names(await take(events, 3)), ['c', 'd', 'e'])
})

test('a wake-up brings an event long before the poll; without LISTEN the poll brings it', async () => {
  await using database = await testDatabase()
  await using woken = await started(database, { pollEveryMs: 60_000 })
  await using polled = await started(database, { pollEveryMs: 50, listen: false })
  const both = [woken, polled].map((outbox) => take(outbox.subscribe(within(5000)), 1))
  await new Promise((resolve) => setTimeout(resolve, 100))
  await insertEvents(database.db, [event('soon')])
  const [first, second] = await Promise.all(both)
  assert.deepEqual([names(first ?? []), names(second ?? [])], [['soon'], ['soon']])
})

test('when its LISTEN connection is killed the reader takes another one', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database, { pollEveryMs: 60_000, log: { ...testLog, warn: () => {} } })
  const signal = AbortSignal.timeout(10_000)
  const events = outbox.subscribe({ signal })
  await new Promise((resolve) => setTimeout(resolve, 100))
  await database.executor.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`,
  )
  await insertEvents(database.db, [event('told anyway')])
  assert.deepEqual(names(await take(events, 1)), ['told anyway'])
})

test('a subscriber that does not read is cut off with busy, and loses nothing when it resumes', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database, { subscriberCapacity: 5 })
  const quick = outbox.subscribe(within(10_000))
  const slow = outbox.subscribe(within(10_000))
  const all = take(quick, 20)
  for (let count = 0; count < 20; count += 1) {
    await insertEvents(database.db, [event(String(count))])
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  assert.equal((await all).length, 20)
  const got: OutboxEvent[] = []
  await assert.rejects(
    async () => {
      for await (const item of slow) got.push(item)
    },
    (error) => error instanceof Fault && error.code === 'busy',
  )
  assert.equal(got.length, 5)
  const rest = await take(outbox.subscribe({ after: got.at(-1)?.sequence, ...within(10_000) }), 15)
  assert.deepEqual(
    names([...got, ...rest]),
    Array.from({ length: 20 }, (_, count) => String(count)),
  )
})

test('subscribers are bounded, and one that aborts makes room', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database, { subscriberCountMax: 2 })
  const first = new AbortController()
  outbox.subscribe({ signal: first.signal })
  outbox.subscribe(within(10_000))
  assert.throws(
    () => outbox.subscribe(within(10_000)),
    (error) => error instanceof Fault && error.code === 'busy',
  )
  first.abort()
  outbox.subscribe(within(10_000))
})

test('whoever asks for what was pruned, or for what this database never gave, is told of the gap', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database)
  const events = outbox.subscribe(within(10_000))
  await insertEvents(database.db, [event('old', 1000), event('older', 500)])
  const [old] = await take(events, 2)
  await insertEvents(database.db, [event('new')])
  assert.equal(await outbox.prune(epochMillis(Date.now() - 60_000)), 2)
  const again = await take(outbox.subscribe({ after: old?.sequence, ...within(10_000) }), 2)
  assert.deepEqual(
    again.map((item) => item.kind),
    ['event.gap', 'test.said'],
  )
  const known = await take(outbox.subscribe({ after: again[0]?.sequence, ...within(10_000) }), 1)
  assert.deepEqual(names(known), ['new'])
  const unknown = await take(outbox.subscribe({ after: '99999999999-1', ...within(10_000) }), 1)
  assert.equal(unknown[0]?.kind, 'event.gap')
})

test('a dump loaded into another PostgreSQL, whose transactions have lower numbers, still tells what comes', async () => {
  await using database = await testDatabase()
  await insertEvents(database.db, [event('from another life')])
  await database.executor.query(`UPDATE event SET xid = '888888888888'`)
  await database.executor.query(`UPDATE event_horizon SET xid = '777777777777', id = 0`)
  await using outbox = await started(database)
  const events = outbox.subscribe(within(10_000))
  await insertEvents(database.db, [event('now')])
  assert.deepEqual(names(await take(events, 1)), ['now'])
})

test('what is no sequence is refused by name', async () => {
  await using database = await testDatabase()
  await using outbox = await started(database)
  for (const after of ['', 'x', '1', '1-', '-1', '1-2-3', '18446744073709551616-1', '1-9999999999999999', '1\u0000-1', ' 1-1']) {
    assert.throws(
      () => outbox.subscribe({ after, ...within(1000) }),
      (error) => error instanceof Fault && error.code === 'invalid' && error.details[0]?.path === 'query.after',
      after,
    )
  }
})
