import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import {
  fence,
  sagaId,
  type NewSaga,
  type SagaEffect,
  type SagaId,
  type SagaRecord,
  type SagaState,
  type SagaStore,
} from '../ports.ts'

export interface SagaStoreUnderTest {
  readonly store: SagaStore
  /** A second door to the same sagas, as another process has it; null where the store is for one process only. */
  readonly other: SagaStore | null
  /** Lets the leases' clock go on. */
  passTime(durationMs: number): Promise<void>
  /** An effect that adds 1 to a counter which lives where the sagas live. */
  countEffect(): SagaEffect
  readCount(): Promise<number>
  /** An effect that the store refuses. */
  refusedEffect(): SagaEffect
  [Symbol.asyncDispose](): Promise<void>
}

const running = (stepIndex: number): SagaState => ({ kind: 'running', stepIndex })
const isFault = (code: string) => (error: unknown) => error instanceof Fault && error.code === code

export function sagaStoreConformance(driver: string, make: () => Promise<SagaStoreUnderTest>): void {
  const check = (sentence: string, body: (under: SagaStoreUnderTest) => Promise<void>): void => {
    test(`${driver}: ${sentence}`, async () => {
      await using under = await make()
      await body(under)
    })
  }
  const saga = (id: string, resource = `resource of ${id}`): NewSaga => ({
    id: sagaId(id),
    name: 'test',
    resource,
    input: { of: id },
  })
  const claimOne = async (store: SagaStore, owner = 'one', leaseMs = 60_000): Promise<SagaRecord> => {
    const [record] = await store.claim({ owner, leaseMs, limit: 1 })
    assert.ok(record, 'there is something to claim')
    return record
  }
  const move = (record: SagaRecord, state: SagaState, effects: SagaEffect[] = []) => ({
    id: record.id,
    fence: record.fence,
    state,
    attempt: 1,
    effects,
  })

  check('a created saga is running at its first step', async ({ store }) => {
    const made = await store.create(saga('a'))
    assert.deepEqual(made.state, running(0))
    assert.deepEqual([made.input, made.outputs, made.attempt, made.cancelRequested], [{ of: 'a' }, {}, 1, false])
    assert.deepEqual(await store.get(sagaId('a')), made)
    assert.equal(await store.get(sagaId('b')), null)
  })

  check('creating twice is creating once', async ({ store }) => {
    const made = await store.create(saga('a'))
    assert.deepEqual(await store.create({ ...saga('a'), resource: 'another' }), made)
    assert.equal((await store.list()).length, 1)
  })

  check('a resource has one unfinished saga at most', async ({ store }) => {
    await store.create(saga('a', 'vm-1'))
    await assert.rejects(store.create(saga('b', 'vm-1')), isFault('busy'))
    const record = await claimOne(store)
    await store.commit([move(record, { kind: 'done' })])
    await store.create(saga('b', 'vm-1'))
  })

  check('many creations for one resource at once: one wins', async ({ store, other }) => {
    const doors = [store, other ?? store]
    const results = await Promise.allSettled(
      Array.from({ length: 10 }, (_, index) => doors[index % 2]!.create(saga(`race-${index}`, 'vm-1'))),
    )
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 1)
    for (const result of results)
      if (result.status === 'rejected') assert.ok(isFault('busy')(result.reason), String(result.reason))
  })

  check('sagas are claimed oldest first, within the limit, each with its own growing fence', async ({ store }) => {
    for (const id of ['a', 'b', 'c', 'd']) await store.create(saga(id))
    const first = await store.claim({ owner: 'one', leaseMs: 60_000, limit: 3 })
    assert.deepEqual(
      first.map(({ id }) => id),
      ['a', 'b', 'c'],
    )
    const rest = await store.claim({ owner: 'one', leaseMs: 60_000, limit: 3, exclude: new Set(first.map(({ id }) => id)) })
    assert.deepEqual(
      rest.map(({ id }) => id),
      ['d'],
    )
    const fences = [...first, ...rest].map((record) => record.fence)
    assert.ok(fences[0]! > 0)
    assert.equal(new Set(fences).size, 4)
    assert.ok(Math.max(...fences.slice(0, 3)) < fences[3]!, 'a later claim has a higher fence')
  })

  check('only sagas of the names asked for are claimed', async ({ store }) => {
    await store.create(saga('a'))
    assert.deepEqual(await store.claim({ owner: 'one', leaseMs: 60_000, limit: 9, names: ['another'] }), [])
    assert.equal((await store.claim({ owner: 'one', leaseMs: 60_000, limit: 9, names: ['another', 'test'] })).length, 1)
  })

  check('nobody gets what another holds, until the lease runs out', async ({ store, other, passTime }) => {
    await store.create(saga('a'))
    const mine = await claimOne(store, 'one', 400)
    const door = other ?? store
    assert.deepEqual(await door.claim({ owner: 'two', leaseMs: 400, limit: 9 }), [])
    await passTime(500)
    const theirs = await claimOne(door, 'two', 60_000)
    assert.ok(theirs.fence > mine.fence)
    assert.equal(theirs.attempt, 2)
    assert.deepEqual(await store.commit([move(mine, running(1))]), ['stale'])
    assert.deepEqual(await door.commit([move(theirs, running(1))]), ['ok'])
    assert.deepEqual((await store.get(mine.id))?.state, running(1))
  })

  check('an owner gets back what it held before, with a higher fence and one more attempt', async ({ store }) => {
    await store.create(saga('a'))
    const before = await claimOne(store)
    const after = await claimOne(store)
    assert.ok(after.fence > before.fence)
    assert.deepEqual([before.attempt, after.attempt], [1, 2])
  })

  check('a renewed lease lasts, and one given back is free at once', async ({ store, passTime }) => {
    await store.create(saga('a'))
    const { id } = await claimOne(store, 'one', 600)
    await passTime(400)
    assert.deepEqual(await store.renew({ owner: 'one', leaseMs: 600, ids: [id] }), new Map([[id, 'held']]))
    await passTime(400)
    assert.deepEqual(await store.claim({ owner: 'two', leaseMs: 600, limit: 9 }), [])
    assert.deepEqual(await store.renew({ owner: 'two', leaseMs: 600, ids: [id] }), new Map())
    await store.renew({ owner: 'one', leaseMs: 0, ids: [id] })
    await passTime(2)
    assert.equal((await store.claim({ owner: 'two', leaseMs: 600, limit: 9 })).length, 1)
  })

  check('many owners that claim at once share without overlap', async ({ store, other }) => {
    for (let index = 0; index < 40; index += 1) await store.create(saga(`s-${index}`))
    const doors = [store, other ?? store]
    const claims = await Promise.all(
      Array.from({ length: 8 }, (_, index) => doors[index % 2]!.claim({ owner: `owner-${index}`, leaseMs: 60_000, limit: 5 })),
    )
    const ids = claims.flat().map(({ id }) => id)
    assert.equal(new Set(ids).size, ids.length)
    const fences = claims.flat().map((record) => record.fence)
    assert.equal(new Set(fences).size, fences.length)
  })

  check('a transition keeps state, output, attempt', async ({ store }) => {
    await store.create(saga('a'))
    const record = await claimOne(store)
    const output = { step: 'one', value: { list: [1, 'two', null, { three: true }] } }
    assert.deepEqual(await store.commit([{ ...move(record, running(1)), output, attempt: 3 }]), ['ok'])
    await store.commit([{ ...move(record, running(2)), output: { step: 'two', value: null }, attempt: 1 }])
    const after = await store.get(record.id)
    assert.deepEqual(after?.outputs, { one: output.value, two: null })
    assert.deepEqual([after?.state, after?.attempt], [running(2), 1])
  })

  check('text of all kinds comes back as it was', async ({ store }) => {
    const texts = ['', '"', '\\', "'", '{},[]', '\n\t', 'ä', '漢字', '🦊', 'null', '\u2028', '$1']
    await store.create({ ...saga('a'), input: texts })
    const record = await claimOne(store)
    const state: SagaState = { kind: 'undoing', stepIndex: 0, fault: { code: 'failed', message: texts.join(' ') } }
    await store.commit([{ ...move(record, state), output: { step: texts.join(' '), value: texts } }])
    const after = await store.get(record.id)
    assert.deepEqual([after?.input, after?.outputs, after?.state], [texts, { [texts.join(' ')]: texts }, state])
  })

  check('text that a store cannot hold does not keep a saga from being undone', async ({ store }) => {
    await store.create(saga('a'))
    const record = await claimOne(store)
    const state: SagaState = { kind: 'undone', fault: { code: 'failed', message: 'guest said \0 and \ud800' } }
    assert.deepEqual(
      await store.commit([{ ...move(record, state), output: { step: 'a', value: ['\0', '\udc00\ud83d', '\\u0000'] } }]),
      ['ok'],
    )
    const after = await store.get(record.id)
    assert.equal(after?.state.kind, 'undone')
    assert.deepEqual((after?.outputs['a'] as string[] | undefined)?.at(2), '\\u0000')
  })

  check('a settled saga is neither claimed nor moved again', async ({ store }) => {
    const fault = { code: 'failed', message: 'no' } as const
    const ends: SagaState[] = [
      { kind: 'done' },
      { kind: 'undone', fault },
      { kind: 'stuck', stepIndex: 0, fault, undoFault: fault },
    ]
    for (const end of ends) {
      await store.create(saga(end.kind))
      const record = await claimOne(store)
      assert.deepEqual(await store.commit([move(record, end)]), ['ok'])
      assert.deepEqual(await store.commit([move(record, running(0))]), ['stale'])
      assert.deepEqual((await store.get(record.id))?.state, end)
    }
    assert.deepEqual(await store.claim({ owner: 'one', leaseMs: 1000, limit: 9 }), [])
    assert.deepEqual(
      (await store.list({ unfinished: true })).map(({ id }) => id),
      ['stuck'],
    )
    assert.equal((await store.list({ unfinished: false })).length, 2)
  })

  check('effects are committed with the transition, and a stale one has none', async ({ store, countEffect, readCount }) => {
    await store.create(saga('a'))
    const old = await claimOne(store)
    const now = await claimOne(store)
    assert.deepEqual(await store.commit([move(old, running(1), [countEffect()])]), ['stale'])
    assert.equal(await readCount(), 0)
    assert.deepEqual(await store.commit([move(now, running(1), [countEffect(), countEffect()])]), ['ok'])
    assert.equal(await readCount(), 2)
  })

  check('in a group each saga has its own answer', async ({ store, countEffect, refusedEffect, readCount }) => {
    for (const id of ['fine', 'stale', 'refused', 'cancelled', 'plain']) await store.create(saga(id))
    const records = new Map(
      (await store.claim({ owner: 'one', leaseMs: 60_000, limit: 9 })).map((record) => [record.id as string, record]),
    )
    const at = (id: string): SagaRecord => records.get(id)!
    await store.requestCancel(sagaId('cancelled'))
    const answers = await store.commit([
      move(at('fine'), running(1), [countEffect()]),
      { ...move(at('stale'), running(1), [countEffect()]), fence: fence(at('stale').fence + 1000) },
      move(at('refused'), running(1), [refusedEffect()]),
      move(at('cancelled'), running(1), [countEffect()]),
      move(at('plain'), running(1)),
      { ...move(at('plain'), running(1), [countEffect()]), id: sagaId('unknown') },
    ])
    assert.deepEqual(
      answers.map((answer) => (answer instanceof Fault ? 'fault' : answer)),
      ['ok', 'stale', 'fault', 'cancel', 'ok', 'stale'],
    )
    assert.equal(await readCount(), 2)
    const stepOf = async (id: string) => ((await store.get(sagaId(id)))?.state as { stepIndex: number } | undefined)?.stepIndex
    assert.deepEqual(await Promise.all(['fine', 'stale', 'refused', 'cancelled', 'plain'].map(stepOf)), [1, 0, 0, 1, 1])
  })

  check('an empty group is nothing', async ({ store }) => {
    assert.deepEqual(await store.commit([]), [])
  })

  check('who asks to cancel is heard by the owner, at commit and at renewal', async ({ store }) => {
    await store.create(saga('a'))
    const record = await claimOne(store)
    await store.requestCancel(record.id)
    await store.requestCancel(record.id)
    assert.deepEqual(await store.renew({ owner: 'one', leaseMs: 1000, ids: [record.id] }), new Map([[record.id, 'cancel']]))
    assert.deepEqual(await store.commit([move(record, running(1))]), ['cancel'])
    assert.equal((await store.get(record.id))?.cancelRequested, true)
    await assert.rejects(store.requestCancel(sagaId('nothing')), isFault('not_found'))
  })

  check('a stuck saga holds its resource until a person decides', async ({ store }) => {
    const fault = { code: 'failed', message: 'no' } as const
    for (const verdict of ['retry', 'abandon'] as const) {
      await store.create(saga(verdict, verdict))
      await assert.rejects(store.settleStuck(sagaId(verdict), verdict), isFault('conflict'))
      await store.commit([move(await claimOne(store), { kind: 'stuck', stepIndex: 1, fault, undoFault: fault })])
      await assert.rejects(store.create(saga('next', verdict)), isFault('busy'))
      await store.settleStuck(sagaId(verdict), verdict)
      if (verdict === 'retry') {
        const again = await claimOne(store)
        assert.deepEqual(again.state, { kind: 'undoing', stepIndex: 1, fault })
        await store.commit([move(again, { kind: 'undone', fault })])
      } else {
        assert.deepEqual((await store.get(sagaId(verdict)))?.state, { kind: 'undone', fault })
        await store.create(saga('next', verdict))
      }
    }
    await assert.rejects(store.settleStuck(sagaId('nothing'), 'retry'), isFault('not_found'))
  })

  check('the list is newest first, and can be filtered', async ({ store, passTime }) => {
    for (const id of ['a', 'b', 'c']) {
      await store.create(saga(id))
      await passTime(2)
    }
    const idsOf = async (filter?: Parameters<SagaStore['list']>[0]): Promise<SagaId[]> =>
      (await store.list(filter)).map(({ id }) => id)
    assert.deepEqual(await idsOf(), ['c', 'b', 'a'])
    assert.deepEqual(await idsOf({ limit: 2 }), ['c', 'b'])
    assert.deepEqual(await idsOf({ resource: 'resource of b' }), ['b'])
    assert.deepEqual(await idsOf({ resource: 'another' }), [])
  })
}
