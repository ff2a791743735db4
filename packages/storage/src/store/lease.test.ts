import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { acquireLease, handOverLease, offerLease, releaseLease, type LeaseChange, type VolumeLease } from './lease.ts'

const HOLDERS = [1, 2, 3].map((byte) => new Uint8Array(16).fill(byte))
const [A, B] = HOLDERS as [Uint8Array, Uint8Array]
const NOBODY: VolumeLease = { epoch: 0, holder: null, offeredEpoch: 0 }

const after = (...changes: readonly LeaseChange[]): VolumeLease =>
  changes.reduce((lease, change) => change(lease, 'web') ?? lease, NOBODY)
const refused = (code: string, ...changes: readonly LeaseChange[]): void => {
  assert.throws(
    () => after(...changes),
    (error) => error instanceof Fault && error.code === code,
  )
}

test('a lease is taken by one, given back, and each change begins an epoch that was never there', () => {
  assert.deepEqual(after(acquireLease(A)), { epoch: 1, holder: A, offeredEpoch: 1 })
  assert.deepEqual(after(acquireLease(A), releaseLease(1)), { epoch: 2, holder: null, offeredEpoch: 2 })
  assert.deepEqual(after(acquireLease(A), releaseLease(1), acquireLease(B)), { epoch: 3, holder: B, offeredEpoch: 3 })
})

test('another’s lease is taken over only by who names its epoch; one’s own is taken anew', () => {
  refused('conflict', acquireLease(A), acquireLease(B))
  assert.equal(after(acquireLease(A), acquireLease(B, 1)).holder, B)
  refused('stale_fence', acquireLease(A), acquireLease(A), acquireLease(B, 1))
  assert.deepEqual(after(acquireLease(A), acquireLease(A)), { epoch: 2, holder: A, offeredEpoch: 2 })
})

test('a hand-over takes the epoch that was given out for it; one that was not is refused', () => {
  assert.deepEqual(after(acquireLease(A), offerLease(1)), { epoch: 1, holder: A, offeredEpoch: 2 })
  assert.deepEqual(after(acquireLease(A), offerLease(1), handOverLease(1, B, 2)), { epoch: 2, holder: B, offeredEpoch: 2 })
  refused('conflict', acquireLease(A), handOverLease(1, B, 2))
  // One that was taken over meanwhile does not come into force any more.
  refused('stale_fence', acquireLease(A), offerLease(1), acquireLease(B, 1), handOverLease(1, B, 2))
  assert.equal(after(acquireLease(A), offerLease(1), acquireLease(B, 1)).epoch, 3)
})

test('a hand-over and a release can be done twice', () => {
  const handed = [acquireLease(A), offerLease(1), handOverLease(1, B, 2)]
  assert.deepEqual(after(...handed, handOverLease(1, B, 2)), after(...handed))
  assert.deepEqual(after(acquireLease(A), releaseLease(1), releaseLease(1)), after(acquireLease(A), releaseLease(1)))
  assert.deepEqual(after(...handed, releaseLease(1)), after(...handed), 'who comes late with it ends nobody else’s')
})

test('whatever is asked in whatever order, an epoch has one holder, numbers only grow, and none is given out twice', () => {
  const holder = fc.constantFrom(...HOLDERS)
  const epoch = fc.nat(12)
  const change = fc.oneof(
    fc.tuple(holder, fc.option(epoch, { nil: undefined })).map(([by, from]) => ({ gives: true, change: acquireLease(by, from) })),
    epoch.map((of) => ({ gives: true, change: offerLease(of) })),
    fc
      .tuple(epoch, holder, fc.option(epoch, { nil: undefined }))
      .map(([of, to, next]) => ({ gives: next === undefined, change: handOverLease(of, to, next) })),
    epoch.map((of) => ({ gives: true, change: releaseLease(of) })),
  )
  fc.assert(
    fc.property(fc.array(change, { maxLength: 60 }), (changes) => {
      let lease = NOBODY
      const holders = new Map<number, number>([[0, 0]])
      for (const each of changes) {
        let next: VolumeLease | null
        try {
          next = each.change(lease, 'web')
        } catch (error) {
          assert.ok(error instanceof Fault && ['conflict', 'stale_fence'].includes(error.code))
          continue
        }
        if (next === null) continue
        assert.ok(next.epoch >= lease.epoch && next.offeredEpoch >= next.epoch)
        assert.equal(next.offeredEpoch, lease.offeredEpoch + (each.gives ? 1 : 0))
        const who = next.holder?.[0] ?? 0
        assert.equal(holders.get(next.epoch) ?? who, who)
        holders.set(next.epoch, who)
        lease = next
      }
    }),
    { numRuns: 500 },
  )
})
