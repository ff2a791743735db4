/**
 * How many saga steps a second are committed durably. Run: `node packages/saga/src/saga.bench.ts` (about 20 s).
 *
 * Budget: 5,000 steps a second on embedded PostgreSQL (also with an SQL effect in each), 20,000 on the file journal, with synchronous
 * commits on one local disk.
 *
 * Back of the envelope: a sync of the log takes 0.1 to 2 ms, a round trip over the socket 0.1 ms, so one transaction a step gives
 * 500 to 3,000 steps a second. A group of 100 steps costs one sync and one UPDATE of 100 rows (about 20 us a row, index and WAL
 * included): 1 + 2 = 3 ms, which is 30,000 a second; the engine's own work, about 20 us a step, then takes as much again.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { consoleLog, nodeDisk, pgExecutor, realClock, startEmbeddedPostgres } from '@typevisor/runtime-node'
import { Pool } from 'pg'
import { defineSaga } from './define.ts'
import { createSagaEngine } from './engine.ts'
import { fileSagaStore } from './file-store.ts'
import { sagaId, type SagaEffect, type SagaStore } from './ports.ts'
import { postgresSagaStore, SAGA_SCHEMA_SQL } from './postgres-store.ts'
import { stateFile } from './state-file.ts'

const STEPS_PER_SAGA = 10
const BUDGETS = { postgres: 5000, 'postgres, an SQL effect in each step': 5000, file: 20_000 }

const clock = realClock()
const log = consoleLog({ level: 'warn' })
const definitionWith = (effects: readonly SagaEffect[]) =>
  defineSaga<object, object>({
    name: 'bench',
    steps: Array.from({ length: STEPS_PER_SAGA }, (_, index) => ({
      name: `step-${index}`,
      do: async () => ({ output: index, effects }),
    })),
  })

interface Measured {
  readonly stepsPerSecond: number
  readonly groupStepCountMean: number
  readonly stepMsMean: number
}

async function measure(
  store: SagaStore,
  sagaCount: number,
  effects: readonly SagaEffect[],
  create: (ids: string[]) => Promise<void>,
): Promise<Measured> {
  const ids = Array.from({ length: sagaCount }, (_, index) => `bench-${index}`)
  await create(ids)
  let commitCount = 0
  let stepCount = 0
  const counted: SagaStore = {
    ...store,
    commit: async (transitions) => {
      const answers = await store.commit(transitions)
      commitCount += 1
      stepCount += transitions.length
      return answers
    },
  }
  const concurrencyMax = 512
  const engine = createSagaEngine({
    store: counted,
    sagas: [definitionWith(effects)],
    services: {},
    clock,
    log,
    owner: 'bench',
    concurrencyMax,
  })
  const startedAt = clock.monotonic()
  await engine.start()
  const wanted = sagaCount * STEPS_PER_SAGA
  const unended = (): boolean => stepCount < wanted
  while (unended()) await new Promise((resolve) => setTimeout(resolve, 1))
  await engine.stop()
  const tookMs = clock.monotonic() - startedAt
  const unfinished = await store.list({ unfinished: true })
  if (unfinished.length > 0 || stepCount !== wanted)
    throw new Error(`${unfinished.length} sagas unfinished, ${stepCount} steps of ${wanted}`)
  return {
    stepsPerSecond: (stepCount / tookMs) * 1000,
    groupStepCountMean: stepCount / commitCount,
    stepMsMean: (tookMs * concurrencyMax) / stepCount,
  }
}

async function benchPostgres(folder: string, effects: readonly SagaEffect[]): Promise<Measured> {
  const postgres = await startEmbeddedPostgres({ dataDir: join(folder, `postgres-${effects.length}`), clock, log })
  const pool = new Pool({ ...postgres.connection, max: 8 })
  try {
    await pool.query(`${SAGA_SCHEMA_SQL}; create table event (id bigint generated always as identity, body jsonb)`)
    return await measure(postgresSagaStore({ sql: pgExecutor(pool) }), 5000, effects, async (ids) => {
      await pool.query(
        `insert into saga (id, name, resource, input) select id, 'bench', id, '{}' from unnest($1::text[]) as t(id)`,
        [ids],
      )
    })
  } finally {
    await pool.end()
    await postgres.stop()
  }
}

async function benchFile(folder: string): Promise<Measured> {
  const state = stateFile({ disk: nodeDisk(join(folder, 'file')), name: 'bench.journal', clock, log })
  const store = fileSagaStore({ state, clock })
  await state.open()
  const measured = await measure(store, 20_000, [], async (ids) => {
    await Promise.all(ids.map((id) => store.create({ id: sagaId(id), name: 'bench', resource: id, input: {} })))
  })
  await state.close()
  return measured
}

const OUTBOX: SagaEffect = { kind: 'sql', text: 'insert into event (body) values ($1)', values: ['{"kind": "bench"}'] }
const CASES: Readonly<Record<keyof typeof BUDGETS, (folder: string) => Promise<Measured>>> = {
  postgres: (folder) => benchPostgres(folder, []),
  'postgres, an SQL effect in each step': (folder) => benchPostgres(folder, [OUTBOX]),
  file: benchFile,
}

const folder = await mkdtemp(join(tmpdir(), 'tv-saga-bench-'))
try {
  for (const name of Object.keys(CASES) as (keyof typeof BUDGETS)[]) {
    const { stepsPerSecond, groupStepCountMean, stepMsMean } = await CASES[name](folder)
    const verdict = stepsPerSecond >= BUDGETS[name] ? 'within budget' : 'OVER BUDGET'
    console.log(
      `${name}: ${Math.round(stepsPerSecond)} steps/s committed (budget ${BUDGETS[name]}), ` +
        `${groupStepCountMean.toFixed(0)} steps a group, ${stepMsMean.toFixed(1)} ms a step with 512 sagas at once: ${verdict}`,
    )
    if (stepsPerSecond < BUDGETS[name]) process.exitCode = 1
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
