/**
 * Compressed volumes: blocks in units of 16, each unit packed for itself.
 *
 *   entries of a packed unit    n entries with FLAG_PACKED and an address each: the pieces of what it was packed to
 *                               16 - n entries with FLAG_PACKED and none
 *   all other units             as in volumes that are not compressed
 *
 * So each block on disk has one entry, and births, dead lists and checksums are as everywhere. What a unit was packed to begins with its length
 * and is filled up with zeros to whole blocks.
 *
 * Invariants: a unit is packed as a whole or not at all; it is packed only where that saves a block; a change of a part of a packed unit writes
 * all of it anew.
 */
import { assert, Fault } from '@typevisor/base'
import { layout } from '@typevisor/codec'
import { fetchBlocks, runAt } from './blocks.ts'
import type { Entry } from './catalog.ts'
import { BLOCK_BYTES, FLAG_PACKED, UNIT_BLOCKS } from './format.ts'
import type { Opening } from './lease.ts'
import type { Compressor } from './ports.ts'
import type { StoreState } from './state.ts'
import { addressAt, MISSING, type Node } from './tree.ts'
import type { Writer } from './writer.ts'

export const UNIT_BYTES = UNIT_BLOCKS * BLOCK_BYTES
const PACKED_HEAD = layout([['lengthBytes', 'u32']], { littleEndian: true })

/** @returns whole blocks, fewer than `blockCountMax`. null: it cannot be packed to so few. */
function pack(compressor: Compressor, content: Uint8Array, blockCountMax: number): Uint8Array | null {
  const packed = compressor.compress(content)
  const blockCount = Math.ceil((PACKED_HEAD.sizeBytes + packed.length) / BLOCK_BYTES)
  if (blockCount >= blockCountMax) return null
  const blocks = new Uint8Array(blockCount * BLOCK_BYTES)
  PACKED_HEAD.encode({ lengthBytes: packed.length }, blocks)
  blocks.set(packed, PACKED_HEAD.sizeBytes)
  return blocks
}

function unpack(compressor: Compressor, blocks: Uint8Array): Uint8Array {
  const { lengthBytes } = PACKED_HEAD.decode(blocks)
  const end = PACKED_HEAD.sizeBytes + lengthBytes
  if (end > blocks.length) throw new Fault('failed', `packed unit: got a length of ${lengthBytes} bytes in ${blocks.length}`)
  const content = compressor.expand(blocks.subarray(PACKED_HEAD.sizeBytes, end), UNIT_BYTES)
  if (content.length !== UNIT_BYTES) throw new Fault('failed', `packed unit: got ${content.length} bytes, want ${UNIT_BYTES}`)
  return content
}

/** Units that were unpacked lately. */
export class UnitCache {
  readonly #units = new Map<string, Uint8Array>()

  get(entry: Entry, unit: number): Uint8Array | undefined {
    return this.#units.get(`${entry.slot}:${unit}`)
  }

  set(entry: Entry, unit: number, content: Uint8Array): void {
    const key = `${entry.slot}:${unit}`
    this.#units.delete(key)
    this.#units.set(key, content)
    if (this.#units.size > CACHED_COUNT_MAX) for (const oldest of this.#units.keys()) return void this.#units.delete(oldest)
  }

  /** Blocks of an entry have changed. */
  forget(entry: Entry, first: number, count: number): void {
    if (this.#units.size === 0) return
    for (const key of this.#units.keys()) {
      const [slot, unit] = key.split(':').map(Number) as [number, number]
      if (slot === entry.slot && unit * UNIT_BLOCKS < first + count && (unit + 1) * UNIT_BLOCKS > first) this.#units.delete(key)
    }
  }

  clear(): void {
    this.#units.clear()
  }
}

const CACHED_COUNT_MAX = 64

export const isPacked = (words: Uint32Array, word: number): boolean => ((words[word + 1] as number) & FLAG_PACKED) !== 0

/** The content of the packed unit that a block is in. null: it has to be read from the disk first, and `mayBlock` is false. */
export function readUnit(state: StoreState, entry: Entry, leaf: Node, block: number, mayBlock: boolean): Uint8Array | null {
  const unit = Math.floor(block / UNIT_BLOCKS)
  const known = state.units.get(entry, unit)
  if (known) return known
  const { geometry } = entry.tree
  const first = unit * UNIT_BLOCKS
  const wordOf = (index: number): number => geometry.wordOf(first) + index * geometry.entryWords
  let count = 0
  while (count < UNIT_BLOCKS && addressAt(leaf.words, wordOf(count)) !== 0) count += 1
  const blocks = new Uint8Array(count * BLOCK_BYTES)
  for (let done = 0; done < count;) {
    const run = runAt(entry, leaf.words, wordOf(done), addressAt(leaf.words, wordOf(done)), count - done)
    if (!fetchBlocks(state, entry, leaf, wordOf(done), first + done, run, blocks, done * BLOCK_BYTES, mayBlock)) return null
    done += run
  }
  const content = unpack(needCompressor(state), blocks)
  state.units.set(entry, unit, content)
  return content
}

/** Reads the volume as it is now. @returns false when something has to be read from the disk first. */
export type ReadNow = (offset: number, target: Uint8Array) => boolean

/** Where a write goes, and who writes. */
export interface WriteTarget {
  readonly state: StoreState
  readonly writer: Writer
  readonly entry: Entry
  readonly opening: Opening
}

/**
 * Takes a write to a compressed volume into the writer: of the units that it touches, packed where that pays. The writer has
 * nothing in it yet. @returns false when something has to be read first, or there is no room: nothing was taken then.
 */
export function takeUnits(into: WriteTarget, offset: number, source: Uint8Array, read: ReadNow): boolean {
  const { writer, entry } = into
  const firstUnit = Math.floor(offset / UNIT_BYTES)
  const endUnit = Math.ceil((offset + source.length) / UNIT_BYTES)
  assert(writer.isEmpty, 'what the unit will be is made of what it is')
  if (!writer.canTake(entry, firstUnit * UNIT_BLOCKS, (endUnit - firstUnit) * UNIT_BLOCKS)) return false
  const contents: Uint8Array[] = []
  for (let unit = firstUnit; unit < endUnit; unit += 1) {
    const start = unit * UNIT_BYTES - offset
    if (start >= 0 && start + UNIT_BYTES <= source.length) contents.push(source.subarray(start, start + UNIT_BYTES))
    else {
      const content = new Uint8Array(UNIT_BYTES)
      if (!read(unit * UNIT_BYTES, content)) return false
      content.set(source.subarray(Math.max(0, start), start + UNIT_BYTES), Math.max(0, -start))
      contents.push(content)
    }
  }
  for (const [index, content] of contents.entries()) {
    const first = (firstUnit + index) * UNIT_BLOCKS
    const start = Math.max(first, Math.floor(offset / BLOCK_BYTES))
    const end = Math.min(first + UNIT_BLOCKS, Math.ceil((offset + source.length) / BLOCK_BYTES))
    takeUnit(into, first, content, { start: start - first, end: end - first })
  }
  return true
}

/** `touched`: the blocks of the unit that were written to; the others are as they were. */
function takeUnit(
  { state, writer, entry, opening }: WriteTarget,
  first: number,
  content: Uint8Array,
  touched: { readonly start: number; readonly end: number },
): void {
  const { geometry } = entry.tree
  const leaf = entry.tree.leaf(first)
  assert(leaf !== MISSING, 'the way to what is written is in memory')
  const words = leaf && leaf.words
  const wordOf = (index: number): number => geometry.wordOf(first) + index * geometry.entryWords
  const wasPacked = words !== null && isPacked(words, wordOf(0))
  const blockAt = (index: number): Uint8Array => content.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES)
  /** What each block would be if the unit is not packed. */
  const kinds = Array.from({ length: UNIT_BLOCKS }, (_, index): 'written' | 'hole' | 'kept' | 'keptHole' => {
    if (wasPacked || (index >= touched.start && index < touched.end)) return isZero(blockAt(index)) ? 'hole' : 'written'
    return words !== null && addressAt(words, wordOf(index)) !== 0 ? 'kept' : 'keptHole'
  })
  const storedCount = kinds.filter((kind) => kind === 'written' || kind === 'kept').length
  const packed = storedCount > 1 ? pack(needCompressor(state), content, storedCount) : null
  if (packed) {
    const count = packed.length / BLOCK_BYTES
    writer.take(entry, first, packed, opening, FLAG_PACKED)
    writer.takeEmpty(entry, first + count, UNIT_BLOCKS - count, opening, FLAG_PACKED)
    return
  }
  for (let index = 0; index < UNIT_BLOCKS;) {
    const kind = kinds[index]
    let end = index + 1
    while (end < UNIT_BLOCKS && kinds[end] === kind) end += 1
    if (kind === 'written') writer.take(entry, first + index, content.subarray(index * BLOCK_BYTES, end * BLOCK_BYTES), opening)
    else if (kind === 'hole') writer.takeEmpty(entry, first + index, end - index, opening, 0)
    index = end
  }
}

/** How many of the blocks from `block` on, at most `count`, are a part of one unit, or whole units. */
export function unitStep(block: number, count: number): number {
  const inUnit = block % UNIT_BLOCKS
  if (inUnit !== 0) return Math.min(count, UNIT_BLOCKS - inUnit)
  return count < UNIT_BLOCKS ? count : count - (count % UNIT_BLOCKS)
}

/** Whether holes there, of a part of one unit or of whole ones, would leave a part of a packed one. */
export function cutsPackedUnit(state: StoreState, entry: Entry, block: number, count: number): boolean {
  if (block % UNIT_BLOCKS === 0 && count % UNIT_BLOCKS === 0) return false
  state.load(entry.tree, block, true)
  const leaf = entry.tree.leaf(block)
  return leaf !== null && leaf !== MISSING && isPacked(leaf.words, entry.tree.geometry.wordOf(block))
}

function isZero(content: Uint8Array): boolean {
  for (let index = 0; index < content.length; index += 1) if (content[index] !== 0) return false
  return true
}

function needCompressor({ parts }: StoreState): Compressor {
  if (!parts.compressor)
    throw new Fault('unsupported', 'store: it was opened without a compressor, so compressed volumes cannot be used')
  return parts.compressor
}
