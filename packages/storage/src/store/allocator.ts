/**
 * Which blocks are free: one bit each, in groups of `GROUP_BLOCKS`.
 *
 * Two bits, in truth: `used` is what the tables on disk say; `held` are blocks that are free by now but must not be used again yet, since
 * something on disk may still lead to them. Whoever freed a block lets it go when a flush or a checkpoint has made that impossible.
 *
 * Invariants: a block that is given out was neither used nor held; a table that a checkpoint writes is the table as it was when that began.
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
}

export class Allocator {
  /** Blocks before it are the superblocks' and the journal's. */
  readonly firstBlock: number
  readonly #blockCountMax: number
  #groupCount = 0
  #used = new Uint32Array(0)
  #held = new Uint32Array(0)
  #freeCount = 0
  #heldCount = 0
  #cursor: number
  readonly #dirty = new Set<number>()
  /** Blocks for which the file surely has room: they were given out, or it was made. Not known of what was there at opening. */
  #backed = new Uint32Array(0)
  /** Groups of the checkpoint being written; those that were changed meanwhile, as they were. */
  #freezing: Set<number> | null = null
  readonly #frozen = new Map<number, Uint32Array>()

  constructor(options: AllocatorOptions) {
    this.firstBlock = options.firstBlock
    this.#blockCountMax = options.blockCountMax
    this.#cursor = options.firstBlock
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
    return this.#freeCount - this.#heldCount + groupsMore * (GROUP_BLOCKS - HOME_COUNT)
  }

  /** Where the tables of a group are written, in turn. */
  homeOf(group: number, turn: 0 | 1): number {
    return (group === 0 ? this.firstBlock : group * GROUP_BLOCKS) + turn
  }

  isUsed(block: number): boolean {
    return ((this.#used[block >>> 5] ?? 0) & (1 << (block & 31))) !== 0
  }

  /** A free run of at most `countMax` blocks, near the one before. null: there is none. */
  allocate(countMax: number): Run | null {
    for (;;) {
      const end = Math.min(this.#groupCount * GROUP_BLOCKS, this.#blockCountMax)
      const run = this.#find(countMax, this.#cursor, end) ?? this.#find(countMax, this.firstBlock, this.#cursor)
      if (run) return run
      if ((this.#groupCount + 1) * GROUP_BLOCKS > this.#blockCountMax) return null
      this.#cursor = this.#groupCount * GROUP_BLOCKS
      this.#addGroup()
    }
  }

  /** So many blocks, in as few runs as there are. null: there are not so many, and none is taken. */
  allocateAll(count: number): Run[] | null {
    const runs: Run[] = []
    for (let left = count; left > 0;) {
      const run = this.allocate(left)
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

  /** Room in the file for blocks that were given out, where it is not there yet. @throws what `allocate` throws. */
  back({ address, count }: Run, allocate: (address: number, count: number) => void): void {
    const end = address + count
    for (let block = address; block < end; block += 1) {
      if (this.#isBacked(block)) continue
      let runEnd = block + 1
      while (runEnd < end && !this.#isBacked(runEnd)) runEnd += 1
      allocate(block, runEnd - block)
      for (; block < runEnd; block += 1) this.#backed[block >>> 5] = (this.#backed[block >>> 5] as number) | (1 << (block & 31))
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
      for (let each = address; each < block; each += 1)
        this.#backed[each >>> 5] = (this.#backed[each >>> 5] as number) & ~(1 << (each & 31))
    }
  }

  #isBacked(block: number): boolean {
    return ((this.#backed[block >>> 5] as number) & (1 << (block & 31))) !== 0
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

  /** Free from now on, and held until `letGo`. */
  free(block: number): void {
    assert(this.isUsed(block), `block ${block} was freed twice`)
    this.#setFree(block)
    this.#held[block >>> 5] = (this.#held[block >>> 5] as number) | (1 << (block & 31))
    this.#heldCount += 1
  }

  letGo(block: number): void {
    this.#held[block >>> 5] = (this.#held[block >>> 5] as number) & ~(1 << (block & 31))
    this.#heldCount -= 1
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
    this.#used[block >>> 5] = (this.#used[block >>> 5] as number) | (1 << (block & 31))
    this.#freeCount -= 1
  }

  #setFree(block: number): void {
    this.#touch(block)
    this.#used[block >>> 5] = (this.#used[block >>> 5] as number) & ~(1 << (block & 31))
    this.#freeCount += 1
  }

  /** Next fit: what is written together lies together. */
  #find(countMax: number, from: number, to: number): Run | null {
    let block = from
    while (block < to) {
      const word = block >>> 5
      const taken = ((this.#used[word] as number) | (this.#held[word] as number)) >>> 0
      const free = taken === FULL ? 0 : (~taken & (FULL << (block & 31))) >>> 0
      if (free === 0) {
        block = (word + 1) * 32
        continue
      }
      const first = word * 32 + (31 - Math.clz32(free & -free))
      if (first >= to) return null
      const limit = Math.min(to, first + countMax)
      let end = first
      while (end < limit && !this.#isTaken(end)) {
        this.#setUsed(end)
        end += 1
      }
      this.#cursor = end
      return { address: first, count: end - first }
    }
    return null
  }

  #isTaken(block: number): boolean {
    const word = block >>> 5
    return (((this.#used[word] as number) | (this.#held[word] as number)) & (1 << (block & 31))) !== 0
  }

  #addGroup(): void {
    const group = this.#groupCount
    this.#groupCount += 1
    if (this.#used.length < this.#groupCount * GROUP_WORDS) {
      const words = GROUP_WORDS * Math.max(this.#groupCount, Math.ceil(this.#groupCount * 1.25))
      this.#used = grown(this.#used, words)
      this.#held = grown(this.#held, words)
      this.#backed = grown(this.#backed, words)
    }
    this.#freeCount += Math.max(0, Math.min(GROUP_BLOCKS, this.#blockCountMax - group * GROUP_BLOCKS))
    if (group === 0) for (let block = 0; block < this.firstBlock; block += 1) this.#setUsed(block)
    for (let turn = 0; turn < HOME_COUNT; turn += 1) this.#setUsed(this.homeOf(group, turn as 0 | 1))
  }
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
