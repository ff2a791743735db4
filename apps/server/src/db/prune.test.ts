import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { epochMillis } from '@typevisor/base'
import { postgresSagaStore } from '@typevisor/saga'
import { createOutbox } from '../outbox.ts'
import { stopTestPostgres, testClock, testDatabase, testIds, testLog } from '../testing.ts'
import { pruneDatabase } from './prune.ts'

after(stopTestPostgres)

const DAY_MS = 86_400_000

test('what is older than it is kept goes, in as many batches as it takes; the rest stays', async () => {
  await using database = await testDatabase()
  const { db, executor, pool } = database
  const ago = (days: number) => new Date(Date.now() - days * DAY_MS)
  const instance = (name: string, destroyedAt: Date | null) => ({
    id: testIds.next(),
    name,
    image: 'micro',
    host: null,
    spec: '{}',
    vcpu_count: 1,
    memory_bytes: 1,
    root_disk_bytes: 0,
    state_kind: 'stopped' as const,
    state_cause: 'requested',
    state_detail: null,
    state_since: new Date(),
    operation_id: null,
    operation_name: null,
    created_at: ago(100),
    created_by: 'test',
    destroyed_at: destroyedAt,
  })
  await db
    .insertInto('instance')
    .values([
      ...Array.from({ length: 5 }, (_, index) => instance(`gone-${index}`, ago(91))),
      instance('gone-lately', ago(89)),
      instance('here', null),
    ])
    .execute()
  await executor.query(
    `INSERT INTO saga (id, name, resource, input, state_kind, state, updated_at)
     SELECT 'saga-' || n, 'test', 'r-' || n, '{}', 'done', '{"kind":"done"}', now() - interval '8 days' FROM generate_series(1, 5) n`,
  )
  await executor.query(`INSERT INTO event (at, kind) SELECT now() - interval '31 days', 'old' FROM generate_series(1, 5) n`)
  await executor.query(`INSERT INTO event (at, kind) VALUES (now(), 'new')`)
  await pruneDatabase({
    db,
    outbox: createOutbox({ db, pool, clock: testClock, log: testLog }),
    store: postgresSagaStore({ sql: executor }),
    identity: { prune: async () => {} },
    audit: { prune: async (before) => Number(before < epochMillis(Date.now())) },
    clock: testClock,
    batchCount: 2,
    signal: new AbortController().signal,
  })
  const column = async (sql: string) => (await executor.query(sql)).rows.map((row) => Object.values(row)[0])
  assert.deepEqual(await column('SELECT name FROM instance ORDER BY name'), ['gone-lately', 'here'])
  assert.deepEqual(await column('SELECT id FROM saga'), [])
  assert.deepEqual(await column('SELECT kind FROM event'), ['new'])
})
