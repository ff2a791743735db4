/**
 * What a volume or snapshot has let go of that its parent still has: blocks born at or before the parent's epoch. When the parent is deleted,
 * those of them that were born after the grandparent's are nobody's any more.
 *
 * A stack: new entries are pushed, the collector pops. The top is in memory; a checkpoint writes it as blocks, each of which names the one
 * below. What is popped does not depend on where the last checkpoint was: recovery pops the same.
 */
import { DEAD_ENTRIES_PER_BLOCK, DEAD_HEAD, FLAG_NODE, BLOCK_BYTES } from './format.ts'
import { addressAt, copyAt, copyFlags, setEntry, type Node } from './tree.ts'

/** A block of data by its address, or a node, whose address may not be known yet. */
export interface DeadEntry {
  readonly address: number
  /** Of nodes: where the second copy is; 0: there is none. */
  readonly copy: number
  readonly birth: number
  readonly node: Node | null
  readonly isNode: boolean
}

/** A block of a list: its entries, and where the list goes on. */
export function openDeadBlock(content: Uint8Array): { entries: DeadEntry[]; previous: { address: number; checksum: number } } {
  const { previous, previousChecksum, count } = DEAD_HEAD.decode(content)
  const words = new Uint32Array(content.buffer, content.byteOffset, BLOCK_BYTES / 4)
  const entries: DeadEntry[] = []
  for (let index = 0; index < Math.min(count, DEAD_ENTRIES_PER_BLOCK); index += 1) {
    const word = HEAD_WORDS + index * 4
    const isNode = ((words[word + 1] as number) & FLAG_NODE) !== 0
    const [address, copy] = [addressAt(words, word), copyAt(words, word)]
    entries.push({ address, copy, birth: words[word + 2] as number, node: null, isNode })
  }
  return { entries, previous: { address: Number(previous), checksum: previousChecksum } }
}

const HEAD_WORDS = DEAD_HEAD.sizeBytes / 4

export class DeadList {
  /** The newest block on disk; address 0: none. */
  top: { address: number; checksum: number }
  /** Entries on disk and in memory. */
  count: number
  readonly #entries: DeadEntry[] = []

  constructor(top: { address: number; checksum: number } = { address: 0, checksum: 0 }, count = 0) {
    this.top = top
    this.count = count
  }

  /** Those that are in memory. */
  get entries(): readonly DeadEntry[] {
    return this.#entries
  }

  pushBlock(address: number, birth: number): void {
    this.#entries.push({ address, copy: 0, birth, node: null, isNode: false })
    this.count += 1
  }

  pushNode(node: Node): void {
    this.#entries.push({ address: 0, copy: 0, birth: node.birth, node, isNode: true })
    this.count += 1
  }

  push(entry: DeadEntry): void {
    this.#entries.push(entry)
    this.count += 1
  }

  /** The newest entry. undefined: none is in memory; `load` the top block if there is one. */
  pop(): DeadEntry | undefined {
    const entry = this.#entries.pop()
    if (entry) this.count -= 1
    return entry
  }

  /** Takes the top block's entries into memory: the block is not a part of the list any more. */
  load(content: Uint8Array): void {
    const { entries, previous } = openDeadBlock(content)
    this.#entries.unshift(...entries)
    this.top = previous
  }

  /** Blocks that a checkpoint needs for what is in memory. */
  get blocksNeeded(): number {
    return Math.ceil(this.#entries.length / DEAD_ENTRIES_PER_BLOCK)
  }

  /** Turns what is in memory into blocks at `addresses`. Every node in it that was ever written has its address by now. */
  seal(addresses: readonly number[], checksum: (content: Uint8Array) => number): { address: number; content: Uint8Array }[] {
    const blocks: { address: number; content: Uint8Array }[] = []
    for (let from = 0; from < this.#entries.length; from += DEAD_ENTRIES_PER_BLOCK) {
      const part = this.#entries.slice(from, from + DEAD_ENTRIES_PER_BLOCK)
      const words = new Uint32Array(BLOCK_BYTES / 4)
      const content = new Uint8Array(words.buffer)
      DEAD_HEAD.encode({ previous: BigInt(this.top.address), previousChecksum: this.top.checksum, count: part.length }, content)
      for (const [index, entry] of part.entries()) {
        const { address, copy } = entry.node ?? entry
        const flags = (entry.isNode ? FLAG_NODE : 0) | copyFlags(address, copy)
        setEntry(words, HEAD_WORDS + index * 4, address, flags, entry.birth, 0)
      }
      const at = addresses[blocks.length] as number // as many as `blocksNeeded` said
      this.top = { address: at, checksum: checksum(content) }
      blocks.push({ address: at, content })
    }
    this.#entries.length = 0
    return blocks
  }
}
