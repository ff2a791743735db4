import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import * as fc from 'fast-check'
import { sql } from 'kysely'
import { Fault } from '@typevisor/base'
import { stopTestPostgres, testDatabase, testIds, type TestDatabase } from '../testing.ts'
import { decodeCursor, encodeCursor, pageOf, searchPatterns, type PageKey } from './paging.ts'

after(stopTestPostgres)

async function addInstances(database: TestDatabase, count: number, from = 0): Promise<void> {
  await database.db
    .insertInto('instance')
    .values(
      Array.from({ length: count }, (_, index) => ({
        id: testIds.next(),
        name: `web-${from + index}`,
        image: 'micro',
        host: null,
        spec: '{}',
        vcpu_count: 1,
        // Many alike, so that the order within them is by id.
        memory_bytes: 64 + (index % 3),
        root_disk_bytes: 0,
        labels: JSON.stringify({ tier: index % 2 === 0 ? 'front' : '50%_off' }),
        state_kind: 'stopped' as const,
        state_cause: 'requested',
        state_detail: null,
        state_since: new Date(),
        operation_id: null,
        operation_name: null,
        created_at: new Date(),
        created_by: 'test',
      })),
    )
    .execute()
}

interface Row {
  id: string
  name: string
  memory_bytes: number
}
const ID: PageKey<Row> = { column: 'instance.id', kind: 'uuid', read: (row) => row.id }
const NAME: PageKey<Row> = { column: 'instance.name', kind: 'text', read: (row) => row.name }
const MEMORY: PageKey<Row> = { column: 'instance.memory_bytes', kind: 'integer', read: (row) => row.memory_bytes }

const page = (
  database: TestDatabase,
  key: PageKey<Row>,
  order: 'asc' | 'desc',
  limit: number,
  cursor?: string,
  search?: string,
) => {
  let rows = database.db.selectFrom('instance').select(['id', 'name', 'memory_bytes']).where('destroyed_at', 'is', null)
  const patterns = searchPatterns(search)
  if (patterns.length > 0) rows = rows.where(sql<boolean>`instance.search LIKE ALL (${patterns})`)
  return pageOf({
    rows,
    keys: [key, ID],
    order,
    context: ['test', key.column, order, search],
    cursor,
    limit,
    toItem: (row: Row) => row.name,
  })
}

async function walk(database: TestDatabase, key: PageKey<Row>, order: 'asc' | 'desc', limit: number): Promise<string[]> {
  const names: string[] = []
  let cursor: string | undefined
  do {
    const reply = await page(database, key, order, limit, cursor)
    names.push(...reply.items)
    cursor = reply.nextCursor ?? undefined
  } while (cursor !== undefined)
  return names
}

test('pages of any size, in any order, give every row once and in order', async () => {
  await using database = await testDatabase()
  await addInstances(database, 23)
  for (const key of [NAME, MEMORY]) {
    for (const order of ['asc', 'desc'] as const) {
      const whole = await walk(database, key, order, 500)
      assert.equal(new Set(whole).size, 23)
      for (const limit of [1, 7, 23, 24]) assert.deepEqual(await walk(database, key, order, limit), whole)
    }
  }
})

test('rows that come and go between two pages neither repeat nor hide the ones that stayed', async () => {
  await using database = await testDatabase()
  await addInstances(database, 10)
  const first = await page(database, NAME, 'asc', 4)
  assert.equal(first.total, 10)
  await database.db
    .deleteFrom('instance')
    .where('name', '=', first.items[1] ?? '')
    .execute()
  await addInstances(database, 1, 100) // web-100 sorts before the cursor
  const second = await page(database, NAME, 'asc', 100, first.nextCursor ?? undefined)
  assert.deepEqual(second.items, ['web-4', 'web-5', 'web-6', 'web-7', 'web-8', 'web-9'])
})

test('search finds every word in name, image and labels, and takes what LIKE means something by as it is', async () => {
  await using database = await testDatabase()
  await addInstances(database, 10)
  const find = async (search: string) => (await page(database, NAME, 'asc', 100, undefined, search)).total
  assert.equal(await find('WEB-3'), 1)
  assert.equal(await find('tier=front micro'), 5)
  assert.equal(await find('50%_OFF'), 5)
  assert.equal(await find('5%o'), 0)
  assert.equal(await find('web_3'), 0)
  assert.equal(await find('\\'), 0)
})

test('the index on the sort key serves a page, and the trigram index a search', async () => {
  await using database = await testDatabase()
  for (let from = 0; from < 3000; from += 500) await addInstances(database, 500, from)
  await database.executor.query('VACUUM ANALYZE instance') // new rows wait in a list beside the trigram index until then
  // 3,000 rows are read faster as they lie; the question is whether the index can serve.
  const plan = (text: string): Promise<string> =>
    database.executor.transaction(async (tx) => {
      await tx.query('SET LOCAL enable_seqscan = off')
      return JSON.stringify((await tx.query(`EXPLAIN ${text}`)).rows)
    })
  const sorted = await plan(
    `SELECT id FROM instance WHERE destroyed_at IS NULL AND (memory_bytes, id) > (64, '00000000-0000-7000-8000-000000000000') ORDER BY memory_bytes, id LIMIT 20`,
  )
  assert.match(sorted, /instance_memory/)
  assert.match(await plan(`SELECT id FROM instance WHERE destroyed_at IS NULL AND search LIKE '%web-2999%'`), /instance_search/)
})

const refused = (work: () => unknown): void =>
  assert.throws(work, (error) => error instanceof Fault && error.code === 'invalid' && error.details[0]?.path === 'query.cursor')

test('a cursor of another list, order or filter is refused, and so is any other text', async () => {
  const values = [64, '00000000-0000-7000-8000-000000000000']
  const cursor = encodeCursor(['a', 'asc'], values)
  assert.deepEqual(decodeCursor(['a', 'asc'], ['integer', 'uuid'], cursor), values)
  refused(() => decodeCursor(['a', 'desc'], ['integer', 'uuid'], cursor))
  refused(() => decodeCursor(['a', 'asc'], ['integer'], cursor))
  refused(() => decodeCursor(['a', 'asc'], ['uuid', 'integer'], cursor))
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => refused(() => decodeCursor(['a', 'asc'], ['integer', 'uuid'], text))),
  )
  const forged = fc.tuple(fc.jsonValue(), fc.jsonValue())
  fc.assert(
    fc.property(forged, ([one, two]) => {
      const text = encodeCursor(['a', 'asc'], [one, two] as never)
      try {
        const [number, id] = decodeCursor(['a', 'asc'], ['integer', 'uuid'], text)
        assert.ok(Number.isSafeInteger(number) && typeof id === 'string')
      } catch (error) {
        assert.ok(error instanceof Fault, String(error))
      }
    }),
  )
})
