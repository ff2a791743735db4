/** Two servers on one PostgreSQL, whose connections are cut and whose database is killed while they work. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { pgExecutor, realClock, signalProcess, startEmbeddedPostgres, waitForExit } from '@typevisor/runtime-node'
import { temporaryFolder } from '@typevisor/runtime-node/testing'
import { memoryLog, seededRng } from '@typevisor/sim'
import { Pool } from 'pg'
import { defineSaga } from './define.ts'
import { createSagaEngine } from './engine.ts'
import { sagaId, type SagaEffect, type StepContext } from './ports.ts'
import { postgresSagaStore, SAGA_SCHEMA_SQL } from './postgres-store.ts'

const SAGA_COUNT = 500
const STEP_COUNT = 5

/** A host that remembers the highest fence of each thing. */
interface Host {
  readonly things: Map<string, { made: boolean; fence: number }>
  readonly commandCount: () => void
}

type Context = StepContext<{ failsAt: number | null }, Host>

function command(context: Context, step: number, made: boolean): void {
  const { services, fence } = context
  const name = `${context.sagaId}/${step}`
  const seen = services.things.get(name)?.fence ?? 0
  if (fence < seen) throw new Fault('stale_fence', `${name} has seen ${seen}`)
  services.things.set(name, { made, fence })
  services.commandCount()
}

const count = ({ sagaId: id }: Context, by: number): { effects: SagaEffect[] } => ({
  effects: [{ kind: 'sql', text: 'update tally set n = n + $2 where id = $1', values: [id, by] }],
})

const definition = defineSaga<{ failsAt: number | null }, Host>({
  name: 'chaos',
  steps: Array.from({ length: STEP_COUNT }, (_, step) => ({
    name: `step-${step}`,
    do: async (context: Context) => {
      command(context, step, true)
      if (context.input.failsAt === step) throw new Fault('failed', 'as the input says')
      return { output: true, ...count(context, 1) }
    },
    undo: async (context: Context) => {
      command(context, step, false)
      return context.outputs[`step-${step}`] === true ? count(context, -1) : {}
    },
  })),
})

test('two servers lose nothing and do nothing twice, though their connections are cut and the database is killed', async (t) => {
  await using folder = await temporaryFolder()
  const seed = Date.now() % 100_000
  t.diagnostic(`seed ${seed}`)
  const rng = seededRng(seed)
  const clock = realClock()
  const log = memoryLog({ lineCountMax: 100_000 })
  const start = () => startEmbeddedPostgres({ dataDir: `${folder.path}/data`, clock, log })
  let postgres = await start()
  const poolFor = (name: string): Pool => {
    const pool = new Pool({ ...postgres.connection, max: 4, application_name: name })
    pool.on('error', () => {})
    // A connection lost between two statements says so by an event of its own.
    pool.on('connect', (client) => client.on('error', () => {}))
    return pool
  }
  const [poolA, poolB, admin] = [poolFor('server-a'), poolFor('server-b'), poolFor('admin')]
  await admin.query(`${SAGA_SCHEMA_SQL}; create table tally (id text primary key, n int not null)`)

  let commands = 0
  const host: Host = { things: new Map(), commandCount: () => void (commands += 1) }
  const engineOn = (pool: Pool, owner: string) => {
    const store = postgresSagaStore({ sql: pgExecutor(pool) })
    return createSagaEngine({
      store,
      sagas: [definition],
      services: host,
      clock,
      log,
      owner,
      concurrencyMax: 20,
      leaseMs: 1000,
      pollMs: 50,
    })
  }
  const engines = [engineOn(poolA, 'server-a'), engineOn(poolB, 'server-b')]
  const ids = Array.from({ length: SAGA_COUNT }, (_, index) => sagaId(`saga-${index}`))
  await admin.query(`insert into tally select id, 0 from unnest($1::text[]) as t(id)`, [ids])
  await admin.query(
    `insert into saga (id, name, resource, input)
     select 'saga-' || i, 'chaos', 'resource-' || i, jsonb_build_object('failsAt', case when i % 3 = 0 then i % ${STEP_COUNT} end)
     from generate_series(0, ${SAGA_COUNT - 1}) as i`,
  )
  await using stack = new AsyncDisposableStack()
  stack.defer(() => postgres.stop())
  stack.defer(async () => {
    for (const engine of engines) await engine.stop()
    for (const pool of [poolA, poolB, admin]) await pool.end()
  })
  await Promise.all(engines.map((engine) => engine.start()))

  const unfinished = async (): Promise<number> =>
    Number((await admin.query(`select count(*) from saga where state_kind in ('running', 'undoing')`)).rows[0].count)
  let cuts = 0
  for (let turn = 0; turn < 12 && (await unfinished()) > 0; turn += 1) {
    await clock.sleep((rng.below(150) + 20) as never)
    if (turn === 6) {
      signalProcess(postgres.postmaster, 'SIGKILL')
      await waitForExit(postgres.postmaster)
      postgres.release()
      postgres = await start()
    } else {
      const cut = await admin.query(
        `select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'server-%' and random() < 0.7`,
      )
      cuts += cut.rowCount ?? 0
    }
  }
  t.diagnostic(`${cuts} connections cut, ${commands} commands for ${SAGA_COUNT} sagas`)
  const records = await Promise.all(ids.map((id, index) => engines[index % 2]!.wait(id, { signal: AbortSignal.timeout(60_000) })))

  const tally = new Map<string, number>((await admin.query('select id, n from tally')).rows.map(({ id, n }) => [id, n]))
  records.forEach(({ id, state }, index) => {
    const done = index % 3 !== 0
    assert.equal(state.kind, done ? 'done' : 'undone', id)
    assert.equal(tally.get(id), done ? STEP_COUNT : 0, `effects of ${id}`)
    for (let step = 0; step < STEP_COUNT; step += 1)
      assert.equal(host.things.get(`${id}/${step}`)?.made ?? false, done, `${id}/${step}`)
  })
  assert.ok(log.has('saga.resumed'), 'something was resumed')
})
