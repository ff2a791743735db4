/** Every list in pages: nothing twice, nothing left out, in order, by words; and a cursor that this list did not give is refused by name. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, mib } from '@typevisor/base'
import { OPERATION_NAMES, OPERATIONS, type OperationDefinition, type OperationName } from '@typevisor/api'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until, type TestCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

type Query = Record<string, string | number>
interface Page {
  readonly items: readonly Record<string, unknown>[]
  readonly total: number
  readonly nextCursor: string | null
}

const list = ({ client }: TestCloud, name: OperationName, query: Query): Promise<Page> =>
  client.call(name as 'audit.list', { query: query as never }) as Promise<unknown> as Promise<Page> // all lists answer a page

const LISTS = OPERATION_NAMES.filter((name) => {
  const { query }: OperationDefinition = OPERATIONS[name]
  return query !== undefined && 'cursor' in query.shape
})

async function pages(cloud: TestCloud, name: OperationName, query: Query): Promise<Record<string, unknown>[]> {
  const items: Record<string, unknown>[] = []
  let page = await list(cloud, name, { ...query, limit: 2 })
  items.push(...page.items)
  while (page.nextCursor !== null) {
    assert.ok(items.length < page.total, `${name}: a cursor beyond the end`)
    page = await list(cloud, name, { ...query, limit: 2, cursor: page.nextCursor })
    assert.ok(page.items.length > 0)
    items.push(...page.items)
  }
  assert.equal(items.length, page.total)
  return items
}

async function filled(): Promise<TestCloud> {
  const cloud = await testCloud()
  const host = await cloud.start('h1', await cloud.token('h1'))
  for (const [index, name] of ['delta', 'alpha', 'echo', 'bravo', 'charlie'].entries()) {
    const body = { name, memoryBytes: mib(index % 2 === 0 ? 128 : 192), start: index < 3, labels: { tier: `t${index % 2}` } }
    await cloud.client.call('instance.create', { query: { wait: 20 }, body })
    await cloud.client.call('account.create', { body: { name, password: 'a long password' } })
    await cloud.client.call('token.create', { body: { name } })
  }
  const { executor } = cloud.server.database
  await until('all that the host says is taken in', async () => {
    const { rows } = await executor.query('SELECT event_sequence FROM host')
    return Number(rows[0]?.['event_sequence']) >= host.toolstack.lastSequence()
  })
  await until('all events are settled', async () => {
    const { rows } = await executor.query('SELECT count(*) FROM event')
    return (await list(cloud, 'event.list', {})).total === Number(rows[0]?.['count'])
  })
  return cloud
}

test('pages of two are the same as one page of all, for each list, order and search', async () => {
  await using cloud = await filled()
  const queries: [OperationName, Query][] = LISTS.map((name) => [name, {}])
  for (const sort of ['name', 'createdAt', 'state', 'memoryBytes'])
    for (const order of ['asc', 'desc']) queries.push(['instance.list', { sort, order }])
  queries.push(['event.list', { search: 'ALPHA instance' }], ['audit.list', { search: 'OK bravo' }])
  queries.push(['operation.list', { search: 'create' }], ['instance.list', { search: 'tier=t1' }])
  for (const [name, query] of queries) {
    const what = `${name} ${JSON.stringify(query)}`
    const all = await list(cloud, name, { ...query, limit: 500 })
    assert.ok(all.items.length > 1, what)
    assert.deepEqual(await pages(cloud, name, query), all.items, what)
  }
})

test('lists are in the order that they promise, and hold what was looked for', async () => {
  await using cloud = await filled()
  const fields = async (name: OperationName, query: Query, field: string) =>
    (await list(cloud, name, query)).items.map((item) => item[field])
  for (const [sort, field] of [
    ['name', 'name'],
    ['createdAt', 'createdAt'],
    ['memoryBytes', 'memoryBytes'],
  ] as const) {
    const up = (await fields('instance.list', { sort, order: 'asc' }, field)) as (string | number)[]
    assert.deepEqual(
      up,
      up.toSorted((a, b) => (a < b ? -1 : Number(a > b))),
      sort,
    )
    assert.deepEqual(await fields('instance.list', { sort, order: 'desc' }, field), up.toReversed(), sort)
  }
  // By transaction, then id: their times are of when each transaction began.
  const sequences = (await fields('event.list', {}, 'sequence')) as string[]
  const placeOf = (sequence: string) => sequence.split('-').reduce((place, part) => (place << 64n) + BigInt(part), 0n)
  assert.deepEqual(
    sequences,
    sequences.toSorted((a, b) => (placeOf(a) < placeOf(b) ? 1 : -1)),
  )
  assert.deepEqual(new Set(await fields('event.list', { search: 'ALPHA state' }, 'name')), new Set(['alpha']))
  const [id] = (await fields('instance.list', { search: 'alpha' }, 'id')) as [string]
  assert.deepEqual(new Set(await fields('event.list', { resource: id }, 'name')), new Set(['alpha']))
  assert.deepEqual(new Set(await fields('audit.list', { search: 'instance.create alpha' }, 'resourceName')), new Set(['alpha']))
  assert.deepEqual(new Set(await fields('operation.list', { search: 'alpha' }, 'resourceName')), new Set(['alpha']))
  // What means something to LIKE is only a character here.
  for (const search of ['%', '_', '\\', "'"]) assert.deepEqual(await fields('event.list', { search }, 'name'), [], search)
})

test('a cursor of another list, of other words, or made up is refused by name', async () => {
  await using cloud = await filled()
  const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
  for (const name of LISTS) {
    const own = (await list(cloud, name, { limit: 1 })).nextCursor ?? ''
    const parts = JSON.parse(Buffer.from(own, 'base64url').toString()) as unknown[]
    const other = (await list(cloud, name === 'audit.list' ? 'event.list' : 'audit.list', { limit: 1 })).nextCursor ?? ''
    const made = [
      other,
      'x',
      'ä',
      '=',
      'null',
      encode(null),
      encode({}),
      encode([]),
      encode(parts.slice(0, -1)),
      encode([...parts, 1]),
      encode(['another', ...parts.slice(1)]),
      encode([parts[0], ...parts.slice(1).map(() => null)]),
      encode([parts[0], ...parts.slice(1).map(() => ({ a: 1 }))]),
      encode([parts[0], ...parts.slice(1).map(() => '\0')]),
      encode([parts[0], ...parts.slice(1).map(() => 1e300)]),
      encode([parts[0], ...parts.slice(1).map(() => "'; DROP TABLE instance; --\ud800")]),
    ]
    for (const cursor of made) {
      await assert.rejects(list(cloud, name, { cursor }), (error: unknown) => {
        assert.ok(error instanceof Fault)
        assert.deepEqual([error.code, error.details[0]?.path], ['invalid', 'query.cursor'], `${name} ${cursor}: ${error.message}`)
        return true
      })
    }
    await assert.rejects(list(cloud, name, { cursor: own, search: 'other' }), /query\.cursor/, name)
    assert.ok((await list(cloud, name, { cursor: own, limit: 1 })).items.length <= 1)
  }
})
