/**
 * Goes through everything that a store leads to: is each block what it should be, and is the table of free blocks right?
 *
 * A block that cannot be read or proven is damage, and what it would lead to is not known; then the table is only ever found to have too few
 * blocks in use, never too many.
 */
import { toFault } from '@typevisor/base'
import { opensAt } from './blocks.ts'
import type { Entry } from './catalog.ts'
import { openDeadBlock } from './dead-list.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE } from './format.ts'
import type { BlockCipher } from './ports.ts'
import { hex, type ProvenPlace, type StoreState } from './state.ts'
import { addressAt, copyAt, entryAt, type Geometry, type Node, type NodeEntry, type Tree } from './tree.ts'

export interface CheckProgress {
  readonly nodeCount: number
  readonly dataCount: number
  /** About how many blocks there are to be looked at. */
  readonly usedCount: number
}

export interface CheckOptions {
  /** Every block of data is read and proven; without it nodes and tables only. */
  readonly readsData: boolean
  /** Of data and nodes; left out: as fast as it goes. */
  readonly bytesPerSecondMax?: number
  /** Milliseconds; 0 gives way to other work. */
  readonly sleep: (ms: number) => Promise<void>
  readonly onProgress?: (done: CheckProgress) => void
}

export interface CheckReport {
  readonly nodeCount: number
  readonly dataCount: number
  /** In words: what is wrong, and where. */
  readonly damage: readonly string[]
  /** Blocks in use that nothing leads to: true only of a store on which nothing else works. */
  readonly leaked: readonly number[]
  /** Blocks that something leads to and that count as free: likewise. */
  readonly missing: readonly number[]
}

const DAMAGE_COUNT_MAX = 1000
/** Blocks between two rests. */
const PACE_COUNT = 64

/** Whose tree is gone through. */
interface Owner {
  readonly name: string
  readonly geometry: Geometry
  /** What is before it is gone already. */
  readonly fromBlock: number
  readonly isCatalog: boolean
  /** Of an encrypted volume that is unlocked: its blocks are proven to be those that were sealed, too. */
  readonly cipher: BlockCipher | null
}

export async function checkStore(state: StoreState, options: CheckOptions): Promise<CheckReport> {
  const check = new Check(state, options)
  return check.run()
}

class Check {
  readonly #state: StoreState
  readonly #options: CheckOptions
  readonly #reached: Uint8Array
  readonly #seen = new Set<Node>()
  #nodeCount = 0
  #dataCount = 0
  #pacedCount = 0
  readonly damage: string[] = []

  constructor(state: StoreState, options: CheckOptions) {
    this.#state = state
    this.#options = options
    this.#reached = new Uint8Array(Math.ceil((state.allocator.blockCount + 1) / 8))
  }

  async run(): Promise<CheckReport> {
    const { allocator, catalog, catalogTree } = this.#state
    for (let block = 0; block < allocator.firstBlock; block += 1) this.#reach(block)
    for (let group = 0; group < allocator.groupCount; group += 1)
      for (const turn of [0, 1] as const) this.#reach(allocator.homeOf(group, turn))
    const catalogOwner = { name: 'catalog', geometry: catalogTree.geometry, fromBlock: 0, isCatalog: true, cipher: null }
    await this.#tree(catalogTree, catalogOwner)
    for (const entry of catalog.entries()) {
      const { kind, children, record } = entry
      const name = entry.name === '' ? `deleted entry ${entry.slot}` : entry.name
      // Of one that is merged into its child only the child's tree and dead list tell what is left.
      if (kind === 'dying' && children.size > 0 && record.cursor > 0) continue
      const { tree, cipher } = entry
      const fromBlock = kind === 'dying' ? record.cursor : 0
      await this.#tree(tree, { name, geometry: tree.geometry, fromBlock, isCatalog: false, cipher })
    }
    // Behind all trees: what is reached here is not looked into.
    for (const entry of catalog.entries()) this.#deadList(entry)
    const leaked: number[] = []
    const missing: number[] = []
    for (let block = 0; block < allocator.blockCount; block += 1) {
      const isReached = this.#isReached(block)
      const isUsed = allocator.isUsed(block)
      if (isUsed && !isReached) leaked.push(block)
      if (isReached && !isUsed) missing.push(block)
    }
    return { nodeCount: this.#nodeCount, dataCount: this.#dataCount, damage: this.damage, leaked, missing }
  }

  async #tree(tree: Tree, owner: Owner): Promise<void> {
    if (tree.dirtyRoot) await this.#node(tree.dirtyRoot, owner, 0)
    else if (tree.root.address !== 0) await this.#entry({ ...tree.root, level: tree.height - 1 }, owner, 0)
  }

  async #entry(entry: NodeEntry, owner: Owner, first: number): Promise<void> {
    // Trees share whole parts: each is looked at once.
    const wasReached = this.#isReached(entry.address)
    this.#reach(entry.address)
    if (entry.copy !== 0) this.#reach(entry.copy)
    if (wasReached) return
    let node: Node
    try {
      const content = this.#state.readProven(entry, 'node')
      node = this.#state.nodeOf(entry, content)
      this.#copy(entry, content, 'node')
    } catch (error) {
      const last = first + owner.geometry.spanOf(entry.level + 1) - 1
      this.#found(`${owner.name}: node of blocks ${first} to ${last}: ${toFault(error).message}`)
      return
    }
    await this.#node(node, owner, first)
  }

  async #node(node: Node, owner: Owner, first: number): Promise<void> {
    if (this.#seen.has(node)) return
    this.#seen.add(node)
    this.#nodeCount += 1
    // The place of the version before it is in use until this one is written.
    for (let at: Node | null = node; at; at = at.replaces)
      for (const block of [at.address, at.copy]) if (block !== 0) this.#reach(block)
    await this.#pace()
    const { geometry, fromBlock } = owner
    if (node.level === 0) {
      for (let block = Math.max(first, fromBlock); block < first + geometry.leafEntries; block += 1)
        if (addressAt(node.words, geometry.wordOf(block)) !== 0) await this.#data(node, owner, block)
      return
    }
    const part = geometry.spanOf(node.level)
    for (let slot = 0; slot < ENTRIES_PER_NODE; slot += 1) {
      const at = first + slot * part
      if (at + part <= fromBlock) continue
      const child = node.children?.get(slot)
      const entry = entryAt(node, slot)
      if (child) await this.#node(child, owner, at)
      else if (entry.address !== 0) await this.#entry(entry, owner, at)
    }
  }

  async #data(node: Node, owner: Owner, block: number): Promise<void> {
    const { name, geometry, isCatalog } = owner
    const word = geometry.wordOf(block)
    const address = addressAt(node.words, word)
    if (address === 0) return
    const wasReached = this.#isReached(address)
    this.#reach(address)
    const copy = isCatalog ? copyAt(node.words, word) : 0
    if (copy !== 0) this.#reach(copy)
    if (wasReached) return
    this.#dataCount += 1
    // As it is now: it may change while the block is read.
    const entry = node.words.slice(word, word + geometry.entryWords)
    const want = entry[3] as number // it has four words at least
    if (isCatalog) {
      // A page that a checkpoint is writing has its checksum when it is written.
      if (want !== 0) this.#page({ address, copy, checksum: want }, block)
      return
    }
    if (!this.#options.readsData) return
    try {
      const content = new Uint8Array(BLOCK_BYTES)
      const { file } = this.#state.parts
      const position = address * BLOCK_BYTES
      if (!file.readNow(position, content, 0, BLOCK_BYTES)) await file.read(position, content)
      await this.#pace()
      const found = this.#state.parts.checksum(content)
      if (found !== want)
        this.#found(`${name} at ${block * BLOCK_BYTES}: block ${address} has checksum ${hex(found)}, want ${hex(want)}`)
      else if (owner.cipher && !opensAt(owner, entry, 0, block, content, 0))
        this.#found(`${name} at ${block * BLOCK_BYTES}: block ${address} is not what was sealed there`)
    } catch (error) {
      this.#found(`${name} at ${block * BLOCK_BYTES}: block ${address} cannot be read: ${toFault(error).message}`)
    }
  }

  #page(place: ProvenPlace, page: number): void {
    try {
      this.#copy(place, this.#state.readProven(place, `page ${page}`), `page ${page}`)
    } catch (error) {
      this.#found(`catalog: ${toFault(error).message}`)
    }
  }

  /** The first copy is good; is the second? */
  #copy({ copy, checksum }: ProvenPlace, content: Uint8Array, what: string): void {
    const { file, checksum: sum } = this.#state.parts
    // While a checkpoint is written, second copies come after the first.
    if (copy === 0 || this.#state.allocator.isFrozen) return
    const second = new Uint8Array(BLOCK_BYTES)
    try {
      file.readBlocking(copy * BLOCK_BYTES, second, 0, BLOCK_BYTES)
    } catch {
      // It is written again, then, as one with a wrong byte is.
    }
    if (sum(second) !== checksum) this.#state.mend(copy, content, `second copy of ${what}`)
  }

  /** After each block: gives way now and then, and waits where it would be faster than it may. */
  async #pace(): Promise<void> {
    this.#pacedCount += 1
    if (this.#pacedCount % PACE_COUNT !== 0) return
    const { sleep, bytesPerSecondMax, onProgress } = this.#options
    const { allocator } = this.#state
    onProgress?.({ nodeCount: this.#nodeCount, dataCount: this.#dataCount, usedCount: allocator.usedCount })
    await sleep(bytesPerSecondMax ? (1000 * PACE_COUNT * BLOCK_BYTES) / bytesPerSecondMax : 0)
  }

  #deadList(entry: Entry): void {
    for (const dead of entry.dead.entries) this.#reachDead(dead.node ?? dead)
    for (let top = entry.dead.top; top.address !== 0;) {
      this.#reach(top.address)
      try {
        const content = this.#state.readProven({ ...top, copy: 0 }, 'dead list')
        const { entries, previous } = openDeadBlock(content)
        for (const dead of entries) this.#reachDead(dead)
        top = previous
      } catch (error) {
        this.#found(`${entry.name}: ${toFault(error).message}`)
        return
      }
    }
  }

  #reachDead({ address, copy }: { address: number; copy: number }): void {
    for (const block of [address, copy]) if (block !== 0) this.#reach(block)
  }

  #found(words: string): void {
    if (this.damage.length < DAMAGE_COUNT_MAX) this.damage.push(words)
  }
  #reach(block: number): void {
    this.#reached[block >>> 3] = (this.#reached[block >>> 3] ?? 0) | (1 << (block & 7))
  }
  #isReached(block: number): boolean {
    return ((this.#reached[block >>> 3] ?? 0) & (1 << (block & 7))) !== 0
  }
}
