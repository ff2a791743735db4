/** What lies in the file of an encrypted volume, what becomes of it when somebody changes it, and who can open it. */
import assert from 'node:assert/strict'
import { createCipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { realClock, realRng } from '@typevisor/runtime-node'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum, nodeStoreFile } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { openedStore } from '../testing/opened-store.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { BLOCK_BYTES, ENTRY_WORDS, FLAG_PACKED, SIV_BYTES } from './format.ts'
import type { StoreFile } from './ports.ts'
import { Store, type StoreOptions } from './store.ts'
import { MISSING, SEALED } from './tree.ts'
import { volumeDevice } from './volume-device.ts'

const crypto = nodeVolumeCrypto({ scryptCost: 4 })
const optionsFor = (file: StoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  crypto,
  clock: realClock(),
  rng: realRng(),
  log: memoryLog(),
  journalBytes: 64 * BLOCK_BYTES,
})
const simFile = (): SimStoreFile => new SimStoreFile({ rng: seededRng(1) })
const MIB = 1024 * 1024
const SECRET = randomBytes(32)
const OTHER = randomBytes(64)
const blockOf = (text: string): Buffer => Buffer.alloc(BLOCK_BYTES, text)
const isFault =
  (code: string, words: RegExp) =>
  (error: unknown): boolean =>
    error instanceof Fault && error.code === code && words.test(error.message)

test('a block is sealed as an independent computation of SIV, HMAC-SHA-256 and AES-256-CTR has it', () => {
  const volumeKey = Buffer.alloc(32, 7)
  const plain = randomBytes(BLOCK_BYTES)
  const [sealed, siv] = [Buffer.alloc(BLOCK_BYTES), Buffer.alloc(SIV_BYTES)]
  const block = 2 ** 33 + 5
  crypto.cipher(volumeKey).seal(block, 9, 0x400, plain, sealed, 0, siv, 0)
  const keyOf = (label: string): Buffer => Buffer.from(hkdfSync('sha256', volumeKey, '', `typevisor volume: ${label}`, 32))
  const place = Buffer.from('09000000050000000200000000040000', 'hex')
  const mac = createHmac('sha256', keyOf('authentication'))
    .update(Buffer.concat([place, plain]))
    .digest()
  assert.deepEqual(siv, mac.subarray(0, 16))
  assert.deepEqual(sealed, createCipheriv('aes-256-ctr', keyOf('encryption'), siv).update(plain))
  // And one that was computed once by Python's hmac and hashlib.
  const [zeros, known] = [Buffer.alloc(BLOCK_BYTES), Buffer.alloc(SIV_BYTES)]
  crypto.cipher(Buffer.alloc(32)).seal(1, 1, 0, zeros, Buffer.alloc(BLOCK_BYTES), 0, known, 0)
  assert.equal(known.toString('hex'), '9df4485db07c1ca49c3785c4256cf58b')
})

test('a block opens only at its place, in its epoch, as what it was and as it was', () => {
  const cipher = crypto.cipher(randomBytes(32))
  const plain = randomBytes(BLOCK_BYTES)
  const [sealed, siv] = [Buffer.alloc(BLOCK_BYTES), Buffer.alloc(SIV_BYTES)]
  cipher.seal(3, 4, 0, plain, sealed, 0, siv, 0)
  const opens = (block: number, birth: number, change: (content: Buffer, tag: Buffer) => void = () => {}, flags = 0): boolean => {
    const [content, tag] = [Buffer.from(sealed), Buffer.from(siv)]
    change(content, tag)
    return cipher.open(block, birth, flags, content, 0, tag, 0) && content.equals(plain)
  }
  assert.ok(opens(3, 4))
  assert.ok(!opens(2, 4))
  assert.ok(!opens(3, 5))
  assert.ok(!opens(3, 4, () => {}, FLAG_PACKED))
  for (const bit of [0, 8 * 2000 + 3, 8 * BLOCK_BYTES - 1])
    assert.ok(!opens(3, 4, (content) => content.writeUInt8(content.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)))
  for (let bit = 0; bit < 8 * SIV_BYTES; bit += 1)
    assert.ok(!opens(3, 4, (_content, tag) => tag.writeUInt8(tag.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)))
})

test('neither what was written nor a key is in the file, be it as data, in the journal or in nodes', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'tv-encryption-'))
  try {
    const path = join(dir, 'store')
    const volumeKeys: Uint8Array[] = []
    const spied = {
      ...crypto,
      cipher: (key: Uint8Array) => {
        volumeKeys.push(key)
        return crypto.cipher(key)
      },
    }
    const store = await openedStore(t, Store.create({ ...optionsFor(nodeStoreFile({ path, create: true })), crypto: spied }))
    await store.createVolume('open', MIB)
    await store.createVolume('secret', MIB, { secret: SECRET })
    const device = volumeDevice(store, 'secret')
    const words = 'a word that is nowhere else'
    await device.write(0, Buffer.alloc(8 * BLOCK_BYTES, words))
    await device.write(100_001, Buffer.from(words))
    await volumeDevice(store, 'open').write(0, blockOf('what all may read'))
    await store.snapshot('secret', 's')
    await device.write(BLOCK_BYTES, blockOf(words))
    await store.flush()
    const found = new Uint8Array(words.length)
    await device.read(100_001, found)
    assert.equal(Buffer.from(found).toString(), words)
    const looked = async (): Promise<void> => {
      const content = await readFile(path)
      assert.ok(content.includes('what all may read'), 'the look can find something')
      assert.ok(!content.includes(words.slice(0, 12)))
      assert.ok(!content.includes(SECRET) && volumeKeys.length > 0)
      for (const key of volumeKeys) assert.ok(!content.includes(Buffer.from(key)))
    }
    await looked()
    await store.close()
    await looked()
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('blocks that are exchanged with all their checksums made right are found, by reading and by check', async (t) => {
  const store = await openedStore(t, Store.create(optionsFor(simFile())))
  await store.createVolume('v', MIB, { secret: SECRET })
  const device = volumeDevice(store, 'v')
  await device.write(0, Buffer.concat([blockOf('one'), blockOf('two'), blockOf('three'), blockOf('four')]))
  const leaf = store.entry('v').tree.leaf(0)
  assert.ok(leaf !== null && leaf !== MISSING)
  const exchange = (block: number, other: number, wordCount: number): void => {
    const [from, to] = [SEALED.wordOf(block), SEALED.wordOf(other)]
    const held = leaf.words.slice(from, from + wordCount)
    leaf.words.copyWithin(from, to, to + wordCount)
    leaf.words.set(held, to)
  }
  const content = new Uint8Array(BLOCK_BYTES)
  const refused = async (block: number): Promise<void> => {
    await assert.rejects(device.read(block * BLOCK_BYTES, content), isFault('failed', /is not what was sealed there/))
    assert.ok(content.every((byte) => byte === 0))
  }
  exchange(0, 1, ENTRY_WORDS)
  await refused(0)
  await refused(1)
  exchange(2, 3, SEALED.entryWords)
  await refused(2)
  await refused(3)
  const { damage } = await store.check({ readsData: true, repairs: false })
  assert.equal(damage.filter((line) => /^v at \d+: block \d+ is not what was sealed there$/.test(line)).length, 4)
  await store.close()
})

test('a flipped bit is found without the key, by its checksum', async (t) => {
  const file = simFile()
  const store = await openedStore(t, Store.create(optionsFor(file)))
  await store.createVolume('v', MIB, { secret: SECRET })
  await volumeDevice(store, 'v').write(0, blockOf('one'))
  const leaf = store.entry('v').tree.leaf(0)
  assert.ok(leaf !== null && leaf !== MISSING)
  const address = leaf.words[0] as number
  await store.close()
  file.rot(address * BLOCK_BYTES + 1000)
  const locked = await openedStore(t, Store.open(optionsFor(file)))
  assert.equal(locked.get('v')?.encryption, 'locked')
  const { damage } = await locked.check({ readsData: true, repairs: false })
  assert.match(damage.join(), /^v at 0: block \d+ has checksum/)
  await locked.close()
})

test('a locked volume is listed, snapshotted, cloned, checked and deleted, and opened only with its key file', async (t) => {
  const file = simFile()
  const before = await openedStore(t, Store.create(optionsFor(file)))
  await before.createVolume('v', MIB, { secret: SECRET })
  await volumeDevice(before, 'v').write(0, blockOf('one'))
  await before.close()

  const store = await openedStore(t, Store.open(optionsFor(file)))
  assert.throws(() => volumeDevice(store, 'v'), isFault('conflict', /^v: it is encrypted and locked/))
  await store.snapshot('v', 's')
  await store.clone('v@s', 'copy')
  await store.clone('v@s', 'other')
  await store.remove('other')
  assert.deepEqual((await store.check({ readsData: true, repairs: false })).damage, [])
  assert.deepEqual(await store.unlock(OTHER), [])
  assert.deepEqual(await store.unlock(Buffer.from('a passphrase of some length, long enough')), [])
  assert.throws(() => volumeDevice(store, 'v@s'), isFault('conflict', /locked/))
  assert.deepEqual((await store.unlock(SECRET)).toSorted(), ['copy', 'v', 'v@s'])
  const content = new Uint8Array(BLOCK_BYTES)
  for (const name of ['v', 'v@s', 'copy']) {
    await volumeDevice(store, name).read(0, content)
    assert.ok(blockOf('one').equals(content))
  }
  await store.clone('v@s', 'later')
  assert.equal(store.get('later')?.encryption, 'unlocked')
  await store.close()
})

test('another key file takes the place of the one before for a volume and its snapshots; clones keep theirs', async (t) => {
  const file = simFile()
  const store = await openedStore(t, Store.create(optionsFor(file)))
  await store.createVolume('v', MIB, { secret: SECRET })
  const device = volumeDevice(store, 'v')
  await device.write(0, blockOf('one'))
  for (let taken = 0; taken < 40; taken += 1) await store.snapshot('v', `s${taken}`)
  await store.clone('v@s3', 'copy')
  await assert.rejects(store.rekey('v', OTHER, SECRET), isFault('unauthenticated', /not encrypted with this key file/))
  await assert.rejects(store.rekey('v', SECRET, Buffer.from('short')), isFault('invalid', /got 5 bytes, want at least 8/))
  const passphrase = Buffer.from('correct horse battery staple, and more\n')
  await store.rekey('v', SECRET, passphrase)
  const content = new Uint8Array(BLOCK_BYTES)
  await device.read(0, content)
  assert.ok(blockOf('one').equals(content), 'who has it open goes on')
  await store.close()

  const again = await openedStore(t, Store.open(optionsFor(file)))
  assert.deepEqual(await again.unlock(SECRET), ['copy'])
  assert.equal((await again.unlock(Buffer.from('correct horse battery staple, and more'))).length, 41)
  await volumeDevice(again, 'v@s39').read(0, content)
  assert.ok(blockOf('one').equals(content))
  await again.close()
})

test('a volume that is reverted to the snapshot of one with another key has that key, and gets its own back', async (t) => {
  const store = await openedStore(t, Store.create(optionsFor(simFile())))
  const content = new Uint8Array(BLOCK_BYTES)
  const fills = { a: 'of a', b: 'of b', plain: 'of all' }
  await store.createVolume('a', MIB, { secret: SECRET })
  await store.createVolume('b', MIB, { secret: OTHER })
  await store.createVolume('plain', MIB)
  for (const [name, fill] of Object.entries(fills)) {
    await volumeDevice(store, name).write(5 * BLOCK_BYTES, blockOf(fill))
    await store.snapshot(name, 's')
  }
  for (const name of ['b', 'plain', 'a', 'plain', 'b', 'a'] as const) {
    await store.revert('a', `${name}@s`)
    assert.equal(store.get('a')?.encryption, name === 'plain' ? 'none' : 'unlocked')
    await volumeDevice(store, 'a').read(5 * BLOCK_BYTES, content)
    assert.ok(blockOf(fills[name]).equals(content))
  }
  await store.collected()
  assert.deepEqual((await store.check({ readsData: true, repairs: false })).damage, [])
  await store.close()
})
