import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { memoryLog, seededRng, simDisk, virtualClock, type SeededRng, type SimDisk, type VirtualClock } from '@typevisor/sim'
import * as fc from 'fast-check'
import { defineSaga } from './define.ts'
import { createSagaEngine, type SagaEngine } from './engine.ts'
import { fileSagaStore } from './file-store.ts'
import { sagaId, type SagaRecord, type StepContext, type StepOutcome } from './ports.ts'
import { settled } from './states.ts'
import { stateFile, type DurableMap } from './state-file.ts'

const SAGA_COUNT = 6
const STEP_COUNT = 4

/** What outlives every process: the things that steps made, by name, each with the highest fence that touched it. */
interface World {
  readonly made: Map<string, { made: boolean; fence: number }>
  readonly rng: SeededRng
  readonly clock: VirtualClock
  readonly counters: DurableMap<number>
}

const thing = (context: StepContext<{ fails: number }, World>, step: number): string => `${context.sagaId}/${step}`

/** As a host does it: a command with an older fence than one seen is refused. */
async function command(context: StepContext<{ fails: number }, World>, step: number, made: boolean): Promise<void> {
  const { services, fence, signal } = context
  const { rng, clock } = services
  if (rng.chance(0.3)) await clock.sleep(rng.below(50) as never, { signal })
  const name = thing(context, step)
  const seen = services.made.get(name)?.fence ?? 0
  if (fence < seen) throw new Fault('stale_fence', `${name} has seen ${seen}`)
  services.made.set(name, { made, fence })
  if (rng.chance(0.1)) throw new Fault('unavailable', 'the answer was lost')
}

const count = (context: StepContext<{ fails: number }, World>, by: number): StepOutcome => {
  const { counters } = context.services
  const key = context.sagaId
  return { effects: [{ kind: 'call', run: () => void counters.set(key, (counters.get(key) ?? 0) + by) }] }
}

const definition = defineSaga<{ fails: number }, World>({
  name: 'make',
  steps: Array.from({ length: STEP_COUNT }, (_, step) => ({
    name: `step-${step}`,
    attemptCountMax: 50,
    do: async (context: StepContext<{ fails: number }, World>) => {
      await command(context, step, true)
      if (context.input.fails === step) throw new Fault('failed', 'as the input says')
      return { output: step, ...count(context, 1) }
    },
    undo: async (context: StepContext<{ fails: number }, World>) => {
      await command(context, step, false)
      return context.outputs[`step-${step}`] === undefined ? {} : count(context, -1)
    },
  })),
})

/** Runs sagas through crashes at random disk operations until all are settled; checks after each crash what the next process finds. */
async function crashes(seed: number): Promise<void> {
  const rng = seededRng(seed)
  const clock = virtualClock()
  const made: World['made'] = new Map()
  const committed = new Map<string, number>()
  let crash: () => void = () => {}
  let operationsLeft = 0
  let disk: SimDisk = simDisk({
    rng: rng.fork('disk'),
    onOperation: () => {
      operationsLeft -= 1
      if (operationsLeft === 0) crash()
    },
  })
  const life = async (crashAfter: number): Promise<'settled' | 'crashed'> => {
    operationsLeft = crashAfter
    const state = stateFile({ disk, name: 'journal', clock, log: memoryLog(), compactBytesMin: 600 })
    const counters = state.map<number>('counters')
    const store = fileSagaStore({ state, clock })
    let dead = false
    const crashed = new Promise<'crashed'>((resolve) => {
      crash = () => {
        dead = true
        disk = disk.crash()
        // Steps of the dead process that are still asleep must not wake in the world of the next one.
        for (const end of ends) end()
        resolve('crashed')
      }
    })
    const ends: (() => void)[] = []
    const mortalClock: VirtualClock = {
      ...clock,
      sleep: (duration, options) =>
        new Promise((resolve, reject) => {
          const over = new AbortController()
          ends.push(() => over.abort())
          const signal = options?.signal ? AbortSignal.any([options.signal, over.signal]) : over.signal
          clock.sleep(duration, { signal }).then(
            () => dead || resolve(),
            (error: unknown) => dead || reject(error),
          )
        }),
    }
    const work = async (): Promise<'settled'> => {
      await state.open()
      for (const [id, stepIndex] of committed) {
        const record = await store.get(sagaId(id))
        assert.ok(record && progressOf(record) >= stepIndex, `seed ${seed}: a committed transition of ${id} is lost`)
      }
      const services: World = { made, rng, clock: mortalClock, counters }
      const watching = {
        ...store,
        commit: async (transitions: Parameters<typeof store.commit>[0]) => {
          const answers = await store.commit(transitions)
          for (const { id } of transitions) {
            const record = await store.get(id)
            if (record) committed.set(id, Math.max(progressOf(record), committed.get(id) ?? 0))
          }
          return answers
        },
      }
      const engine: SagaEngine = createSagaEngine({
        store: watching,
        sagas: [definition],
        services,
        clock: mortalClock,
        log: memoryLog(),
        owner: 'agent',
        concurrencyMax: 3,
      })
      await engine.start()
      const ids = Array.from({ length: SAGA_COUNT }, (_, index) => sagaId(`saga-${index}`))
      await Promise.all(
        ids.map((id, index) => engine.submit({ id, name: 'make', resource: id, input: { fails: index % 2 ? index : -1 } })),
      )
      if (rng.chance(0.3)) await engine.cancel(rng.pick(ids))
      const records = await Promise.all(ids.map((id) => engine.wait(id)))
      await engine.stop()
      for (const { id, state: end } of records) {
        const things = Array.from({ length: STEP_COUNT }, (_, step) => made.get(`${id}/${step}`)?.made ?? false)
        if (end.kind === 'done') assert.deepEqual(things, [true, true, true, true], `seed ${seed}: ${id} is done`)
        else assert.deepEqual(things, [false, false, false, false], `seed ${seed}: ${id} is ${end.kind}`)
        const effects = counters.get(id) ?? 0
        assert.equal(effects, end.kind === 'done' ? STEP_COUNT : 0, `seed ${seed}: effects of ${id}, ${end.kind}`)
      }
      return 'settled'
    }
    return Promise.race([work(), crashed])
  }
  await clock.run(async () => {
    for (let lives = 0; ; lives += 1) if ((await life(lives < 20 ? rng.below(60) + 1 : Infinity)) === 'settled') return
  })
}

/** Grows with every transition. */
function progressOf({ state }: SagaRecord): number {
  if (state.kind === 'running') return state.stepIndex
  if (state.kind === 'undoing') return 100 - state.stepIndex
  return settled(state) ? 200 : 0
}

test('through crashes at any moment no committed transition is lost, effects happen once, and do and undo balance', async () => {
  await fc.assert(fc.asyncProperty(fc.nat(), crashes), { numRuns: 60, endOnFailure: true })
})

test('fences go on growing over restarts and compactions', async () => {
  const disk = simDisk({ rng: seededRng(1) })
  const clock = virtualClock()
  let highest = 0
  for (let life = 0; life < 5; life += 1) {
    const state = stateFile({ disk, name: 'journal', clock, log: memoryLog() })
    const store = fileSagaStore({ state, clock, settledCountMax: 2 })
    await state.open()
    for (let index = 0; index < 3; index += 1)
      await store.create({ id: sagaId(`${life}-${index}`), name: 'x', resource: `${life}-${index}`, input: {} })
    for (const { id, fence } of await store.claim({ owner: `agent-${life}`, leaseMs: 1000, limit: 9 })) {
      assert.ok(fence > highest)
      highest = fence
      await store.commit([{ id, fence, state: { kind: 'done' }, attempt: 1, effects: [] }])
    }
    assert.equal((await store.list()).length, 2, 'settled sagas are forgotten beyond the bound')
    if (life % 2 === 0) await state.compact()
    await state.close()
  }
})
