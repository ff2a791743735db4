/** The largest volume there is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { stillClock } from '../testing/still-clock.ts'
import { BLOCK_BYTES } from './format.ts'
import { Store, type StoreOptions } from './store.ts'
import { volumeDevice } from './volume-device.ts'

const TIB = 2 ** 40
const SIZE_BYTES = 64 * TIB
const LAST = SIZE_BYTES - BLOCK_BYTES
const secret = new Uint8Array(32).fill(3)

const optionsOf = (file: SimStoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  crypto: nodeVolumeCrypto(),
  clock: stillClock,
  rng: seededRng(2),
  log: memoryLog(),
  journalBytes: 64 * BLOCK_BYTES,
})

const isInvalid = (error: unknown): boolean => error instanceof Fault && error.code === 'invalid'

for (const [kind, options] of Object.entries({ plain: {}, encrypted: { secret } }))
  test(`a volume of 64 TiB, ${kind}: its first and last block, snapshot, extents, cut and grown, opened again`, async () => {
    const file = new SimStoreFile({ rng: seededRng(1) })
    let store = await Store.create(optionsOf(file))
    await assert.rejects(store.createVolume('disk', SIZE_BYTES + BLOCK_BYTES, options), isInvalid)
    await store.createVolume('disk', SIZE_BYTES, options)
    assert.equal(store.entry('disk').tree.height, 5)
    const device = (name: string) => volumeDevice(store, name)
    const at = async (name: string, offset: number): Promise<number> => {
      const content = new Uint8Array(BLOCK_BYTES)
      await device(name).read(offset, content)
      assert.ok(content.every((byte) => byte === content[0]))
      return content[0] as number // it has as many
    }
    const write = (offset: number, fill: number) => device('disk').write(offset, new Uint8Array(BLOCK_BYTES).fill(fill))
    await write(0, 1)
    await write(LAST, 2)
    await store.snapshot('disk', 'one')
    await write(LAST, 3)
    await write(33 * TIB, 4)

    const reopen = async (): Promise<void> => {
      await store.close()
      store = await Store.open(optionsOf(file))
      await store.unlock(secret)
    }
    const assertAll = async (): Promise<void> => {
      assert.deepEqual([await at('disk', 0), await at('disk', 33 * TIB), await at('disk', LAST)], [1, 4, 3])
      assert.deepEqual([await at('disk@one', 0), await at('disk@one', 33 * TIB), await at('disk@one', LAST)], [1, 0, 2])
      const extents: { lengthBytes: number; hole: boolean }[] = []
      for (let offset = 0; offset < SIZE_BYTES;) {
        const found = await device('disk').extents?.(offset, SIZE_BYTES - offset, 10)
        assert.ok(found && found.length > 0)
        for (const { lengthBytes, hole } of found) {
          const before = extents.at(-1)
          if (before?.hole === hole) before.lengthBytes += lengthBytes
          else extents.push({ lengthBytes, hole })
          offset += lengthBytes
        }
      }
      assert.deepEqual(extents, [
        { lengthBytes: BLOCK_BYTES, hole: false },
        { lengthBytes: 33 * TIB - BLOCK_BYTES, hole: true },
        { lengthBytes: BLOCK_BYTES, hole: false },
        { lengthBytes: LAST - 33 * TIB - BLOCK_BYTES, hole: true },
        { lengthBytes: BLOCK_BYTES, hole: false },
      ])
    }
    await assertAll()
    await reopen()
    await assertAll()

    await store.resize('disk', 32 * TIB)
    await store.resize('disk', SIZE_BYTES)
    await assert.rejects(store.resize('disk', SIZE_BYTES + BLOCK_BYTES), isInvalid)
    await reopen()
    assert.deepEqual([await at('disk', 0), await at('disk', 33 * TIB), await at('disk', LAST)], [1, 0, 0])
    assert.equal(await at('disk@one', LAST), 2)
    await store.revert('disk', 'disk@one')
    assert.equal(await at('disk', LAST), 2)
    await store.collected()
    assert.partialDeepStrictEqual(await store.check({ readsData: true, repairs: true }), {
      damage: [],
      leakedCount: 0,
      missingCount: 0,
      recountedCount: 0,
    })
    await store.close()
  })

test('a volume that is grown is written behind its old end after an opening, before anything of it has been read, and opened again', async () => {
  const file = new SimStoreFile({ rng: seededRng(1) })
  const made = await Store.create(optionsOf(file))
  await made.createVolume('disk', 2 ** 20)
  await volumeDevice(made, 'disk').write(0, new Uint8Array(BLOCK_BYTES).fill(1))
  await made.resize('disk', TIB)
  await made.close()
  const store = await Store.open(optionsOf(file))
  await volumeDevice(store, 'disk').write(TIB - BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(2))
  const again = await Store.open(optionsOf(file.crash('kill')))
  for (const one of [store, again]) {
    const content = new Uint8Array(BLOCK_BYTES)
    for (const [offset, fill] of [
      [0, 1],
      [TIB - BLOCK_BYTES, 2],
    ] as const) {
      await volumeDevice(one, 'disk').read(offset, content)
      assert.ok(content.every((byte) => byte === fill))
    }
  }
  await again.checkpoint()
  assert.partialDeepStrictEqual(await again.check({ readsData: true, repairs: true }), {
    damage: [],
    leakedCount: 0,
    missingCount: 0,
    recountedCount: 0,
  })
})

test('what is written to the end of a volume while that is cut off is refused, or not there when it grows again', async () => {
  const file = new SimStoreFile({ rng: seededRng(3) })
  const store = await Store.create(optionsOf(file))
  const [small, large] = [256 * BLOCK_BYTES, 2 ** 18 * BLOCK_BYTES]
  const ones = new Uint8Array(BLOCK_BYTES).fill(1)
  await store.createVolume('disk', large)
  const device = volumeDevice(store, 'disk')
  const outcomes = { written: 0, refused: 0 }
  for (let turns = 0; turns < 60; turns += 1) {
    // Cut off from the front, in a step for each.
    for (const block of [256, 5000, 50_000, 100_000, 200_000]) await device.write(block * BLOCK_BYTES, ones)
    const cutting = store.resize('disk', small)
    for (let turn = 0; turn < turns; turn += 1) await null
    await device.write(small, ones).then(
      () => (outcomes.written += 1),
      (error: unknown) => {
        assert.ok(isInvalid(error), String(error))
        outcomes.refused += 1
      },
    )
    await cutting
    await assert.rejects(device.write(small, ones), isInvalid)
    await assert.rejects(device.zero(small - BLOCK_BYTES, 2 * BLOCK_BYTES), isInvalid)
    await store.resize('disk', large)
    const content = new Uint8Array(BLOCK_BYTES)
    await device.read(small, content)
    assert.ok(
      content.every((byte) => byte === 0),
      `behind ${turns} turns`,
    )
  }
  assert.ok(outcomes.written > 0 && outcomes.refused > 0, JSON.stringify(outcomes))
  await store.close()
})
