/** A disk below the store that is full: what was taken in can always be written, and what is deleted is room again. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, mib, type BlockDevice } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { openedStore } from '../testing/opened-store.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { stillClock } from '../testing/still-clock.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE, GROUP_BLOCKS } from './format.ts'
import { blocksNeeded } from './reserve.ts'
import { Store, type StoreOptions } from './store.ts'
import { volumeDevice } from './volume-device.ts'

const LEAF_BYTES = ENTRIES_PER_NODE * BLOCK_BYTES
const LEAF_COUNT = 4000

const optionsOf = (file: SimStoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  clock: stillClock,
  rng: seededRng(2),
  log: memoryLog(),
  // So much that nothing but the disk's end begins a checkpoint.
  journalBytes: mib(8),
})

/** Blocks far from each other, so that each has a leaf of its own, until the disk is full. @returns what was taken in, by block. */
async function fillAtRandom(disk: BlockDevice, seed: number): Promise<Map<number, number>> {
  const rng = seededRng(seed)
  const written = new Map<number, number>()
  for (let number = 1; ; number += 1) {
    const offset = rng.below(LEAF_COUNT) * LEAF_BYTES
    try {
      await disk.write(offset, new Uint8Array(BLOCK_BYTES).fill(number))
    } catch (error) {
      assert.ok(error instanceof Fault && error.code === 'exhausted', String(error))
      return written
    }
    written.set(offset, number & 0xff)
  }
}

async function assertHolds(disk: BlockDevice, written: ReadonlyMap<number, number>): Promise<void> {
  const content = new Uint8Array(BLOCK_BYTES)
  for (const [offset, byte] of written) {
    await disk.read(offset, content)
    assert.ok(
      content.every((each) => each === byte),
      `at ${offset}`,
    )
  }
}

const isSound = async (store: Store): Promise<void> =>
  assert.deepEqual((await store.check({ readsData: true, repairs: false })).damage, [])

async function fullStore(file: SimStoreFile, roomBytes: number) {
  const store = await Store.create(optionsOf(file))
  await store.createVolume('old', mib(64))
  for (let at = 0; at < mib(8); at += mib(1)) await volumeDevice(store, 'old').write(at, new Uint8Array(mib(1)).fill(9))
  await store.createVolume('older', mib(64))
  for (let at = 0; at < mib(8); at += mib(1)) await volumeDevice(store, 'older').write(at, new Uint8Array(mib(1)).fill(7))
  await store.createVolume('web', LEAF_COUNT * LEAF_BYTES)
  await store.checkpoint()
  file.roomBytes = roomBytes
  return store
}

test('random writes that fill the disk leave room for their checkpoint, and what is deleted is room for more', async (t) => {
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await openedStore(t, fullStore(file, mib(12)))
  const disk = volumeDevice(store, 'web')
  const written = await fillAtRandom(disk, 3)
  assert.ok(written.size > 500, `${written.size} were taken in`)
  for (let tries = 0; tries < 5; tries += 1) {
    await store.checkpoint()
    for (const [offset, byte] of await fillAtRandom(disk, 4 + tries)) written.set(offset, byte)
  }
  await assertHolds(disk, written)
  await store.remove('old')
  await store.collected()
  await store.flush()
  await store.flush()
  const more = await fillAtRandom(disk, 20)
  assert.ok(more.size > 500, `${more.size} were taken in when there was room again`)
  await store.checkpoint()
  for (const [offset, byte] of more) written.set(offset, byte)
  await assertHolds(disk, written)
  await isSound(store)
})

test('others fill the disk while many nodes are dirty: the checkpoint has its room', async (t) => {
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await openedStore(t, fullStore(file, mib(64)))
  const disk = volumeDevice(store, 'web')
  const written = new Map<number, number>()
  for (let leaf = 0; leaf < 3000; leaf += 1) {
    await disk.write(leaf * LEAF_BYTES, new Uint8Array(BLOCK_BYTES).fill(leaf))
    written.set(leaf * LEAF_BYTES, leaf & 0xff)
  }
  file.roomBytes = 0
  assert.ok(store.state.dirtyNodeCount > 3000)
  await store.checkpoint()
  await assertHolds(disk, written)
  await isSound(store)
})

test('a full store that is killed with many dirty nodes finds the room for them again', async (t) => {
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await fullStore(file, mib(12))
  const written = await fillAtRandom(volumeDevice(store, 'web'), 3)
  // In front of it all are free blocks that have no room in the file any more.
  await store.remove('old')
  await store.collected()
  // Each is flushed: what was freed is free for good when a mark that says so is safe.
  for (const iopsMax of [1000, 2000]) await store.setLimits('older', { iopsMax })
  store.state.allocator.giveBack(0, 16, (address, count) => file.punch(address * BLOCK_BYTES, count * BLOCK_BYTES))
  assert.ok((file.roomBytes ?? 0) >= mib(7))
  file.roomBytes = 0
  const again = await openedStore(t, Store.open(optionsOf(file.crash('kill'))))
  assert.ok(again.state.dirtyNodeCount > 500)
  await again.checkpoint()
  await assertHolds(volumeDevice(again, 'web'), written)
  await again.remove('older')
  await again.collected()
  await again.checkpoint()
  await again.flush()
  await again.flush()
  const more = await fillAtRandom(volumeDevice(again, 'web'), 20)
  assert.ok(more.size > 500, `${more.size} were taken in when there was room again`)
  await again.checkpoint()
  await isSound(again)
})

test('a group of blocks that has begun has room for its table', async (t) => {
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await openedStore(t, fullStore(file, mib(64)))
  const { allocator } = store.state
  // Nearly all of the first group is given out.
  allocator.allocateAll(GROUP_BLOCKS - allocator.usedCount - allocator.setAsideCount - 20)
  const disk = volumeDevice(store, 'web')
  for (let leaf = 0; allocator.groupCount === 1; leaf += 1)
    await disk.write(leaf * LEAF_BYTES, new Uint8Array(BLOCK_BYTES).fill(1))
  assert.ok(allocator.dirtyGroups.has(1))
  file.roomBytes = 0
  await store.checkpoint()
})

test('what dead lists need is counted, too', async (t) => {
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await openedStore(t, fullStore(file, mib(64)))
  await store.snapshot('old', 'then')
  await store.checkpoint()
  const assertCounted = (deadBlockCount: number): void => {
    const { state } = store
    const perSlot = blocksNeeded(state, { slotCount: 1 }) - blocksNeeded(state, { slotCount: 0 })
    const counted = blocksNeeded(state, { slotCount: 0 }) - perSlot * state.changedSlots.size
    const needed = [...state.catalog.entries()].reduce((sum, { dead }) => sum + dead.blocksNeeded, 0)
    assert.ok(needed >= deadBlockCount, `${needed} blocks of dead lists`)
    assert.ok(counted >= state.dirtyNodeCount + needed, `counted ${counted}`)
  }
  const overwrite = async (from: number, to: number): Promise<void> => {
    for (let at = from; at < to; at += mib(1)) await volumeDevice(store, 'old').write(at, new Uint8Array(mib(1)).fill(8))
  }
  await overwrite(0, mib(4))
  assertCounted(4)
  await store.snapshot('old', 'later')
  await overwrite(mib(4), mib(8))
  await store.checkpoint()
  // They go from list to list while what is between is taken apart.
  await store.remove('old@later')
  await store.collected()
  assertCounted(4)
})
