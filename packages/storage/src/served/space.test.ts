import assert from 'node:assert/strict'
import { test } from 'node:test'
import { millis, type Rng } from '@typevisor/base'
import { memoryLog, seededRng, virtualClock } from '@typevisor/sim'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { openDeadBlock } from '../store/dead-list.ts'
import { BLOCK_BYTES } from '../store/format.ts'
import { ownBlockCount } from '../store/own-blocks.ts'
import { Store, type VolumeOptions } from '../store/store.ts'
import { volumeDevice } from '../store/volume-device.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { FillLevel, watchSpace } from './space-watch.ts'
import { spaceUsage, volumeUsage } from './space.ts'

const FORMS: readonly VolumeOptions[] = [
  {},
  { secret: Uint8Array.from({ length: 32 }, (_, index) => 255 - index) },
  { compression: 'zstd' },
]

const settle = async (store: Store): Promise<void> => {
  await store.flush()
  await store.collected()
  await store.flush()
  await store.checkpoint()
  await store.checkpoint()
}

async function make(rng: Rng, capacityBlocks: number) {
  const [clock, log, file] = [virtualClock(), memoryLog(), new SimStoreFile({ rng, capacityBytes: capacityBlocks * BLOCK_BYTES })]
  const ports = { file, checksum: nodeChecksum, crypto: nodeVolumeCrypto(), compressor: nodeCompressor, clock, rng, log }
  const store = await clock.run(() => Store.create({ ...ports, journalBytes: 64 * BLOCK_BYTES }))
  return { store, clock, log, file }
}

/** Blocks of dead lists: a merge packs them anew. */
function deadBlockCount({ state }: Store): number {
  let count = 0
  for (const { dead } of state.catalog.entries()) {
    for (let top = dead.top; top.address !== 0; count += 1) {
      const content = new Uint8Array(BLOCK_BYTES)
      state.parts.file.readBlocking(top.address * BLOCK_BYTES, content, 0, BLOCK_BYTES)
      top = openDeadBlock(content).previous
    }
  }
  return count
}

test('what is told to be a volume’s or snapshot’s own is what its deletion gives back', async () => {
  let comparedCount = 0
  for (let seed = 0; seed < 45; seed += 1) {
    const rng = seededRng(seed)
    const { store, clock } = await make(rng, 100_000)
    const pause = async (): Promise<void> => {}
    await clock.run(async () => {
      const names = (kind: 'volume' | 'snapshot'): string[] =>
        store.list().flatMap((each) => (each.kind === kind ? [each.name] : []))
      const pick = (from: readonly string[]): string | undefined => from[rng.below(Math.max(1, from.length))]
      await store.createVolume('v', 4096 * BLOCK_BYTES, FORMS[seed % FORMS.length])
      for (let step = 0; step < 40; step += 1) {
        const volume = pick(names('volume')) ?? 'v'
        const snapshot = pick(names('snapshot'))
        const choice = rng.below(10)
        if (choice < 5)
          await volumeDevice(store, volume).write(
            rng.below(4000) * BLOCK_BYTES,
            new Uint8Array((1 + rng.below(40)) * BLOCK_BYTES).fill(step),
          )
        else if (choice < 6) await volumeDevice(store, volume).trim(rng.below(3000) * BLOCK_BYTES, 500 * BLOCK_BYTES)
        else if (choice < 8) await store.snapshot(volume, `s${step}`)
        else if (choice < 9 && snapshot !== undefined) await store.clone(snapshot, `c${step}`)
        else await store.checkpoint()
      }
      while (store.list().length > 0) {
        await settle(store)
        const name = pick(store.list().map((each) => each.name)) ?? 'v'
        const own = await ownBlockCount(store.state, store.entry(name), { nodeCount: 1000, pause })
        const hasBranch = [...store.state.catalog.entries()].some(({ kind }) => kind === 'branch')
        const before = store.state.allocator.usedCount - deadBlockCount(store)
        await store.remove(name)
        await settle(store)
        const after = store.state.allocator.usedCount - deadBlockCount(store)
        // With the last but one of its children a deleted snapshot goes too, and with it what it kept.
        if (hasBranch) assert.ok((own ?? 0) <= before - after, `seed ${seed}: ${name}`)
        else assert.equal(own, before - after, `seed ${seed}: ${name}`)
        comparedCount += hasBranch ? 0 : 1
      }
      await store.close()
    })
  }
  assert.ok(comparedCount > 100)
})

test('what would take long to count is not counted', async () => {
  const { store, clock } = await make(seededRng(1), 100_000)
  await clock.run(async () => {
    await store.createVolume('v', 4096 * BLOCK_BYTES)
    for (let leaf = 0; leaf < 10; leaf += 1)
      await volumeDevice(store, 'v').write(leaf * 256 * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES))
    const budget = { nodeCount: 5, pause: async (): Promise<void> => {} }
    assert.equal(await ownBlockCount(store.state, store.entry('v'), budget), null)
    assert.equal(await ownBlockCount(store.state, store.entry('v'), { ...budget, nodeCount: 11 }), 21)
    await store.close()
  })
})

test('a threshold is told once, also when use goes up and down at it, and that there is space again', () => {
  const level = new FillLevel()
  const told = [10, 79.9, 80, 79, 81, 80, 90, 89, 96, 94, 95, 92, 91, 89, 85, 95, 77.9, 80].map((percent) => level.look(percent))
  assert.deepEqual(told, [null, null, 80, null, null, null, 90, null, 95, null, null, null, null, null, null, 95, 'clear', 80])
})

test('a store that fills says so in its log, and so does a full file system below one that has room', async () => {
  const { store, clock, log, file } = await make(seededRng(1), 8000)
  const told = (): unknown[] =>
    log.lines.flatMap(({ event, fields }) => (event.startsWith('store.') ? [fields['percent'] ?? event] : []))
  await clock.run(async () => {
    const watch = watchSpace({ usage: () => spaceUsage(store), clock, log })
    await store.createVolume('v', 2 ** 30)
    const fill = async (from: number, to: number): Promise<void> => {
      for (let block = from; block < to; block += 50) {
        await volumeDevice(store, 'v').write(block * BLOCK_BYTES, new Uint8Array(50 * BLOCK_BYTES))
        await clock.sleep(millis(1000))
      }
      await clock.sleep(millis(6000))
    }
    await fill(0, 6000)
    assert.deepEqual(told(), [])
    await fill(6000, 7400)
    assert.deepEqual(told(), [80, 90])
    assert.deepEqual((await volumeUsage(store)).warningPercent, 90)
    await store.remove('v')
    await settle(store)
    await clock.sleep(millis(6000))
    assert.deepEqual(told(), [80, 90, 'store.has_space_again'])
    // What the file has already can be used again.
    file.hostAvailableBytes = 100 * BLOCK_BYTES
    await clock.sleep(millis(6000))
    assert.equal(told().length, 3)
    await watch[Symbol.asyncDispose]()
    await store.close()
  })
})

test('a file system that fills below a store that has room is told of too', async () => {
  const { store, clock, log, file } = await make(seededRng(1), 2 ** 28)
  await clock.run(async () => {
    const watch = watchSpace({ usage: () => spaceUsage(store), clock, log })
    await store.createVolume('v', 2 ** 30)
    await volumeDevice(store, 'v').write(0, new Uint8Array(1000 * BLOCK_BYTES))
    for (const [availableBlocks, want] of [
      [2 ** 20, null],
      [200, 80],
      [40, 95],
    ] as const) {
      file.hostAvailableBytes = availableBlocks * BLOCK_BYTES
      await clock.sleep(millis(6000))
      const usage = await volumeUsage(store)
      assert.deepEqual([usage.limitedBy, usage.warningPercent], ['host', want])
    }
    assert.deepEqual(
      log.lines.flatMap(({ event, fields }) => (event === 'store.fills' ? [[fields['percent'], fields['limitedBy']]] : [])),
      [
        [80, 'host'],
        [95, 'host'],
      ],
    )
    await watch[Symbol.asyncDispose]()
    await store.close()
  })
})
