/**
 * Room for the next checkpoint, taken while there is still some: blocks that are set aside, with room in the file, for all that is dirty.
 *
 *   a change is to come ──▶ blocksNeeded(dirty + what it would make dirty) + kept ──▶ as many set aside? ── no, and no more to be had ──▶ exhausted
 *                                                                                        │ yes
 *                                                                                        ▼
 *                                                                                   it is done
 *
 * A checkpoint takes what it needs from the free blocks, and from those set aside only where that cannot be had. So in a store that is not
 * full nothing is set aside twice, and in one that is full a checkpoint still has its room.
 *
 * Invariant: a change that was done leaves as many blocks set aside as the next checkpoint needs, second copies too. After an opening that is
 * so where the room of the life before is found again, which it is on file systems that write in place.
 *
 * What is `kept` beyond that is less for what gives room back, so that there is always enough to delete something.
 */
import { DEAD_ENTRIES_PER_BLOCK } from './format.ts'
import type { StoreState } from './state.ts'
import type { Tree } from './tree.ts'

/** What a change adds to the next checkpoint at most. */
export interface Demand {
  /** Blocks for nodes, as `nodeBlocksFor` counts them. */
  readonly nodeBlockCount?: number
  /** Entries of dead lists, but for those of nodes. */
  readonly deadCount?: number
  /** Entries of the catalog. */
  readonly slotCount: number
}

/** Blocks kept back from what takes room, from what may give some back, and from what surely does. */
export const KEPT = { writes: 256, changes: 192, trims: 128, deletes: 0 } as const
/** So many are set aside at once. */
const GROWTH_COUNT = 256

/** Blocks that a checkpoint writes for the nodes on the way to a range, each of which may have to be copied. */
export function nodeBlocksFor({ geometry, height }: Tree, first: number, count: number): number {
  const last = first + count - 1
  let top = height
  while (geometry.spanOf(top) <= last) top += 1
  const leafCount = Math.floor(last / geometry.leafEntries) - Math.floor(first / geometry.leafEntries) + 1
  // A tree that grows has a root of each height, too.
  let blockCount = leafCount + 2 * (top - height)
  if (leafCount === 1) return blockCount + 2 * (top - 1)
  for (let level = 1; level < top; level += 1) {
    const span = geometry.spanOf(level + 1)
    blockCount += 2 * (Math.floor(last / span) - Math.floor(first / span) + 1)
  }
  return blockCount
}

/** Blocks that the next checkpoint writes at most, tables aside, when this has been done too. */
export function blocksNeeded(state: StoreState, { nodeBlockCount = 0, deadCount = 0, slotCount }: Demand): number {
  const { dirtyNodeCount, stagedNodeBlockCount, stagedBlockCount, changedSlots, catalogTree } = state
  const nodes = dirtyNodeCount + stagedNodeBlockCount + nodeBlockCount
  const dead = state.deadCount + stagedBlockCount + deadCount + nodes
  // A page, the way to it and a level more, all twice; and a block of a dead list that is not full.
  const perSlot = 2 * (2 + catalogTree.height) + 1
  return nodes + Math.ceil(dead / DEAD_ENTRIES_PER_BLOCK) + (changedSlots.size + slotCount) * perSlot
}

/**
 * Whether there are `blockCount` blocks for data beside what is set aside for a checkpoint that has `demand` in it. Sets aside what is lacking;
 * gives up what is more than needed where data lacks it.
 */
export function hasRoom(state: StoreState, blockCount: number, demand: Demand, kept: number): boolean {
  const { allocator } = state
  const wanted = blocksNeeded(state, demand) + kept
  const lacking = wanted - allocator.setAsideCount
  if (lacking > 0) {
    if (allocator.setAside(Math.max(lacking, GROWTH_COUNT), blockCount) < wanted) return false
  }
  if (allocator.availableCount < blockCount) giveUpSurplus(state, demand, kept)
  return allocator.availableCount >= blockCount
}

export function giveUpSurplus(state: StoreState, demand: Demand, kept: number): void {
  const { allocator } = state
  const surplus = allocator.setAsideCount - blocksNeeded(state, demand) - kept
  if (surplus > 0) allocator.giveUpSetAside(surplus)
}

/** After an opening, on a disk that is full: the blocks that the life before had set aside are free blocks with room in the file. */
export function findRoom(state: StoreState): void {
  const demand = { slotCount: 0 }
  if (hasRoom(state, 0, demand, KEPT.writes)) return
  state.allocator.probeRoom(blocksNeeded(state, demand) + KEPT.writes - state.allocator.setAsideCount)
  hasRoom(state, 0, demand, KEPT.writes)
}
