/** A volume or a snapshot as a disk: bytes to blocks and back. Parts of blocks are read, changed and written as one, in one turn. */
import {
  Fault,
  millis,
  type BlockDevice,
  type Extent,
  type ImmediateBlockDevice,
  type WriteOptions,
  type ZeroOptions,
} from '@typevisor/base'
import { fetchBlocks, runAt } from './blocks.ts'
import type { Entry } from './catalog.ts'
import { BLOCK_BYTES, FLAG_PACKED, FLAG_ZERO, UNIT_BLOCKS } from './format.ts'
import type { Store } from './store.ts'
import { assertMayWrite, Opening } from './lease.ts'
import { lockedFault } from './state.ts'
import { addressAt, MISSING } from './tree.ts'
import { isPacked, readUnit, takeUnits, UNIT_BYTES } from './units.ts'

/** A write is taken apart into pieces of this size, which is that of a leaf, or of two. */
const PIECE_BYTES = 1024 * 1024
const RETRY_COUNT_MAX = 100
/** Blocks of data, or parts without any, that one question about extents looks at; and those after which other work comes in between. */
const EXTENT_STEP_COUNT_MAX = 2 ** 18
const PAUSE_STEP_COUNT = 4096

interface DeviceOptions {
  readonly readOnly?: boolean
  /** Left out: as anybody. */
  readonly opening?: Opening
  /** The store's own, which empties what lies behind the end too. */
  readonly reachesBehindEnd?: boolean
}

/**
 * The device of an entry. Snapshots are read-only; so is whatever `readOnly` asks for, and a volume that somebody has leased, but for who opened
 * it under an epoch of the lease. @throws Fault `not_found`, `conflict` for one that is locked.
 */
export function volumeDevice(store: Store, name: string, options: DeviceOptions = {}): BlockDevice {
  return deviceOf(store, store.entry(name), options)
}

export function deviceOf(store: Store, entry: Entry, options: DeviceOptions = {}): BlockDevice {
  if (entry.isLocked) throw lockedFault(entry)
  const opening = options.opening ?? Opening.plain(entry)
  const isLeased = entry.record.leaseHolder !== null && !opening.isHolder
  const readOnly = options.readOnly === true || entry.kind !== 'volume' || isLeased
  return new VolumeDevice(store, entry, readOnly, opening, options.reachesBehindEnd === true)
}

class VolumeDevice implements BlockDevice {
  readonly #store: Store
  readonly #entry: Entry
  readonly #opening: Opening
  readonly #reachesBehindEnd: boolean
  readonly readOnly: boolean
  readonly blockBytesMin = 1
  readonly blockBytesPreferred = BLOCK_BYTES
  readonly now: ImmediateBlockDevice

  constructor(store: Store, entry: Entry, readOnly: boolean, opening: Opening, reachesBehindEnd: boolean) {
    this.#store = store
    this.#entry = entry
    this.#opening = opening
    this.#reachesBehindEnd = reachesBehindEnd
    this.readOnly = readOnly
    this.now = {
      read: (offset, lengthBytes, target, targetStart) => this.#readNow(offset, lengthBytes, target, targetStart, false),
      write: (offset, source) => this.#writeNow(offset, source),
      hasHoles: (offset, lengthBytes) => this.#hasHoles(offset, lengthBytes),
      commit: () => {
        store.writer.commit()
        store.look()
      },
    }
  }

  get sizeBytes(): number {
    return this.#entry.record.sizeBytes
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    let mayBlock = false
    for (let tries = 1; !this.#readNow(offset, target.length, target, 0, mayBlock); tries += 1)
      mayBlock = !(await this.#warm(offset, target.length)) || tries >= RETRY_COUNT_MAX
  }

  async write(offset: number, source: Uint8Array, options: WriteOptions = {}): Promise<void> {
    // A short one is one record, wherever it lies; a long one goes from leaf to leaf.
    const boundary = source.length > PIECE_BYTES ? PIECE_BYTES : UNIT_BYTES
    for (let at = 0; at < source.length;) {
      const pieceEnd = Math.min(source.length, at + PIECE_BYTES - ((offset + at) % boundary))
      await this.#writePiece(offset + at, source.subarray(at, pieceEnd))
      at = pieceEnd
    }
    if (options.fua) await this.#store.flush()
  }

  flush(): Promise<void> {
    return this.#store.flush()
  }

  /** Of parts of blocks nothing can be given back: they stay as they are. */
  async trim(offset: number, lengthBytes: number, options: WriteOptions = {}): Promise<void> {
    const [first, last] = this.#wholeBlocksOf(offset, lengthBytes)
    if (first < last)
      await this.zero(first * BLOCK_BYTES, Math.min(last * BLOCK_BYTES, this.sizeBytes) - first * BLOCK_BYTES, options)
  }

  /** Blocks that lie in a range as a whole; the disk's last one may be cut short. */
  #wholeBlocksOf(offset: number, lengthBytes: number): [first: number, last: number] {
    const end = offset + lengthBytes
    const isLast = end === this.sizeBytes
    return [Math.ceil(offset / BLOCK_BYTES), isLast ? Math.ceil(end / BLOCK_BYTES) : Math.floor(end / BLOCK_BYTES)]
  }

  async zero(offset: number, lengthBytes: number, options: ZeroOptions = {}): Promise<void> {
    const end = offset + lengthBytes
    this.#assertWithin(offset, lengthBytes)
    const [first, last] = this.#wholeBlocksOf(offset, lengthBytes)
    if (first >= last) await this.write(offset, new Uint8Array(lengthBytes))
    else {
      if (offset < first * BLOCK_BYTES) await this.write(offset, new Uint8Array(first * BLOCK_BYTES - offset))
      await this.#store.trim(this.#entry, first, last - first, options.noHole === true, this.#opening)
      if (end > last * BLOCK_BYTES) await this.write(last * BLOCK_BYTES, new Uint8Array(end - last * BLOCK_BYTES))
    }
    this.#store.look()
    if (options.fua) await this.#store.flush()
  }

  async cache(offset: number, lengthBytes: number): Promise<void> {
    await this.#warm(offset, lengthBytes)
  }

  async extents(offset: number, lengthBytes: number, countMax: number): Promise<readonly Extent[]> {
    const extents: { lengthBytes: number; hole: boolean; zero: boolean }[] = []
    const end = offset + lengthBytes
    const { tree } = this.#entry
    let at = offset
    for (let step = 1; at < end && step <= EXTENT_STEP_COUNT_MAX; step += 1) {
      if (step % PAUSE_STEP_COUNT === 0) await this.#store.state.parts.clock.sleep(millis(0))
      const block = Math.floor(at / BLOCK_BYTES)
      if (!this.#store.state.load(tree, block, false)) await this.#store.state.loadLater(tree, block)
      const leaf = tree.leaf(block)
      if (leaf === MISSING) continue
      const next = Math.min(end, (leaf === null ? tree.holeEnd(block) : block + 1) * BLOCK_BYTES)
      const kind = leaf === null ? 'hole' : kindOf(leaf.words, tree.geometry.wordOf(block))
      const extent = extents.at(-1)
      if (extent && extent.hole === (kind === 'hole') && extent.zero === (kind !== 'data')) extent.lengthBytes += next - at
      else if (extents.length === countMax) break
      else extents.push({ lengthBytes: next - at, hole: kind === 'hole', zero: kind !== 'data' })
      at = next
    }
    return extents
  }

  /** Brings nodes and data of a range to where `#readNow` finds them. @returns false when a block of data cannot be read: who needs it, and not all do, is told why by reading it with all standing still. */
  async #warm(offset: number, lengthBytes: number): Promise<boolean> {
    let isWhole = true
    const { state } = this.#store
    const { tree, isCompressed } = this.#entry
    const { file } = state.parts
    const content = new Uint8Array(BLOCK_BYTES)
    const stepBytes = isCompressed ? UNIT_BYTES : BLOCK_BYTES
    const first = (Math.floor(offset / stepBytes) * stepBytes) / BLOCK_BYTES
    const end = (Math.ceil((offset + lengthBytes) / stepBytes) * stepBytes) / BLOCK_BYTES
    for (let block = first; block < end; block += 1) {
      if (!state.load(tree, block, false)) await state.loadLater(tree, block)
      const leaf = tree.leaf(block)
      if (leaf === null || leaf === MISSING) continue
      const address = addressAt(leaf.words, tree.geometry.wordOf(block))
      if (address === 0) continue
      try {
        if (!file.readNow(address * BLOCK_BYTES, content, 0, BLOCK_BYTES)) await file.read(address * BLOCK_BYTES, content)
      } catch {
        isWhole = false
      }
    }
    return isWhole
  }

  /** @returns false when something has to be read from the disk first. */
  #readNow(offset: number, lengthBytes: number, target: Uint8Array, targetStart: number, mayBlock: boolean): boolean {
    const { state } = this.#store
    const entry = this.#entry
    const { tree, kind, isCompressed } = entry
    const { geometry } = tree
    if (kind !== 'volume' && kind !== 'snapshot') throw new Fault('unavailable', 'it is not there any more')
    if (entry.isLocked) throw lockedFault(entry)
    const end = offset + lengthBytes
    let at = offset
    let to = targetStart
    while (at < end) {
      const block = Math.floor(at / BLOCK_BYTES)
      const leaf = tree.leaf(block)
      if (leaf === MISSING) {
        if (!state.load(tree, block, mayBlock)) return false
        continue
      }
      if (leaf === null) {
        const next = Math.min(end, geometry.leafEnd(block) * BLOCK_BYTES)
        target.fill(0, to, to + next - at)
        to += next - at
        at = next
        continue
      }
      const word = geometry.wordOf(block)
      if (isCompressed && isPacked(leaf.words, word)) {
        const unit = readUnit(state, entry, leaf, block, mayBlock)
        if (!unit) return false
        const inUnit = at % UNIT_BYTES
        const partBytes = Math.min(UNIT_BYTES - inUnit, end - at)
        target.set(unit.subarray(inUnit, inUnit + partBytes), to)
        at += partBytes
        to += partBytes
        continue
      }
      const address = addressAt(leaf.words, word)
      const inBlock = at - block * BLOCK_BYTES
      const partBytes = Math.min(BLOCK_BYTES - inBlock, end - at)
      if (address === 0) target.fill(0, to, to + partBytes)
      else if (partBytes === BLOCK_BYTES) {
        const left = Math.floor((end - at) / BLOCK_BYTES)
        const run = runAt(
          entry,
          leaf.words,
          word,
          address,
          isCompressed ? Math.min(left, UNIT_BLOCKS - (block % UNIT_BLOCKS)) : left,
        )
        if (!fetchBlocks(state, entry, leaf, word, block, run, target, to, mayBlock)) return false
        at += run * BLOCK_BYTES
        to += run * BLOCK_BYTES
        continue
      } else {
        if (!fetchBlocks(state, entry, leaf, word, block, 1, BOUNCE, 0, mayBlock)) return false
        target.set(BOUNCE.subarray(inBlock, inBlock + partBytes), to)
      }
      at += partBytes
      to += partBytes
    }
    return true
  }

  #hasHoles(offset: number, lengthBytes: number): boolean {
    const { tree } = this.#entry
    const last = Math.floor((offset + lengthBytes - 1) / BLOCK_BYTES)
    for (let block = Math.floor(offset / BLOCK_BYTES); block <= last; block += 1) {
      const leaf = tree.leaf(block)
      if (leaf === null) return true
      if (leaf !== MISSING && kindOf(leaf.words, tree.geometry.wordOf(block)) !== 'data') return true
    }
    return false
  }

  /** @returns false when it has to wait: for a node, for room in the journal, for space. */
  #writeNow(offset: number, source: Uint8Array): boolean {
    if (((offset | source.length) & (BLOCK_BYTES - 1)) !== 0 || this.readOnly) return false
    if (offset + source.length > this.sizeBytes) return false
    const { writer } = this.#store
    const first = offset / BLOCK_BYTES
    try {
      if (this.#entry.isCompressed) return writer.isEmpty && this.#takeUnits(offset, source, false)
      if (!writer.canTake(this.#entry, first, source.length / BLOCK_BYTES)) return false
    } catch (error) {
      // Nothing was taken in. What is damaged may be written over as a whole, which takes more than a turn.
      if (error instanceof Fault && error.code === 'failed') return false
      throw error
    }
    writer.take(this.#entry, first, source, this.#opening)
    return true
  }

  async #writePiece(offset: number, source: Uint8Array): Promise<void> {
    const { state, writer } = this.#store
    const first = Math.floor(offset / BLOCK_BYTES)
    const count = Math.ceil((offset + source.length) / BLOCK_BYTES) - first
    let mayBlock = false
    for (let tries = 1; ; tries += 1) {
      if (state.wounded) throw state.wounded
      assertMayWrite(this.#entry, this.#opening)
      await this.#store.roomFor(this.#entry, ...this.#taken(first, count))
      writer.commit()
      // It may be smaller than it was when it was asked for.
      this.#assertWithin(offset, source.length)
      try {
        if (this.#take(offset, source, first, count, mayBlock)) {
          writer.commit()
          this.#store.look()
          return
        }
        mayBlock = !(await this.#warm(first * BLOCK_BYTES, count * BLOCK_BYTES)) || tries >= RETRY_COUNT_MAX
      } catch (error) {
        if (state.wounded || !(error instanceof Fault) || error.code !== 'failed' || !(await this.#giveUpLost(offset, source)))
          throw error
      }
    }
  }

  #assertWithin(offset: number, lengthBytes: number): void {
    if (offset + lengthBytes > this.sizeBytes && !this.#reachesBehindEnd)
      throw new Fault('invalid', `${this.#entry.name}: got ${offset}+${lengthBytes}, want within ${this.sizeBytes}`)
  }

  /** What a write of a range takes in: whole units of a compressed volume. */
  #taken(first: number, count: number): [first: number, count: number] {
    if (!this.#entry.isCompressed) return [first, count]
    const firstUnit = Math.floor(first / UNIT_BLOCKS)
    const endUnit = Math.ceil((first + count) / UNIT_BLOCKS)
    return [firstUnit * UNIT_BLOCKS, (endUnit - firstUnit) * UNIT_BLOCKS]
  }

  #giveUpLost(offset: number, { length }: Uint8Array): Promise<boolean> {
    const end = offset + length
    const last = end === this.sizeBytes ? Math.ceil(end / BLOCK_BYTES) : Math.floor(end / BLOCK_BYTES)
    return this.#store.giveUpLost(this.#entry, Math.ceil(offset / BLOCK_BYTES), last, this.#opening)
  }

  /** @returns false when something has to be read first, or there is no room. */
  #take(offset: number, source: Uint8Array, first: number, count: number, mayBlock: boolean): boolean {
    if (this.#entry.isCompressed) return this.#takeUnits(offset, source, mayBlock)
    const { writer } = this.#store
    const whole = this.#wholeBlocks(offset, source, first, count, mayBlock)
    if (whole === null || !writer.canTake(this.#entry, first, count)) return false
    writer.take(this.#entry, first, whole, this.#opening)
    return true
  }

  #takeUnits(offset: number, source: Uint8Array, mayBlock: boolean): boolean {
    const { state, writer } = this.#store
    const into = { state, writer, entry: this.#entry, opening: this.#opening }
    return takeUnits(into, offset, source, (start, target) => this.#readNow(start, target.length, target, 0, mayBlock))
  }

  /** The blocks that a write touches, as they will be. null: what is there has to be read first. */
  #wholeBlocks(offset: number, source: Uint8Array, first: number, count: number, mayBlock: boolean): Uint8Array | null {
    if (offset === first * BLOCK_BYTES && source.length === count * BLOCK_BYTES) return source
    const whole = new Uint8Array(count * BLOCK_BYTES)
    const start = offset - first * BLOCK_BYTES
    const read = (block: number): boolean =>
      this.#readNow((first + block) * BLOCK_BYTES, BLOCK_BYTES, whole, block * BLOCK_BYTES, mayBlock)
    if (start > 0 && !read(0)) return null
    if ((start + source.length) % BLOCK_BYTES !== 0 && (count > 1 || start === 0) && !read(count - 1)) return null
    whole.set(source, start)
    return whole
  }
}

/** For parts of blocks: used and done with in one turn. */
const BOUNCE = new Uint8Array(BLOCK_BYTES)

function kindOf(words: Uint32Array, word: number): 'hole' | 'zero' | 'data' {
  const flags = words[word + 1] as number // slots are masked
  if (addressAt(words, word) !== 0 || (flags & FLAG_PACKED) !== 0) return 'data'
  return (flags & FLAG_ZERO) !== 0 ? 'zero' : 'hole'
}
