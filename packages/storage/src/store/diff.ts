/**
 * What differs between two points (a snapshot or a volume, related or not), and how deep in the line of snapshots a block lies.
 *
 *   root A     root B        the same node (one address, or one node in memory) stands for the same content: passed over as a whole;
 *   ├─ x ══════ x            else both are gone down into. So a diff costs what differs, not the size.
 *   └─ y        y'
 *
 * Holes count: a block that was trimmed differs from one that has data, and from zeros that keep their place. Births say nothing of it, as
 * holes have none. A block that was written again with the bytes it had counts as different. A unit that is packed, here or there, is one:
 * what differs in one of its entries may have changed any of its blocks.
 *
 * A page is looked at in steps, between which the store works on: of a volume that is written meanwhile each part is as it was when it was
 * looked at. Snapshots do not change.
 */
import { Fault, millis } from '@typevisor/base'
import type { Entry } from './catalog.ts'
import { BLOCK_BYTES, FLAG_PACKED, FLAG_ZERO, UNIT_BLOCKS } from './format.ts'
import type { Store } from './store.ts'
import { addressAt, MISSING, type Node, type Tree } from './tree.ts'

export type DiffKind = 'data' | 'zero' | 'hole'

/** Bytes that differ, and what is there now: a hole, zeros that keep their place, or data. */
export interface DiffExtent {
  readonly offset: number
  readonly lengthBytes: number
  readonly kind: DiffKind
}

export interface DiffPage {
  /** In order; neighbours of one kind are one, within a page. */
  readonly extents: readonly DiffExtent[]
  /** Where the next page begins. null: that was all. */
  readonly next: number | null
}

/** Blocks of one volume with one label; what lies between ranges has the label 0. */
export interface LabelledRange {
  readonly first: number
  readonly count: number
  readonly label: number
}

/** Parts of the trees that are compared in one page, and between two pauses. */
const PAGE_STEP_COUNT_MAX = 4096
const PAUSE_STEP_COUNT = 64

const KIND_OF_LABEL: readonly DiffKind[] = ['data', 'zero', 'hole']

/**
 * What has to be written over `from` so that it is as `to`, from a block on. `from` null: over holes.
 *
 * @param offset in bytes, a multiple of 4096.
 * @throws Fault `invalid`, `unavailable` when one of both was deleted meanwhile, `failed` for damage.
 */
export async function diffPage(
  store: Store,
  from: Entry | null,
  to: Entry,
  { offset, countMax }: { offset: number; countMax: number },
): Promise<DiffPage> {
  if (!Number.isSafeInteger(offset) || offset < 0 || offset % BLOCK_BYTES !== 0)
    throw new Fault('invalid', `diff from offset: got ${offset}, want a multiple of ${BLOCK_BYTES}`)
  const { ranges, next } = await rangesOf(store, from, to, differenceOf, {
    first: offset / BLOCK_BYTES,
    end: to.record.sizeBytes / BLOCK_BYTES,
    countMax,
  })
  return {
    extents: ranges.map(({ first, count, label }) => ({
      offset: first * BLOCK_BYTES,
      lengthBytes: count * BLOCK_BYTES,
      kind: KIND_OF_LABEL[label - 1] as DiffKind, // `differenceOf` has no others
    })),
    next: next === null ? null : next * BLOCK_BYTES,
  }
}

/** Nothing was written since the one was forked from the other: what can be said at once, and may be false of equal contents. */
export const isSameTree = (a: Entry, b: Entry): boolean =>
  a.tree.height === b.tree.height &&
  a.tree.identityAt(a.tree.height - 1, 0) === b.tree.identityAt(b.tree.height - 1, 0) &&
  a.record.sizeBytes === b.record.sizeBytes

/** What is there at a block: the leaf and where in its words the entry begins. null: a leaf of holes. */
export interface Leaf {
  readonly node: Node | null
  wordOf(block: number): number
}
/** Of a block in both leaves: 0 where there is nothing to be said. */
export type Label = (from: Leaf, to: Leaf, block: number) => number

/** 0: the same in both; else one more than the place of what is there now in `KIND_OF_LABEL`. */
export const differenceOf: Label = (from, to, block) => {
  const [now, was] = [flagsOf(to, block), flagsOf(from, block)]
  if (((now | was) & FLAG_PACKED) !== 0 ? isSameUnit(from, to, block) : isSameEntry(from, to, block)) return 0
  if (addressOf(to, block) !== 0 || (now & FLAG_PACKED) !== 0) return 1
  return (now & FLAG_ZERO) !== 0 ? 2 : 3
}

const isSameEntry = (from: Leaf, to: Leaf, block: number): boolean =>
  addressOf(from, block) === addressOf(to, block) && flagsOf(from, block) === flagsOf(to, block)

function isSameUnit(from: Leaf, to: Leaf, block: number): boolean {
  const first = block - (block % UNIT_BLOCKS)
  for (let each = first; each < first + UNIT_BLOCKS; each += 1) if (!isSameEntry(from, to, each)) return false
  return true
}

/** 0: a hole; 1: written in the volume itself, after its newest snapshot; n + 1: what it has of its n-th ancestor that has a name. */
export function depthOf(entry: Entry): Label {
  const epochs: number[] = []
  for (let at = entry.parent; at !== null; at = at.parent) if (at.name !== '') epochs.push(at.record.epoch)
  return (_from, to, block) => {
    if (to.node === null || (addressOf(to, block) === 0 && flagsOf(to, block) === 0)) return 0
    const birth = to.node.words[to.wordOf(block) + 2] as number // an entry is whole
    const depth = epochs.findIndex((epoch) => epoch < birth)
    return (depth === -1 ? epochs.length : depth) + 1
  }
}

const addressOf = ({ node, wordOf }: Leaf, block: number): number => (node === null ? 0 : addressAt(node.words, wordOf(block)))
const flagsOf = ({ node, wordOf }: Leaf, block: number): number =>
  node === null ? 0 : (node.words[wordOf(block) + 1] as number) & (FLAG_ZERO | FLAG_PACKED) // an entry is whole

/** The first block behind the part that one node of a level stands for. */
const partEnd = ({ geometry }: Tree, level: number, block: number): number => {
  const span = geometry.spanOf(level + 1)
  return (Math.floor(block / span) + 1) * span
}
const leafOf = (tree: Tree | null, node: Node | null): Leaf => ({ node, wordOf: (block) => tree?.geometry.wordOf(block) ?? 0 })

/** Ranges whose label is not 0, in order, at most `countMax`. `next`: the block before which all has been looked at; null: to the end. */
export async function rangesOf(
  store: Store,
  from: Entry | null,
  to: Entry,
  label: Label,
  { first, end, countMax }: { first: number; end: number; countMax: number },
): Promise<{ ranges: LabelledRange[]; next: number | null }> {
  const { state } = store
  // What is read on the way is still what it was.
  using _pin = state.pin()
  const ranges: { first: number; count: number; label: number }[] = []
  let block = first
  for (let step = 1; block < end && step <= PAGE_STEP_COUNT_MAX; step += 1) {
    if (step % PAUSE_STEP_COUNT === 0) await state.parts.clock.sleep(millis(0))
    for (const entry of [from, to])
      if (entry !== null && entry.kind !== 'volume' && entry.kind !== 'snapshot')
        throw new Fault('unavailable', 'diff: one of both is not there any more')
    // What was taken in by now counts as written.
    store.writer.commit()
    const apart = apartAt(from?.tree ?? null, to.tree, block)
    if (apart.kind === 'missing') {
      const missing = apart.tree.missing(block)
      if (missing !== null && state.readNode(missing, false) === null) await state.loadNext(apart.tree, block)
      continue
    }
    const partEndBlock = Math.min(end, apart.next)
    if (apart.kind === 'same') {
      block = partEndBlock
      continue
    }
    for (; block < partEndBlock; block += 1) {
      const found = label(apart.from, apart.to, block)
      if (found === 0) continue
      const last = ranges.at(-1)
      if (last && last.label === found && last.first + last.count === block) last.count += 1
      else if (ranges.length === countMax) return { ranges, next: block }
      else ranges.push({ first: block, count: 1, label: found })
    }
  }
  return { ranges, next: block < end ? block : null }
}

type Apart =
  | { readonly kind: 'same'; readonly next: number }
  | { readonly kind: 'missing'; readonly tree: Tree }
  | { readonly kind: 'apart'; readonly next: number; readonly from: Leaf; readonly to: Leaf }

/** The largest part at a block that is the same in both, else its leaves. */
function apartAt(from: Tree | null, to: Tree, block: number): Apart {
  const nextOf = (level: number): number =>
    Math.min(partEnd(to, level, block), from === null ? Infinity : partEnd(from, level, block))
  for (let level = Math.max(from?.height ?? 0, to.height) - 1; level >= 0; level -= 1) {
    const before = from === null ? 0 : from.identityAt(level, block)
    const now = to.identityAt(level, block)
    if (from !== null && before === MISSING) return { kind: 'missing', tree: from }
    if (now === MISSING) return { kind: 'missing', tree: to }
    if (before === now) return { kind: 'same', next: nextOf(level) }
  }
  const before = from === null ? null : from.leaf(block)
  const now = to.leaf(block)
  if (from !== null && before === MISSING) return { kind: 'missing', tree: from }
  if (now === MISSING) return { kind: 'missing', tree: to }
  return { kind: 'apart', next: nextOf(0), from: leafOf(from, before === MISSING ? null : before), to: leafOf(to, now) }
}
