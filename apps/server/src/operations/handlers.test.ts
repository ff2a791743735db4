/** What is stuck is ended by a person's word: over HTTP, and by destroying the instance that it holds. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { unrecorded } from '@typevisor/identity'
import { createSagaEngine, defineSaga, postgresSagaStore, sagaId } from '@typevisor/saga'
import { memoryLog } from '@typevisor/sim'
import { AgentRegistry } from '../agents/registry.ts'
import { instanceHandlers } from '../instances/handlers.ts'
import { stopTestPostgres, testClock, testDatabase, testIds, testServer, type TestServer } from '../testing.ts'
import { operationHandlers } from './handlers.ts'

after(stopTestPostgres)

const INSTANCE = '0192f000-0000-7000-8000-00000000aaaa'

/** An engine with one kind of saga: it fails, and its undo fails while `broken` is set. */
async function engineWith(services: { broken: boolean }, database: Awaited<ReturnType<typeof testDatabase>>) {
  const store = postgresSagaStore({ sql: database.executor })
  const fails = defineSaga<null, { broken: boolean }>({
    name: 'test.fails',
    steps: [
      {
        name: 'fail',
        do: async () => {
          throw new Fault('invalid', 'not this way')
        },
        undo: async (context) => {
          if (context.services.broken) throw new Fault('invalid', 'no way back')
        },
      },
    ],
  })
  const engine = createSagaEngine({ store, sagas: [fails], services, clock: testClock, log: memoryLog(), owner: 'test' })
  await engine.start()
  const stuck = async () => {
    const id = testIds.next()
    await engine.submit({ id: sagaId(id), name: 'test.fails', resource: INSTANCE, input: null })
    assert.equal((await engine.wait(sagaId(id))).state.kind, 'stuck')
    return id
  }
  return { engine, store, stuck }
}

async function post(
  server: TestServer,
  path: string,
): Promise<{ status: number; body: { state?: string; error?: { code: string } } }> {
  const response = await fetch(`${server.url}/api/v1/operations/${path}`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.local.token}` },
  })
  return { status: response.status, body: (await response.json()) as { state?: string } }
}

test('a stuck operation is undone again or let go of, and no other is', async () => {
  await using database = await testDatabase()
  const services = { broken: true }
  const { engine, store, stuck } = await engineWith(services, database)
  await using server = await testServer({
    database,
    handlers: operationHandlers({
      db: database.db,
      database: database.executor,
      engine,
      store,
      agents: new AgentRegistry(testClock),
    }),
  })
  try {
    const first = await stuck()
    const abandoned = await post(server, `${first}/abandon`)
    assert.deepEqual([abandoned.status, abandoned.body.state], [200, 'undone'])
    assert.equal((await post(server, `${first}/abandon`)).body.error?.code, 'conflict')
    assert.equal((await post(server, `${first}/retry`)).body.error?.code, 'conflict')

    const second = await stuck()
    assert.equal((await post(server, `${second}/retry`)).status, 200)
    assert.equal((await engine.wait(sagaId(second))).state.kind, 'stuck')
    services.broken = false
    assert.equal((await post(server, `${second}/retry`)).status, 200)
    assert.equal((await engine.wait(sagaId(second))).state.kind, 'undone')

    assert.equal((await post(server, `${testIds.next()}/retry`)).body.error?.code, 'not_found')
    const { rows } = await server.database.executor.query(
      `SELECT operation FROM audit WHERE resource = $1 AND operation IN ('operation.retry', 'operation.abandon')`,
      [INSTANCE],
    )
    assert.equal(rows.length, 5)
  } finally {
    await engine.stop()
  }
})

test('a destruction that is refused lets go of nothing; one that is accepted ends what is stuck', async () => {
  await using database = await testDatabase()
  const { engine, store, stuck } = await engineWith({ broken: true }, database)
  try {
    const id = await stuck()
    const { db, executor } = database
    await executor.query(
      `INSERT INTO instance (id, name, image, spec, vcpu_count, memory_bytes, root_disk_bytes, state_kind, state_cause, state_since, created_at, created_by,
         operation_id, operation_name)
       VALUES ($1, 'held', 'micro', '{}', 1, 1, 1, 'failed', 'invalid', now(), now(), 'test', $2, 'test.fails')`,
      [INSTANCE, id],
    )
    const agents = new AgentRegistry(testClock)
    const handlers = instanceHandlers({ db, database: executor, agents, engine, store, ids: testIds, clock: testClock })
    const destroy = () =>
      handlers['instance.destroy']({
        operation: 'instance.destroy',
        params: { instance: INSTANCE },
        query: { wait: 0, force: 'false' },
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
    await assert.rejects(destroy(), (error: unknown) => error instanceof Fault && error.code === 'busy')
    assert.equal((await store.get(sagaId(id)))?.state.kind, 'stuck')

    await executor.query('UPDATE instance SET operation_id = NULL, operation_name = NULL')
    await destroy()
    assert.equal((await store.get(sagaId(id)))?.state.kind, 'undone')
  } finally {
    await engine.stop()
  }
})
