import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bytes, Fault, type Json } from '@typevisor/base'
import { isHostEvent, type DomainEvent, type DomainId } from '@typevisor/model'
import { fence, type StateFile } from '@typevisor/saga'
import { virtualClock } from '@typevisor/sim'
import { Ledger } from './ledger.ts'
import type { StoredDomain } from './stored-domain.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const domain = {
  id: ID,
  name: 'told',
  state: { kind: 'stopped', cause: 'requested', detail: null },
  forwards: [],
} as unknown as StoredDomain

test('no reader is told of a transition before it is on disk, and none misses it or gets it twice', async () => {
  const appends: (() => void)[] = []
  const state = {
    section: () => (_records: readonly Json[]) => new Promise<void>((resolve) => appends.push(resolve)),
  } as unknown as StateFile // of which the ledger asks nothing else here
  const ledger = new Ledger(state, virtualClock())
  const seen: DomainEvent[] = []
  const stop = new AbortController()
  const defining = ledger.define(domain)
  const reading = (async () => {
    for await (const event of ledger.events(0, stop.signal)) if (!isHostEvent(event)) seen.push(event)
  })()
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual([seen.length, ledger.lastSequence], [0, 0])
  appends.shift()?.()
  await defining
  const entering = ledger.enter(ID, { kind: 'saved', savePath: '/x', sizeBytes: bytes(1) }, { cause: 'requested' })
  appends.shift()?.()
  await entering
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(
    seen.map((event) => [event.sequence, event.to]),
    [
      [1, 'stopped'],
      [2, 'saved'],
    ],
  )
  stop.abort()
  await reading
})

/** A journal whose appends are safe at once, and what a ledger of the next process makes of it. */
function journal() {
  const appended: Json[] = []
  let snapshot: () => Iterable<Json> = () => []
  const state = {
    section: (_name: string, section: { replay: (record: Json) => void; snapshot: () => Iterable<Json> }) => {
      for (const record of appended) section.replay(record)
      snapshot = section.snapshot
      return async (records: readonly Json[]) => void appended.push(...records)
    },
  } as unknown as StateFile // of which the ledger asks nothing else here
  return {
    open: () => new Ledger(state, virtualClock()),
    compact: () => void appended.splice(0, appended.length, ...snapshot()),
    get recordCount() {
      return appended.length
    },
  }
}

const idAt = (time: number) => `${time.toString(16).padStart(8, '0')}-0000-7000-8000-000000000000` as DomainId

test('fences of domains that are gone are bounded, and a zombie’s late definition is refused all the same', async () => {
  const kept = journal()
  let ledger = kept.open()
  const count = 25_000
  for (let n = 1; n <= count; n += 1) {
    await ledger.admit(idAt(n), fence(n * 10))
    await ledger.admit(idAt(n), fence(n * 10 + 1))
  }
  for (let again = 0; again < 2; again += 1) {
    kept.compact()
    assert.ok(kept.recordCount < 20_010, `${kept.recordCount} records`)
    for (const n of [1, 2, 5000, count - 1, count]) {
      await assert.rejects(ledger.admit(idAt(n), fence(n * 10)), { code: 'stale_fence' }, `zombie of ${n}`)
    }
    // Set up anew, a control plane counts from the beginning; its domains are younger than all before.
    await ledger.admit(idAt(count + 1 + again), fence(1))
    // Slow, it is refused and claims anew.
    await assert.rejects(ledger.admit(idAt(0), fence(7)), { code: 'stale_fence' })
    await ledger.admit(idAt(0), fence(count * 10 + 2))
    ledger = kept.open()
  }
})

test('the fence of a domain that is here is never forgotten', async () => {
  const ledger = journal().open()
  await ledger.admit(ID, fence(3))
  await ledger.define(domain)
  for (let n = 1; n <= 25_000; n += 1) await ledger.admit(idAt(n), fence(1))
  await assert.rejects(ledger.admit(ID, fence(2)), { code: 'stale_fence' })
  await ledger.admit(ID, fence(3))
})

test('what happened to a part of the host is told in one order with the rest, and the newest is known to whoever comes later', async () => {
  const kept = journal()
  let ledger = kept.open()
  const note = (to: string) =>
    ledger.notePart({ part: 'volume-server', to, cause: 'ended', detail: null, reconstructed: false, facts: { pid: 7 } })
  await note('serving')
  await ledger.define(domain)
  await note('away')
  await ledger.acknowledge(3)
  for (const compacts of [false, true]) {
    if (compacts) kept.compact()
    ledger = kept.open()
    assert.deepEqual([ledger.newestOf('volume-server')?.to, ledger.newestOf('space'), ledger.lastSequence], ['away', null, 3])
  }
  const seen: (string | null)[] = []
  for await (const { sequence, from, to } of ledger.events(0)) {
    seen.push(`${from}>${to}`)
    if (sequence === 3) break
  }
  assert.deepEqual(seen, ['null>serving', 'null>stopped', 'serving>away'])
  // As many more that the events themselves are forgotten.
  for (let n = 0; n < 20_000; n += 1) await ledger.noteUnchanged(ID, { cause: 'guest' })
  await ledger.acknowledge(ledger.lastSequence)
  for (let n = 0; n < 20_000; n += 1) await ledger.noteUnchanged(ID, { cause: 'guest' })
  kept.compact()
  ledger = kept.open()
  for await (const { sequence } of ledger.events(0)) {
    assert.ok(sequence > 3)
    break
  }
  assert.equal(ledger.newestOf('volume-server')?.to, 'away')
})

test('a reader whose next events are not kept any more is told so, and goes on with what is', async () => {
  const ledger = journal().open()
  await ledger.define(domain)
  const slow = ledger.events(0)[Symbol.asyncIterator]()
  assert.equal((await slow.next()).value?.sequence, 1)
  const reset = async (): Promise<void> => {
    for (let count = 0; count < 15_000; count += 1) await ledger.noteUnchanged(ID, { cause: 'guest' })
  }
  await reset()
  assert.equal((await slow.next()).value?.sequence, 2, 'nobody has acknowledged anything')
  await ledger.acknowledge(ledger.lastSequence)
  await reset()
  const rest = async (): Promise<void> => {
    for (let next = await slow.next(); !next.done; next = await slow.next());
  }
  await assert.rejects(rest(), (error: unknown) => error instanceof Fault && error.code === 'busy')
  const { value } = await ledger.events(0).next()
  assert.ok((value?.sequence ?? 0) > 2)
})
