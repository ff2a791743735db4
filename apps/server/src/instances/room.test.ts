/** Starting and restoring agree with creation on what a host's memory takes. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, gib } from '@typevisor/base'
import { unrecorded } from '@typevisor/identity'
import { createSagaEngine, postgresSagaStore } from '@typevisor/saga'
import { memoryLog } from '@typevisor/sim'
import { AgentRegistry } from '../agents/registry.ts'
import { stopTestPostgres, testClock, testDatabase, testIds } from '../testing.ts'
import { instanceHandlers } from './handlers.ts'
import { hostOffers } from './queries.ts'

after(stopTestPostgres)

const idOf = (at: number): string => `0192f000-0000-7000-8000-00000000000${at}`

/** A host of 4 GiB with instances of 1 GiB each in these states. Operations are accepted, and nothing carries them out. */
async function hostWith(...states: readonly string[]) {
  const database = await testDatabase()
  const { db, executor } = database
  await executor.query(`INSERT INTO host (name, memory_bytes, created_at) VALUES ('h1', $1, now())`, [gib(4)])
  for (const [at, state] of states.entries()) {
    await executor.query(
      `INSERT INTO instance (id, name, image, host, spec, vcpu_count, memory_bytes, root_disk_bytes, state_kind, state_cause, state_since, created_at, created_by)
       VALUES ($1, $2, 'micro', 'h1', '{}', 1, $3, 1, $4, 'requested', now(), now(), 'test')`,
      [idOf(at), `i${at}`, gib(1), state],
    )
  }
  const agents = new AgentRegistry(testClock)
  const store = postgresSagaStore({ sql: executor })
  const engine = createSagaEngine({ store, sagas: [], services: {}, clock: testClock, log: memoryLog(), owner: 'test' })
  const handlers = instanceHandlers({ db, database: executor, agents, engine, store, ids: testIds, clock: testClock })
  const begin = (verb: 'start' | 'restore', at: number) =>
    (handlers[`instance.${verb}`] as (typeof handlers)['instance.start'])({
      operation: 'instance.start',
      params: { instance: idOf(at) },
      query: { wait: 0 },
      body: undefined as never,
      caller: null,
      address: 'test',
      requestId: 'test',
      signal: new AbortController().signal,
      audit: () => {},
      entry: unrecorded,
      begin: async () => {},
      setSession: () => {},
    })
  return { begin, database, committed: async () => (await hostOffers(executor, agents, testIds.next()))[0]?.committedBytes }
}

const exhausted = (error: unknown) => error instanceof Fault && error.code === 'exhausted'

test('start and restore are refused where the memory is held by others, running or being started', async () => {
  const { begin, database, committed } = await hostWith('running', 'paused', 'creating', 'stopped', 'stopped', 'saved')
  await using _ = database
  await begin('start', 3)
  assert.equal(await committed(), gib(4))
  await assert.rejects(begin('start', 4), exhausted)
  await assert.rejects(begin('restore', 5), exhausted)
  const { rows } = await database.executor.query('SELECT id FROM instance WHERE operation_id IS NOT NULL')
  assert.deepEqual(rows, [{ id: idOf(3) }])
})

test('of many that are started at once as many are taken as there is room for', async () => {
  const { begin, database, committed } = await hostWith('running', ...Array.from({ length: 8 }, () => 'stopped'))
  await using _ = database
  const outcomes = await Promise.allSettled(Array.from({ length: 8 }, (_none, at) => begin('start', at + 1)))
  assert.equal(outcomes.filter(({ status }) => status === 'fulfilled').length, 3)
  assert.ok(outcomes.every((outcome) => outcome.status === 'fulfilled' || exhausted(outcome.reason)))
  assert.equal(await committed(), gib(4))
})
