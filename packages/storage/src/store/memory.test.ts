/** What a store under load without an end holds in memory. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { epochMillis, type Clock } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE } from './format.ts'
import { Store } from './store.ts'
import type { Node } from './tree.ts'
import { volumeDevice } from './volume-device.ts'

/** More than is written in one turn. */
const DIRTY_MAX = 600
const LEAF_COUNT = 4000
const LEAF_BYTES = ENTRIES_PER_NODE * BLOCK_BYTES

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
/** Each pause is some turns, in which writes come between the parts of a checkpoint. */
const slow: Clock = {
  now: () => epochMillis(0),
  monotonic: () => 0,
  async sleep(duration, { signal } = {}) {
    if (duration > 0)
      await new Promise((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason), { once: true }))
    for (let count = 0; count < 4; count += 1) await turn()
  },
}

/** Nodes below a dirty root that have been written: they could be read again. */
function countHeld(root: Node | null): number {
  const seen = new Set<Node>()
  const go = (node: Node): void => {
    if (seen.has(node)) return
    seen.add(node)
    for (const child of node.children?.values() ?? []) go(child)
  }
  if (root) go(root)
  return [...seen].filter(({ address, checksum }) => address !== 0 && checksum !== 0).length
}

/** Writes without an end, far from each other, so that most are of a node of their own. */
async function load(writesPerTurn: number): Promise<{ dirtyMost: number; heldMost: number; checkpointCount: number }> {
  const store = await Store.create({
    file: new SimStoreFile({ rng: seededRng(1) }),
    checksum: nodeChecksum,
    clock: slow,
    rng: seededRng(2),
    log: memoryLog(),
    dirtyNodeCountMax: DIRTY_MAX,
    turnBlockCount: 64,
  })
  await store.createVolume('web', LEAF_COUNT * LEAF_BYTES)
  const disk = volumeDevice(store, 'web')
  const begin = store.state.checkpointGeneration
  const where = seededRng(3)
  let [dirtyMost, heldMost] = [0, 0]
  for (let index = 0; index < 4 * LEAF_COUNT; index += 1) {
    await disk.write(where.below(LEAF_COUNT) * LEAF_BYTES, new Uint8Array(BLOCK_BYTES).fill(index))
    dirtyMost = Math.max(dirtyMost, store.state.dirtyNodeCount)
    if (index % 50 === 0) heldMost = Math.max(heldMost, countHeld(store.entry('web').tree.dirtyRoot))
    if (index % writesPerTurn === 0) await turn()
  }
  const checkpointCount = store.state.checkpointGeneration - begin
  await store.close()
  return { dirtyMost, heldMost, checkpointCount }
}

/** One write may make a path of them. */
const MOST = 2 * DIRTY_MAX + 8

test('when writes come faster than checkpoints are written, they wait', async () => {
  const { dirtyMost, checkpointCount } = await load(32)
  assert.ok(checkpointCount > 5)
  assert.ok(dirtyMost > DIRTY_MAX + 8 && dirtyMost <= MOST, `${dirtyMost} nodes were dirty at once, want at most ${MOST}`)
})

test('what checkpoints have written is not held by what changes beside them', async () => {
  const { heldMost, checkpointCount } = await load(8)
  assert.ok(checkpointCount > 5)
  assert.ok(heldMost <= MOST, `${heldMost} written nodes were held at once, want those of two checkpoints at most: ${MOST}`)
})
