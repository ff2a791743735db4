/** Imports that are killed at any turn: nothing half is ever seen, and what was said to be there is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, type Clock, type Rng } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { underSeeds } from '@typevisor/sim/testing'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { checkStore } from './check.ts'
import { BLOCK_BYTES } from './format.ts'
import {
  abortStream,
  beginImage,
  beginStream,
  finishImage,
  finishStream,
  listImports,
  markStream,
  sweep,
  type StreamTarget,
} from './transfers.ts'
import { Store, uuidOf, type StoreOptions, type VolumeDescription, type VolumeOptions } from './store.ts'
import { volumeDevice } from './volume-device.ts'

const SECRET = new Uint8Array(32).fill(201)
const SIZE = 600
const NEXT_SIZE = 700

const turnClock = (rng: Rng): Clock => ({
  now: () => 1_700_000_000_000 as ReturnType<Clock['now']>,
  monotonic: () => 0,
  async sleep(duration, options) {
    if (duration === 0) for (let turn = rng.below(4); turn >= 0; turn -= 1) await null
    else
      await new Promise((_resolve, reject) =>
        options?.signal?.addEventListener('abort', () => reject(options.signal?.reason as Error), { once: true }),
      )
  },
})
const optionsOf = (rng: Rng, file: SimStoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  crypto: nodeVolumeCrypto(),
  compressor: nodeCompressor,
  clock: turnClock(rng),
  rng,
  log: memoryLog(),
  journalBytes: 64 * BLOCK_BYTES,
  dirtyNodeCountMax: 8,
})

const uuid = (fill: number): string => uuidOf(new Uint8Array(16).fill(fill))
const whole: StreamTarget = { name: 'web', snapshot: 'one', snapshotId: uuid(1), sizeBytes: SIZE * BLOCK_BYTES, startBytes: 0 }
const increment: StreamTarget = {
  name: 'web',
  snapshot: 'two',
  snapshotId: uuid(2),
  sizeBytes: NEXT_SIZE * BLOCK_BYTES,
  baseId: uuid(1),
  baseName: 'web@one',
  startBytes: 0,
}
const changesOf = new Map([
  [whole, new Map(Array.from({ length: 40 }, (_, index) => [index * 15, 1 + index]))],
  [increment, new Map(Array.from({ length: 30 }, (_, index) => [index * 23, index % 4 === 0 ? 0 : 100 + index]))],
])
const contentOf = (...targets: StreamTarget[]): Map<number, number> =>
  new Map(targets.flatMap((target) => [...(changesOf.get(target) as Map<number, number>)]))

/** What a client does: it goes on from where the store says. */
async function bringIn(
  store: Store,
  target: StreamTarget,
  before = async (_step: number): Promise<void> => {},
  options: VolumeOptions = {},
): Promise<void> {
  const { positionBytes, exportName } = await beginStream(store, target, options)
  const device = volumeDevice(store, exportName)
  let step = 0
  for (const [block, fill] of changesOf.get(target) as Map<number, number>) {
    if (block * BLOCK_BYTES < positionBytes) continue
    await before((step += 1))
    if (fill === 0) await device.trim(block * BLOCK_BYTES, BLOCK_BYTES)
    else await device.write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(fill))
    if (step % 7 === 0) await markStream(store, target.name, (block + 1) * BLOCK_BYTES)
  }
  await finishStream(store, { ...target, createdAt: 1234 })
}

async function assertContent(store: Store, name: string, want: ReadonlyMap<number, number>, end: number): Promise<void> {
  const device = volumeDevice(store, name)
  const content = new Uint8Array(BLOCK_BYTES)
  for (let block = 0; block < end; block += 1) {
    await device.read(block * BLOCK_BYTES, content)
    const fill = want.get(block) ?? 0
    assert.ok(
      content.every((byte) => byte === fill),
      `${name} block ${block}: got ${content[0]}, want ${fill}`,
    )
  }
}

const visible = (store: Store): string[] =>
  store
    .list()
    .map(({ name }) => name)
    .filter((name) => !name.startsWith('.'))
    .toSorted()

/** @returns how far it is. */
async function assertWholeOrNothing(store: Store): Promise<0 | 1 | 2> {
  const names = visible(store)
  const stage = names.includes('web@two') ? 2 : names.includes('web') ? 1 : 0
  assert.deepEqual(names, [[], ['web', 'web@one'], ['web', 'web@one', 'web@two']][stage])
  if (stage >= 1) await assertContent(store, 'web@one', contentOf(whole), SIZE)
  if (stage === 1) await assertContent(store, 'web', contentOf(whole), SIZE)
  if (stage === 2) for (const name of ['web', 'web@two']) await assertContent(store, name, contentOf(whole, increment), NEXT_SIZE)
  const [under] = listImports(store)
  const target = stage === 0 ? whole : increment
  if (under && !store.entry(under.exportName).isLocked) {
    assert.equal(under.snapshotId, target.snapshotId)
    const want = stage === 0 ? contentOf(whole) : contentOf(whole, increment)
    await assertContent(store, under.exportName, want, under.positionBytes / BLOCK_BYTES)
  }
  return stage
}

/** All that is in use is of use, and whole. */
async function assertTight(store: Store): Promise<void> {
  await store.flush()
  await store.collected()
  await store.checkpoint()
  await store.checkpoint()
  const report = await checkStore(store.state, { readsData: true, sleep: async () => {} })
  assert.deepEqual([report.damage, report.leaked, report.missing], [[], [], []])
}

async function live(seed: number): Promise<number> {
  const rng = seededRng(seed)
  let file = new SimStoreFile({ rng, coldPerMille: 50 })
  let store = await Store.create(optionsOf(rng, file))
  // Some are brought into volumes of another form; the key file also unlocks what is gone on with.
  const form: VolumeOptions = {
    ...(rng.below(3) === 0 ? { secret: SECRET } : {}),
    ...(rng.below(3) === 0 ? { compression: 'zstd' } : {}),
  }
  let crashCount = 0
  for (let stage = 0; stage < 2;) {
    let over = false
    const working = bringIn(store, stage === 0 ? whole : increment, undefined, form).then(
      () => (over = true),
      (error: unknown) => error,
    )
    // Some are left alone to their end.
    const turns = rng.below(5) === 0 ? Infinity : rng.below(4000)
    if (turns === Infinity) await working
    else for (let turn = 0; turn < turns && !over; turn += 1) await null
    file = file.crash(rng.below(2) === 0 ? 'kill' : 'power')
    crashCount += 1
    const error = await Promise.race([working, new Promise((resolve) => setImmediate(resolve, true))])
    // What is under way at the crash may find its file gone.
    if (error !== true && !/the process is dead/.test(String(error))) throw error as Error
    store = await Store.open(optionsOf(rng, file))
    const [begun] = listImports(store)
    if (begun && form.secret) assert.ok(store.entry(begun.exportName).isLocked)
    await store.unlock(SECRET, rng.below(2) === 0 || begun === undefined ? undefined : visible(store))
    const now = await assertWholeOrNothing(store)
    assert.ok(now >= stage, 'what is finished stays')
    assert.ok(!over || now === stage + 1, 'what was said to be finished is safe')
    stage = now
  }
  await assertTight(store)
  await store.remove('web@one')
  await assertTight(store)
  for (const name of ['web', 'web@two']) {
    await assertContent(store, name, contentOf(whole, increment), NEXT_SIZE)
    const { encryption, compression } = store.get(name) as VolumeDescription
    assert.deepEqual([encryption, compression], [form.secret ? 'unlocked' : 'none', form.compression ?? 'none'])
  }
  for (const name of ['web@two', 'web']) await store.remove(name)
  await assertTight(store)
  await store.close()
  return crashCount
}

test('an import that is killed, by a power cut too, is not seen, goes on from where it says, and leaves nothing', () =>
  underSeeds(
    'store/transfers',
    live,
    Array.from({ length: 25 }, (_, seed) => seed),
  ))

const refused = (work: Promise<unknown>, code: string, want: RegExp): Promise<void> =>
  assert.rejects(work, (error) => error instanceof Fault && error.code === code && want.test(error.message))

test('an increment wants the volume as its base is', async () => {
  const rng = seededRng(1)
  const store = await Store.create(optionsOf(rng, new SimStoreFile({ rng })))
  await refused(beginStream(store, increment), 'not_found', /want a volume whose newest snapshot is 01010101-.* \(web@one\)/)
  await refused(beginStream(store, { ...whole, startBytes: 4096 }), 'conflict', /begins at 4096, want 0/)
  await refused(beginStream(store, { ...whole, sizeBytes: 1000 }), 'invalid', /size: got 1000/)
  await bringIn(store, whole)
  assert.deepEqual(
    store.list().map(({ name, id, createdAt }) => [name, name.includes('@') ? [id, createdAt] : null]),
    [
      ['web', null],
      ['web@one', [uuid(1), 1234]],
    ],
  )
  await refused(beginStream(store, whole), 'conflict', /web@one: there is one already/)
  await refused(beginStream(store, { ...whole, snapshot: 'three' }), 'conflict', /volume web: there is one already/)
  await refused(
    beginStream(store, { ...increment, baseId: uuid(9) }),
    'conflict',
    /newest snapshot is 01010101-.*, want .* 09090909-/,
  )
  // Written while it is brought in: it is not lost, the import waits for somebody to say what is wanted.
  const device = volumeDevice(store, 'web')
  await refused(
    bringIn(store, increment, async (step) => {
      if (step === 20) await device.write(0, new Uint8Array(BLOCK_BYTES).fill(77))
    }),
    'conflict',
    /written since web@one/,
  )
  const [under] = listImports(store)
  assert.equal(under?.positionBytes, 23 * 27 * BLOCK_BYTES + BLOCK_BYTES)
  await refused(beginStream(store, increment), 'conflict', /written since web@one/)
  await store.revert('web', 'web@one')
  await refused(
    beginStream(store, { ...increment, snapshotId: uuid(5) }),
    'conflict',
    /want 02020202-.*, of which a part is there/,
  )
  await bringIn(store, increment)
  assert.equal(await assertWholeOrNothing(store), 2)
  await refused(abortStream(store, 'web'), 'not_found', /none under way/)
  await store.close()
})

test('an increment goes into an encrypted, compressed volume as that is, whatever its key file is by then; into a locked one none goes', async () => {
  const rng = seededRng(1)
  const file = new SimStoreFile({ rng })
  const [secret, nextSecret] = [new Uint8Array(32).fill(200), new Uint8Array(32).fill(201)]
  let store = await Store.create(optionsOf(rng, file))
  await store.createVolume('web', SIZE * BLOCK_BYTES, { secret, compression: 'zstd' })
  const device = volumeDevice(store, 'web')
  for (const [block, fill] of contentOf(whole)) await device.write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(fill))
  const base = await store.snapshot('web', 'one')
  await store.close()
  store = await Store.open(optionsOf(rng, file))
  const target = { ...increment, baseId: base.id }
  changesOf.set(target, changesOf.get(increment) as Map<number, number>)
  await refused(beginStream(store, target), 'conflict', /^web@one: it is encrypted and locked/)
  assert.deepEqual(listImports(store), [])
  await store.unlock(secret)
  await bringIn(store, target, async (step) => {
    if (step === 15) await store.rekey('web', secret, nextSecret)
  })
  await store.close()
  store = await Store.open(optionsOf(rng, file))
  assert.deepEqual((await store.unlock(nextSecret)).toSorted(), ['web', 'web@one', 'web@two'])
  for (const name of ['web', 'web@two']) {
    await assertContent(store, name, contentOf(whole, increment), NEXT_SIZE)
    assert.equal(store.get(name)?.compression, 'zstd')
  }
  await assertContent(store, 'web@one', contentOf(whole), SIZE)
  await store.remove('web@one')
  await assertTight(store)
  await store.close()
})

test('a whole stream goes into an encrypted, compressed volume; what goes on with it has its key file, and asks for nothing else', async () => {
  const rng = seededRng(1)
  const file = new SimStoreFile({ rng })
  let store = await Store.create(optionsOf(rng, file))
  const form: VolumeOptions = { secret: SECRET, compression: 'zstd' }
  await refused(beginStream(store, whole, { secret: SECRET.subarray(0, 3) }), 'invalid', /key file: got 3 bytes/)
  assert.deepEqual(listImports(store), [])
  const { exportName } = await beginStream(store, whole, form)
  await volumeDevice(store, exportName).write(0, new Uint8Array(BLOCK_BYTES).fill(1))
  await markStream(store, 'web', BLOCK_BYTES)
  await store.close()
  store = await Store.open(optionsOf(rng, file))
  await refused(beginStream(store, whole), 'conflict', /^import of web: it is encrypted and locked/)
  await refused(
    beginStream(store, whole, { secret: SECRET.map(() => 202) }),
    'unauthenticated',
    /not encrypted with this key file/,
  )
  await refused(beginStream(store, whole, { ...form, compression: 'none' }), 'conflict', /got compression none, want zstd/)
  await bringIn(store, whole, undefined, form)
  await assertContent(store, 'web@one', contentOf(whole), SIZE)
  await refused(beginStream(store, increment, { compression: 'none' }), 'conflict', /got compression none, want zstd/)
  await store.close()
  store = await Store.open(optionsOf(rng, file))
  // The key file of an increment unlocks its base.
  await refused(beginStream(store, increment), 'conflict', /^web@one: it is encrypted and locked/)
  await bringIn(store, increment, undefined, { secret: SECRET })
  assert.equal(await assertWholeOrNothing(store), 2)
  await assertTight(store)
  await store.close()
})

test('an image has its name when it is whole, and is swept when nobody can be writing it', async () => {
  const rng = seededRng(1)
  const store = await Store.create(optionsOf(rng, new SimStoreFile({ rng })))
  const hidden = await beginImage(store, 'disk', SIZE * BLOCK_BYTES)
  assert.deepEqual(visible(store), [])
  await volumeDevice(store, hidden).write(0, new Uint8Array(BLOCK_BYTES).fill(1))
  const other = await beginImage(store, 'disk', SIZE * BLOCK_BYTES)
  assert.equal(await finishImage(store, hidden), 'disk')
  assert.deepEqual(visible(store), ['disk'])
  await refused(finishImage(store, other), 'conflict', /there is one already/)
  await refused(finishImage(store, 'disk'), 'not_found', /nothing of this name/)
  await sweep(store)
  assert.deepEqual(
    store.list().map(({ name }) => name),
    ['disk'],
  )
  await store.close()
})
