/**
 * Who may write a volume: one holder at a time, under a number, the epoch, that only grows.
 *
 *   nobody's, n ──acquire──▶ A's, n+1 ──offer──▶ A's, n+1 ──hand over──▶ B's, n+2 ──release──▶ nobody's, n+3
 *                              │                 (n+2 is given out: B opens, reads, and is refused to write)
 *                              └──acquire by C, who names n+1 ──▶ C's, n+2: A is refused from then on
 *
 * Invariants: an epoch is one holder's, or nobody's, for all its time, and never comes again; a number is given to one caller; a write is taken
 * only from who opened under the epoch that is in force when it is carried out (`assertMayWrite`, asked by the writer at its commit).
 *
 * A change of the lease is one record of the journal among the writes. So no crash can bring back an epoch without taking back what was written
 * under later ones, and who has an answer has it safe from a power cut.
 *
 * There is no time in it: a holder that is lost keeps its lease until somebody who names its epoch takes it over.
 */
import { Fault } from '@typevisor/base'
import type { Entry, EntryRecord } from './catalog.ts'

export interface VolumeLease {
  readonly epoch: number
  /** null: nobody; all who open the volume may write. */
  readonly holder: Uint8Array | null
  /** The highest number that was given out: beyond `epoch` those of hand-overs that are prepared. */
  readonly offeredEpoch: number
}

export const leaseOf = ({ leaseEpoch, leaseHolder, leaseOffered }: EntryRecord): VolumeLease => ({
  epoch: leaseEpoch,
  holder: leaseHolder,
  offeredEpoch: Math.max(leaseEpoch, leaseOffered),
})

/** What a change makes of a lease. null: there is nothing to be changed. */
export type LeaseChange = (lease: VolumeLease, name: string) => VolumeLease | null

const EPOCH_MAX = 2 ** 32 - 1

/** A new epoch for `holder`. Another one's lease ends only by who names its epoch in `from`. @throws Fault `conflict`. */
export const acquireLease =
  (holder: Uint8Array, from?: number): LeaseChange =>
  (lease, name) => {
    if (from !== undefined) assertInForce(lease, name, from)
    else if (lease.holder !== null && !isSame(lease.holder, holder))
      throw new Fault(
        'conflict',
        `${name}: leased in epoch ${lease.epoch}; want it released, handed over, or that epoch named to take it over`,
      )
    return put(lease, nextEpoch(lease, name), holder)
  }

/** Gives out the number of the epoch after a hand-over, so that the next holder can open the volume before. */
export const offerLease =
  (epoch: number): LeaseChange =>
  (lease, name) => {
    assertHeld(lease, name, epoch)
    return { ...lease, offeredEpoch: nextEpoch(lease, name) }
  }

/** From now on the volume is `holder`'s: in epoch `next`, which was given out before, or else in a new one. Done twice it is done once. */
export const handOverLease =
  (epoch: number, holder: Uint8Array, next?: number): LeaseChange =>
  (lease, name) => {
    if (next !== undefined && lease.epoch === next && lease.holder !== null && isSame(lease.holder, holder)) return null
    assertHeld(lease, name, epoch)
    if (next !== undefined && (next <= lease.epoch || next > lease.offeredEpoch))
      throw new Fault('conflict', `${name}: epoch ${next} was not given out; got ${lease.epoch} to ${lease.offeredEpoch}`)
    return put(lease, next ?? nextEpoch(lease, name), holder)
  }

/** The volume is nobody's from now on. An epoch that is over already has nothing to be released. */
export const releaseLease =
  (epoch: number): LeaseChange =>
  (lease, name) => {
    if (lease.epoch > epoch) return null
    assertHeld(lease, name, epoch)
    return put(lease, nextEpoch(lease, name), null)
  }

const put = (lease: VolumeLease, epoch: number, holder: Uint8Array | null): VolumeLease => ({
  epoch,
  holder,
  offeredEpoch: Math.max(lease.offeredEpoch, epoch),
})

function nextEpoch({ offeredEpoch }: VolumeLease, name: string): number {
  if (offeredEpoch >= EPOCH_MAX) throw new Fault('exhausted', `${name}: all ${EPOCH_MAX} epochs of its lease are used up`)
  return offeredEpoch + 1
}

function assertInForce(lease: VolumeLease, name: string, epoch: number): void {
  if (lease.epoch !== epoch)
    throw new Fault(
      'stale_fence',
      `${name}: epoch ${epoch} is ${epoch < lease.epoch ? 'over' : 'not in force yet'}, ${lease.epoch} is in force`,
    )
}

function assertHeld(lease: VolumeLease, name: string, epoch: number): void {
  assertInForce(lease, name, epoch)
  if (lease.holder === null) throw new Fault('conflict', `${name}: epoch ${epoch} is nobody's`)
}

const isSame = (one: Uint8Array, other: Uint8Array): boolean =>
  one.length === other.length && one.every((byte, index) => byte === other[index])

/** Somebody who has opened a volume, by what was in force then. */
export class Opening {
  readonly epoch: number
  /** It named its epoch; else it opened as anybody. */
  readonly isHolder: boolean
  #isOver = false

  private constructor(epoch: number, isHolder: boolean) {
    this.epoch = epoch
    this.isHolder = isHolder
  }

  /** As anybody: it may write for as long as nobody takes a lease. */
  static plain({ record }: Entry): Opening {
    return new Opening(record.leaseEpoch, false)
  }

  /** Under an epoch that is in force, or was given out for a hand-over. @throws Fault `stale_fence`, `conflict`. */
  static under({ record, name }: Entry, epoch: number): Opening {
    const lease = leaseOf(record)
    if (epoch > lease.offeredEpoch || epoch <= lease.epoch) assertHeld(lease, name, epoch)
    return new Opening(epoch, true)
  }

  /** Nothing of it is carried out any more. */
  end(): void {
    this.#isOver = true
  }

  get isOver(): boolean {
    return this.#isOver
  }
}

/** Asked in the turn in which a write is carried out. @throws Fault `unavailable`, `aborted`, `stale_fence`, `forbidden`. */
export function assertMayWrite({ record, kind, name }: Entry, opening: Opening): void {
  if (kind !== 'volume') throw new Fault('unavailable', 'the volume is not there any more')
  if (opening.isOver) throw new Fault('aborted', `${name}: whoever asked for it has gone`)
  const { leaseEpoch, leaseHolder } = record
  if (opening.epoch !== leaseEpoch) assertInForce(leaseOf(record), name, opening.epoch)
  if (opening.isHolder !== (leaseHolder !== null))
    throw new Fault('forbidden', `${name}: leased in epoch ${leaseEpoch}; only who opened it as ${name}:${leaseEpoch} may write`)
}
