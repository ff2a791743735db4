/** What a store has used and what it still has: of its own capacity, and of the file system that it lies on. */
import { millis, toFault } from '@typevisor/base'
import { BLOCK_BYTES } from '../store/format.ts'
import { ownBlockCount, type CountBudget } from '../store/own-blocks.ts'
import type { Store, StoreUsage } from '../store/store.ts'
import { warningOf } from './space-watch.ts'

export interface SpaceUsage extends StoreUsage {
  /** What could be used all in all, as things are: used and available. */
  readonly capacityBytes: number
  readonly usedPercent: number
  /** What would be full first. */
  readonly limitedBy: 'store' | 'host'
}

export interface OwnSpace {
  readonly name: string
  readonly kind: 'volume' | 'snapshot'
  readonly sizeBytes: number
  readonly createdAt: number
  /** What its deletion would give back, without what deleted snapshots keep for it. null: it would take long to count. */
  readonly ownBytes: number | null
}

export interface VolumeUsage extends SpaceUsage {
  /** The highest threshold, in percent of the capacity, that is reached; null: none. */
  readonly warningPercent: number | null
  readonly volumes: readonly OwnSpace[]
}

/** Nodes looked at for one answer: a node for each MiB, so 16 GiB that are written all over. */
const NODE_COUNT_MAX = 16_384

export async function spaceUsage(store: Store): Promise<SpaceUsage> {
  const host = await store.state.parts.file.hostSpace?.()
  const usage = store.usage()
  const { usedBytes } = usage
  // Free blocks that the file has already need nothing of the host.
  const hostBytes = host ? host.availableBytes + Math.max(0, host.allocatedBytes - usedBytes) : Number.POSITIVE_INFINITY
  const availableBytes = Math.min(usage.availableBytes, hostBytes)
  const capacityBytes = usedBytes + availableBytes
  const limitedBy = hostBytes < usage.availableBytes ? 'host' : 'store'
  return { ...usage, availableBytes, capacityBytes, usedPercent: (100 * usedBytes) / capacityBytes, limitedBy }
}

export async function volumeUsage(store: Store): Promise<VolumeUsage> {
  const space = await spaceUsage(store)
  return { ...space, warningPercent: warningOf(space.usedPercent), volumes: await ownSpaces(store) }
}

async function ownSpaces(store: Store): Promise<OwnSpace[]> {
  const { state } = store
  using _pin = state.pin()
  const budget: CountBudget = { nodeCount: NODE_COUNT_MAX, pause: () => state.parts.clock.sleep(millis(0)) }
  const found: OwnSpace[] = []
  for (const { name, kind, sizeBytes, createdAt } of store.list()) {
    const entry = state.catalog.byName(name)
    if (!entry) continue // deleted meanwhile
    const count = await ownBlockCount(state, entry, budget).catch((error: unknown) => {
      // Damage is for `check` to tell of; here it is a number that nobody knows.
      if (toFault(error).code !== 'failed') throw error
      return null
    })
    found.push({ name, kind, sizeBytes, createdAt, ownBytes: count === null ? null : count * BLOCK_BYTES })
  }
  return found
}
