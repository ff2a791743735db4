/** Names are given once, also when two ask at the same time. */
import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { stillClock } from '../testing/still-clock.ts'
import { BLOCK_BYTES } from './format.ts'
import { Store, type StoreOptions } from './store.ts'

const optionsOf = (file: SimStoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  clock: stillClock,
  rng: seededRng(2),
  log: memoryLog(),
  journalBytes: 16 * BLOCK_BYTES,
})

let file: SimStoreFile
let store: Store

beforeEach(async () => {
  file = new SimStoreFile({ rng: seededRng(1), capacityBytes: 2 ** 32 })
  store = await Store.create(optionsOf(file))
  await store.createVolume('a', 2 ** 20)
})

const names = (of: Store): string[] => of.list().map(({ name }) => name)
const isConflict = (error: unknown): boolean => error instanceof Fault && error.code === 'conflict'

/** Fills the journal to where the next change waits for a checkpoint: so it is asked for names before, and carried out after. */
async function fillJournal(): Promise<void> {
  for (let at = store.usage().journalUsedBytes, before = -1; at > before; at = store.usage().journalUsedBytes) {
    before = at
    await store.rename('a', 'b')
    await store.rename('b', 'a')
  }
}

test('a volume takes its snapshots along, and is not renamed where one of their names is taken', async () => {
  await store.snapshot('a', 's')
  await store.createVolume('b', 2 ** 20)
  await store.snapshot('b', 's')
  await store.remove('b')
  await assert.rejects(store.rename('a', 'b'), isConflict)
  assert.deepEqual(names(store).toSorted(), ['a', 'a@s', 'b@s'])
  await store.remove('b@s')
  await store.rename('a', 'b')
  assert.deepEqual(names(store).toSorted(), ['b', 'b@s'])
})

test('of a name that is taken behind more snapshots than one record holds, none is renamed', async () => {
  for (let count = 0; count < 40; count += 1) await store.snapshot('a', `s${count}`)
  await store.createVolume('b', 2 ** 20)
  await store.snapshot('b', 's39')
  await store.remove('b')
  await assert.rejects(store.rename('a', 'b'), isConflict)
  assert.equal(names(store).filter((name) => name.startsWith('a')).length, 41)
  await store.rename('a', 'c')
  assert.equal(names(store).filter((name) => name.startsWith('c')).length, 41)
})

test('a snapshot that is taken while its volume is renamed goes along', async () => {
  for (let count = 0; count < 40; count += 1) await store.snapshot('a', `s${count}`)
  const done = await Promise.allSettled([store.rename('a', 'c'), store.snapshotAs('a', 'a@late')])
  assert.deepEqual(
    done.map(({ status }) => status),
    ['fulfilled', 'fulfilled'],
  )
  assert.deepEqual(
    names(store).filter((name) => !name.startsWith('c')),
    [],
  )
  assert.equal(names(store).length, 42)
})

for (const [what, ask] of Object.entries({
  'a volume': () => store.createVolume('x', 2 ** 20),
  'a clone': () => store.clone('a@s', 'x'),
  'a snapshot': () => store.snapshot('a', 'x'),
  'a rename': () => store.rename('a', 'x'),
}))
  test(`of two that ask for one name at once (${what} and a clone, or the same twice) one gets it`, async () => {
    await store.snapshot('a', 's')
    const other = what === 'a snapshot' ? ask : () => store.clone('a@s', 'x')
    await fillJournal()
    const done = await Promise.allSettled([ask(), other()])
    assert.deepEqual(done.map(({ status }) => status).toSorted(), ['fulfilled', 'rejected'])
    const refused = done.find(({ status }) => status === 'rejected') as PromiseRejectedResult // there is one
    assert.ok(isConflict(refused.reason), String(refused.reason))
    assert.equal(new Set(names(store)).size, names(store).length)
    const again = await Store.open(optionsOf(file.crash('kill')))
    assert.deepEqual(names(again).toSorted(), names(store).toSorted())
  })
