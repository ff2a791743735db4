/**
 * A checkpoint: all that changed since the last one, written where nothing was, and then put in force by one superblock.
 *
 *   freeze (at once)    every dirty node, dead list and catalog page is given its place; the tables are fixed with those places in them;
 *                       a generation begins, so that what changes from now on is copied
 *   write               nodes from the leaves up, since each holds the checksums of those below; dead lists; catalog pages; tables; second
 *                       copies of the catalog and of the nodes above the leaves, as far from the first as the space that was found goes
 *   sync, superblock (twice), sync
 *   afterwards          the journal's tail moves; blocks that only the checkpoint before led to are let go
 *
 * A crash before the superblock leaves the checkpoint before with its journal. A failure of the disk wounds the store: what it has by then
 * is not known.
 */
import { assert } from '@typevisor/base'
import { HOME_COUNT, type Run } from './allocator.ts'
import { encodeEntry, type Entry, type EntryRecord } from './catalog.ts'
import {
  BLOCK_BYTES,
  CATALOG_RECORD_BYTES,
  CATALOG_RECORDS_PER_PAGE,
  COPY_DISTANCE_MAX,
  ENTRY_WORDS,
  FORMAT_VERSION,
  STORE_MAGIC,
  SUPERBLOCK,
  SUPERBLOCK_COUNT,
  TABLE_HEAD,
} from './format.ts'
import { Held } from './held.ts'
import type { JournalPlace } from './journal.ts'
import type { StoreState } from './state.ts'
import { addressAt, copyAt, copyFlags, encodePlace, PLAIN, setEntry, type Node, type Tree } from './tree.ts'

/** Blocks written by one call. */
const BATCH_COUNT = 256

interface FrozenEntry {
  readonly slot: number
  readonly record: EntryRecord | null
  readonly tree: Tree | null
  readonly height: number
  readonly rootNode: Node | null
  readonly root: Tree['root'] | null
  readonly dead: { address: number; checksum: number; count: number }
  readonly storedCount: number
  readonly isStoredExact: boolean
}

export interface Frozen {
  readonly generation: number
  readonly epoch: number
  readonly slotCount: number
  readonly place: JournalPlace
  /** From the leaves up. */
  readonly nodes: readonly Node[]
  /** Catalog pages: their slots, where they go, and the leaf entry that tells of them. */
  readonly pages: readonly { page: number; address: number; copy: number; entries: readonly (FrozenEntry | null)[] }[]
  /** Nodes of the catalog's tree, from the leaves up: written when the pages' checksums are known. */
  readonly catalogNodes: readonly Node[]
  readonly catalogRoot: Node | null
  readonly catalogHeight: number
  readonly deadBlocks: readonly { address: number; content: Uint8Array }[]
  /** Those whose table is to be written, of so many that there are. */
  readonly groups: readonly number[]
  readonly groupCount: number
  readonly releases: Held
}

export interface CheckpointOptions {
  readonly journalBlocks: number
  /** Blocks that are written before other work comes in between. */
  readonly turnBlockCount: number
  /** Gives way to other work. */
  readonly pause: () => Promise<void>
}

/** Dirty nodes below a node, children first, each once however many trees have it. Those of them that have a place are being written or are written. */
function collect(node: Node | null, into: Set<Node>): void {
  if (node === null || node.address !== 0 || into.has(node)) return
  if (node.children) for (const child of node.children.values()) collect(child, into)
  into.add(node)
}

/** Everything of a checkpoint that must be of one moment. null: there is no room for it. */
export function freeze(state: StoreState): Frozen | null {
  const { catalog, allocator, catalogTree } = state
  const slots = [...state.changedSlots].sort((a, b) => a - b)
  const dirty = new Set<Node>()
  for (const slot of slots) collect(catalog.at(slot)?.tree.dirtyRoot ?? null, dirty)
  const nodes = [...dirty]
  const deadBlockCount = slots.reduce((sum, slot) => sum + (catalog.at(slot)?.dead.blocksNeeded ?? 0), 0)
  const pages = [...new Set(slots.map((slot) => Math.floor(slot / CATALOG_RECORDS_PER_PAGE)))]
  for (const page of pages) state.load(catalogTree, page, true)
  // The catalog's own nodes: at most one a level for each page.
  const spare = pages.length * (1 + catalogTree.height + 1)
  const innerCount = nodes.reduce((sum, { level }) => sum + (level > 0 ? 1 : 0), 0)
  const least = nodes.length + deadBlockCount + spare
  const most = least + innerCount + spare
  // Better from what is set aside than no copies, and better no copies than no checkpoint.
  const runs =
    roomFor(state, most) ?? allocator.allocateSetAside(most) ?? allocator.allocateSetAside(least) ?? roomFor(state, least)
  if (!runs) return null
  if (!hasRoomForTables(state)) {
    for (const run of runs) allocator.cancel(run)
    return null
  }
  const { place, placeCopy, rest } = placesIn(runs, innerCount + spare, least)

  for (const node of nodes) {
    node.address = place()
    if (node.level > 0) node.copy = placeCopy(node.address)
    if (node.replaces) state.freeNode(node.replaces)
    node.replaces = null
  }
  const deadBlocks = slots.flatMap((slot) => {
    const dead = catalog.at(slot)?.dead
    return dead ? dead.seal(Array.from({ length: dead.blocksNeeded }, place), state.parts.checksum) : []
  })
  const frozenPages = pages.map((page) => {
    const address = place()
    const copy = placeCopy(address)
    const leaf = catalogTree.writableLeaf(page, state.catalogUser)
    const word = PLAIN.wordOf(page)
    const before = addressAt(leaf.words, word)
    if (before !== 0) state.freeMetadata(before, copyAt(leaf.words, word))
    setEntry(leaf.words, word, address, copyFlags(address, copy), state.epoch, 0)
    const entries = Array.from({ length: CATALOG_RECORDS_PER_PAGE }, (_, index) => {
      const entry = catalog.at(page * CATALOG_RECORDS_PER_PAGE + index)
      return entry && frozenEntry(entry)
    })
    return { page, address, copy, entries }
  })
  const dirtyCatalog = new Set<Node>()
  collect(catalogTree.dirtyRoot, dirtyCatalog)
  const catalogNodes = [...dirtyCatalog]
  for (const node of catalogNodes) {
    node.address = place()
    node.copy = placeCopy(node.address)
    if (node.replaces) state.freeNode(node.replaces)
    node.replaces = null
  }
  for (const address of rest()) allocator.cancel({ address, count: 1 })

  // Records before it are not looked at any more when it is in force.
  const releases = new Held()
  for (const held of [state.heldUntilCheckpoint, state.heldUntilSync, state.heldUntilMark, state.heldUntilTold])
    releases.add(held.take())
  state.changedSlots.clear()
  state.dirtyNodeCount = 0
  state.deadCount = 0
  const frozen: Frozen = {
    generation: state.checkpointGeneration + 1,
    epoch: state.epoch,
    slotCount: catalog.slotCount,
    place: state.journal.head,
    nodes,
    pages: frozenPages,
    catalogNodes,
    catalogRoot: catalogTree.dirtyRoot,
    catalogHeight: catalogTree.height,
    deadBlocks,
    groups: allocator.freeze(),
    groupCount: allocator.groupCount,
    releases,
  }
  state.beginGeneration()
  for (const entry of catalog.entries()) entry.tree.forget()
  return frozen
}

/** So many blocks, and room for them in the file: a checkpoint that has begun must not fail because something else has filled the disk. null: there is no such room. */
function roomFor({ allocator }: StoreState, count: number): Run[] | null {
  const runs = allocator.allocateAll(count)
  if (!runs || runs.every((run) => allocator.back(run))) return runs
  for (const run of runs) allocator.cancel(run)
  return null
}

/** They have had it since the first block of their group was given out; a copy of the store's file may have lost it. */
function hasRoomForTables({ allocator }: StoreState): boolean {
  for (const group of allocator.dirtyGroups)
    if (!allocator.back({ address: allocator.homeOf(group, 0), count: HOME_COUNT })) return false
  return true
}

/** Hands out the blocks of `runs`: the first copies from the front, the second ones from the back, where an entry can tell of them. */
function placesIn(
  runs: readonly Run[],
  copyCount: number,
  least: number,
): { place: () => number; placeCopy: (of: number) => number; rest: () => number[] } {
  const addresses = runs.flatMap(({ address, count }) => Array.from({ length: count }, (_, index) => address + index))
  let copiesLeft = addresses.length > least ? copyCount : 0
  let from = 0
  return {
    place: () => addresses[from++] as number, // counted by the caller
    placeCopy(of) {
      const last = addresses.at(-1)
      if (copiesLeft === 0 || last === undefined || Math.abs(last - of) > COPY_DISTANCE_MAX) return 0
      copiesLeft -= 1
      addresses.pop()
      return last
    },
    rest: () => addresses.slice(from),
  }
}

function frozenEntry(entry: Entry): FrozenEntry {
  const { tree, dead, storedCount, isStoredExact } = entry
  return {
    slot: entry.slot,
    record: entry.record,
    tree,
    height: tree.height,
    rootNode: tree.dirtyRoot,
    root: tree.root,
    dead: { ...dead.top, count: dead.count },
    storedCount,
    isStoredExact,
  }
}

/** Writes what was frozen and puts it in force. @throws Fault of the file: the store is to be wounded then. */
export async function writeCheckpoint(state: StoreState, frozen: Frozen, options: CheckpointOptions): Promise<void> {
  const { file, checksum } = state.parts
  await writeNodes(state, frozen.nodes, options)
  await writeBlocks(state, frozen.deadBlocks, options)
  const pages = frozen.pages.map((page) => ({ address: page.address, copy: page.copy, content: pageOf(page) }))
  await writeBlocks(state, pages, options, (index, sum) => {
    setPageChecksum(frozen, index, sum)
  })
  await writeNodes(state, frozen.catalogNodes, options)
  const doubledNodes = [...frozen.nodes.filter(({ level }) => level > 0), ...frozen.catalogNodes]
  const doubled = [...doubledNodes.map(({ copy, bytes }) => ({ copy, content: bytes })), ...pages]
  const copies = doubled.flatMap(({ copy, content }) => (copy === 0 ? [] : [{ address: copy, content }]))
  await writeBlocks(
    state,
    copies.toSorted((a, b) => a.address - b.address),
    options,
  )
  await writeTables(state, frozen, options)
  await file.sync()
  const superblock = superblockOf(state, frozen, options)
  superblock.set(new Uint8Array(4), SUPERBLOCK.at.checksum)
  new DataView(superblock.buffer).setUint32(SUPERBLOCK.at.checksum, checksum(superblock), true)
  const first = frozen.generation % 2 === 0 ? 0 : 2
  file.write(first * BLOCK_BYTES, [superblock, superblock])
  await file.sync()
}

/** What follows when the superblock is safe. */
export function finishCheckpoint(state: StoreState, frozen: Frozen): void {
  state.checkpointGeneration = frozen.generation
  state.allocator.thaw()
  state.release(frozen.releases)
  state.journal.moveTail(frozen.place)
  for (const { entries } of frozen.pages) for (const entry of entries) if (entry) settleRoot(entry.tree, entry.rootNode)
  settleRoot(state.catalogTree, frozen.catalogRoot)
  const seen = new Set<Node>()
  for (const { tree } of state.catalog.entries()) if (tree.dirtyRoot) letGoOfWritten(tree.dirtyRoot, seen)
}

/**
 * Nodes that were copied while the checkpoint was written hold its nodes as their children still, which are clean by now and found by their
 * addresses. Held on, every node that was ever changed would stay in memory for as long as the load goes on.
 */
function letGoOfWritten(node: Node, seen: Set<Node>): void {
  if (node.address !== 0 || node.children === null || seen.has(node)) return
  seen.add(node)
  const { children, words } = node
  for (const [slot, child] of children) {
    if (child.address === 0) letGoOfWritten(child, seen)
    else {
      pointAt(words, slot, child)
      children.delete(slot)
    }
  }
}

/** What a node says of a child that has its place and its checksum. */
function pointAt(words: Uint32Array, slot: number, { address, copy, birth, checksum }: Node): void {
  setEntry(words, slot * ENTRY_WORDS, address, copyFlags(address, copy), birth, checksum)
}

/** A root that is as it was when it was frozen is clean now: it is found by its address. */
function settleRoot(tree: Tree | null, root: Node | null): void {
  if (tree === null || root === null || tree.dirtyRoot !== root) return
  tree.root = { level: root.level, address: root.address, copy: root.copy, birth: root.birth, checksum: root.checksum }
  tree.dirtyRoot = null
  tree.forget()
}

async function writeNodes(state: StoreState, nodes: readonly Node[], options: CheckpointOptions): Promise<void> {
  const blocks = nodes.map((node) => ({ address: node.address, content: node.bytes }))
  // A node's words for its children are right only when these have their checksums.
  await writeBlocks(
    state,
    blocks,
    options,
    (index, sum) => {
      const node = nodes[index] as Node // one block a node
      node.checksum = sum
      state.cache.set(node)
    },
    (index) => {
      const node = nodes[index] as Node
      node.children?.forEach((child, slot) => {
        pointAt(node.words, slot, child)
      })
      node.children = null
    },
  )
}

async function writeBlocks(
  state: StoreState,
  blocks: readonly { address: number; content: Uint8Array }[],
  { pause, turnBlockCount }: CheckpointOptions,
  summed: (index: number, checksum: number) => void = () => {},
  prepare: (index: number) => void = () => {},
): Promise<void> {
  const { file, checksum } = state.parts
  let turn = 0
  for (let from = 0; from < blocks.length;) {
    const parts: Uint8Array[] = []
    const { address } = blocks[from] as { address: number } // it is within
    while (from < blocks.length && parts.length < BATCH_COUNT && blocks[from]?.address === address + parts.length) {
      const { content } = blocks[from] as { content: Uint8Array }
      prepare(from)
      summed(from, checksum(content))
      parts.push(content)
      from += 1
    }
    file.write(address * BLOCK_BYTES, parts)
    // Not behind each run: in a store that is in use most runs are of one block, and a checkpoint would last for as many turns as it has nodes.
    turn += parts.length
    if (turn < turnBlockCount && from < blocks.length) continue
    turn = 0
    await pause()
  }
}

const NO_ROOT = { address: 0, copy: 0, birth: 0, checksum: 0 }

function pageOf({ entries }: Frozen['pages'][number]): Uint8Array {
  const content = new Uint8Array(BLOCK_BYTES)
  for (const [index, entry] of entries.entries()) {
    if (!entry?.record) continue
    const { rootNode, root } = entry
    const at = rootNode ?? root
    const encoded = encodeEntry(entry.record, {
      tree: { height: entry.height, root: at ?? NO_ROOT },
      dead: { top: entry.dead, count: entry.dead.count },
      storedCount: entry.storedCount,
      isStoredExact: entry.isStoredExact,
    })
    content.set(encoded, index * CATALOG_RECORD_BYTES)
  }
  return content
}

/** The catalog's leaves learn the checksum of a page that has been encoded. */
function setPageChecksum(frozen: Frozen, index: number, sum: number): void {
  const { page, address } = frozen.pages[index] as Frozen['pages'][number] // one block a page
  const word = PLAIN.wordOf(page)
  const leaf = frozen.catalogNodes.find((node) => node.level === 0 && addressAt(node.words, word) === address)
  assert(leaf !== undefined, 'the leaf of a page that is written is written')
  leaf.words[word + 3] = sum
}

async function writeTables(state: StoreState, frozen: Frozen, { pause }: CheckpointOptions): Promise<void> {
  const { file, checksum } = state.parts
  for (const group of frozen.groups) {
    const content = new Uint8Array(BLOCK_BYTES)
    TABLE_HEAD.encode({ generation: BigInt(frozen.generation), checksum: 0, group }, content)
    const table = state.allocator.frozenTable(group)
    content.set(new Uint8Array(table.buffer, table.byteOffset, table.byteLength), TABLE_HEAD.sizeBytes)
    new DataView(content.buffer).setUint32(TABLE_HEAD.at.checksum, checksum(content), true)
    const turn = state.turnOf(group)
    file.write(state.allocator.homeOf(group, turn) * BLOCK_BYTES, [content])
    state.tableIs(group, turn, frozen.generation)
    await pause()
  }
}

function superblockOf(state: StoreState, frozen: Frozen, options: CheckpointOptions): Uint8Array {
  const { catalogRoot } = frozen
  const { root } = state.catalogTree
  const at = catalogRoot ?? root
  return SUPERBLOCK.encode(
    {
      magic: STORE_MAGIC,
      version: FORMAT_VERSION,
      checksum: 0,
      storeId: state.storeId,
      generation: BigInt(frozen.generation),
      epoch: frozen.epoch,
      slotCount: frozen.slotCount,
      journalBlock: SUPERBLOCK_COUNT,
      journalBlocks: options.journalBlocks,
      journalOffset: BigInt(frozen.place.offset),
      journalSequence: BigInt(frozen.place.sequence),
      journalChain: frozen.place.chain,
      groupCount: frozen.groupCount,
      catalogAddress: encodePlace(at),
      catalogBirth: at.birth,
      catalogChecksum: at.checksum,
      catalogHeight: frozen.catalogHeight,
      tablesSum: state.tablesSum,
    },
    new Uint8Array(BLOCK_BYTES),
  )
}
