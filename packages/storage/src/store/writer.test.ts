import assert from 'node:assert/strict'
import { test } from 'node:test'
import { memoryLog, seededRng } from '@typevisor/sim'
import { realClock } from '@typevisor/runtime-node'
import { nodeChecksum } from '../node-store-file.ts'
import { openedStore } from '../testing/opened-store.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { BLOCK_BYTES } from './format.ts'
import { Store } from './store.ts'
import { volumeDevice } from './volume-device.ts'

test('a write that was taken in is carried out, whatever has left the cache since', async (t) => {
  const parts = { checksum: nodeChecksum, clock: realClock(), log: memoryLog() }
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await openedStore(t, Store.create({ ...parts, rng: seededRng(2), file }))
  await store.createVolume('web', 70_000 * BLOCK_BYTES)
  const disk = volumeDevice(store, 'web')
  const written = (byte: number): Uint8Array => new Uint8Array(BLOCK_BYTES).fill(byte)
  await disk.write(66_000 * BLOCK_BYTES, written(1))
  await store.checkpoint()
  const { tree } = store.entry('web')
  assert.ok(disk.now?.write(66_001 * BLOCK_BYTES, written(2)))
  const leaf = tree.nodeAt(0, 66_001)
  assert.ok(typeof leaf === 'object' && leaf !== null)
  store.state.cache.delete(leaf.address)
  tree.forget()
  disk.now?.commit()
  const content = new Uint8Array(2 * BLOCK_BYTES)
  await disk.read(66_000 * BLOCK_BYTES, content)
  assert.deepEqual([content[0], content[BLOCK_BYTES]], [1, 2])
})

test('a volume that was made larger grows by what it has, also when that has to be read first', async (t) => {
  const parts = { checksum: nodeChecksum, clock: realClock(), log: memoryLog() }
  const file = new SimStoreFile({ rng: seededRng(1) })
  const store = await openedStore(t, Store.create({ ...parts, rng: seededRng(2), file }))
  await store.createVolume('web', 4 * BLOCK_BYTES)
  await volumeDevice(store, 'web').write(0, new Uint8Array(BLOCK_BYTES).fill(1))
  await store.resize('web', 70_000 * BLOCK_BYTES)
  await store.checkpoint()
  const { tree } = store.entry('web')
  assert.equal(tree.height, 1)
  store.state.cache.delete(tree.root.address)
  tree.forget()
  const disk = volumeDevice(store, 'web')
  const source = new Uint8Array(BLOCK_BYTES).fill(2)
  if (disk.now?.write(66_000 * BLOCK_BYTES, source)) disk.now.commit()
  else await disk.write(66_000 * BLOCK_BYTES, source)
  const content = new Uint8Array(BLOCK_BYTES)
  await disk.read(0, content)
  assert.equal(content[0], 1)
})
