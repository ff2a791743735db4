/**
 * The radix tree of a volume: block number to entry. Persistent in memory and on disk by one rule: a node that others may see (a
 * snapshot, a checkpoint being written) is copied before it is changed.
 *
 *   Tree { root, height }        node of level 0: entries of data blocks; of level n: entries of nodes of level n - 1
 *
 * An entry is four words (`format.ts`). A node refers to those of its children that are dirty; clean ones are found by their address in the
 * cache, from which they may go at any time. A node's own words for a dirty child are brought up to date when the node is written.
 *
 * Invariants: a node of an older generation never changes (but for words that say where its children have been written); a dirty node has
 * only dirty ancestors.
 */
import { assert } from '@typevisor/base'
import { COPY_SHIFT, ENTRIES_PER_NODE, ENTRY_SHIFT, ENTRY_WORDS, SIV_WORDS } from './format.ts'

export const NODE_WORDS = ENTRIES_PER_NODE * ENTRY_WORDS
const INDEX_MASK = ENTRIES_PER_NODE - 1

/** What the leaves of a tree are like. The nodes above them are all alike. */
export class Geometry {
  readonly entryWords: number
  readonly leafEntries: number
  readonly #leafShift: number
  readonly #mask: number

  constructor(entryWords: number) {
    this.entryWords = entryWords
    this.leafEntries = NODE_WORDS / entryWords
    this.#leafShift = Math.log2(this.leafEntries)
    this.#mask = this.leafEntries - 1
  }

  /** Blocks that one entry of a node of this level stands for. */
  spanOf(level: number): number {
    return level === 0 ? 1 : 2 ** (this.#leafShift + ENTRY_SHIFT * (level - 1))
  }

  /** Levels that so many blocks need; at least one. */
  heightFor(blockCount: number): number {
    let height = 1
    while (this.spanOf(height) < blockCount) height += 1
    return height
  }

  slotAt(block: number, level: number): number {
    return level === 0 ? block & this.#mask : Math.floor(block / this.spanOf(level)) & INDEX_MASK
  }

  /** Where in the words of its leaf a block's entry begins. */
  wordOf(block: number): number {
    return (block & this.#mask) * this.entryWords
  }

  /** The first block behind the leaf of a block. */
  leafEnd(block: number): number {
    return (Math.floor(block / this.leafEntries) + 1) * this.leafEntries
  }

  get isSealed(): boolean {
    return this.entryWords > ENTRY_WORDS
  }
}

export const PLAIN = new Geometry(ENTRY_WORDS)
/** Of encrypted volumes: each entry has the block's SIV behind it. */
export const SEALED = new Geometry(ENTRY_WORDS + SIV_WORDS)

export class Node {
  readonly level: number
  /** Epoch in which it was made. */
  readonly birth: number
  /** Only a node of the store's present generation may be changed; 0: it was read. */
  readonly generation: number
  readonly words: Uint32Array
  /** Children that were dirty when they were set, by slot. */
  children: Map<number, Node> | null = null
  /** Where it lies, or will lie when the checkpoint that gave it its place is written; 0: it has none yet. */
  address = 0
  /** Where its second copy is; 0: it has none. */
  copy = 0
  checksum = 0
  /** The version that this one takes the place of: its block is free when this one is written. Not set where a snapshot still has it. */
  replaces: Node | null = null
  /** Looked at since the last sweep of the cache. */
  used = true

  constructor(level: number, birth: number, generation: number, words: Uint32Array = new Uint32Array(NODE_WORDS)) {
    this.level = level
    this.birth = birth
    this.generation = generation
    this.words = words
  }

  get bytes(): Uint8Array {
    return new Uint8Array(this.words.buffer, this.words.byteOffset, this.words.byteLength)
  }
}

/** Where a node lies, what its checksum is, when it was made: what the entry above it says. */
export interface NodeEntry {
  readonly level: number
  readonly address: number
  /** Where the second copy is; 0: there is none. */
  readonly copy: number
  readonly birth: number
  readonly checksum: number
}

/** What the trees of a store share. */
export interface TreeOwner {
  readonly generation: number
  readonly epoch: number
  /** Clean nodes by address. */
  readonly cache: { get(address: number): Node | undefined }
  /** One more dirty node, of this level. */
  onDirty(level: number): void
}

/** Who changes a tree: what was born after `ownedAfter` is its alone, the rest it shares with a snapshot. */
export interface TreeUser {
  readonly ownedAfter: number
  /** A node that is shared is not in this tree any more. */
  letGo(node: Node): void
}

// Every word is there: slots are masked.
export const addressAt = (words: Uint32Array, word: number): number =>
  ((words[word + 1] as number) & 0xff) * 4294967296 + (words[word] as number)

/** Where the second copy of what an entry points at is; 0: there is none. */
export function copyAt(words: Uint32Array, word: number): number {
  const distance = ((words[word + 1] as number) | 0) >> COPY_SHIFT
  return distance === 0 ? 0 : addressAt(words, word) + distance
}

/** What the flags of an entry say of a second copy. */
export const copyFlags = (address: number, copy: number): number => (copy === 0 ? 0 : (copy - address) << COPY_SHIFT)

/** A block with its second copy, as one number of 64 bits. */
export function encodePlace({ address, copy }: { address: number; copy: number }): bigint {
  const words = new Uint32Array(2)
  setPlace(words, 0, address, copyFlags(address, copy))
  return (BigInt(words[1] as number) << 32n) | BigInt(words[0] as number) // there are two
}

export function decodePlace(place: bigint): { address: number; copy: number } {
  const words = Uint32Array.of(Number(place & 0xffffffffn), Number(place >> 32n))
  return { address: addressAt(words, 0), copy: copyAt(words, 0) }
}

function setPlace(words: Uint32Array, word: number, address: number, flags: number): void {
  words[word] = address >>> 0
  words[word + 1] = Math.floor(address / 4294967296) | flags
}

export function setEntry(
  words: Uint32Array,
  word: number,
  address: number,
  flags: number,
  birth: number,
  checksum: number,
): void {
  setPlace(words, word, address, flags)
  words[word + 2] = birth
  words[word + 3] = checksum
}

/** What `leaf` answers when a node has to be read first. */
export const MISSING = Symbol('missing')

export class Tree {
  readonly #owner: TreeOwner
  readonly geometry: Geometry
  height: number
  /** Entry of the root; address 0 and no dirty root: all is holes. */
  root: NodeEntry
  /** The root while it is dirty, and until the next checkpoint. */
  dirtyRoot: Node | null
  /** The leaf that was found last, while nothing has changed. */
  #lastLeaf: Node | null = null
  #lastIndex = -1

  constructor(
    owner: TreeOwner,
    geometry: Geometry,
    height: number,
    root: Omit<NodeEntry, 'level'> | null = null,
    dirtyRoot: Node | null = null,
  ) {
    this.#owner = owner
    this.geometry = geometry
    this.height = height
    this.root = { level: height - 1, address: 0, copy: 0, birth: 0, checksum: 0, ...root }
    this.dirtyRoot = dirtyRoot
  }

  /** Another tree that sees what this one does now, in constant time. The caller begins a new generation. */
  fork(): Tree {
    this.forget()
    return new Tree(this.#owner, this.geometry, this.height, this.root, this.dirtyRoot)
  }

  /** A generation has begun, or the cache was swept. */
  forget(): void {
    this.#lastLeaf = null
    this.#lastIndex = -1
  }

  /** The leaf of a block. null: all of it is holes. `MISSING`: a node has to be read first. */
  leaf(block: number): Node | null | typeof MISSING {
    const index = Math.floor(block / this.geometry.leafEntries)
    if (index === this.#lastIndex) return this.#lastLeaf
    const node = this.nodeAt(0, block)
    if (node !== null && node !== MISSING) {
      this.#lastLeaf = node
      this.#lastIndex = index
    }
    return node
  }

  /** The node of a level that stands for a block, as `leaf` has it. Levels above the root have none. */
  nodeAt(level: number, block: number): Node | null | typeof MISSING {
    if (block >= this.geometry.spanOf(this.height)) return null
    let node = this.#root()
    for (let at = this.height - 1; at > level; at -= 1) {
      if (node === null || node === MISSING) return node
      node = this.#child(node, this.geometry.slotAt(block, at))
    }
    return node
  }

  /**
   * What stands for a block at a level, without reading it: 0 for holes, the address of a node that has a place, else the node itself. Equal
   * answers of two trees of a store are equal contents. `MISSING`: a node above it has to be read first. null: the whole tree stands below
   * that level.
   */
  identityAt(level: number, block: number): Node | number | typeof MISSING | null {
    if (block >= this.geometry.spanOf(this.height)) return 0
    if (level >= this.height) return null
    if (level === this.height - 1) return this.dirtyRoot === null ? this.root.address : identityOf(this.dirtyRoot)
    const parent = this.nodeAt(level + 1, block)
    if (parent === null) return 0
    if (parent === MISSING) return MISSING
    const slot = this.geometry.slotAt(block, level + 1)
    const held = parent.children?.get(slot)
    return held ? identityOf(held) : addressAt(parent.words, slot * ENTRY_WORDS)
  }

  /** Of a block whose leaf is not there: the first block behind the largest part of the tree that is not there. */
  holeEnd(block: number): number {
    if (block >= this.geometry.spanOf(this.height)) return Number.MAX_SAFE_INTEGER
    let level = 0
    while (level + 1 < this.height && this.nodeAt(level + 1, block) === null) level += 1
    const span = this.geometry.spanOf(level + 1)
    return (Math.floor(block / span) + 1) * span
  }

  /** The topmost node on the way to a block that has to be read. null: nothing has to be. */
  missing(block: number): NodeEntry | null {
    let node = this.#root()
    // Also of a block that it does not reach to: a tree grows by what it has.
    if (node === MISSING) return this.root
    if (block >= this.geometry.spanOf(this.height)) return null
    for (let level = this.height - 1; level > 0 && node !== null; level -= 1) {
      const slot = this.geometry.slotAt(block, level)
      const child = this.#child(node, slot)
      if (child === MISSING) return entryAt(node, slot)
      node = child
    }
    return null
  }

  /** The leaf of a block for changing, made or copied as needed. All on the way to it is in memory. */
  writableLeaf(block: number, user: TreeUser): Node {
    const index = Math.floor(block / this.geometry.leafEntries)
    if (index === this.#lastIndex && this.#lastLeaf?.generation === this.#owner.generation) return this.#lastLeaf
    while (block >= this.geometry.spanOf(this.height)) this.#grow()
    const leaf = this.#writableAt(0, block, user)
    this.#lastLeaf = leaf
    this.#lastIndex = index
    return leaf
  }

  /** The node of a level that stands for a block, for changing. */
  #writableAt(wanted: number, block: number, user: TreeUser): Node {
    const root = this.#root()
    assert(root !== MISSING, 'the way to a leaf that is changed is in memory')
    let node = this.#writable(root, this.height - 1, user)
    this.dirtyRoot = node
    for (let level = this.height - 1; level > wanted; level -= 1) {
      const slot = this.geometry.slotAt(block, level)
      const child = this.#child(node, slot)
      assert(child !== MISSING, 'the way to a leaf that is changed is in memory')
      const next = this.#writable(child, level - 1, user)
      node.children ??= new Map()
      node.children.set(slot, next)
      node = next
    }
    return node
  }

  /** Takes the leaf of a block out of the tree, which cannot be read. All above it is in memory. @returns where it was. */
  dropLost(block: number, user: TreeUser): NodeEntry {
    const lost = this.missing(block)
    assert(lost?.level === 0, 'what is taken out is a leaf that is not in memory')
    if (this.height === 1) this.root = { level: 0, address: 0, copy: 0, birth: 0, checksum: 0 }
    else {
      const parent = this.#writableAt(1, block, user)
      setEntry(parent.words, this.geometry.slotAt(block, 1) * ENTRY_WORDS, 0, 0, 0, 0)
    }
    this.forget()
    return lost
  }

  /** Takes the leaf of a block, all of which is holes by now, out of the tree. @returns it: its place on disk is free. null: it stays. */
  dropLeaf(block: number, user: TreeUser): Node | null {
    if (this.height === 1) return null
    const leaf = this.writableLeaf(block, user)
    const parent = this.nodeAt(1, block)
    assert(parent !== null && parent !== MISSING, 'a leaf has a parent')
    const slot = this.geometry.slotAt(block, 1)
    parent.children?.delete(slot)
    setEntry(parent.words, slot * ENTRY_WORDS, 0, 0, 0, 0)
    this.forget()
    return leaf
  }

  #root(): Node | null | typeof MISSING {
    if (this.dirtyRoot !== null) return this.dirtyRoot
    if (this.root.address === 0) return null
    const node = this.#owner.cache.get(this.root.address)
    if (node === undefined) return MISSING
    node.used = true
    return node
  }

  #child(node: Node, slot: number): Node | null | typeof MISSING {
    const held = node.children?.get(slot)
    if (held) return held
    const address = addressAt(node.words, slot * ENTRY_WORDS)
    if (address === 0) return null
    const child = this.#owner.cache.get(address)
    if (child === undefined) return MISSING
    child.used = true
    return child
  }

  /** One level more: the old root becomes the first child. It need not be in memory: nothing on the way to a block behind it is. */
  #grow(): void {
    this.forget()
    const { generation, epoch } = this.#owner
    const { dirtyRoot: old } = this
    const { address, copy, birth, checksum } = this.root
    if (old !== null || address !== 0) {
      const root = new Node(this.height, epoch, generation)
      if (old !== null) root.children = new Map([[0, old]])
      setEntry(root.words, 0, address, copyFlags(address, copy), birth, checksum)
      this.dirtyRoot = root
      this.#owner.onDirty(root.level)
    }
    this.height += 1
    this.root = { level: this.height - 1, address: 0, copy: 0, birth: 0, checksum: 0 }
  }

  #writable(node: Node | null, level: number, user: TreeUser): Node {
    const { generation, epoch } = this.#owner
    if (node?.generation === generation) return node
    this.#owner.onDirty(level)
    if (node === null) return new Node(level, epoch, generation)
    const copy = new Node(level, epoch, generation, node.words.slice())
    if (node.children) copy.children = new Map(node.children)
    if (node.birth <= user.ownedAfter) user.letGo(node)
    // One that has no place on disk yet will never get one, and hands on what it stood for.
    else copy.replaces = node.address === 0 ? node.replaces : node
    return copy
  }
}

const identityOf = (node: Node): Node | number => (node.address === 0 ? node : node.address)

/** The entry of a child that is not held by its node. */
export function entryAt(node: Node, slot: number): NodeEntry {
  const word = slot * ENTRY_WORDS
  return {
    level: node.level - 1,
    address: addressAt(node.words, word),
    copy: copyAt(node.words, word),
    birth: node.words[word + 2] as number,
    checksum: node.words[word + 3] as number,
  }
}
