/** The journal's ring while checkpoints are slow: what it holds that no checkpoint has in force is not written over. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { epochMillis, type Clock } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { BLOCK_BYTES } from './format.ts'
import { Store } from './store.ts'
import { volumeDevice } from './volume-device.ts'

const JOURNAL_BYTES = 16 * BLOCK_BYTES
const BLOCK_COUNT = 200

test('a journal that comes round while a checkpoint is written keeps what was written since that began', async () => {
  // While it is closed a checkpoint stands still, between two of its blocks.
  let gate = Promise.withResolvers<void>()
  gate.resolve()
  const clock: Clock = {
    now: () => epochMillis(0),
    monotonic: () => 0,
    sleep: (duration, options) =>
      duration === 0
        ? gate.promise
        : new Promise((_resolve, reject) => options?.signal?.addEventListener('abort', () => reject(options.signal?.reason))),
  }
  const optionsOf = (file: SimStoreFile) => ({
    file,
    checksum: nodeChecksum,
    clock,
    rng: seededRng(2),
    log: memoryLog(),
    journalBytes: JOURNAL_BYTES,
    turnBlockCount: 1,
  })
  const file = new SimStoreFile({ rng: seededRng(1), capacityBytes: 2 ** 32 })
  const store = await Store.create(optionsOf(file))
  await store.createVolume('web', BLOCK_COUNT * BLOCK_BYTES)
  const { journal } = store.state
  const { now } = volumeDevice(store, 'web')
  const want = new Map<number, number>()
  let count = 0
  /** @returns whether it was taken in. */
  const write = (): boolean => {
    const [block, fill] = [(count * 7) % BLOCK_COUNT, 1 + (count % 250)]
    count += 1
    if (!now?.write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(fill))) return false
    now.commit()
    want.set(block, fill)
    return true
  }
  // One that is under way while almost half of the ring is written; with what comes next it is more than all.
  gate = Promise.withResolvers()
  const { checkpointGeneration } = store.state
  const first = store.checkpoint()
  while (journal.usedBytes < JOURNAL_BYTES * 0.45) assert.ok(write())
  assert.equal(store.state.checkpointGeneration, checkpointGeneration)
  gate.resolve()
  await first
  assert.equal(store.state.checkpointGeneration, checkpointGeneration + 1)
  gate = Promise.withResolvers()
  while (write());
  assert.ok(journal.usedBytes > JOURNAL_BYTES * 0.7, 'until there is no room')
  const left = file.crash('kill')
  gate.resolve()
  const again = await Store.open(optionsOf(left))
  const content = new Uint8Array(BLOCK_BYTES)
  for (const [block, fill] of want) {
    await volumeDevice(again, 'web').read(block * BLOCK_BYTES, content)
    assert.ok(
      content.every((byte) => byte === fill),
      `block ${block}: got ${content[0]}, want ${fill}`,
    )
  }
  await again.close()
})
