/**
 * Which blocks are free: one bit each, in groups of `GROUP_BLOCKS`.
 *
 * Two bits, in truth: `used` is what the tables on disk say; `held` are blocks that are free by now but must not be used again yet, since
 * something on disk may still lead to them. Whoever freed a block lets it go when a flush or a checkpoint has made that impossible.
 *
 * In memory alone some free blocks are set aside, each with its room in the file: what checkpoints have when there is nothing else
 * (`reserve.ts`).
 *
 * Invariants: a block that is given out was neither used nor held nor set aside; a table that a checkpoint writes is the table as it was when
 * that began; a group has room in the file for both homes of its table before a block of it is given out.
 */
import { assert } from '@typevisor/base'
import { GROUP_BLOCKS } from './format.ts'

const GROUP_WORDS = GROUP_BLOCKS / 32
const FULL = 0xffffffff
export const HOME_COUNT = 2

export interface Run {
  readonly address: number
  readonly count: number
}

export interface AllocatorOptions {
  /** Blocks before it belong to the superblocks and the journal; the first group's tables are at it. */
  readonly firstBlock: number
  readonly groupCount: number
  /** Blocks that the file can have at most. */
  readonly blockCountMax: number
  /** Room in the file, so that what is written there later has it. @returns false when there is none. */
  readonly makeRoom: (address: number, count: number) => boolean
}

/** Blocks that are asked for at once where it is not known which of them have room in the file. */
const PROBE_COUNT = 16
/** At most a few seconds of asking. */
const PROBE_TRIES_MAX = 1_000_000

export class Allocator {
  /** Blocks before it are the superblocks' and the journal's. */
  readonly firstBlock: number
  readonly #blockCountMax: number
  readonly #makeRoom: AllocatorOptions['makeRoom']
  #groupCount = 0
  #used = new Uint32Array(0)
  #held = new Uint32Array(0)
  #freeCount = 0
  #heldCount = 0
  #cursor: number
  readonly #dirty = new Set<number>()
  /** Blocks for which the file surely has room: they were given out, or it was made. Not known of what was there at opening. */
  #backed = new Uint32Array(0)
  /** Blocks with such room that can be given out. */
  #spareCount = 0
  #setAside = new Uint32Array(0)
  #setAsideCount = 0
  /** They may name blocks that are not set aside any more. */
  readonly #setAsideRuns: { address: number; count: number }[] = []
  /** From the front of the file on, where the next opening looks for them. */
  #setAsideCursor: number
  /** Groups of the checkpoint being written; those that were changed meanwhile, as they were. */
  #freezing: Set<number> | null = null
  readonly #frozen = new Map<number, Uint32Array>()

  constructor(options: AllocatorOptions) {
    this.firstBlock = options.firstBlock
    this.#blockCountMax = options.blockCountMax
    this.#makeRoom = options.makeRoom
    this.#cursor = options.firstBlock
    this.#setAsideCursor = options.firstBlock
    while (this.#groupCount < Math.max(1, options.groupCount)) this.#addGroup()
  }

  get blockCount(): number {
    return this.#groupCount * GROUP_BLOCKS
  }
  get groupCount(): number {
    return this.#groupCount
  }
  get usedCount(): number {
    return Math.min(this.#groupCount * GROUP_BLOCKS, this.#blockCountMax) - this.#freeCount
  }
  get heldCount(): number {
    return this.#heldCount
  }
  /** Blocks that could be given out, with what the store can still grow by. */
  get availableCount(): number {
    const groupsMore = Math.max(0, Math.floor(this.#blockCountMax / GROUP_BLOCKS) - this.#groupCount)
    return this.#freeCount - this.#heldCount - this.#setAsideCount + groupsMore * (GROUP_BLOCKS - HOME_COUNT)
  }
  get setAsideCount(): number {
    return this.#setAsideCount
  }

  /** Where the tables of a group are written, in turn. */
  homeOf(group: number, turn: 0 | 1): number {
    return (group === 0 ? this.firstBlock : group * GROUP_BLOCKS) + turn
  }

  isUsed(block: number): boolean {
    return has(this.#used, block)
  }

  /** A free run of at most `countMax` blocks, near the one before. `hasRoom`: only of blocks that have room in the file already. null: there is none. */
  allocate(countMax: number, hasRoom = false): Run | null {
    const run = this.#search(countMax, this.#cursor, hasRoom)
    if (!run) return null
    this.#cursor = run.address + run.count
    for (let block = run.address; block < this.#cursor; block += 1) this.#setUsed(block)
    return run
  }

  #search(countMax: number, cursor: number, hasRoom: boolean): Run | null {
    if (hasRoom && this.#spareCount === 0) return null
    const end = Math.min(this.#groupCount * GROUP_BLOCKS, this.#blockCountMax)
    const run = this.#find(countMax, cursor, end, hasRoom) ?? this.#find(countMax, this.firstBlock, cursor, hasRoom)
    if (run || hasRoom) return run
    const group = this.#groupCount
    if ((group + 1) * GROUP_BLOCKS > this.#blockCountMax) return null
    if (!this.#makeRoom(group * GROUP_BLOCKS, HOME_COUNT)) return null
    this.#addGroup()
    return this.#find(countMax, group * GROUP_BLOCKS, (group + 1) * GROUP_BLOCKS, false)
  }

  /** So many blocks, in as few runs as there are. null: there are not so many, and none is taken. */
  allocateAll(count: number, hasRoom = false): Run[] | null {
    const runs: Run[] = []
    for (let left = count; left > 0;) {
      const run = this.allocate(left, hasRoom)
      if (!run) {
        for (const each of runs) this.cancel(each)
        return null
      }
      runs.push(run)
      left -= run.count
    }
    return runs
  }

  /** Takes blocks that a record of the journal says were given out. `mayBeUsed`: it may not be known that they were free by then. */
  take(address: number, count: number, mayBeUsed = false): void {
    while (this.#groupCount * GROUP_BLOCKS < address + count) this.#addGroup()
    for (let block = address; block < address + count; block += 1) {
      if (this.isUsed(block)) assert(mayBeUsed, `block ${block} was given out twice`)
      else this.#setUsed(block)
    }
  }

  /** Room in the file for blocks, where it is not there yet. @returns false when there is none for all of them. */
  back({ address, count }: Run): boolean {
    const end = address + count
    for (let block = address; block < end; block += 1) {
      if (has(this.#backed, block)) continue
      let runEnd = block + 1
      while (runEnd < end && !has(this.#backed, runEnd)) runEnd += 1
      if (!this.#makeRoom(block, runEnd - block)) return false
      for (; block < runEnd; block += 1) this.#setBacked(block)
    }
    return true
  }

  /**
   * Sets free blocks aside that have, or get, their room in the file: so many, or as many as there are, but for `leftCount` that are left for
   * others. @returns how many are set aside by now.
   */
  setAside(count: number, leftCount: number): number {
    let left = Math.min(count, this.availableCount - leftCount)
    // Where the file gets no more room, blocks that have it already.
    for (const hasRoom of [false, true])
      while (left > 0) {
        const run = this.#search(left, this.#setAsideCursor, hasRoom)
        if (!run || !this.back(run)) break
        left -= run.count
        this.#setAsideCursor = run.address + run.count
        this.#setAsideRuns.push({ ...run })
        for (let block = run.address; block < this.#setAsideCursor; block += 1) set(this.#setAside, block)
        this.#spareCount -= run.count
        this.#setAsideCount += run.count
      }
    return this.#setAsideCount
  }

  /** Blocks that are set aside are given out. null: there are not so many. */
  allocateSetAside(count: number): Run[] | null {
    if (count > this.#setAsideCount) return null
    const blocks = this.#popSetAside(count).sort((a, b) => a - b)
    const runs: { address: number; count: number }[] = []
    for (const block of blocks) {
      this.#setUsed(block)
      const last = runs.at(-1)
      if (last && last.address + last.count === block) last.count += 1
      else runs.push({ address: block, count: 1 })
    }
    return runs
  }

  /** So many of those that are set aside are free for all again. */
  giveUpSetAside(count: number): void {
    this.#popSetAside(count)
  }

  #popSetAside(count: number): number[] {
    const blocks: number[] = []
    for (let run = this.#setAsideRuns.at(-1); run && blocks.length < count; run = this.#setAsideRuns.at(-1)) {
      run.count -= 1
      const block = run.address + run.count
      if (run.count === 0) this.#setAsideRuns.pop()
      if (!has(this.#setAside, block)) continue
      clear(this.#setAside, block)
      this.#setAsideCount -= 1
      if (this.#isSpare(block)) this.#spareCount += 1
      blocks.push(block)
    }
    return blocks
  }

  /** Opening has gone over what was; which blocks have room in the file is not known of what it has freed. */
  forgetRoom(): void {
    this.#backed.fill(0)
    this.#spareCount = 0
  }

  /** Finds free blocks that have room in the file, on a disk that has no more of it, until there are so many. */
  probeRoom(count: number): void {
    const end = Math.min(this.#groupCount * GROUP_BLOCKS, this.#blockCountMax)
    let tries = 0
    for (let block = this.firstBlock; block < end && this.#spareCount < count && tries < PROBE_TRIES_MAX;) {
      const run = this.#find(PROBE_COUNT, block, end, false)
      if (!run) return
      block = run.address + run.count
      tries += 1
      if (this.back(run)) continue
      for (let each = run.address; each < block; each += 1) {
        tries += 1
        this.back({ address: each, count: 1 })
      }
    }
  }

  /** Hands over the free runs of a group that are at least `countMin` blocks long: their room in the file is given back. */
  giveBack(group: number, countMin: number, punch: (address: number, count: number) => void): void {
    const end = Math.min((group + 1) * GROUP_BLOCKS, this.#blockCountMax)
    for (let block = group * GROUP_BLOCKS; block < end;) {
      if (this.#isTaken(block)) {
        block += 1
        continue
      }
      const address = block
      while (block < end && !this.#isTaken(block)) block += 1
      if (block - address < countMin) continue
      punch(address, block - address)
      for (let each = address; each < block; each += 1) {
        if (this.#isSpare(each)) this.#spareCount -= 1
        clear(this.#backed, each)
      }
    }
  }

  #setBacked(block: number): void {
    if (has(this.#backed, block)) return
    set(this.#backed, block)
    if (this.#isSpare(block)) this.#spareCount += 1
  }

  #isSpare(block: number): boolean {
    return has(this.#backed, block) && !this.#isTaken(block)
  }

  /** Nothing is known of a group: all of it counts as in use, and its table is written by the next checkpoint. */
  takeGroup(group: number): void {
    while (this.#groupCount <= group) this.#addGroup()
    const first = group * GROUP_BLOCKS
    this.take(first, Math.min(GROUP_BLOCKS, this.#blockCountMax - first), true)
    this.#dirty.add(group)
  }

  /** The next checkpoint writes the table of this group, whether it has changed or not. */
  writeTable(group: number): void {
    this.#dirty.add(group)
  }

  /** Gives back what nothing ever pointed at. */
  cancel(run: Run): void {
    for (let block = run.address; block < run.address + run.count; block += 1) this.#setFree(block)
  }

  /** Free from now on, and held until `letGo`. `wasWritten`: so it has room in the file. */
  free(block: number, wasWritten = true): void {
    assert(this.isUsed(block), `block ${block} was freed twice`)
    // Held first: nobody may have it in between.
    set(this.#held, block)
    this.#heldCount += 1
    this.#setFree(block)
    if (wasWritten) set(this.#backed, block)
  }

  letGo(block: number): void {
    clear(this.#held, block)
    this.#heldCount -= 1
    if (this.#isSpare(block)) this.#spareCount += 1
  }

  /** Groups whose tables a checkpoint would have to write. */
  get dirtyGroups(): ReadonlySet<number> {
    return this.#dirty
  }

  /** Between `freeze` and `thaw`. */
  get isFrozen(): boolean {
    return this.#freezing !== null
  }

  /** Begins a checkpoint. @returns the groups whose tables it has to write: `frozenTable` gives them as they are now, until `thaw`. */
  freeze(): readonly number[] {
    assert(this.#freezing === null, 'one checkpoint at a time')
    const groups = [...this.#dirty].sort((a, b) => a - b)
    this.#dirty.clear()
    this.#freezing = new Set(groups)
    return groups
  }

  frozenTable(group: number): Uint32Array {
    return this.#frozen.get(group) ?? this.#tableOf(group).slice()
  }

  thaw(): void {
    this.#freezing = null
    this.#frozen.clear()
  }

  /** A table as it was on disk: at opening. */
  load(group: number, table: Uint32Array): void {
    while (this.#groupCount <= group) this.#addGroup()
    const from = group * GROUP_WORDS
    for (let word = 0; word < GROUP_WORDS; word += 1) {
      const before = this.#used[from + word] as number
      const after = table[word] as number
      this.#used[from + word] = after
      this.#freeCount += countOnes(before) - countOnes(after)
    }
  }

  /** The tables as they are agree with the disk. */
  clean(): void {
    this.#dirty.clear()
  }

  #tableOf(group: number): Uint32Array {
    return this.#used.subarray(group * GROUP_WORDS, (group + 1) * GROUP_WORDS)
  }

  #touch(block: number): void {
    const group = Math.floor(block / GROUP_BLOCKS)
    this.#dirty.add(group)
    if (this.#freezing?.has(group) && !this.#frozen.has(group)) this.#frozen.set(group, this.#tableOf(group).slice())
  }

  #setUsed(block: number): void {
    this.#touch(block)
    if (has(this.#setAside, block)) {
      clear(this.#setAside, block)
      this.#setAsideCount -= 1
    } else if (this.#isSpare(block)) this.#spareCount -= 1
    set(this.#used, block)
    this.#freeCount -= 1
  }

  #setFree(block: number): void {
    this.#touch(block)
    clear(this.#used, block)
    this.#freeCount += 1
    if (this.#isSpare(block)) this.#spareCount += 1
  }

  /** Next fit: what is written together lies together. */
  #find(countMax: number, from: number, to: number, hasRoom: boolean): Run | null {
    const isFree = (at: number): boolean => !this.#isTaken(at) && (!hasRoom || has(this.#backed, at))
    let block = from
    while (block < to) {
      const word = block >>> 5
      const taken = (this.#takenAt(word) | (hasRoom ? ~(this.#backed[word] as number) : 0)) >>> 0
      const free = taken === FULL ? 0 : (~taken & (FULL << (block & 31))) >>> 0
      if (free === 0) {
        block = (word + 1) * 32
        continue
      }
      const first = word * 32 + (31 - Math.clz32(free & -free))
      if (first >= to) return null
      const limit = Math.min(to, first + countMax)
      let end = first
      while (end < limit && isFree(end)) end += 1
      return { address: first, count: end - first }
    }
    return null
  }

  #takenAt(word: number): number {
    return (this.#used[word] as number) | (this.#held[word] as number) | (this.#setAside[word] as number)
  }

  #isTaken(block: number): boolean {
    return (this.#takenAt(block >>> 5) & (1 << (block & 31))) !== 0
  }

  #addGroup(): void {
    const group = this.#groupCount
    this.#groupCount += 1
    if (this.#used.length < this.#groupCount * GROUP_WORDS) {
      const words = GROUP_WORDS * Math.max(this.#groupCount, Math.ceil(this.#groupCount * 1.25))
      this.#used = grown(this.#used, words)
      this.#held = grown(this.#held, words)
      this.#backed = grown(this.#backed, words)
      this.#setAside = grown(this.#setAside, words)
    }
    this.#freeCount += Math.max(0, Math.min(GROUP_BLOCKS, this.#blockCountMax - group * GROUP_BLOCKS))
    if (group === 0) for (let block = 0; block < this.firstBlock; block += 1) this.#setUsed(block)
    for (let turn = 0; turn < HOME_COUNT; turn += 1) this.#setUsed(this.homeOf(group, turn as 0 | 1))
  }
}

const has = (bits: Uint32Array, block: number): boolean => ((bits[block >>> 5] ?? 0) & (1 << (block & 31))) !== 0
function set(bits: Uint32Array, block: number): void {
  bits[block >>> 5] = (bits[block >>> 5] as number) | (1 << (block & 31)) // each block has a bit
}
function clear(bits: Uint32Array, block: number): void {
  bits[block >>> 5] = (bits[block >>> 5] as number) & ~(1 << (block & 31)) // likewise
}

function grown(words: Uint32Array, length: number): Uint32Array<ArrayBuffer> {
  const next = new Uint32Array(length)
  next.set(words)
  return next
}

function countOnes(word: number): number {
  let left = word - ((word >>> 1) & 0x55555555)
  left = (left & 0x33333333) + ((left >>> 2) & 0x33333333)
  return (((left + (left >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24
}
