/**
 * Every way in which a saga can be disturbed, tried on one definition: killed around every commit, run twice, failed, told to try again,
 * cancelled, on the way there and on the way back. Whatever happens, it must end as if undisturbed (`done`) or as if never begun (`undone`).
 *
 *   sagaCrashSuite({
 *     definition: createInstance,
 *     input: { name: 'web-1' },
 *     setup: async ({ clock }) => {
 *       const host = simHost({ clock })
 *       return { services: { host }, snapshot: () => host.everything() }
 *     },
 *   })
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { epochMillis, Fault, type Clock, type Json, type Log } from '@typevisor/base'
import { memoryLog, seededRng, virtualClock, type MemoryLog, type SeededRng } from '@typevisor/sim'
import { createSagaEngine, type SagaEngine } from '../engine.ts'
import { memorySagaStore } from '../memory-store.ts'
import { sagaId, type SagaDefinition, type SagaRecord, type SagaStep, type SagaStore, type StepContext } from '../ports.ts'
import { settled } from '../states.ts'

export interface SagaCrashSubject<I extends Json, S> {
  readonly definition: SagaDefinition<I, S>
  readonly input: I
  /** Default: `crash-suite`. */
  readonly resource?: string
  /** A new world for every case. */
  readonly setup: (tools: { clock: Clock; log: Log; rng: SeededRng }) => Promise<SagaCrashWorld<S>>
  /** Random schedules of several disturbances; default 30. */
  readonly seedCount?: number
  /**
   * The step from which there is no way back, such as the one that ends a guest. The run is then never failed once this step has acted,
   * nor cancelled from it on; that it fails before it acts, everything before it and all harmless disturbances are still tried.
   */
  readonly irreversibleFrom?: string
  /** What an undone run leaves: the world as before (default), or as after a run whose first step failed at once, where that leaves a trace. */
  readonly undone?: 'as never begun' | 'as failed at once'
  /** `real` where the services do real input and output; default `virtual`. */
  readonly time?: 'virtual' | 'real'
}

export interface SagaCrashWorld<S> {
  readonly services: S
  /**
   * All that the saga may change, as plain data: equal for equal worlds. Leave out fences and counts of calls, which grow with every
   * attempt, and ids that the saga draws by chance.
   */
  readonly snapshot: () => unknown
  /** Empty; default: a memory store. Needed for definitions with SQL effects. */
  readonly store?: SagaStore
  readonly dispose?: () => Promise<void>
}

/** What happens to one run of one step. */
const ACTIONS = {
  killed_before_it_runs: 'is killed before the step runs',
  killed_before_its_commit: 'is killed when the step has run and is not yet recorded',
  killed_after_its_commit: 'is killed when the step has just been recorded',
  run_twice: 'runs the step twice in a row',
  retried_before_it_acts: 'is told to try the step again before it did anything',
  retried_after_it_acted: 'is told to try the step again though it did everything',
  failed_before_it_acts: 'sees the step fail before it did anything',
  failed_after_it_acted: 'sees the step fail though it did everything',
  cancelled: 'is cancelled during the step',
} as const

type Action = keyof typeof ACTIONS

interface Disturbance {
  readonly way: 'do' | 'undo'
  readonly stepIndex: number
  readonly action: Action
}

const HARMLESS: readonly Action[] = [
  'killed_before_it_runs',
  'killed_before_its_commit',
  'killed_after_its_commit',
  'run_twice',
  'retried_before_it_acts',
  'retried_after_it_acted',
]
const ID = sagaId('00000000-0000-7000-8000-0000000c4a54')
const LIVES_MAX = 100

export function sagaCrashSuite<I extends Json, S>(subject: SagaCrashSubject<I, S>): void {
  const { definition, seedCount = 30 } = subject
  const { name, steps } = definition
  const indexes = steps.map((_, index) => index)
  const { irreversibleFrom } = subject
  const pointOfNoReturn =
    irreversibleFrom === undefined ? steps.length : steps.findIndex((step) => step.name === irreversibleFrom)
  assert.ok(pointOfNoReturn >= 0, `${name} has no step ${irreversibleFrom}`)
  const undoable = indexes.filter((index) => steps[index]?.undo && index <= pointOfNoReturn)
  const possible = ({ action, stepIndex }: Pick<Disturbance, 'action' | 'stepIndex'>): boolean => {
    if (stepIndex < pointOfNoReturn) return true
    const fails = !HARMLESS.includes(action) || (action.startsWith('retried') && steps[stepIndex]?.attemptCountMax === 1)
    return (
      !fails || (stepIndex === pointOfNoReturn && (action === 'failed_before_it_acts' || action === 'retried_before_it_acts'))
    )
  }
  /** The latest failure that there can be: it undoes the most. */
  const lastFailure: Disturbance =
    pointOfNoReturn < steps.length
      ? { way: 'do', stepIndex: pointOfNoReturn, action: 'failed_before_it_acts' }
      : { way: 'do', stepIndex: steps.length - 1, action: 'failed_after_it_acted' }

  const expectEnd = async (
    disturbances: readonly Disturbance[],
    want: readonly ('done' | 'undone')[],
    seed = 0,
  ): Promise<Ended> => {
    const told = disturbances
      .map(({ way, stepIndex, action }) => `${way} ${steps[stepIndex]?.name}: ${ACTIONS[action]}`)
      .join('; ')
    const ended = await live(subject, disturbances, seed)
    const { kind } = ended.record.state
    const found = `${told || 'undisturbed'}\n${JSON.stringify(ended.record.state)}\n${ended.trace.join('\n')}`
    assert.ok((want as readonly string[]).includes(kind), `ended ${kind}, want ${want.join(' or ')}: ${found}`)
    const worlds = await undisturbed(subject)
    if (kind === 'done') assert.deepEqual(ended.world, worlds.done, `the world is not as after an undisturbed run: ${found}`)
    else
      assert.deepEqual(
        ended.world,
        worlds.undone,
        `an undone run must leave the world ${subject.undone ?? 'as never begun'}: ${found}`,
      )
    return ended
  }

  test(`${name}: undisturbed it ends done`, async () => {
    const { trace } = await expectEnd([], ['done'])
    assert.deepEqual(
      trace,
      steps.map((step) => `do ${step.name}`),
    )
  })

  for (const action of HARMLESS) {
    test(`${name}: a run that ${ACTIONS[action]} ends as if undisturbed, for every step`, async () => {
      for (const stepIndex of indexes) {
        if (!possible({ action, stepIndex })) continue
        const mayRetry = !action.startsWith('retried') || steps[stepIndex]?.attemptCountMax !== 1
        await expectEnd([{ way: 'do', stepIndex, action }], mayRetry ? ['done'] : ['undone'])
      }
    })
  }

  for (const action of ['failed_before_it_acts', 'failed_after_it_acted'] as const) {
    test(`${name}: a run that ${ACTIONS[action]} is undone in reverse order, for every step`, async () => {
      for (const stepIndex of indexes) {
        if (!possible({ action, stepIndex })) continue
        const { trace } = await expectEnd([{ way: 'do', stepIndex, action }], ['undone'])
        const undone = undoable.filter((index) => index <= stepIndex).toReversed()
        assert.deepEqual(
          trace.filter((line) => line.startsWith('undo')),
          undone.map((index) => `undo ${steps[index]?.name}`),
        )
      }
    })
  }

  test(`${name}: a run that ${ACTIONS.cancelled} is undone, or done where it was too late, for every step`, async () => {
    for (const stepIndex of indexes) {
      if (possible({ action: 'cancelled', stepIndex }))
        await expectEnd([{ way: 'do', stepIndex, action: 'cancelled' }], ['undone', 'done'])
    }
  })

  for (const action of HARMLESS) {
    test(`${name}: an undo that ${ACTIONS[action]} ends as if never begun, for every step`, async () => {
      for (const stepIndex of undoable) {
        if (action.startsWith('retried') && steps[stepIndex]?.attemptCountMax === 1) continue
        await expectEnd([lastFailure, { way: 'undo', stepIndex, action }], ['undone'])
      }
    })
  }

  test(`${name}: a failed undo is stuck, and ends as if never begun when it is tried again, for every step`, async () => {
    for (const stepIndex of undoable) {
      for (const action of ['failed_before_it_acts', 'failed_after_it_acted'] as const) {
        const { stuckCount } = await expectEnd([lastFailure, { way: 'undo', stepIndex, action }], ['undone'])
        assert.equal(stuckCount, 1)
      }
    }
  })

  test(`${name}: random schedules of ${seedCount} seeds end as if undisturbed or as if never begun`, async () => {
    for (let seed = 1; seed <= seedCount; seed += 1) {
      const rng = seededRng(`${name}/${seed}`)
      const disturbances: Disturbance[] = []
      for (let count = rng.below(6) + 1; count > 0; count -= 1) {
        const action = rng.chance(0.7)
          ? rng.pick(HARMLESS)
          : rng.pick(['failed_before_it_acts', 'failed_after_it_acted', 'cancelled'] as const)
        const way = action !== 'cancelled' && rng.chance(0.4) ? 'undo' : 'do'
        const disturbance: Disturbance = { way, stepIndex: rng.pick(indexes), action }
        // A step that has acted may be disturbed again: where there is no way back it must not fail even before it acts again.
        const final = disturbance.stepIndex >= pointOfNoReturn && !HARMLESS.includes(action)
        if (way === 'undo' || (possible(disturbance) && !final)) disturbances.push(disturbance)
      }
      try {
        await expectEnd(disturbances, ['done', 'undone'], seed)
      } catch (error) {
        throw new Error(`seed ${seed} of ${name}`, { cause: error })
      }
    }
  })
}

interface Ended {
  readonly record: SagaRecord
  readonly world: unknown
  readonly trace: readonly string[]
  readonly stuckCount: number
}

const worldsOf = new WeakMap<object, Promise<{ undone: unknown; done: unknown }>>()

/** The world after an undisturbed run, and as an undone one must leave it; found once a subject. */
function undisturbed<I extends Json, S>(subject: SagaCrashSubject<I, S>): Promise<{ undone: unknown; done: unknown }> {
  const known = worldsOf.get(subject)
  if (known) return known
  const worlds = (async () => {
    const { world: done } = await live(subject, [], 0)
    if (subject.undone === 'as failed at once') {
      const failed = await live(subject, [{ way: 'do', stepIndex: 0, action: 'failed_before_it_acts' }], 0)
      return { undone: failed.world, done }
    }
    const tools = toolsOf(subject, 0)
    const undone = await tools.run(async () => {
      const world = await subject.setup(tools)
      const found = structuredClone(await world.snapshot())
      await world.dispose?.()
      return found
    })
    return { undone, done }
  })()
  worldsOf.set(subject, worlds)
  return worlds
}

interface Tools {
  readonly clock: Clock
  readonly log: MemoryLog
  readonly rng: SeededRng
  readonly run: <T>(work: () => Promise<T>) => Promise<T>
}

function toolsOf<I extends Json, S>(subject: SagaCrashSubject<I, S>, seed: number): Tools {
  const rng = seededRng(`${subject.definition.name}/world/${seed}`)
  const log = memoryLog()
  if (subject.time === 'real') return { clock: timerClock(), log, rng, run: (work) => work() }
  const clock = virtualClock()
  return { clock, log, rng, run: (work) => clock.run(work) }
}

/** Runs the saga through as many lives as its disturbances take. */
async function live<I extends Json, S>(
  subject: SagaCrashSubject<I, S>,
  disturbances: readonly Disturbance[],
  seed: number,
): Promise<Ended> {
  const tools = toolsOf(subject, seed)
  return tools.run(async () => {
    const world = await subject.setup(tools)
    const store = world.store ?? memorySagaStore({ clock: tools.clock })
    const left = [...disturbances]
    const trace: string[] = []
    let stuckCount = 0
    const engines: SagaEngine[] = []
    for (let lives = 0; lives < LIVES_MAX; lives += 1) {
      const life = new Life(store)
      let engine: SagaEngine | undefined = undefined
      const definition = instrumented(subject.definition, { left, trace, life, cancel: async () => engine?.cancel(ID) })
      const started = createSagaEngine<S>({
        store: life.store,
        sagas: [definition],
        services: world.services,
        clock: tools.clock,
        log: tools.log,
        owner: 'crash-suite',
      })
      engine = started
      engines.push(started)
      const through = async (): Promise<SagaRecord> => {
        await started.start()
        await started.submit({ id: ID, name: definition.name, resource: subject.resource ?? 'crash-suite', input: subject.input })
        return started.wait(ID)
      }
      const record = await Promise.race([through(), life.death])
      if (!record) continue
      await started.stop()
      if (record.state.kind === 'stuck') {
        stuckCount += 1
        await store.settleStuck(ID, 'retry')
        continue
      }
      assert.ok(settled(record.state))
      const found = structuredClone(await world.snapshot())
      await world.dispose?.()
      // The dead wait for answers that never come; only their timers must not outlive the test.
      for (const each of engines) void each.stop()
      return { record, world: found, trace, stuckCount }
    }
    throw new Error(`not at an end after ${LIVES_MAX} lives:\n${trace.join('\n')}`)
  })
}

/** One life of the process: when it ends, nothing that it asked is answered any more. */
class Life {
  readonly death: Promise<null>
  readonly store: SagaStore
  dieAfterCommit = false
  #dead = false
  #die: (value: null) => void = () => {}

  constructor(store: SagaStore) {
    this.death = new Promise((resolve) => (this.#die = resolve))
    const mortal =
      <A extends unknown[], R>(method: (...args: A) => Promise<R>) =>
      async (...args: A): Promise<R> => {
        if (this.#dead) await forEver()
        const answer = await method(...args)
        if (this.#dead) await forEver()
        return answer
      }
    this.store = {
      create: mortal((saga) => store.create(saga)),
      claim: mortal((request) => store.claim(request)),
      renew: mortal((request) => store.renew(request)),
      commit: mortal(async (transitions) => {
        const answers = await store.commit(transitions)
        if (this.dieAfterCommit) this.end()
        return answers
      }),
      requestCancel: mortal((id) => store.requestCancel(id)),
      settleStuck: mortal((id, verdict) => store.settleStuck(id, verdict)),
      get: mortal((id) => store.get(id)),
      list: mortal((filter) => store.list(filter)),
    }
  }

  end(): void {
    this.#dead = true
    this.#die(null)
  }
}

const forEver = (): Promise<never> => new Promise(() => {})

interface Instruments {
  /** Disturbances that have not happened yet: each happens once. */
  readonly left: Disturbance[]
  readonly trace: string[]
  readonly life: Life
  readonly cancel: () => Promise<void>
}

function instrumented<I, S>(definition: SagaDefinition<I, S>, instruments: Instruments): SagaDefinition<I, S> {
  const { left, trace, life, cancel } = instruments
  const disturbed =
    (way: 'do' | 'undo', step: SagaStep<I, S>, stepIndex: number, work: SagaStep<I, S>['do']) =>
    async (context: StepContext<I, S>) => {
      const at = left.findIndex((one) => one.way === way && one.stepIndex === stepIndex)
      const action = at < 0 ? null : (left.splice(at, 1)[0]?.action ?? null)
      trace.push(`${way} ${step.name}${action === null ? '' : ` (${action})`}`)
      const busy = new Fault('busy', 'the crash suite says: try again')
      const failure = new Fault('failed', 'the crash suite says: failed')
      if (action === 'killed_before_it_runs') {
        life.end()
        await forEver()
      }
      if (action === 'retried_before_it_acts') throw busy
      if (action === 'failed_before_it_acts') throw failure
      if (action === 'cancelled') await cancel()
      if (action === 'run_twice') await work(context)
      const outcome = await work(action === 'run_twice' ? { ...context, attempt: context.attempt + 1 } : context)
      if (action === 'retried_after_it_acted') throw busy
      if (action === 'failed_after_it_acted') throw failure
      if (action === 'killed_before_its_commit') life.end()
      if (action === 'killed_after_its_commit') life.dieAfterCommit = true
      return outcome
    }
  return {
    ...definition,
    steps: definition.steps.map((step, stepIndex) => ({
      ...step,
      do: disturbed('do', step, stepIndex, step.do),
      ...(step.undo ? { undo: disturbed('undo', step, stepIndex, step.undo) } : {}),
    })),
  }
}

function timerClock(): Clock {
  return {
    now: () => epochMillis(Date.now()),
    monotonic: () => performance.now(),
    sleep: (duration, { signal } = {}) =>
      new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason)
        const timer = setTimeout(() => {
          signal?.removeEventListener('abort', abort)
          resolve()
        }, duration)
        const abort = (): void => {
          clearTimeout(timer)
          reject(signal?.reason)
        }
        signal?.addEventListener('abort', abort, { once: true })
      }),
  }
}
