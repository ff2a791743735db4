/**
 * What a record of the journal does to the store. Live operations and recovery both come through here, so that what was done once is done
 * again in the same way. Everything that is needed is in memory, or is read with all standing still.
 */
import { assert } from '@typevisor/base'
import { Entry, geometryOf, type EntryRecord } from './catalog.ts'
import { DeadList } from './dead-list.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE, ENTRY_WORDS, FLAG_ZERO, SIV_WORDS } from './format.ts'
import type { StoreState } from './state.ts'
import { cutsPackedUnit } from './units.ts'
import { addressAt, MISSING, NODE_WORDS, setEntry, Tree, type Node, type TreeUser } from './tree.ts'

/** Who changes an entry's tree. */
export class EntryUser implements TreeUser {
  readonly #entry: Entry
  constructor(entry: Entry) {
    this.#entry = entry
  }
  get ownedAfter(): number {
    return this.#entry.ownedAfter
  }
  letGo(node: Node): void {
    this.#entry.dead.pushNode(node)
  }
}

const users = new WeakMap<Entry, EntryUser>()
export function userOf(entry: Entry): EntryUser {
  const known = users.get(entry) ?? new EntryUser(entry)
  users.set(entry, known)
  return known
}

/** Blocks of one volume that lie one behind the other, there and on disk. */
export interface WrittenExtent {
  readonly first: number
  /** 0: they have none: holes, or the rest of a packed unit. */
  readonly address: number
  readonly count: number
  /** Of their entries. */
  readonly flags: number
}

/** What stands in the journal of each block that was written, in order. */
export interface BlockProofs {
  readonly checksums: ArrayLike<number>
  /** Four words a block; null: the volume is not encrypted. */
  readonly sivs: Uint32Array | null
}

/** Points the volume's blocks at where they have been written. Their proofs are those from `from` on. */
export function applyWrite(state: StoreState, entry: Entry, extent: WrittenExtent, proofs: BlockProofs, from: number): void {
  const user = userOf(entry)
  const { tree } = entry
  const { entryWords } = tree.geometry
  const { checksums, sivs } = proofs
  assert((sivs !== null) === tree.geometry.isSealed, 'blocks of an encrypted volume have SIVs, and no others')
  const { epoch } = state
  const { address, flags } = extent
  // The rest of a packed unit was born with it.
  const birth = address === 0 && flags === 0 ? 0 : epoch
  if (entry.isCompressed) state.units.forget(entry, extent.first, extent.count)
  if (address !== 0) entry.storedCount += extent.count
  for (let done = 0; done < extent.count;) {
    const block = extent.first + done
    const leaf = tree.writableLeaf(block, user)
    for (let word = tree.geometry.wordOf(block); word < NODE_WORDS && done < extent.count; word += entryWords, done += 1) {
      letGoOfBlock(state, entry, leaf.words, word)
      if (address === 0) setEntry(leaf.words, word, 0, flags, birth, 0)
      else setEntry(leaf.words, word, address + done, flags, birth, checksums[from + done] as number)
      if (sivs)
        for (let index = 0; index < SIV_WORDS; index += 1)
          leaf.words[word + ENTRY_WORDS + index] = address === 0 ? 0 : (sivs[(from + done) * SIV_WORDS + index] as number) // one a block
    }
  }
  state.changed(entry)
}

/** The block that an entry points at is not in this tree any more. */
function letGoOfBlock(state: StoreState, entry: Entry, words: Uint32Array, word: number): void {
  const address = addressAt(words, word)
  if (address === 0) return
  entry.storedCount -= 1
  const birth = words[word + 2] as number
  if (birth > entry.ownedAfter) state.freeData(address)
  else {
    entry.dead.pushBlock(address, birth)
    state.deadCount += 1
  }
}

/** The most blocks that one step of a trim goes over: what it does stands still for. */
export const TRIM_STEP_BLOCKS = 64 * ENTRIES_PER_NODE

/** Makes holes, or zeros that keep their place. */
export function applyTrim(state: StoreState, entry: Entry, first: number, count: number, keepsPlace: boolean): void {
  const user = userOf(entry)
  const { geometry } = entry.tree
  const end = first + count
  if (entry.isCompressed) state.units.forget(entry, first, count)
  for (let block = first; block < end;) {
    const leafEnd = Math.min(end, geometry.leafEnd(block))
    if (state.lostLeafEnd(entry, block, end) !== null) dropLost(state, entry, block)
    else if (!state.loadUnlessLost(entry, block)) {
      block = leafEnd
      continue
    }
    assert(!entry.isCompressed || !cutsPackedUnit(state, entry, block, leafEnd - block), 'a unit that is packed stays whole')
    const found = entry.tree.leaf(block)
    if (
      keepsPlace ||
      (found !== null && found !== MISSING && hasEntries(found, geometry.wordOf(block), (leafEnd - block) * geometry.entryWords))
    ) {
      const leaf = entry.tree.writableLeaf(block, user)
      for (let each = block; each < leafEnd; each += 1) {
        const word = geometry.wordOf(each)
        letGoOfBlock(state, entry, leaf.words, word)
        if (geometry.isSealed) leaf.words.fill(0, word + ENTRY_WORDS, word + ENTRY_WORDS + SIV_WORDS)
        setEntry(leaf.words, word, 0, keepsPlace ? FLAG_ZERO : 0, keepsPlace ? state.epoch : 0, 0)
      }
      if (!keepsPlace && leaf.words.every((word) => word === 0)) {
        const dropped = entry.tree.dropLeaf(block, user)
        if (dropped) state.freeNode(dropped)
      }
    }
    block = leafEnd
  }
  state.changed(entry)
}

/** What a lost leaf led to stays in use, until a check finds that nobody has it; its own place is let go of like any node's. */
function dropLost(state: StoreState, entry: Entry, block: number): void {
  const { address, copy, birth } = entry.tree.dropLost(block, userOf(entry))
  if (birth > entry.ownedAfter) state.freeMetadata(address, copy)
  else {
    entry.dead.push({ address, copy, birth, node: null, isNode: true })
    state.deadCount += 1
  }
  entry.isStoredExact = false
  state.parts.log.warn('store.lost_replaced', { volume: entry.name, block, address })
}

function hasEntries({ words }: Node, fromWord: number, wordCount: number): boolean {
  for (let word = fromWord; word < fromWord + wordCount; word += 1) if (words[word] !== 0) return true
  return false
}

export interface CatalogChange {
  readonly slot: number
  readonly record: EntryRecord
  /** Whose tree it begins with, as that is now; -1: it keeps its own. */
  readonly forkOf: number
  /** Whose dead list it takes over, leaving an empty one; -1: it keeps its own. */
  readonly deadListOf: number
}

export function applyCatalog(state: StoreState, epoch: number, changes: readonly CatalogChange[]): void {
  const { catalog } = state
  for (const { slot, record, forkOf, deadListOf } of changes) {
    let entry = catalog.at(slot)
    if (!entry) {
      entry = new Entry(
        slot,
        { ...record, name: '', parent: -1 },
        new Tree(state, geometryOf(record), geometryOf(record).heightFor(record.sizeBytes / BLOCK_BYTES)),
        new DeadList(),
      )
      catalog.put(entry)
    }
    if (forkOf >= 0) {
      const from = catalog.need(forkOf)
      entry.tree = from.tree.fork()
      entry.storedCount = from.storedCount
      entry.isStoredExact = from.isStoredExact
      state.units.clear()
    }
    if (deadListOf >= 0) {
      const from = catalog.need(deadListOf)
      entry.dead = from.dead
      from.dead = new DeadList()
      state.changed(from)
    }
    catalog.change(entry, record)
    entry.cipher = state.keyring.cipherFor(record.key)
    state.changed(entry)
  }
  if (epoch === state.epoch && changes.every(({ forkOf }) => forkOf < 0)) return
  state.epoch = epoch
  state.beginGeneration()
  for (const { slot } of changes) catalog.at(slot)?.tree.forget()
}

/**
 * A step of the collector on an entry that is dying, of at most `count` entries of a dead list, or as much work on a tree.
 *
 *   one child      the child's dead list is gone through: what was born after the grandparent is nobody's; the rest is the list of both
 *   no child       the tree is gone through: what the entry owns is nobody's; then its dead list is forgotten
 *
 * The entry's tree is clean: none of its nodes will be written any more.
 *
 * @returns whether the entry is gone by it.
 */
export function applyReap(state: StoreState, entry: Entry, count: number): boolean {
  assert(entry.kind === 'dying' && entry.children.size <= 1, 'what is collected is dying, and has one child at most')
  state.changed(entry)
  const child = [...entry.children][0]
  return child ? mergeStep(state, entry, child, count) : treeStep(state, entry, count)
}

/** Going over a leaf, or past a part that is not there, costs as much as so many entries of a dead list. */
const PART_COST = 64

function mergeStep(state: StoreState, entry: Entry, child: Entry, count: number): boolean {
  state.changed(child)
  // Says that this has begun: the child then waits until it is done.
  if (entry.record.cursor === 0) state.catalog.change(entry, { ...entry.record, cursor: 1 })
  const ownedAfter = entry.ownedAfter
  for (let done = 0; done < count; done += 1) {
    const dead = popDead(state, child.dead)
    if (!dead) {
      // All of it is gone through. The child goes on from the grandparent.
      child.dead = entry.dead
      entry.dead = new DeadList()
      state.catalog.change(child, { ...child.record, parent: entry.record.parent })
      state.catalog.change(entry, { ...entry.record, kind: 'none', name: '', parent: -1 })
      return true
    }
    if (dead.birth <= ownedAfter) {
      entry.dead.push(dead)
      state.deadCount += 1
    } else if (dead.node) state.freeNode(dead.node)
    else if (dead.isNode) state.freeMetadata(dead.address, dead.copy)
    else state.freeData(dead.address)
  }
  return false
}

function popDead(state: StoreState, dead: DeadList): ReturnType<DeadList['pop']> {
  const entry = popInMemory(state, dead)
  if (entry || dead.top.address === 0) return entry
  try {
    const content = state.readProven({ ...dead.top, copy: 0 }, 'dead list')
    state.freeMetadata(dead.top.address)
    dead.load(content)
    state.deadCount += dead.entries.length
  } catch (error) {
    // What it led to stays in use, until a check finds that nobody has it.
    state.lost('dead list', error)
    dead.top = { address: 0, checksum: 0 }
  }
  return popInMemory(state, dead)
}

function popInMemory(state: StoreState, dead: DeadList): ReturnType<DeadList['pop']> {
  const entry = dead.pop()
  if (entry) state.deadCount -= 1
  return entry
}

/** Goes through the tree from the cursor on. A node is freed when all that is below it has been. */
function treeStep(state: StoreState, entry: Entry, count: number): boolean {
  const { tree } = entry
  const end = tree.geometry.spanOf(tree.height)
  let block = entry.record.cursor
  for (let part = 0; part < count && block < end; part += PART_COST) block = reapBranch(state, entry, block)
  if (block < end) {
    state.catalog.change(entry, { ...entry.record, cursor: block })
    return false
  }
  // What it had let go of is its parent's all the same; only the list itself goes.
  while (entry.dead.count > 0 || entry.dead.top.address !== 0) if (!popDead(state, entry.dead)) break
  state.catalog.change(entry, { ...entry.record, kind: 'none', name: '', parent: -1 })
  return true
}

/** Frees what the entry owns of the largest missing or leaf-sized part that begins at `block`. @returns where the next part begins. */
function reapBranch(state: StoreState, entry: Entry, block: number): number {
  const { tree } = entry
  const { geometry } = tree
  const ownedAfter = entry.ownedAfter
  // The highest level whose node begins at this block and is not there, or is shared as a whole, is passed over at once.
  for (let level = tree.height - 1; level >= 0; level -= 1) {
    const span = geometry.spanOf(level + 1)
    if (block % span !== 0 && level > 0) continue
    const node = nodeFor(state, tree, level, block)
    if (node === null || node.birth <= ownedAfter) {
      const next = (Math.floor(block / span) + 1) * span
      freeAncestors(state, entry, block, level + 1, next)
      return next
    }
    if (level > 0) continue
    for (let word = 0; word < NODE_WORDS; word += geometry.entryWords) {
      const address = addressAt(node.words, word)
      if (address !== 0 && (node.words[word + 2] as number) > ownedAfter) state.freeData(address)
    }
    const next = geometry.leafEnd(block)
    freeAncestors(state, entry, block, 0, next)
    return next
  }
  return geometry.leafEnd(block)
}

/** Nodes from `level` up that end at `next`: nothing below them is left to be looked at. */
function freeAncestors(state: StoreState, entry: Entry, block: number, level: number, next: number): void {
  for (let at = level; at < entry.tree.height; at += 1) {
    if (next % entry.tree.geometry.spanOf(at + 1) !== 0) return
    const node = nodeFor(state, entry.tree, at, block)
    if (node !== null && node.birth > entry.ownedAfter) state.freeNode(node)
  }
}

/** null: there is none, or it is lost. Then what it led to stays in use, until a check finds that nobody has it. */
function nodeFor(state: StoreState, tree: Tree, level: number, block: number): Node | null {
  for (;;) {
    const node = tree.nodeAt(level, block)
    if (node !== MISSING) return node
    const missing = tree.missing(block)
    assert(missing !== null, 'a node that is missing can be read')
    try {
      state.readNode(missing, true)
    } catch (error) {
      state.lost(`tree of deleted volume or snapshot`, error)
      return null
    }
  }
}
