/** A volume or a snapshot as a disk: bytes to blocks and back. Parts of blocks are read, changed and written as one, in one turn. */
import {
  Fault,
  type BlockDevice,
  type Extent,
  type ImmediateBlockDevice,
  type WriteOptions,
  type ZeroOptions,
} from '@typevisor/base'
import type { Entry } from './catalog.ts'
import { BLOCK_BYTES, BLOCK_SHIFT, ENTRY_WORDS, FLAG_ZERO } from './format.ts'
import type { Store } from './store.ts'
import { hex, lockedFault } from './state.ts'
import { addressAt, MISSING, NODE_WORDS, type Node } from './tree.ts'

/** A write is taken apart into pieces of this size. */
const PIECE_BYTES = 1024 * 1024
const RETRY_COUNT_MAX = 100

/** The device of an entry. Snapshots are read-only; so is whatever `readOnly` asks for. @throws Fault `not_found`, `conflict` for one that is locked. */
export function volumeDevice(store: Store, name: string, options: { readOnly?: boolean } = {}): BlockDevice {
  const entry = store.entry(name)
  if (entry.isLocked) throw lockedFault(entry)
  return new VolumeDevice(store, entry, options.readOnly === true || entry.kind !== 'volume')
}

class VolumeDevice implements BlockDevice {
  readonly #store: Store
  readonly #entry: Entry
  readonly readOnly: boolean
  readonly blockBytesMin = 1
  readonly blockBytesPreferred = BLOCK_BYTES
  readonly now: ImmediateBlockDevice

  constructor(store: Store, entry: Entry, readOnly: boolean) {
    this.#store = store
    this.#entry = entry
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
    for (let tries = 0; !this.#readNow(offset, target.length, target, 0, tries >= RETRY_COUNT_MAX); tries += 1)
      await this.#warm(offset, target.length)
  }

  async write(offset: number, source: Uint8Array, options: WriteOptions = {}): Promise<void> {
    for (let at = 0; at < source.length;) {
      const pieceEnd = Math.min(source.length, at + PIECE_BYTES - ((offset + at) % BLOCK_BYTES))
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
    const [first, last] = this.#wholeBlocksOf(offset, lengthBytes)
    if (first >= last) await this.write(offset, new Uint8Array(lengthBytes))
    else {
      if (offset < first * BLOCK_BYTES) await this.write(offset, new Uint8Array(first * BLOCK_BYTES - offset))
      await this.#store.trim(this.#entry, first, last - first, options.noHole === true)
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
    for (let at = offset; at < end;) {
      const block = Math.floor(at / BLOCK_BYTES)
      if (!this.#store.state.load(tree, block, false)) await this.#store.state.loadLater(tree, block)
      const leaf = tree.leaf(block)
      if (leaf === MISSING) continue
      const next = Math.min(end, (leaf === null ? tree.geometry.leafEnd(block) : block + 1) * BLOCK_BYTES)
      const kind = leaf === null ? 'hole' : kindOf(leaf.words, tree.geometry.wordOf(block))
      const extent = extents.at(-1)
      if (extent && extent.hole === (kind === 'hole') && extent.zero === (kind !== 'data')) extent.lengthBytes += next - at
      else if (extents.length === countMax) break
      else extents.push({ lengthBytes: next - at, hole: kind === 'hole', zero: kind !== 'data' })
      at = next
    }
    return extents
  }

  /** Brings nodes and data of a range to where `#readNow` finds them. */
  async #warm(offset: number, lengthBytes: number): Promise<void> {
    const { state } = this.#store
    const { tree } = this.#entry
    const { file } = state.parts
    const lastBlock = (offset + lengthBytes - 1) >> BLOCK_SHIFT
    const content = new Uint8Array(BLOCK_BYTES)
    for (
      let block = Math.floor(offset / BLOCK_BYTES);
      block <= Math.max(lastBlock, Math.floor((offset + lengthBytes - 1) / BLOCK_BYTES));
      block += 1
    ) {
      if (!state.load(tree, block, false)) await state.loadLater(tree, block)
      const leaf = tree.leaf(block)
      if (leaf === null || leaf === MISSING) continue
      const address = addressAt(leaf.words, tree.geometry.wordOf(block))
      if (address !== 0 && !file.readNow(address * BLOCK_BYTES, content, 0, BLOCK_BYTES))
        await file.read(address * BLOCK_BYTES, content)
    }
  }

  /** @returns false when something has to be read from the disk first. */
  #readNow(offset: number, lengthBytes: number, target: Uint8Array, targetStart: number, mayBlock: boolean): boolean {
    const { state } = this.#store
    const { tree, kind } = this.#entry
    const { geometry } = tree
    if (kind !== 'volume' && kind !== 'snapshot') throw new Fault('unavailable', 'it is not there any more')
    if (this.#entry.isLocked) throw lockedFault(this.#entry)
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
      const address = addressAt(leaf.words, word)
      const inBlock = at - block * BLOCK_BYTES
      const partBytes = Math.min(BLOCK_BYTES - inBlock, end - at)
      if (address === 0) target.fill(0, to, to + partBytes)
      else if (partBytes === BLOCK_BYTES) {
        const run = this.#runAt(leaf.words, word, address, Math.floor((end - at) / BLOCK_BYTES))
        if (!this.#fetch(leaf, word, block, address, run, target, to, mayBlock)) return false
        at += run * BLOCK_BYTES
        to += run * BLOCK_BYTES
        continue
      } else {
        if (!this.#fetch(leaf, word, block, address, 1, BOUNCE, 0, mayBlock)) return false
        target.set(BOUNCE.subarray(inBlock, inBlock + partBytes), to)
      }
      at += partBytes
      to += partBytes
    }
    return true
  }

  /** Blocks of one leaf, from the entry at `word` on, that lie one behind the other on disk. */
  #runAt(words: Uint32Array, word: number, address: number, countMax: number): number {
    const { entryWords } = this.#entry.tree.geometry
    let count = 1
    for (let next = word + entryWords; next < NODE_WORDS && count < countMax; next += entryWords, count += 1)
      if (addressAt(words, next) !== address + count) break
    return count
  }

  /** Reads a run of blocks, whose entries are from `word` on, and proves each. */
  #fetch(
    leaf: Node,
    word: number,
    block: number,
    address: number,
    count: number,
    target: Uint8Array,
    to: number,
    mayBlock: boolean,
  ): boolean {
    const { file, checksum } = this.#store.state.parts
    const { entryWords } = this.#entry.tree.geometry
    const lengthBytes = count * BLOCK_BYTES
    if (!file.readNow(address * BLOCK_BYTES, target, to, lengthBytes)) {
      if (!mayBlock) return false
      file.readBlocking(address * BLOCK_BYTES, target, to, lengthBytes)
    }
    for (let index = 0; index < count; index += 1) {
      const start = to + index * BLOCK_BYTES
      const found = checksum(target.subarray(start, start + BLOCK_BYTES))
      const want = leaf.words[word + index * entryWords + 3] as number // slots are masked
      if (found !== want) {
        target.fill(0, to, to + lengthBytes)
        throw new Fault(
          'failed',
          `${this.#entry.name} at ${(block + index) * BLOCK_BYTES}: block ${address + index} has checksum ${hex(found)}, want ${hex(want)}`,
        )
      }
    }
    if (this.#entry.cipher) this.#open(leaf, word, block, address, count, target, to)
    return true
  }

  /** Opens sealed blocks where they were read to. */
  #open(leaf: Node, word: number, block: number, address: number, count: number, target: Uint8Array, to: number): void {
    const { cipher, tree } = this.#entry
    const { bytes } = leaf
    for (let index = 0; index < count; index += 1) {
      const at = word + index * tree.geometry.entryWords
      const birth = leaf.words[at + 2] as number // slots are masked
      if (cipher?.open(block + index, birth, target, to + index * BLOCK_BYTES, bytes, (at + ENTRY_WORDS) * 4)) continue
      target.fill(0, to, to + count * BLOCK_BYTES)
      throw new Fault(
        'failed',
        `${this.#entry.name} at ${(block + index) * BLOCK_BYTES}: block ${address + index} is not what was sealed there`,
      )
    }
  }

  #hasHoles(offset: number, lengthBytes: number): boolean {
    const { tree } = this.#entry
    const last = Math.floor((offset + lengthBytes - 1) / BLOCK_BYTES)
    for (let block = Math.floor(offset / BLOCK_BYTES); block <= last; block += 1) {
      const leaf = tree.leaf(block)
      if (leaf === null) return true
      if (leaf !== MISSING && addressAt(leaf.words, tree.geometry.wordOf(block)) === 0) return true
    }
    return false
  }

  /** @returns false when it has to wait: for a node, for room in the journal, for space. */
  #writeNow(offset: number, source: Uint8Array): boolean {
    if (((offset | source.length) & (BLOCK_BYTES - 1)) !== 0 || this.readOnly) return false
    const { writer } = this.#store
    const first = offset / BLOCK_BYTES
    if (!writer.canTake(this.#entry, first, source.length / BLOCK_BYTES)) return false
    writer.take(this.#entry, first, source)
    return true
  }

  async #writePiece(offset: number, source: Uint8Array): Promise<void> {
    const { state, writer } = this.#store
    const first = Math.floor(offset / BLOCK_BYTES)
    const count = Math.ceil((offset + source.length) / BLOCK_BYTES) - first
    for (let tries = 0; ; tries += 1) {
      if (state.wounded) throw state.wounded
      if (this.#entry.kind !== 'volume') throw new Fault('unavailable', `${this.#entry.name}: the volume is not there any more`)
      await this.#store.roomFor(count)
      writer.commit()
      const whole = this.#wholeBlocks(offset, source, first, count, tries >= RETRY_COUNT_MAX)
      if (whole !== null && writer.canTake(this.#entry, first, count)) {
        writer.take(this.#entry, first, whole)
        writer.commit()
        this.#store.look()
        return
      }
      await this.#warm(first * BLOCK_BYTES, count * BLOCK_BYTES)
    }
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
  if (addressAt(words, word) !== 0) return 'data'
  return ((words[word + 1] as number) & FLAG_ZERO) !== 0 ? 'zero' : 'hole'
}
