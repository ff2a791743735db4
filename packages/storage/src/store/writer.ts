/**
 * Writes of one turn, gathered: their blocks get addresses in a row where there are some, and go to the file in one call, then one record
 * goes to the journal, then the trees are changed. An acknowledgement follows only after all three.
 */
import { Fault } from '@typevisor/base'
import type { Run } from './allocator.ts'
import type { Entry } from './catalog.ts'
import { applyWrite, type BlockProofs, type WrittenExtent } from './changes.ts'
import { BLOCK_BYTES, SIV_BYTES } from './format.ts'
import { assertMayWrite, type Opening } from './lease.ts'
import { appendWrite, writeBodyBytes } from './records.ts'
import { giveUpSurplus, hasRoom, KEPT, nodeBlocksFor } from './reserve.ts'
import { lockedFault, type StoreState } from './state.ts'

interface Staged {
  readonly first: number
  readonly count: number
  /** null: the entries get no address. */
  readonly source: Uint8Array | null
  /** Of the entries. */
  readonly flags: number
}

/** Blocks that one record speaks of at most. */
const RECORD_BLOCKS_MAX = 8192
/** What marks and the collector need of the journal when writes have filled it. */
export const journalReserve = (state: StoreState): number => Math.min(256 * 1024, state.journal.sizeBytes / 8)

export class Writer {
  readonly #state: StoreState
  #entry: Entry | null = null
  #opening: Opening | null = null
  #staged: Staged[] = []
  #blockCount = 0
  #checksums = new Uint32Array(1024)

  constructor(state: StoreState) {
    this.#state = state
  }

  /** Whether a write of so many blocks can be taken in now: the way to them is in memory, the journal and the store have room. */
  canTake(entry: Entry, first: number, count: number): boolean {
    const state = this.#state
    const total = this.#blockCount + count
    if (total > RECORD_BLOCKS_MAX || state.wounded) return false
    if (
      !state.journal.hasRoom(
        writeBodyBytes(this.#staged.length + 1 + count, total, entry.tree.geometry.isSealed),
        journalReserve(state),
      )
    )
      return false
    if (isFull(state) || !hasRoomFor(state, total, entry, first, count)) return false
    for (let block = first; ; block += entry.tree.geometry.leafEntries) {
      const at = Math.min(block, first + count - 1)
      if (!state.load(entry.tree, at, false)) return false
      if (at === first + count - 1) return true
    }
  }

  /** `source` must not change until `commit`. */
  take(entry: Entry, first: number, source: Uint8Array, opening: Opening, flags = 0): void {
    this.#begin(entry, opening)
    const count = source.length / BLOCK_BYTES
    this.#stage({ first, count, source, flags })
    this.#blockCount += count
  }

  /** Entries without an address: holes, or the rest of a packed unit. */
  takeEmpty(entry: Entry, first: number, count: number, opening: Opening, flags: number): void {
    this.#begin(entry, opening)
    this.#stage({ first, count, source: null, flags })
  }

  #stage(staged: Staged): void {
    this.#staged.push(staged)
    const { first, count } = staged
    this.#state.stagedBlockCount += count
    this.#state.stagedNodeBlockCount += nodeBlocksFor((this.#entry as Entry).tree, first, count) // `#begin` has set it
  }

  #begin(entry: Entry, opening: Opening): void {
    if (this.#entry !== null && (this.#entry !== entry || this.#opening !== opening)) this.commit()
    this.#entry = entry
    this.#opening = opening
  }

  get isEmpty(): boolean {
    return this.#staged.length === 0
  }

  /** @throws Fault: none of what was taken in is written then. */
  commit(): void {
    const [entry, opening] = [this.#entry, this.#opening]
    if (entry === null || opening === null) return
    try {
      this.#commit(entry, opening)
    } finally {
      this.#state.stagedBlockCount = 0
      this.#state.stagedNodeBlockCount = 0
    }
  }

  #commit(entry: Entry, opening: Opening): void {
    const [taken, blockCount] = [this.#staged, this.#blockCount]
    this.#entry = null
    this.#opening = null
    this.#staged = []
    this.#blockCount = 0
    const state = this.#state
    if (state.wounded) throw state.wounded
    assertMayWrite(entry, opening)
    // What was in memory when a write was taken in may have gone for what later ones of this turn needed.
    using _kept = state.cache.keep()
    for (const { first, count } of taken)
      for (let block = first; block < first + count; block = entry.tree.geometry.leafEnd(block))
        state.load(entry.tree, block, true)
    const { staged, sivs } = entry.record.key ? sealAll(state, entry, taken, blockCount) : { staged: taken, sivs: null }
    const { checksum } = state.parts
    if (this.#checksums.length < blockCount) this.#checksums = new Uint32Array(blockCount * 2)
    let at = 0
    for (const { source, count } of staged)
      if (source)
        for (let block = 0; block < count; block += 1)
          this.#checksums[at++] = checksum(count === 1 ? source : source.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES))
    const proofs: BlockProofs = { checksums: this.#checksums, sivs }
    const { runs, extents } = writeData(state, staged, blockCount)
    try {
      appendWrite(state.journal, entry.slot, extents, proofs, blockCount)
    } catch (error) {
      for (const run of runs) state.allocator.cancel(run)
      // How much of the record is there is not known.
      throw state.wound('append to the journal', error)
    }
    let from = 0
    try {
      for (const extent of extents) {
        applyWrite(state, entry, extent, proofs, from)
        if (extent.address !== 0) from += extent.count
      }
    } catch (error) {
      // The journal says that it is done.
      throw state.wound('write', error)
    }
  }
}

/** What is written of an encrypted volume: the same blocks sealed, in one buffer, and their SIVs. */
function sealAll(
  state: StoreState,
  entry: Entry,
  taken: readonly Staged[],
  blockCount: number,
): { staged: readonly Staged[]; sivs: Uint32Array } {
  const { cipher } = entry
  if (!cipher) throw lockedFault(entry)
  const sealed = new Uint8Array(blockCount * BLOCK_BYTES)
  const sivs = new Uint8Array(blockCount * SIV_BYTES)
  let at = 0
  const staged = taken.map((one): Staged => {
    const { first, count, source, flags } = one
    if (!source) return one
    const from = at * BLOCK_BYTES
    for (let block = 0; block < count; block += 1, at += 1) {
      const plain = source.subarray(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
      cipher.seal(first + block, state.epoch, flags, plain, sealed, at * BLOCK_BYTES, sivs, at * SIV_BYTES)
    }
    return { first, count, flags, source: sealed.subarray(from, at * BLOCK_BYTES) }
  })
  return { staged, sivs: new Uint32Array(sivs.buffer) }
}

/** There is more that changed than memory may be used for. */
export const isFull = ({ dirtyNodeCount, dirtyNodeCountLimit }: StoreState): boolean => dirtyNodeCount > dirtyNodeCountLimit

/** Whether there are so many blocks, and room for what a checkpoint has to write when a range of a volume is written. */
export function hasRoomFor(state: StoreState, blockCount: number, { tree }: Entry, first: number, count: number): boolean {
  return hasRoom(
    state,
    blockCount,
    { nodeBlockCount: nodeBlocksFor(tree, first, count), deadCount: count, slotCount: 1 },
    KEPT.writes,
  )
}

/** Writes blocks to where there is room. @throws Fault of the file, `exhausted`: nothing leads to what was written. */
function writeData(
  state: StoreState,
  staged: readonly Staged[],
  blockCount: number,
): { runs: readonly Run[]; extents: WrittenExtent[] } {
  const { allocator, parts } = state
  // On a disk that is full what has room in the file already, and is free, can be written still.
  for (const hasRoomAlready of [false, true]) {
    if (hasRoomAlready) giveUpSurplus(state, { slotCount: 1 }, KEPT.writes)
    const runs = allocator.allocateAll(blockCount, hasRoomAlready)
    if (!runs) break
    const { extents, writes } = layOut(staged, runs)
    try {
      for (const { address, parts: content } of writes) parts.file.write(address * BLOCK_BYTES, content)
      return { runs, extents }
    } catch (error) {
      // Nothing points at what was written.
      for (const run of runs) allocator.cancel(run)
      if (hasRoomAlready || !(error instanceof Fault) || error.code !== 'exhausted') throw error
    }
  }
  throw new Fault('exhausted', 'store: no space left')
}

/** Staged blocks over the runs that were found for them: both in order. */
function layOut(
  staged: readonly Staged[],
  runs: readonly Run[],
): { extents: WrittenExtent[]; writes: { address: number; parts: Uint8Array[] }[] } {
  const extents: WrittenExtent[] = []
  const writes = runs.map(({ address }) => ({ address, parts: [] as Uint8Array[] }))
  let run = 0
  let used = 0
  for (const { first, count, source, flags } of staged) {
    if (!source) {
      extents.push({ first, address: 0, count, flags })
      continue
    }
    for (let done = 0; done < count;) {
      const { address, count: room } = runs[run] as Run // there are as many blocks as are staged
      const part = Math.min(count - done, room - used)
      extents.push({ first: first + done, address: address + used, count: part, flags })
      writes[run]?.parts.push(part === count ? source : source.subarray(done * BLOCK_BYTES, (done + part) * BLOCK_BYTES))
      done += part
      used += part
      if (used === room) {
        run += 1
        used = 0
      }
    }
  }
  return { extents, writes }
}
