/** What the parts of an open store share. Only the modules of this folder touch it. */
import { Fault, toFault, type Clock, type Log, type Rng } from '@typevisor/base'
import type { Allocator } from './allocator.ts'
import type { Catalog, Entry } from './catalog.ts'
import { BLOCK_BYTES, GROUP_BLOCKS, TABLE_NAME } from './format.ts'
import { Held } from './held.ts'
import type { Journal } from './journal.ts'
import { Keyring } from './keyring.ts'
import type { Checksum, Compressor, StoreFile, VolumeCrypto } from './ports.ts'
import { Node, type NodeEntry, type Tree, type TreeOwner } from './tree.ts'
import { UnitCache } from './units.ts'

export interface StoreParts {
  readonly file: StoreFile
  readonly checksum: Checksum
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** Without it there are no encrypted volumes. */
  readonly crypto?: VolumeCrypto
  /** Without it there are no compressed ones. */
  readonly compressor?: Compressor
}

/** A block, its second copy (0: none), and what it must be. */
export interface ProvenPlace {
  readonly address: number
  readonly copy: number
  readonly checksum: number
}

/** Clean nodes in memory: 4 KiB each, and a little. */
const CACHED_COUNT_MAX = 24_576

/** Losses that are told in the log, of one opening. */
const LOST_TOLD_MAX = 20

/** Clean nodes by address; the ones not looked at lately go first. */
export class NodeCache {
  readonly #nodes = new Map<number, Node>()
  readonly #countMax: number
  #keeperCount = 0
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
    this.#sweepIfFull()
  }

  /** Until it is disposed of nothing goes. */
  keep(): Disposable {
    this.#keeperCount += 1
    return {
      [Symbol.dispose]: () => {
        this.#keeperCount -= 1
        this.#sweepIfFull()
      },
    }
  }

  #sweepIfFull(): void {
    if (this.#keeperCount === 0 && this.#nodes.size > this.#countMax) this.#sweep()
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
  readonly units = new UnitCache()
  /** Pages of the catalog on disk: block n is slots 8n to 8n+7. */
  readonly catalogTree: Tree
  readonly catalogUser = { ownedAfter: 0, letGo: () => {} }
  /** Slots whose record on disk is not what it is now. */
  readonly changedSlots = new Set<number>()

  epoch = 1
  generation = 1
  /** Of the last checkpoint. */
  checkpointGeneration = 0
  /** About how many blocks of nodes a checkpoint would have to write. */
  dirtyNodeCount = 0
  /** Entries of dead lists in memory, but for those of dirty nodes: with `dirtyNodeCount` more there are not. */
  deadCount = 0
  /** Of writes that are taken in and not done yet: their blocks, and what a checkpoint writes for the nodes on the way to them at most. */
  stagedBlockCount = 0
  stagedNodeBlockCount = 0
  /** With so many dirty nodes no more is taken in before a checkpoint. */
  dirtyNodeCountLimit = Infinity
  /** How often something could not be done since what it needs is damaged: some blocks count as in use that nobody has any more. */
  lostCount = 0
  /** Blocks that were found damaged and written again from their second copy. */
  mendedCount = 0
  /** Blocks that are free, but on which something depends until the next flush, or the next checkpoint. */
  readonly heldUntilSync = new Held()
  /** The record that freed them is safe. That must be known to recovery, which else looks for what was there: until a mark that says so is safe too. */
  readonly heldUntilMark = new Held()
  readonly heldUntilTold = new Held()
  readonly heldUntilCheckpoint = new Held()
  /** Groups in which something is free that is not soon written again: their room in the file can be given back. */
  readonly emptied = new Set<number>()
  #empties = false
  /** Which home of each group's table is in force, and which checkpoint wrote it. */
  readonly #tables = new Map<number, { turn: 0 | 1; generation: number }>()
  /** Of all that are in force, for the superblock. */
  tablesSum = 0
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
  readonly #pinned = new Held()

  /** Blocks that can be used again, unless somebody reads what was there. */
  release(held: Held): void {
    if (this.#pinCount > 0) {
      this.#pinned.add(held)
      return
    }
    for (const block of held.blocks) this.allocator.letGo(block)
    for (const group of held.groups) this.emptied.add(group)
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
        this.release(this.#pinned.take())
      },
    }
  }

  /** The home to be written next. */
  turnOf(group: number): 0 | 1 {
    return this.#tables.get(group)?.turn === 0 ? 1 : 0
  }
  /** Of a group's table, the one of this checkpoint is in force, in this home. */
  tableIs(group: number, turn: 0 | 1, generation: number): void {
    const before = this.#tables.get(group)
    if (before) this.tablesSum ^= this.#tableSum(group, before.generation)
    this.tablesSum = (this.tablesSum ^ this.#tableSum(group, generation)) >>> 0
    this.#tables.set(group, { turn, generation })
  }
  #tableSum(group: number, generation: number): number {
    return this.parts.checksum(TABLE_NAME.encode({ generation: BigInt(generation), group }, new Uint8Array(TABLE_NAME.sizeBytes)))
  }

  onDirty(level: number): void {
    this.dirtyNodeCount += level > 0 ? 2 : 1
  }

  /** A new generation: nodes of before are copied before they are changed. */
  beginGeneration(): void {
    this.generation += 1
    this.catalogTree.forget()
  }

  freeData(address: number): void {
    this.allocator.free(address)
    if (this.#empties) this.heldUntilSync.pushGroup(Math.floor(address / GROUP_BLOCKS))
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

  /** A block that the last checkpoint may lead to, with its second copy. */
  freeMetadata(address: number, copy = 0): void {
    for (const block of copy === 0 ? [address] : [address, copy]) {
      this.allocator.free(block)
      this.heldUntilCheckpoint.push(block)
    }
    this.cache.delete(address)
  }

  /** A block that counts as in use and that nothing leads to: nobody knows whether it was ever written. */
  freeLeaked(block: number): void {
    this.allocator.free(block, false)
    this.heldUntilCheckpoint.push(block)
    this.cache.delete(block)
  }

  /** The place on disk of a node that nobody needs any more, or of the one that it took the place of. */
  freeNode(node: Node): void {
    let at: Node | null = node
    while (at !== null && at.address === 0) at = at.replaces
    if (at !== null) this.freeMetadata(at.address, at.copy)
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
    if (mayBlock) return this.nodeOf(entry, this.readProven(entry, 'node'))
    const content = new Uint8Array(BLOCK_BYTES)
    let unread: unknown
    try {
      if (!this.parts.file.readNow(entry.address * BLOCK_BYTES, content, 0, BLOCK_BYTES)) return null
    } catch (error) {
      unread = error
    }
    return this.nodeOf(entry, content, unread)
  }

  /** `content` is what was read, unless `unread` says why it could not be; if it is not what was written, the second copy is. @throws Fault `failed` when neither is. */
  nodeOf(entry: NodeEntry, content: Uint8Array, unread?: unknown): Node {
    const { buffer, byteOffset } = this.proven(entry, content, 'node', unread)
    const node = new Node(entry.level, entry.birth, 0, new Uint32Array(buffer, byteOffset, BLOCK_BYTES / 4))
    node.address = entry.address
    node.copy = entry.copy
    node.checksum = entry.checksum
    this.cache.set(node)
    return node
  }

  /** A block whose checksum is known. @throws Fault `failed` when neither of its copies can be read and is what was written. */
  readProven(place: ProvenPlace, what: string): Uint8Array {
    const content = new Uint8Array(BLOCK_BYTES)
    let unread: unknown
    try {
      this.parts.file.readBlocking(place.address * BLOCK_BYTES, content, 0, BLOCK_BYTES)
    } catch (error) {
      unread = error
    }
    return this.proven(place, content, what, unread)
  }

  /** `content`, if it was read and is what was written; else what the second copy has, and the first is written anew. */
  proven(place: ProvenPlace, content: Uint8Array, what: string, unread?: unknown): Uint8Array {
    const { file, checksum } = this.parts
    const found = unread === undefined ? checksum(content) : null
    if (found === place.checksum) return content
    const reason = found === null ? toFault(unread).message : `checksum ${hex(found)}, want ${hex(place.checksum)}`
    const fault = new Fault(
      'failed',
      `${what} at block ${place.address}: ${reason}${place.copy === 0 ? '' : `; nor is its copy at ${place.copy} whole`}`,
      { cause: unread },
    )
    if (place.copy === 0) throw fault
    const second = new Uint8Array(BLOCK_BYTES)
    try {
      file.readBlocking(place.copy * BLOCK_BYTES, second, 0, BLOCK_BYTES)
    } catch {
      throw fault
    }
    if (checksum(second) !== place.checksum) throw fault
    this.mend(place.address, second, what)
    return second
  }

  /** Writes a block again that was found damaged, as it was. */
  mend(address: number, content: Uint8Array, what: string): void {
    const { file, log } = this.parts
    this.mendedCount += 1
    try {
      if (!this.wounded) file.write(address * BLOCK_BYTES, [content])
      log.warn('store.mended', { what, block: address })
    } catch (error) {
      log.warn('store.not_mended', { what, block: address, error: toFault(error).message })
    }
  }

  /** Brings all on the way to a block into memory. @returns false when that would take waiting and `mayBlock` is false. */
  load(tree: Tree, block: number, mayBlock: boolean): boolean {
    for (;;) {
      const missing = tree.missing(block)
      if (missing === null) return true
      if (this.readNode(missing, mayBlock) === null) return false
    }
  }

  /** For records of the journal: they are to be done, whatever has become of the tree. @returns false when the way to the block is lost. */
  loadUnlessLost(entry: Entry, block: number): boolean {
    try {
      return this.load(entry.tree, block, true)
    } catch (error) {
      this.lost(entry.name, error)
      entry.isStoredExact = false
      return false
    }
  }

  /**
   * The end of what may take the place of the leaf that begins at `block`: it is lost, and the blocks before `end` are all of it that the volume
   * has. null: it can be read, or is not covered, or what is lost is above it.
   */
  lostLeafEnd({ tree, record }: Entry, block: number, end: number): number | null {
    const leafEnd = Math.min(tree.geometry.leafEnd(block), record.sizeBytes / BLOCK_BYTES)
    if (block % tree.geometry.leafEntries !== 0 || end < leafEnd || block >= tree.geometry.spanOf(tree.height)) return null
    try {
      this.load(tree, block, true)
    } catch {
      return tree.missing(block)?.level === 0 ? leafEnd : null
    }
    return null
  }

  /** Something is damaged in both of its copies, or has one only, and work goes on without it. */
  lost(what: string, error: unknown): void {
    this.lostCount += 1
    if (this.lostCount <= LOST_TOLD_MAX) this.parts.log.error('store.damaged', { what, error: toFault(error).message })
  }

  async loadLater(tree: Tree, block: number): Promise<void> {
    while (await this.loadNext(tree, block));
  }

  /** Reads the topmost node on the way to a block that is not in memory. @returns whether there was one. */
  async loadNext(tree: Tree, block: number): Promise<boolean> {
    const missing = tree.missing(block)
    if (missing === null) return false
    const content = new Uint8Array(BLOCK_BYTES)
    let unread: unknown
    await this.parts.file.read(missing.address * BLOCK_BYTES, content).catch((error: unknown) => {
      unread = error
    })
    // The block may have been freed and used again while it was read: then nothing leads to it any more.
    const still = tree.missing(block)
    if (still?.address === missing.address && still.checksum === missing.checksum) this.nodeOf(missing, content, unread)
    return true
  }

  /** The entry has changed since the last checkpoint. */
  changed(entry: Entry): void {
    this.changedSlots.add(entry.slot)
  }
}

/** `how`: the caller can give its key file. */
export const lockedFault = (
  { name }: { readonly name: string },
  how: 'volume unlock' | '--key-file FILE' = 'volume unlock',
): Fault => new Fault('conflict', `${name}: it is encrypted and locked, want its key file first (${how})`)

export const hex = (value: number): string => value.toString(16).padStart(8, '0')
