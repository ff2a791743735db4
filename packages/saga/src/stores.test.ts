import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { pgExecutor, realClock, startEmbeddedPostgres, type EmbeddedPostgres } from '@typevisor/runtime-node'
import { memoryLog, seededRng, simDisk, virtualClock } from '@typevisor/sim'
import { Pool } from 'pg'
import { fileSagaStore } from './file-store.ts'
import { memorySagaStore } from './memory-store.ts'
import { sagaId, type SagaEffect, type SqlExecutor } from './ports.ts'
import { pgAbandonSagas, pgCreateSaga, postgresSagaStore, SAGA_SCHEMA_SQL } from './postgres-store.ts'
import { stateFile } from './state-file.ts'
import { sagaStoreConformance } from './testing.ts'

const refuse = (): SagaEffect => ({
  kind: 'call',
  run: () => {
    throw new Fault('conflict', 'refused')
  },
})

sagaStoreConformance('memory store', async () => {
  const clock = virtualClock()
  let count = 0
  return {
    store: memorySagaStore({ clock }),
    other: null,
    passTime: (durationMs) => clock.advance(durationMs),
    countEffect: () => ({ kind: 'call', run: () => void (count += 1) }),
    readCount: async () => count,
    refusedEffect: refuse,
    [Symbol.asyncDispose]: async () => {},
  }
})

sagaStoreConformance('file store', async () => {
  const clock = virtualClock()
  const state = stateFile({ disk: simDisk({ rng: seededRng(1) }), name: 'journal', clock, log: memoryLog() })
  const counters = state.map<number>('counters')
  const store = fileSagaStore({ state, clock })
  await state.open()
  return {
    store,
    other: null,
    passTime: (durationMs) => clock.advance(durationMs),
    countEffect: () => ({ kind: 'call', run: () => void counters.set('count', (counters.get('count') ?? 0) + 1) }),
    readCount: async () => counters.get('count') ?? 0,
    refusedEffect: refuse,
    [Symbol.asyncDispose]: () => state.close(),
  }
})

let folder = ''
let postgres: EmbeddedPostgres
let pools: Pool[] = []

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tv-saga-'))
  postgres = await startEmbeddedPostgres({ dataDir: folder, clock: realClock(), log: memoryLog() })
  pools = [new Pool(postgres.connection), new Pool(postgres.connection)]
  await pools[0]!.query(
    `${SAGA_SCHEMA_SQL}; ${SAGA_SCHEMA_SQL}; create table counter (n int not null check (n < 1000)); insert into counter values (0)`,
  )
})

after(async () => {
  for (const pool of pools) await pool.end()
  await postgres?.stop()
  await rm(folder, { recursive: true, force: true })
})

const executor = (index: number): SqlExecutor => pgExecutor(pools[index]!)

sagaStoreConformance('PostgreSQL store', async () => {
  await pools[0]!.query('truncate saga; update counter set n = 0')
  return {
    store: postgresSagaStore({ sql: executor(0) }),
    other: postgresSagaStore({ sql: executor(1) }),
    passTime: (durationMs) => new Promise((resolve) => setTimeout(resolve, durationMs)),
    countEffect: () => ({ kind: 'sql', text: 'update counter set n = n + $1', values: [1] }),
    readCount: async () => (await pools[0]!.query('select n from counter')).rows[0].n,
    refusedEffect: () => ({ kind: 'sql', text: 'update counter set n = n + 1000', values: [] }),
    [Symbol.asyncDispose]: async () => {},
  }
})

test('a saga created in a transaction exists exactly when that commits', async () => {
  const sql = executor(0)
  const saga = { id: sagaId('tx-1'), name: 'test', resource: 'tx', input: {} }
  await assert.rejects(
    sql.transaction(async (tx) => {
      await pgCreateSaga(tx, saga)
      throw new Error('changed my mind')
    }),
    /changed my mind/,
  )
  const store = postgresSagaStore({ sql })
  assert.equal(await store.get(saga.id), null)
  await sql.transaction(async (tx) => {
    await pgCreateSaga(tx, saga)
    await assert.rejects(pgCreateSaga(tx, { ...saga, id: sagaId('tx-2') }), /is held by test \(saga tx-1\)/)
    await tx.query('update counter set n = 7')
  })
  assert.equal((await store.get(saga.id))?.name, 'test')
  assert.equal((await pools[0]!.query('select n from counter')).rows[0].n, 7)
})

test('old sagas are forgotten when asked, unfinished ones never', async () => {
  await pools[0]!.query('truncate saga')
  const store = postgresSagaStore({ sql: executor(0) })
  for (const id of ['a', 'b', 'c']) await store.create({ id: sagaId(id), name: 'test', resource: id, input: {} })
  const records = await store.claim({ owner: 'one', leaseMs: 1000, limit: 2 })
  await store.commit(records.map(({ id, fence }) => ({ id, fence, state: { kind: 'done' }, attempt: 1, effects: [] })))
  assert.equal(await store.prune({ olderThanMs: 60_000 }), 0)
  assert.equal(await store.prune({ olderThanMs: 0 }), 2)
  assert.deepEqual(
    (await store.list()).map(({ id }) => id),
    ['c'],
  )
})

test('what holds a given-up resource is over at once: its owner writes nothing more, and the resource is free', async () => {
  await pools[0]!.query('truncate saga; update counter set n = 0')
  const sql = executor(0)
  const store = postgresSagaStore({ sql })
  for (const id of ['a', 'b']) await store.create({ id: sagaId(id), name: 'test', resource: id, input: {} })
  const [record] = await store.claim({ owner: 'one', leaseMs: 60_000, limit: 1 })
  assert.ok(record)
  assert.deepEqual(await pgAbandonSagas(sql, 'a', new Fault('aborted', 'given up')), ['a'])
  const effects: SagaEffect[] = [{ kind: 'sql', text: 'update counter set n = n + 1', values: [] }]
  const answers = await store.commit([{ id: record.id, fence: record.fence, state: { kind: 'done' }, attempt: 1, effects }])
  assert.deepEqual(answers, ['stale'])
  assert.equal((await pools[0]!.query('select n from counter')).rows[0].n, 0)
  assert.deepEqual((await store.get(record.id))?.state, { kind: 'undone', fault: { code: 'aborted', message: 'given up' } })
  assert.equal((await store.renew({ owner: 'one', leaseMs: 1000, ids: [record.id] })).size, 0)
  await store.create({ id: sagaId('next'), name: 'test', resource: 'a', input: {} })
  assert.equal((await store.get(sagaId('b')))?.state.kind, 'running')
  assert.deepEqual(await pgAbandonSagas(sql, 'nothing', new Fault('aborted', 'given up')), [])
})

test('groups that renew, commit and claim the same sagas at once do not deadlock', async () => {
  await pools[0]!.query('truncate saga')
  const ids = Array.from({ length: 300 }, (_, index) => sagaId(`s-${(index * 7919) % 1000}`))
  await pools[0]!.query(
    `insert into saga (id, name, resource, input) select id, 'test', id, '{}' from unnest($1::text[]) as t(id)`,
    [ids],
  )
  const [one, two] = [postgresSagaStore({ sql: executor(0) }), postgresSagaStore({ sql: executor(1) })]
  const records = await one.claim({ owner: 'one', leaseMs: 60_000, limit: 300 })
  const shuffled = records.toSorted((a, b) => ((a.fence * 31) % 97) - ((b.fence * 31) % 97))
  const transitions = (of: typeof records) =>
    of.map(({ id, fence }) => ({ id, fence, state: { kind: 'running', stepIndex: 1 } as const, attempt: 1, effects: [] }))
  const renewals = { owner: 'one', leaseMs: 60_000, ids: ids.toReversed() }
  for (let turn = 0; turn < 15; turn += 1) {
    await Promise.all([
      one.commit(transitions(records)),
      two.commit(transitions(shuffled)),
      one.renew(renewals),
      two.renew({ ...renewals, ids }),
      two.claim({ owner: 'two', leaseMs: 60_000, limit: 300 }),
    ])
  }
})
