/** What the parts of an open store share. Only the modules of this folder touch it. */
import { Fault, type Clock, type Log, type Rng } from '@typevisor/base'
import type { Allocator } from './allocator.ts'
import type { Catalog, Entry } from './catalog.ts'
import { BLOCK_BYTES, GROUP_BLOCKS } from './format.ts'
import type { Journal } from './journal.ts'
import { Keyring } from './keyring.ts'
import type { Checksum, StoreFile, VolumeCrypto } from './ports.ts'
import { Node, type NodeEntry, type Tree, type TreeOwner } from './tree.ts'

export interface StoreParts {
  readonly file: StoreFile
  readonly checksum: Checksum
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** Without it there are no encrypted volumes. */
  readonly crypto?: VolumeCrypto
}

/** Clean nodes in memory: 4 KiB each, and a little. */
const CACHED_COUNT_MAX = 24_576

/** Clean nodes by address; the ones not looked at lately go first. */
export class NodeCache {
  readonly #nodes = new Map<number, Node>()
  readonly #countMax: number
  constructor(countMax = CACHED_COUNT_MAX) {
    this.#countMax = countMax
  }

  get size(): number {
    return this.#nodes.size
  }
  get(address: number): Node | undefined {
    return this.#nodes.get(address)
  }
  set(node: Node): void {
    this.#nodes.set(node.address, node)
    if (this.#nodes.size > this.#countMax) this.#sweep()
  }
  delete(address: number): void {
    this.#nodes.delete(address)
  }

  /** A clock with one hand: the map's order is the circle. */
  #sweep(): void {
    for (const [address, node] of this.#nodes) {
      this.#nodes.delete(address)
      if (node.used) {
        node.used = false
        this.#nodes.set(address, node)
      } else if (this.#nodes.size <= this.#countMax * 0.9) return
    }
  }
}

export class StoreState implements TreeOwner {
  readonly parts: StoreParts
  readonly storeId: Uint8Array
  readonly allocator: Allocator
  readonly journal: Journal
  readonly catalog: Catalog
  readonly keyring: Keyring
  readonly cache = new NodeCache()
  /** Pages of the catalog on disk: block n is slots 8n to 8n+7. */
  readonly catalogTree: Tree
  readonly catalogUser = { ownedAfter: 0, letGo: () => {} }
  /** Slots whose record on disk is not what it is now. */
  readonly changedSlots = new Set<number>()

  epoch = 1
  generation = 1
  /** Of the last checkpoint. */
  checkpointGeneration = 0
  /** About how many nodes a checkpoint would have to write. */
  dirtyNodeCount = 0
  /** With so many dirty nodes no more is taken in before a checkpoint. */
  dirtyNodeCountLimit = Infinity
  /** Blocks that are free, but on which something depends until the next flush, or the next checkpoint. */
  heldUntilSync: number[] = []
  heldUntilCheckpoint: number[] = []
  /** Groups in which something was freed that is not soon written again: their room in the file can be given back. */
  readonly emptied = new Set<number>()
  #empties = false
  /** Which home of each group's table is in force. */
  readonly #tableTurns = new Map<number, 0 | 1>()
  /** Why nothing can be written any more. The way out is to open the store anew. */
  wounded: Fault | null = null

  constructor(
    parts: StoreParts,
    made: {
      storeId: Uint8Array
      allocator: Allocator
      journal: Journal
      catalog: Catalog
      catalogTree: (owner: TreeOwner) => Tree
    },
  ) {
    this.parts = parts
    this.storeId = made.storeId
    this.allocator = made.allocator
    this.journal = made.journal
    this.catalog = made.catalog
    this.keyring = new Keyring(parts, made.catalog)
    this.catalogTree = made.catalogTree(this)
  }

  #pinCount = 0
  #pinned: number[] = []

  /** Blocks that can be used again, unless somebody reads what was there. */
  release(addresses: readonly number[]): void {
    if (this.#pinCount > 0) for (const address of addresses) this.#pinned.push(address)
    else for (const address of addresses) this.allocator.letGo(address)
  }

  /** Until it is disposed of no block is used again: whatever leads somewhere leads to what was there. */
  pin(): Disposable {
    this.#pinCount += 1
    let isOver = false
    return {
      [Symbol.dispose]: () => {
        if (isOver) return
        isOver = true
        this.#pinCount -= 1
        if (this.#pinCount > 0) return
        const released = this.#pinned
        this.#pinned = []
        this.release(released)
      },
    }
  }

  /** The home to be written next. */
  turnOf(group: number): 0 | 1 {
    return this.#tableTurns.get(group) === 0 ? 1 : 0
  }
  tableWritten(group: number): void {
    this.#tableTurns.set(group, this.turnOf(group))
  }
  tableFound(group: number, turn: 0 | 1): void {
    this.#tableTurns.set(group, turn)
  }

  onDirty(): void {
    this.dirtyNodeCount += 1
  }

  /** A new generation: nodes of before are copied before they are changed. */
  beginGeneration(): void {
    this.generation += 1
    this.catalogTree.forget()
  }

  freeData(address: number): void {
    this.allocator.free(address)
    if (this.#empties) this.emptied.add(Math.floor(address / GROUP_BLOCKS))
    this.heldUntilSync.push(address)
  }

  /** What `work` frees is not soon written again. */
  emptying<T>(work: () => T): T {
    this.#empties = true
    try {
      return work()
    } finally {
      this.#empties = false
    }
  }

  /** A block that the last checkpoint may lead to. */
  freeMetadata(address: number): void {
    this.allocator.free(address)
    this.heldUntilCheckpoint.push(address)
    this.cache.delete(address)
  }

  /** The place on disk of a node that nobody needs any more, or of the one that it took the place of. */
  freeNode(node: Node): void {
    let at: Node | null = node
    while (at !== null && at.address === 0) at = at.replaces
    if (at !== null) this.freeMetadata(at.address)
  }

  /** Stops all writing: what the disk has, or the kernel, is not known any more. */
  wound(what: string, error: unknown): Fault {
    const reason = error instanceof Error ? error.message : String(error)
    this.wounded ??= new Fault('failed', `store: ${what}: ${reason}; it can be written again when it has been opened anew`, {
      cause: error,
    })
    this.parts.log.error('store.wounded', { what, error: reason })
    return this.wounded
  }

  /** Reads a node and proves it. @returns null when that would take waiting for the disk and `mayBlock` is false. */
  readNode(entry: NodeEntry, mayBlock: boolean): Node | null {
    const content = new Uint8Array(BLOCK_BYTES)
    const position = entry.address * BLOCK_BYTES
    if (!this.parts.file.readNow(position, content, 0, BLOCK_BYTES)) {
      if (!mayBlock) return null
      this.parts.file.readBlocking(position, content, 0, BLOCK_BYTES)
    }
    return this.nodeOf(entry, content)
  }

  /** @throws Fault `failed` when the bytes are not the ones that were written. */
  nodeOf(entry: NodeEntry, content: Uint8Array): Node {
    const found = this.parts.checksum(content)
    if (found !== entry.checksum)
      throw new Fault('failed', `node at block ${entry.address}: checksum ${hex(found)}, want ${hex(entry.checksum)}`)
    const node = new Node(entry.level, entry.birth, 0, new Uint32Array(content.buffer, content.byteOffset, BLOCK_BYTES / 4))
    node.address = entry.address
    node.checksum = entry.checksum
    this.cache.set(node)
    return node
  }

  /** Brings all on the way to a block into memory. @returns false when that would take waiting and `mayBlock` is false. */
  load(tree: Tree, block: number, mayBlock: boolean): boolean {
    for (;;) {
      const missing = tree.missing(block)
      if (missing === null) return true
      if (this.readNode(missing, mayBlock) === null) return false
    }
  }

  async loadLater(tree: Tree, block: number): Promise<void> {
    for (;;) {
      const missing = tree.missing(block)
      if (missing === null) return
      const content = new Uint8Array(BLOCK_BYTES)
      await this.parts.file.read(missing.address * BLOCK_BYTES, content)
      // The block may have been freed and used again while it was read: then nothing leads to it any more.
      const still = tree.missing(block)
      if (still?.address === missing.address && still.checksum === missing.checksum) this.nodeOf(missing, content)
    }
  }

  /** The entry has changed since the last checkpoint. */
  changed(entry: Entry): void {
    this.changedSlots.add(entry.slot)
  }
}

export const lockedFault = ({ name }: Entry): Fault =>
  new Fault('conflict', `${name}: it is encrypted and locked, want its key file first (volume unlock)`)

export const hex = (value: number): string => value.toString(16).padStart(8, '0')
