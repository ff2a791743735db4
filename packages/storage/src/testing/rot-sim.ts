/**
 * The store on a disk that rots, under one seed: random work, then blocks that change by themselves, then the same work again. A block has a
 * bit flipped, cannot be read, is zeros, has what it had before a write that the disk has lost, or what was meant for another one.
 *
 * A wrong byte is never read; what cannot be read is what was damaged, and a check names it; all else can be read; what is written over as a
 * whole can be read again; what has two copies is mended; a store that cannot be opened says why, and one damaged block behind the journal is no reason.
 */
import assert from 'node:assert/strict'
import { Fault } from '@typevisor/base'
import { underSeeds } from '@typevisor/sim/testing'
import { assertHolds, CONTENTS, JOURNAL_END_BYTES, openUnlocked, PLACES, Run, type Disk, type World } from './store-sim.ts'
import { SimStoreFile } from './sim-store-file.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE, SUPERBLOCK_COUNT, UNIT_BLOCKS } from '../store/format.ts'
import { Store } from '../store/store.ts'
import { volumeDevice } from '../store/volume-device.ts'

const STEPS = 120

interface Unread {
  readonly name: string
  readonly block: number
  readonly reason: string
}

/** @throws AssertionError for a wrong byte. @returns what could not be read. */
async function readAll(store: Store, world: World, step: string): Promise<Unread[]> {
  const unread: Unread[] = []
  const names = store.list().map(({ name }) => name)
  assert.deepEqual(names.toSorted(), [...world.keys()].toSorted(), step)
  const content = new Uint8Array(BLOCK_BYTES)
  for (const [name, disk] of world) {
    const device = volumeDevice(store, name)
    for (const place of PLACES)
      for (let block = place; block < Math.min(place + 4, disk.sizeBlocks); block += 1) {
        try {
          await device.read(block * BLOCK_BYTES, content)
        } catch (error) {
          assert.ok(error instanceof Fault && error.code === 'failed', `${step}: ${String(error)}`)
          unread.push({ name, block, reason: error.message })
          continue
        }
        const number = disk.blocks.get(block) ?? 0
        const want = CONTENTS[number] as Uint8Array // there is one of each number
        assert.ok(
          content.every((byte, index) => byte === want[index]),
          `${step}: ${name} block ${block}: got ${content[0]}.., want ${number}`,
        )
      }
  }
  return unread
}

/** Work until nothing more can be written, or enough. All of it is safe at the end. @returns whether the store can still be written. */
async function work(run: Run, store: Store, stepCount = STEPS): Promise<boolean> {
  run.isWounded = () => store.state.wounded !== null
  try {
    for (let step = 0; step < stepCount; step += 1) await run.step(store)
    await store.flush()
  } catch (error) {
    if (!run.isWounded()) throw error
    return false
  }
  run.history = [run.world]
  return true
}

const failedBy = (error: unknown): string => {
  assert.ok(error instanceof Fault && error.code === 'failed', String(error))
  return error.message
}

/** Every refusal to open says one of these things. */
const REASONS =
  /^(?:journal: record \d+ (?:is damaged|cannot be read)|store: superblock of checkpoint|store: none of the four|table of free blocks, group|(?:catalog page \d+|node) at block \d+: (?:checksum|read at)|journal: record \d+ cannot be done again after damage)/

async function rots(seed: number): Promise<void> {
  using run = new Run(seed)
  const { rng } = run
  const file = new SimStoreFile({ rng, coldPerMille: 50, capacityBytes: 2 ** 32 })
  const made = await Store.create(run.options(file))
  assert.ok(await work(run, made, rng.below(STEPS)))
  const before = file.copy()
  assert.ok(await work(run, made))
  let rotten = file.crash('kill')
  const { places, kind } = damage(run, rotten, before)
  run.isRotten = true
  // With a whole block of the journal its last records go, and what told that they had been safe.
  const isCut = kind !== 'flipped' && places.some((place) => place >= SUPERBLOCK_COUNT && place * BLOCK_BYTES < JOURNAL_END_BYTES)
  const isFew = places.length === 1 && (places[0] as number) * BLOCK_BYTES >= JOURNAL_END_BYTES // there is one
  const step = `${kind}: blocks ${places.join()}`

  let store: Store
  try {
    store = await openUnlocked(run.options(rotten))
  } catch (error) {
    const reason = failedBy(error)
    assert.match(reason, REASONS, step)
    assert.ok(!isFew || reason.startsWith('table of free blocks'), `${step}: ${reason}`)
    const isUnread = reason.includes('cannot be read')
    // A check may go further, and mends it.
    try {
      store = await openUnlocked({ ...run.options(rotten), repairs: true, collects: false })
    } catch (again) {
      assert.match(failedBy(again), REASONS, step)
      assert.ok(!isFew, `${step}: ${failedBy(again)}`)
      return
    }
    const checked = await store.check({ readsData: true, repairs: true })
    assert.ok(isUnread || (checked.rebuiltCount > 0 && checked.isRepaired), step)
    rotten = rotten.crash('kill')
    store = await openUnlocked(run.options(rotten))
  }
  if (isCut) await goBack(run, store, step)
  await writeOver(run, store, await readBeside(run, store, places, step), places, step)

  const isWritable = await work(run, store)
  rotten = rotten.crash('kill')
  const again = await openUnlocked(run.options(rotten)).catch((error: unknown) => {
    assert.match(failedBy(error), REASONS, step)
    assert.ok(!isFew, `${step}: opened again: ${failedBy(error)}`)
    return null
  })
  // Of what was under way when it could not be written any more nobody knows.
  if (again && isWritable) await readBeside(run, again, places, `${step}, opened again`)
}

/** The store is as it was at some time; that is its world from now on. */
async function goBack(run: Run, store: Store, step: string): Promise<void> {
  run.history = [await assertHolds(store, run.past, step)]
}

const KINDS = ['flipped', 'unreadable', 'zeros', 'lost', 'misdirected'] as const
type Kind = (typeof KINDS)[number]

/** One block anywhere, one of superblocks, journal and tables, or some behind the journal. `before`: what the file had once. @returns which. */
function damage(run: Run, file: SimStoreFile, before: SimStoreFile): { places: number[]; kind: Kind } {
  const { rng } = run
  const isOne = rng.below(3) > 0
  const isFirst = isOne && rng.below(2) === 0
  const kind = run.pick(KINDS) as Kind // there are some
  const isWanted = (page: number): boolean =>
    isFirst ? page * BLOCK_BYTES < JOURNAL_END_BYTES + 2 * BLOCK_BYTES : isOne || page * BLOCK_BYTES >= JOURNAL_END_BYTES
  const from = file.pageNumbers.filter(isWanted)
  const places = new Set(Array.from({ length: isOne ? 1 : 2 + rng.below(6) }, () => run.pick(from) as number)) // a store has blocks
  const damaged: Record<Kind, (place: number) => void> = {
    flipped: (place) => file.rot(place * BLOCK_BYTES + rng.below(BLOCK_BYTES)),
    unreadable: (place) => file.makeUnreadable(place),
    zeros: (place) => file.replacePage(place, new Uint8Array(BLOCK_BYTES)),
    lost: (place) => file.replacePage(place, before.pageAt(place)),
    misdirected: (place) => file.replacePage(place, file.pageAt(run.pick(from) as number)),
  }
  for (const place of places) damaged[kind](place)
  return { places: [...places], kind }
}

/** Takes the place of what is lost of volumes, half of the time: leaf by leaf, by a write or a discard of all of it. */
async function writeOver(
  run: Run,
  store: Store,
  unread: readonly Unread[],
  places: readonly number[],
  step: string,
): Promise<void> {
  const { rng } = run
  const parts = new Map(
    unread.flatMap(({ name, block }) => {
      if (name.includes('@') || rng.below(2) === 0) return []
      const { leafEntries } = store.entry(name).tree.geometry
      const first = Math.floor(block / leafEntries) * leafEntries
      return [[`${name} from ${first}`, { name, first, leafEntries }] as const]
    }),
  )
  for (const [part, { name, first, leafEntries }] of parts) {
    const disk = run.world.get(name) as Disk // it was read
    const count = Math.min(leafEntries, disk.sizeBlocks - first)
    const number = rng.below(2) === 0 ? 0 : rng.below(run.contentCount)
    const content = new Uint8Array(count * BLOCK_BYTES)
    for (let index = 0; index < count; index += 1) content.set(CONTENTS[number] as Uint8Array, index * BLOCK_BYTES)
    const device = run.device(store, name)
    try {
      if (number === 0) await device.zero(first * BLOCK_BYTES, content.length, { noHole: rng.below(2) === 0 })
      else await device.write(first * BLOCK_BYTES, content)
    } catch (error) {
      // Of several blocks both copies of a node may be among the damaged, or what a unit that stays is packed to.
      assert.ok(places.length > 1, `${step}: ${part}: ${failedBy(error)}`)
      assert.match(failedBy(error), /node at block|at \d+: block/, `${step}: ${part}`)
      continue
    }
    const blocks = new Map(disk.blocks)
    for (let block = first; block < first + count; block += 1) blocks.set(block, number)
    run.history = [run.with(name, { ...disk, blocks })]
    const found = new Uint8Array(content.length)
    await device.read(first * BLOCK_BYTES, found)
    assert.ok(Buffer.from(found).equals(content), `${step}: ${part}: it is not what was written over what was lost`)
  }
  await store.flush()
}

/** All that is not damaged can be read, and a check tells of all that cannot. @returns what cannot. */
async function readBeside(run: Run, store: Store, places: readonly number[], step: string): Promise<Unread[]> {
  const unread = await readAll(store, run.world, step)
  for (const { reason } of unread) {
    const block = Number(/block (\d+)/.exec(reason)?.[1])
    assert.ok(places.includes(block), `${step}: ${reason}`)
  }
  // Of one node a leaf is the most that can be lost.
  const leaves = new Set(unread.map(({ block }) => Math.floor(block / ENTRIES_PER_NODE)))
  assert.ok(places.length > 1 || leaves.size <= 1, `${step}: ${unread.map(({ name, block }) => `${name} ${block}`).join()}`)
  const { damage: found } = await store.check({ readsData: true, repairs: false })
  for (const { name, block } of unread)
    assert.ok(
      isTold(found, block, run.world.get(name)?.isCompressed ? UNIT_BLOCKS : 1),
      `${step}: ${name} block ${block} is not in ${found.join('; ')}`,
    )
  return unread
}

/** Of what several have, the first that was looked at is named; of `unitBlocks` that are packed together, the damaged piece. */
const isTold = (damage: readonly string[], block: number, unitBlocks: number): boolean =>
  damage.some((line) => {
    const at = / at (\d+): block/.exec(line)
    const [, first, last] = /node of blocks (\d+) to (\d+)/.exec(line) ?? []
    const isSameUnit = at && Math.floor(Number(at[1]) / BLOCK_BYTES / unitBlocks) === Math.floor(block / unitBlocks)
    return at ? isSameUnit : first !== undefined && block >= Number(first) && block <= Number(last)
  })

export const rotAll = (seeds: Iterable<number>): Promise<void> => underSeeds('rot.sim', rots, seeds)
