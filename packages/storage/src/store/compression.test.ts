/** Compressed volumes against a model of bytes, and what they take on disk. */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { Fault, type BlockDevice } from '@typevisor/base'
import { realClock, realRng } from '@typevisor/runtime-node'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { openedStore } from '../testing/opened-store.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { BLOCK_BYTES } from './format.ts'
import { Store, type StoreOptions } from './store.ts'
import { addressAt, MISSING } from './tree.ts'
import { UNIT_BYTES } from './units.ts'
import { volumeDevice } from './volume-device.ts'

const optionsFor = (file: SimStoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  crypto: nodeVolumeCrypto(),
  compressor: nodeCompressor,
  clock: realClock(),
  rng: realRng(),
  log: memoryLog(),
  journalBytes: 256 * BLOCK_BYTES,
})
const simFile = (seed = 1): SimStoreFile => new SimStoreFile({ rng: seededRng(seed), coldPerMille: 30 })
const MIB = 1024 * 1024
const SECRET = randomBytes(32)
const textOf = (lengthBytes: number): Buffer =>
  Buffer.from(
    Array.from({ length: Math.ceil(lengthBytes / 20) }, (_, line) => `line ${line * 7919}\n`.padEnd(20)).join(''),
  ).subarray(0, lengthBytes)
const read = async (device: BlockDevice, offset: number, lengthBytes: number): Promise<Buffer> => {
  const content = Buffer.alloc(lengthBytes, 0xee)
  await device.read(offset, content)
  return content
}

/** Blocks that a volume's leaves lead to, counted one by one. */
function countStored(store: Store, name: string): number {
  const { tree, record } = store.entry(name)
  let count = 0
  for (let block = 0; block < record.sizeBytes / BLOCK_BYTES; block += 1) {
    store.state.load(tree, block, true)
    const leaf = tree.leaf(block)
    assert.ok(leaf !== MISSING)
    if (leaf && addressAt(leaf.words, tree.geometry.wordOf(block)) !== 0) count += 1
  }
  return count
}

for (const isEncrypted of [false, true])
  test(`writes, zeros and discards of any size and place come back${isEncrypted ? ', encrypted too' : ''}`, async (t) => {
    for (let seed = 0; seed < 4; seed += 1) {
      const rng = seededRng(seed)
      const file = simFile(seed)
      let store = await openedStore(t, Store.create(optionsFor(file)))
      // Not a multiple of a unit.
      const sizeBytes = 3 * MIB + 5 * BLOCK_BYTES
      await store.createVolume('v', sizeBytes, { compression: 'zstd', ...(isEncrypted ? { secret: SECRET } : {}) })
      let model = Buffer.alloc(sizeBytes)
      const kept: { name: string; content: Buffer }[] = []
      for (let step = 0; step < 150; step += 1) {
        const device = volumeDevice(store, 'v')
        const near = rng.below(2) === 0 ? rng.below(3 * UNIT_BYTES) : rng.below(sizeBytes)
        const offset = rng.below(3) === 0 ? near : near - (near % BLOCK_BYTES)
        const most = Math.min(sizeBytes - offset, rng.below(4) === 0 ? 20 * BLOCK_BYTES : 3 * BLOCK_BYTES)
        const rough = 1 + rng.below(most)
        const lengthBytes = rng.below(3) === 0 || rough < BLOCK_BYTES ? rough : rough - (rough % BLOCK_BYTES)
        const choice = rng.below(20)
        if (choice < 13) {
          const content = choice < 5 ? rng.bytes(lengthBytes) : choice < 12 ? textOf(lengthBytes) : Buffer.alloc(lengthBytes)
          const { now } = device
          if (rng.below(2) === 0 && now?.write(offset, content)) now.commit()
          else await device.write(offset, content)
          model.set(content, offset)
        } else if (choice < 17) {
          await device.zero(offset, lengthBytes, { noHole: rng.below(3) === 0 })
          model.fill(0, offset, offset + lengthBytes)
        } else if (choice < 18 && kept.length < 3) {
          await store.snapshot('v', `s${step}`)
          kept.push({ name: `v@s${step}`, content: Buffer.from(model) })
        } else if (choice < 19 && kept.length > 0) {
          const { name, content } = kept[rng.below(kept.length)] as (typeof kept)[number]
          await store.revert('v', name)
          model = Buffer.from(content)
        } else {
          await store.close()
          store = await openedStore(t, Store.open(optionsFor(file)))
          await store.unlock(SECRET)
        }
        const from = rng.below(sizeBytes - 1)
        const some = Math.min(sizeBytes - from, 1 + rng.below(2 * UNIT_BYTES))
        assert.ok((await read(volumeDevice(store, 'v'), from, some)).equals(model.subarray(from, from + some)), `seed ${seed}`)
      }
      for (const { name, content } of [...kept, { name: 'v', content: model }]) {
        assert.ok((await read(volumeDevice(store, name), 0, sizeBytes)).equals(content), `seed ${seed}: ${name}`)
        assert.equal(store.get(name)?.storedBytes, countStored(store, name) * BLOCK_BYTES, `seed ${seed}: ${name}`)
      }
      await store.collected()
      const { damage } = await store.check({ readsData: true, repairs: false })
      assert.deepEqual(damage, [], `seed ${seed}`)
      await store.close()
    }
  })

test('text takes little room, random bytes as much as they are, zeros none', async (t) => {
  const store = await openedStore(t, Store.create(optionsFor(simFile())))
  await store.createVolume('v', 8 * MIB, { compression: 'zstd' })
  const device = volumeDevice(store, 'v')
  const stored = (): number => (store.get('v')?.storedBytes ?? 0) / BLOCK_BYTES
  const extents = async (): Promise<string[]> =>
    (await device.extents(0, 8 * MIB, 100)).map(({ lengthBytes, hole }) => `${lengthBytes / BLOCK_BYTES}${hole ? ' hole' : ''}`)
  await device.write(0, textOf(MIB))
  assert.ok(stored() <= 80, `${stored()} blocks for 256`)
  assert.deepEqual(await extents(), ['256', '1792 hole'])
  const before = stored()
  await device.write(MIB, randomBytes(MIB))
  assert.equal(stored(), before + 256)
  await device.write(0, new Uint8Array(MIB))
  assert.equal(stored(), 256)
  assert.deepEqual(await extents(), ['256 hole', '256', '1536 hole'])
  // A block alone is stored as it is; its neighbours stay holes.
  await device.write(5 * BLOCK_BYTES, textOf(BLOCK_BYTES))
  assert.deepEqual(await extents(), ['5 hole', '1', '250 hole', '256', '1536 hole'])
  await store.close()
})

test('a volume that is cut off within a packed unit has zeros there when it grows again', async (t) => {
  const store = await openedStore(t, Store.create(optionsFor(simFile())))
  await store.createVolume('v', MIB, { compression: 'zstd', secret: SECRET })
  const content = textOf(MIB)
  await volumeDevice(store, 'v').write(0, content)
  await store.resize('v', UNIT_BYTES + 5 * BLOCK_BYTES)
  await store.resize('v', MIB)
  content.fill(0, UNIT_BYTES + 5 * BLOCK_BYTES)
  assert.ok((await read(volumeDevice(store, 'v'), 0, MIB)).equals(content))
  await store.close()
})

test('a byte that rots in a packed unit is never served, and is named', async (t) => {
  const file = simFile()
  const store = await openedStore(t, Store.create(optionsFor(file)))
  await store.createVolume('v', MIB, { compression: 'zstd' })
  await volumeDevice(store, 'v').write(0, textOf(MIB))
  const leaf = store.entry('v').tree.leaf(0)
  assert.ok(leaf !== null && leaf !== MISSING)
  file.rot(addressAt(leaf.words, 0) * BLOCK_BYTES + 1000)
  const device = volumeDevice(store, 'v')
  const isDamage = (error: unknown): boolean => error instanceof Fault && /^v at 0: block \d+ has checksum/.test(error.message)
  await assert.rejects(read(device, 7 * BLOCK_BYTES, 100), isDamage)
  assert.ok((await read(device, UNIT_BYTES, UNIT_BYTES)).equals(textOf(MIB).subarray(UNIT_BYTES, 2 * UNIT_BYTES)))
  assert.match((await store.check({ readsData: true, repairs: false })).damage.join(), /^v at 0: block \d+ has checksum/)
  // Written anew as a whole it is sound again.
  await device.write(0, textOf(UNIT_BYTES))
  assert.deepEqual((await store.check({ readsData: true, repairs: false })).damage, [])
  await store.close()
})

test('without a compressor nothing compressed is made, and what is there is refused when it is read', async (t) => {
  const file = simFile()
  const store = await openedStore(t, Store.create(optionsFor(file)))
  await store.createVolume('v', MIB, { compression: 'zstd' })
  await volumeDevice(store, 'v').write(0, textOf(MIB))
  await store.close()
  const { compressor: _none, ...options } = optionsFor(file)
  const without = await openedStore(t, Store.open(options))
  const isUnsupported = (error: unknown): boolean => error instanceof Fault && error.code === 'unsupported'
  await assert.rejects(without.createVolume('w', MIB, { compression: 'zstd' }), isUnsupported)
  await assert.rejects(read(volumeDevice(without, 'v'), 0, 10), isUnsupported)
  await without.close()
})
