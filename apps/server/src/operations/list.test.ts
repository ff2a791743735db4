import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { epochMillis, type Json } from '@typevisor/base'
import { createClient } from '@typevisor/api/client'
import { createSagaEngine, postgresSagaStore, sagaId } from '@typevisor/saga'
import { memoryLog } from '@typevisor/sim'
import { AgentRegistry } from '../agents/registry.ts'
import { stopTestPostgres, testClock, testDatabase, testIds, testServer } from '../testing.ts'
import { operationHandlers } from './handlers.ts'
import { toWireOperation } from './operation.ts'

after(stopTestPostgres)

test('operations come in pages, the newest first, by state, resource and words, with how many there are in all', async () => {
  await using database = await testDatabase()
  const { db, executor } = database
  const store = postgresSagaStore({ sql: executor })
  const engine = createSagaEngine({ store, sagas: [], services: {}, clock: testClock, log: memoryLog(), owner: 'test' })
  await using server = await testServer({
    handlers: operationHandlers({ db, database: executor, engine, store, agents: new AgentRegistry(testClock) }),
  })
  const states = {
    done: '{"kind":"done"}',
    stuck: '{"kind":"stuck","stepIndex":0,"fault":{"code":"failed","message":"no way back"}}',
  }
  const inputs = [{ name: 'web' }, { spec: { name: 'mysql' }, host: 'away' }, { image: 'micro', host: 'away' }]
  // All within two milliseconds, with microseconds of their own: the order among them is by id.
  const ids = Array.from({ length: 7 }, () => testIds.next())
  for (const [index, id] of ids.entries()) {
    const kind = index === 2 ? 'stuck' : 'done'
    await executor.query(
      `INSERT INTO saga (id, name, resource, input, state_kind, state, created_at)
       VALUES ($1, $2, $3, $7, $4, $5::jsonb, '2026-01-01T00:00:00Z'::timestamptz + $6 * interval '300 microseconds')`,
      [
        id,
        index % 2 === 0 ? 'instance.start' : 'instance.save',
        `r-${index}`,
        kind,
        states[kind],
        index,
        JSON.stringify(inputs[index % 3]),
      ],
    )
  }
  const client = createClient({ baseUrl: server.url, token: server.local.token })
  const seen: string[] = []
  let cursor: string | null = ''
  while (cursor !== null) {
    const page: Awaited<ReturnType<typeof list>> = await list(cursor)
    assert.equal(page.total, 7)
    assert.ok(page.items.length <= 2)
    seen.push(...page.items.map(({ id }) => id))
    cursor = page.nextCursor
  }
  function list(after: string) {
    return client.call('operation.list', { query: { limit: 2, ...(after === '' ? {} : { cursor: after }) } })
  }
  assert.deepEqual(seen, ids.toReversed())

  const found = async (query: {
    search?: string
    state?: 'stuck' | 'done'
    unfinished?: 'true' | 'false'
    resource?: string
  }) => {
    const { items, total } = await client.call('operation.list', { query })
    assert.equal(items.length, total)
    return items.map(({ id }) => ids.indexOf(id))
  }
  assert.deepEqual(await found({ state: 'stuck' }), [2])
  assert.deepEqual(await found({ unfinished: 'true' }), [2])
  assert.deepEqual(await found({ unfinished: 'false', search: 'START' }), [6, 4, 0])
  assert.deepEqual(await found({ search: 'save r-3' }), [3])
  assert.deepEqual(await found({ resource: 'r-5' }), [5])
  assert.deepEqual(await found({ search: 'MySQL' }), [4, 1])
  const named = (await client.call('operation.list', { query: {} })).items
  assert.deepEqual(
    named.map((operation) => operation.resourceName),
    ['web', 'micro', 'mysql', 'web', 'micro', 'mysql', 'web'],
  )
  assert.ok(named.every((operation) => operation.waitsFor === null))
  const { items } = await client.call('operation.list', { query: { state: 'stuck' } })
  assert.equal(items[0]?.fault?.message, 'no way back')
})

test('an operation under way says which host it waits for, wherever the host is written', () => {
  const connected = new Set<string>()
  const agents = { get: (name: string) => (connected.has(name) ? ({} as never) : null), names: () => [...connected] }
  const waits = (name: string, input: Json, outputs: Record<string, Json> = {}, kind: 'running' | 'done' = 'running') =>
    toWireOperation(
      {
        id: sagaId(testIds.next()),
        name,
        resource: 'r',
        input,
        outputs,
        state: kind === 'done' ? { kind } : { kind, stepIndex: 0 },
        createdAt: epochMillis(0),
        updatedAt: epochMillis(0),
      },
      { engine: { progress: () => null }, agents },
    ).waitsFor
  const away = 'host h1, which is not connected'
  assert.equal(waits('instance.pause', { name: 'web', host: 'h1' }), away)
  assert.equal(waits('instance.create', { spec: { name: 'web' }, host: null }, { place: 'h1' }), away)
  assert.equal(waits('instance.create', { spec: { name: 'web' }, host: null }), 'a host: none is connected')
  assert.equal(waits('instance.pause', { name: 'web', host: 'h1' }, {}, 'done'), null)
  connected.add('h1')
  assert.equal(waits('image.build', { image: 'micro', host: 'h1' }), null)
  assert.equal(waits('instance.create', { spec: { name: 'web' }, host: null }), null)
})
