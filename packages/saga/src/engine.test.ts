import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, millis, type Clock } from '@typevisor/base'
import { memoryLog, virtualClock, type VirtualClock } from '@typevisor/sim'
import { defineSaga, newSaga } from './define.ts'
import { createSagaEngine, type SagaEngine, type SagaEngineOptions } from './engine.ts'
import { memorySagaStore } from './memory-store.ts'
import { sagaId, type SagaDefinition, type SagaId, type SagaRecord, type SagaStore } from './ports.ts'

/** Where the sagas of these tests leave their traces. */
interface World {
  readonly trace: string[]
  readonly clock: Clock
  /** Thrown by the step `do name` or `undo name`, as often as listed. */
  readonly faults: Map<string, Fault[]>
}

const step = (name: string) => ({
  name,
  do: async ({ services, attempt }: { services: World; attempt: number }) => act(services, `do ${name}`, attempt),
  undo: async ({ services, attempt }: { services: World; attempt: number }) => act(services, `undo ${name}`, attempt),
})

async function act(world: World, what: string, attempt: number): Promise<{ output: string }> {
  world.trace.push(attempt > 1 ? `${what} (${attempt})` : what)
  const fault = world.faults.get(what)?.shift()
  if (fault) throw fault
  return { output: what }
}

const three = defineSaga<{ size: number }, World>({ name: 'three', steps: [step('a'), step('b'), step('c')] })

interface Bench {
  readonly clock: VirtualClock
  readonly world: World
  readonly store: SagaStore
  readonly engine: SagaEngine
  readonly log: ReturnType<typeof memoryLog>
  run(id?: string): Promise<SagaRecord>
}

async function withEngine(
  sagas: readonly SagaDefinition<never, World>[],
  work: (bench: Bench) => Promise<void>,
  options: Partial<SagaEngineOptions<World>> = {},
): Promise<void> {
  const clock = virtualClock()
  const world: World = { trace: [], clock, faults: new Map() }
  const log = memoryLog()
  const store = options.store ?? memorySagaStore({ clock })
  const engine = createSagaEngine({ store, sagas, services: world, clock, log, owner: 'test', ...options })
  const name = sagas[0]?.name ?? 'none'
  const run = async (id = 'saga-1') => {
    await engine.submit({ id: sagaId(id), name, resource: `resource of ${id}`, input: { size: 1 } })
    return engine.wait(sagaId(id))
  }
  await clock.run(async () => {
    await engine.start()
    await work({ clock, world, store, engine, log, run })
    await engine.stop()
  })
}

const broken = new Fault('failed', 'broken')
const busy = new Fault('busy', 'busy')

test('steps run in order, and each sees the outputs of those before', async () => {
  const seen: unknown[] = []
  const definition = defineSaga<{ size: number }, World>({
    name: 'outputs',
    steps: [
      { name: 'a', do: async ({ input }) => ({ output: input.size * 2 }) },
      { name: 'b', do: async ({ outputs }) => void seen.push({ ...outputs }) },
      { name: 'c', do: async ({ outputs }) => void seen.push({ ...outputs }) },
    ],
  })
  await withEngine([definition], async ({ engine }) => {
    await engine.submit(newSaga(definition, { id: sagaId('s'), resource: 'r', input: { size: 21 } }))
    const record = await engine.wait(sagaId('s'))
    assert.deepEqual(record.state, { kind: 'done' })
    assert.deepEqual(record.outputs, { a: 42 })
    assert.deepEqual(seen, [{ a: 42 }, { a: 42 }])
  })
})

test('a final fault turns the saga round, and the failed step is undone first', async () => {
  await withEngine([three], async ({ world, run }) => {
    world.faults.set('do b', [broken])
    const { state } = await run()
    assert.deepEqual(state, { kind: 'undone', fault: { code: 'failed', message: 'broken' } })
    assert.deepEqual(world.trace, ['do a', 'do b', 'undo b', 'undo a'])
  })
})

test('a retryable fault is tried again, with a growing pause', async () => {
  await withEngine([three], async ({ world, run, clock }) => {
    world.faults.set('do b', [busy, busy, busy])
    const before = clock.monotonic()
    assert.equal((await run()).state.kind, 'done')
    assert.deepEqual(world.trace, ['do a', 'do b', 'do b (2)', 'do b (3)', 'do b (4)', 'do c'])
    const pausedMs = clock.monotonic() - before
    assert.ok(pausedMs >= 350 && pausedMs <= 3000, `${pausedMs} ms`)
  })
})

test('attempts that are used up turn the saga round', async () => {
  await withEngine([three], async ({ world, run }) => {
    world.faults.set('do b', [busy, busy, busy, busy, busy])
    assert.equal((await run()).state.kind, 'undone')
    assert.equal(world.trace.filter((line) => line.startsWith('do b')).length, 5)
    assert.deepEqual(world.trace.slice(-2), ['undo b', 'undo a'])
  })
})

test('an undo that fails for good is stuck and holds its resource, until a person lets go', async () => {
  await withEngine([three], async ({ world, run, engine }) => {
    world.faults.set('do c', [broken])
    world.faults.set('undo b', [new Fault('failed', 'cannot undo')])
    const { state } = await run()
    assert.deepEqual(state, {
      kind: 'stuck',
      stepIndex: 1,
      fault: { code: 'failed', message: 'broken' },
      undoFault: { code: 'failed', message: 'cannot undo' },
    })
    const next = { id: sagaId('saga-2'), name: 'three', resource: 'resource of saga-1', input: {} }
    await assert.rejects(engine.submit(next), (error) => error instanceof Fault && error.code === 'busy')
    await engine.settleStuck(sagaId('saga-1'), 'abandon')
    await engine.submit(next)
    assert.equal((await engine.wait(next.id)).state.kind, 'done')
  })
})

test('a stuck undo can be tried again', async () => {
  await withEngine([three], async ({ world, run, engine }) => {
    world.faults.set('do c', [broken])
    world.faults.set('undo b', [new Fault('failed', 'cannot undo')])
    await run()
    await engine.settleStuck(sagaId('saga-1'), 'retry')
    assert.equal((await engine.wait(sagaId('saga-1'))).state.kind, 'undone')
    assert.deepEqual(world.trace.slice(-2), ['undo b (2)', 'undo a'])
  })
})

test('a saga that is cancelled while a step runs is undone from that step', async () => {
  const slow = defineSaga<object, World>({
    name: 'slow',
    steps: [
      step('a'),
      {
        name: 'b',
        do: async ({ services, signal }) => {
          services.trace.push('do b')
          await services.clock.sleep(millis(60_000), { signal })
        },
        undo: async ({ services }) => void services.trace.push('undo b'),
      },
    ],
  })
  await withEngine([slow], async ({ world, engine, clock }) => {
    const id = sagaId('s')
    await engine.submit({ id, name: 'slow', resource: 'r', input: {} })
    await clock.sleep(millis(1000))
    assert.deepEqual(engine.progress(id), { step: 'b', fraction: 0, message: '' })
    await engine.cancel(id)
    const { state } = await engine.wait(id)
    assert.deepEqual(state, { kind: 'undone', fault: { code: 'aborted', message: 'cancelled' } })
    assert.deepEqual(world.trace, ['do a', 'do b', 'undo b', 'undo a'])
    assert.ok(clock.monotonic() < 10_000)
  })
})

test('a saga that is cancelled before its first step does nothing', async () => {
  const clock = virtualClock()
  const store = memorySagaStore({ clock })
  const id = sagaId('early')
  await store.create({ id, name: 'three', resource: 'r', input: {} })
  await store.requestCancel(id)
  await withEngine(
    [three],
    async ({ world, engine }) => {
      assert.equal((await engine.wait(id)).state.kind, 'undone')
      assert.deepEqual(world.trace, [])
    },
    { store },
  )
})

test('submitting twice is submitting once', async () => {
  await withEngine([three], async ({ world, run, engine }) => {
    await run('same')
    const again = await engine.submit({ id: sagaId('same'), name: 'three', resource: 'elsewhere', input: {} })
    assert.equal(again.state.kind, 'done')
    assert.deepEqual(world.trace, ['do a', 'do b', 'do c'])
  })
})

test('a saga that no definition knows is refused', async () => {
  await withEngine([three], async ({ engine }) => {
    const strange = { id: sagaId('x'), name: 'strange', resource: 'r', input: {} }
    await assert.rejects(engine.submit(strange), (error) => error instanceof Fault && error.code === 'unsupported')
    await assert.rejects(engine.wait(sagaId('nothing')), (error) => error instanceof Fault && error.code === 'not_found')
  })
})

test('no more sagas run at once than allowed, and all of them get their turn', async () => {
  let running = 0
  let most = 0
  const wide = defineSaga<object, World>({
    name: 'wide',
    steps: [
      {
        name: 'work',
        do: async ({ services }) => {
          running += 1
          most = Math.max(most, running)
          await services.clock.sleep(millis(10))
          running -= 1
        },
      },
    ],
  })
  await withEngine(
    [wide],
    async ({ engine }) => {
      const ids = Array.from({ length: 50 }, (_, index) => sagaId(`wide-${index}`))
      for (const id of ids) await engine.submit({ id, name: 'wide', resource: id, input: {} })
      for (const id of ids) assert.equal((await engine.wait(id)).state.kind, 'done')
      assert.equal(most, 4)
    },
    { concurrencyMax: 4 },
  )
})

test('a stopped engine leaves its sagas to the next one, which resumes the step', async () => {
  const clock = virtualClock()
  const store = memorySagaStore({ clock })
  const trace: string[] = []
  const make = (owner: string, stepMs: number) => {
    const definition = defineSaga<object, object>({
      name: 'long',
      steps: [
        { name: 'a', do: async () => void trace.push(`${owner} a`) },
        {
          name: 'b',
          do: async ({ signal, attempt }) => {
            trace.push(`${owner} b ${attempt}`)
            await clock.sleep(millis(stepMs), { signal })
          },
        },
      ],
    })
    return createSagaEngine({ store, sagas: [definition], services: {}, clock, log: memoryLog(), owner })
  }
  await clock.run(async () => {
    const first = make('first', 1_000_000)
    await first.start()
    await first.submit({ id: sagaId('s'), name: 'long', resource: 'r', input: {} })
    await clock.sleep(millis(500))
    await first.stop()
    const startedAt = clock.monotonic()
    const second = make('second', 10)
    await second.start()
    assert.equal((await second.wait(sagaId('s'))).state.kind, 'done')
    assert.ok(clock.monotonic() - startedAt < 5000, 'the lease was given back')
    await second.stop()
    assert.deepEqual(trace, ['first a', 'first b 1', 'second b 2'])
  })
})

test('an owner that froze past its lease does nothing more to its sagas', async () => {
  const clock = virtualClock()
  const store = memorySagaStore({ clock })
  const commits: string[] = []
  // The first engine can no longer reach the store to renew, but its commits still arrive.
  const deaf: SagaStore = { ...store, renew: async () => Promise.reject(new Fault('unavailable', 'no answer')) }
  const make = (owner: string, its: SagaStore, stepMs: number) => {
    const work = { name: 'work', do: async () => clock.sleep(millis(stepMs)) }
    const effects = [{ kind: 'call' as const, run: () => void commits.push(owner) }]
    const definition = defineSaga<object, object>({ name: 'long', steps: [work], onDone: () => effects })
    return createSagaEngine({ store: its, sagas: [definition], services: {}, clock, log: memoryLog(), owner, leaseMs: 3000 })
  }
  await clock.run(async () => {
    const frozen = make('frozen', deaf, 20_000)
    await frozen.start()
    const id: SagaId = sagaId('s')
    await frozen.submit({ id, name: 'long', resource: 'r', input: {} })
    await clock.sleep(millis(100))
    const other = make('other', store, 100)
    await other.start()
    const done = await other.wait(id)
    assert.equal(done.state.kind, 'done')
    assert.ok(done.fence > 1)
    await clock.sleep(millis(30_000))
    await frozen.stop()
    await other.stop()
    assert.deepEqual(commits, ['other'])
  })
})

test('an effect that is refused turns the saga round', async () => {
  const definition = defineSaga<object, World>({
    name: 'refused',
    steps: [
      step('a'),
      {
        ...step('b'),
        do: async () => ({
          effects: [
            {
              kind: 'call',
              run: () => {
                throw new Fault('conflict', 'name is taken')
              },
            },
          ],
        }),
      },
    ],
  })
  await withEngine([definition], async ({ world, run }) => {
    assert.deepEqual((await run()).state, { kind: 'undone', fault: { code: 'conflict', message: 'name is taken' } })
    assert.deepEqual(world.trace, ['do a', 'undo b', 'undo a'])
  })
})

test('an output that is no JSON is the defect of its step alone', async () => {
  const cycle: { self?: unknown } = {}
  cycle.self = cycle
  const definition = defineSaga<object, World>({
    name: 'cycle',
    steps: [step('a'), { ...step('b'), do: async () => ({ output: cycle as never }) }],
  })
  await withEngine([definition], async ({ run, world }) => {
    const { state } = await run()
    assert.ok(state.kind === 'undone' && state.fault.code === 'internal')
    assert.deepEqual(world.trace, ['do a', 'undo b', 'undo a'])
  })
})

test('a commit whose fate is unknown drops the run, and the next claim goes on from what the store says', async () => {
  const clock = virtualClock()
  const store = memorySagaStore({ clock })
  let commitCount = 0
  // Each third commit is written though its answer is lost; each fourth is lost itself.
  const unsure: SagaStore = {
    ...store,
    commit: async (transitions) => {
      commitCount += 1
      if (commitCount % 4 === 0) throw new Fault('unavailable', 'connection lost')
      const answers = await store.commit(transitions)
      if (commitCount % 3 === 0) throw new Fault('unavailable', 'connection lost')
      return answers
    },
  }
  let effectCount = 0
  const effects = [{ kind: 'call' as const, run: () => void (effectCount += 1) }]
  const steps = Array.from({ length: 12 }, (_, index) => ({ name: `step-${index}`, do: async () => ({ effects }) }))
  await withEngine(
    [defineSaga<object, World>({ name: 'unsure', steps })],
    async ({ run, log }) => {
      assert.equal((await run()).state.kind, 'done')
      assert.equal(effectCount, 12)
      assert.ok(log.has('saga.resumed'))
    },
    { store: unsure },
  )
})

test('a store that does not answer for a while holds nobody up for longer', async () => {
  const clock = virtualClock()
  const store = memorySagaStore({ clock })
  let down = false
  const guarded =
    <A extends unknown[], R>(method: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      if (down) throw new Fault('unavailable', 'the database is away')
      return method(...args)
    }
  const flaky: SagaStore = {
    ...store,
    claim: guarded(store.claim),
    commit: guarded(store.commit),
    renew: guarded(store.renew),
    get: guarded(store.get),
  }
  const engine = createSagaEngine<World>({
    store: flaky,
    sagas: [three],
    services: { trace: [], clock, faults: new Map() },
    clock,
    log: memoryLog(),
    owner: 'test',
  })
  await clock.run(async () => {
    await engine.start()
    down = true
    await engine.submit({ id: sagaId('s'), name: 'three', resource: 'r', input: {} })
    const waiting = engine.wait(sagaId('s'))
    await clock.sleep(millis(60_000))
    down = false
    assert.equal((await waiting).state.kind, 'done')
    assert.ok(clock.monotonic() < 120_000)
    await engine.stop()
  })
})

test('who gives up waiting leaves the saga running', async () => {
  const slow = defineSaga<object, World>({
    name: 'slow',
    steps: [{ name: 'a', do: async ({ services }) => services.clock.sleep(millis(5000)) }],
  })
  await withEngine([slow], async ({ engine, clock }) => {
    const id = sagaId('s')
    await engine.submit({ id, name: 'slow', resource: 'r', input: {} })
    const patience = new AbortController()
    const waiting = engine.wait(id, { signal: patience.signal })
    await clock.sleep(millis(100))
    patience.abort(new Error('enough'))
    await assert.rejects(waiting, /enough/)
    assert.equal((await engine.wait(id)).state.kind, 'done')
  })
})

test('a host that has seen a higher fence is not asked again with the same one', async () => {
  const fences: number[] = []
  const definition = defineSaga<object, World>({
    name: 'fenced',
    steps: [
      {
        name: 'a',
        do: async ({ fence }) => {
          fences.push(fence)
          if (fence < 3) throw new Fault('stale_fence', `highest seen is 3, got ${fence}`)
        },
      },
    ],
  })
  await withEngine([definition], async ({ run }) => {
    assert.equal((await run()).state.kind, 'done')
    assert.deepEqual(fences, [1, 2, 3])
  })
})

test('effects of the end are committed with the end', async () => {
  const told: string[] = []
  const tell = (text: string) => [{ kind: 'call' as const, run: () => void told.push(text) }]
  const definition = defineSaga<object, World>({
    name: 'told',
    steps: [step('a'), step('b')],
    onDone: ({ outputs }) => tell(`done with ${Object.keys(outputs).join()}`),
    onFailed: (_context, fault, outcome) => tell(`${outcome}: ${fault.message}`),
  })
  await withEngine([definition], async ({ world, run }) => {
    await run('one')
    world.faults.set('do b', [broken])
    await run('two')
    world.faults.set('do b', [broken])
    world.faults.set('undo a', [broken])
    await run('three')
    assert.deepEqual(told, ['done with a,b', 'undone: broken', 'stuck: broken'])
  })
})
