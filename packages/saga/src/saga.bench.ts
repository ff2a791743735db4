/**
 * How many saga steps a second are committed durably. Run: `node packages/saga/src/saga.bench.ts` (about 20 s).
 *
 * Budget: 5,000 steps a second on embedded PostgreSQL, 20,000 on the file journal, with synchronous commits on one local disk.
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
import { sagaId, type SagaStore } from './ports.ts'
import { postgresSagaStore, SAGA_SCHEMA_SQL } from './postgres-store.ts'
import { stateFile } from './state-file.ts'

const STEPS_PER_SAGA = 10
const BUDGETS = { postgres: 5000, file: 20_000 }

const clock = realClock()
const log = consoleLog({ level: 'warn' })
const step = (name: string) => ({ name, do: async () => ({ output: name }) })
const definition = defineSaga<object, object>({
  name: 'bench',
  steps: Array.from({ length: STEPS_PER_SAGA }, (_, index) => step(`step-${index}`)),
})

interface Measured {
  readonly stepsPerSecond: number
  readonly groupStepCountMean: number
  readonly stepMsMean: number
}

async function measure(store: SagaStore, sagaCount: number, create: (ids: string[]) => Promise<void>): Promise<Measured> {
  const ids = Array.from({ length: sagaCount }, (_, index) => `bench-${index}`)
  await create(ids)
  let commitCount = 0
  let stepCount = 0
  const counted: SagaStore = {
    ...store,
    commit: async (transitions) => {
      commitCount += 1
      stepCount += transitions.length
      return store.commit(transitions)
    },
  }
  const concurrencyMax = 512
  const engine = createSagaEngine({
    store: counted,
    sagas: [definition],
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

async function benchPostgres(folder: string): Promise<Measured> {
  const postgres = await startEmbeddedPostgres({ dataDir: join(folder, 'postgres'), clock, log })
  const pool = new Pool({ ...postgres.connection, max: 8 })
  try {
    await pool.query(SAGA_SCHEMA_SQL)
    return await measure(postgresSagaStore({ sql: pgExecutor(pool) }), 5000, async (ids) => {
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
  const measured = await measure(store, 20_000, async (ids) => {
    await Promise.all(ids.map((id) => store.create({ id: sagaId(id), name: 'bench', resource: id, input: {} })))
  })
  await state.close()
  return measured
}

const folder = await mkdtemp(join(tmpdir(), 'tv-saga-bench-'))
try {
  for (const [name, bench] of [
    ['postgres', benchPostgres],
    ['file', benchFile],
  ] as const) {
    const { stepsPerSecond, groupStepCountMean, stepMsMean } = await bench(folder)
    const verdict = stepsPerSecond >= BUDGETS[name] ? 'within budget' : 'OVER BUDGET'
    console.log(
      `${name.padEnd(9)} ${Math.round(stepsPerSecond)} steps/s committed (budget ${BUDGETS[name]}), ` +
        `${groupStepCountMean.toFixed(0)} steps a group, ${stepMsMean.toFixed(1)} ms a step with 512 sagas at once: ${verdict}`,
    )
    if (stepsPerSecond < BUDGETS[name]) process.exitCode = 1
  }
} finally {
  await rm(folder, { recursive: true, force: true })
}
