/** Each part of a store damaged by itself: what an opening says, what a check says and mends, what can be read. */
import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeChecksum } from '../node-store-file.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { stillClock } from '../testing/still-clock.ts'
import { BLOCK_BYTES, FORMAT_VERSION, SUPERBLOCK, SUPERBLOCK_COUNT } from './format.ts'
import { Store, type StoreOptions, type VolumeDescription } from './store.ts'
import { MISSING, type Node } from './tree.ts'
import { volumeDevice } from './volume-device.ts'

const JOURNAL_BLOCKS = 16
const SIZE_BYTES = 70_000 * BLOCK_BYTES
/** Blocks of the volume that are written: of three leaves, under two nodes of the level above. */
const WRITTEN = [0, 1, 300, 65_536]

let file: SimStoreFile
let store: Store
/** Syncs are refused. */
let isFailing = false

const options = (of: SimStoreFile): StoreOptions => ({
  file: of,
  checksum: nodeChecksum,
  clock: stillClock,
  rng: seededRng(2),
  log: memoryLog(),
  journalBytes: JOURNAL_BLOCKS * BLOCK_BYTES,
})

beforeEach(async () => {
  file = new SimStoreFile({
    rng: seededRng(1),
    capacityBytes: 2 ** 32,
    faults: (operation) => (isFailing && operation === 'sync' ? new Fault('failed', 'the disk says no') : null),
  })
  store = await Store.create(options(file))
  await store.createVolume('web', SIZE_BYTES)
  for (const block of WRITTEN) await write(store, block, block % 200)
  await store.checkpoint()
})

const write = (to: Store, block: number, fill: number): Promise<void> =>
  volumeDevice(to, 'web').write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(fill))

async function read(from: Store, block: number): Promise<number> {
  const content = new Uint8Array(BLOCK_BYTES)
  await volumeDevice(from, 'web').read(block * BLOCK_BYTES, content)
  return content[17] as number // it has as many
}

function nodeAt(level: number, block: number): Node {
  store.state.load(store.entry('web').tree, block, true)
  const node = store.entry('web').tree.nodeAt(level, block)
  assert.ok(node !== null && node !== MISSING)
  return node
}

/** What a process leaves that is killed now, with blocks of it damaged. */
function killed(...blocks: number[]): SimStoreFile {
  const left = file.copy()
  for (const block of blocks) left.rot(block * BLOCK_BYTES + 100)
  return left
}

const serve = (left: SimStoreFile): Promise<Store> => Store.open(options(left))

/** `volume check`, twice: the second finds the store as the first left it. */
async function checkTwice(left: SimStoreFile) {
  const once = async (of: SimStoreFile) => {
    const opened = await Store.open({ ...options(of), repairs: true, collects: false })
    const found = await opened.check({ readsData: true, repairs: true })
    await opened.close()
    return found
  }
  const first = await once(left)
  const mended = left.copy()
  return { first, second: await once(mended), mended }
}

const COUNTS = { mendedCount: 0, rebuiltCount: 0, leakedCount: 0, missingCount: 0, recountedCount: 0 }
const SOUND = { damage: [], ...COUNTS, isRepaired: false }

async function assertMended(left: SimStoreFile, want: Partial<typeof SOUND>): Promise<void> {
  const { first, second, mended } = await checkTwice(left)
  assert.partialDeepStrictEqual(first, { ...want, damage: [], isRepaired: true })
  assert.partialDeepStrictEqual(second, SOUND)
  const opened = await serve(mended)
  for (const block of WRITTEN) assert.equal(await read(opened, block), block % 200)
  await write(opened, 5, 5)
  assert.equal(await read(opened, 5), 5)
}

const refused = (left: SimStoreFile, want: RegExp, repairs = false): Promise<void> =>
  assert.rejects(Store.open({ ...options(left), repairs }), (error) => {
    assert.ok(error instanceof Fault && error.code === 'failed')
    assert.match(error.message, want)
    return true
  })

test('a store that is whole is sound, and stays so', async () => {
  const { first, second } = await checkTwice(killed())
  assert.partialDeepStrictEqual(first, SOUND)
  assert.partialDeepStrictEqual(second, SOUND)
  assert.ok(first.dataCount >= WRITTEN.length && first.nodeCount >= 5)
})

test('blocks that nothing leads to are given back', async () => {
  const run = store.state.allocator.allocate(7)
  assert.equal(run?.count, 7)
  await store.checkpoint()
  await assertMended(killed(), { leakedCount: 7 })
})

test('blocks that count as free and are led to are taken', async () => {
  const leaf = nodeAt(0, 300)
  store.state.allocator.cancel({ address: leaf.address, count: 1 })
  await store.checkpoint()
  await assertMended(killed(), { missingCount: 1 })
})

test('a table of free blocks that is lost is made anew from the trees, by a check alone', async () => {
  const [home, other] = [store.state.allocator.homeOf(0, 0), store.state.allocator.homeOf(0, 1)]
  await refused(killed(home, other), /table of free blocks, group 0: .*volume check/)
  await assertMended(killed(home, other), { rebuiltCount: 1 })
})

test('the table of the checkpoint before is not taken for the one in force', async () => {
  const inForce = store.state.allocator.homeOf(0, store.state.turnOf(0) === 0 ? 1 : 0)
  await refused(killed(inForce), /table of free blocks, group 0/)
  await assertMended(killed(inForce), { rebuiltCount: 1 })
  await assertSoundWith(store.state.allocator.homeOf(0, store.state.turnOf(0)))
})

/** The damage is of no account: what was there is not in force. */
async function assertSoundWith(...blocks: number[]): Promise<void> {
  const { first } = await checkTwice(killed(...blocks))
  assert.partialDeepStrictEqual(first, SOUND)
}

test('a node above the leaves is mended from its second copy, either way round, when it is read or checked', async () => {
  for (const level of [1, 2]) {
    const { address, copy } = nodeAt(level, 0)
    assert.ok(copy !== 0 && copy !== address)
    for (const block of [address, copy]) await assertMended(killed(block), { mendedCount: 1 })
    const left = killed(address)
    const opened = await serve(left)
    assert.equal(await read(opened, 300), 100)
    assert.equal(opened.state.mendedCount, 1)
    const { first } = await checkTwice(left.copy())
    assert.partialDeepStrictEqual(first, SOUND)
  }
})

test('a node above the leaves that is lost in both copies is damage, and the rest can be read', async () => {
  const { address, copy } = nodeAt(1, 0)
  const { first, mended } = await checkTwice(killed(address, copy))
  assert.match(first.damage.join(), /^web: node of blocks 0 to 65535: node at block \d+: checksum .*nor is its copy/)
  assert.equal(first.leakedCount > 0, true, 'what it led to counts as in use')
  const opened = await serve(mended)
  assert.equal(await read(opened, 65_536), 65_536 % 200)
  await assert.rejects(read(opened, 300), /node at block/)
})

test('a leaf that is lost is damage; what is outside of it is read and written, also by recovery', async () => {
  const leaf = nodeAt(0, 0)
  await write(store, 1, 111)
  await write(store, 300, 112)
  await store.flush()
  const left = killed(leaf.address)
  const opened = await serve(left)
  assert.equal(opened.state.lostCount, 1, 'the record of block 1 leads to where nothing can be done')
  assert.equal(await read(opened, 300), 112)
  await assert.rejects(read(opened, 1), /node at block/)
  await assert.rejects(write(opened, 2, 1), /node at block/)
  await assert.rejects(volumeDevice(opened, 'web').zero(0, 8 * BLOCK_BYTES), /node at block/)
  assert.equal(opened.get('web')?.storedIsExact, false)
  await write(opened, 301, 113)
  await opened.close()
  const { first, mended } = await checkTwice(left.copy())
  assert.match(first.damage.join(), /^web: node of blocks 0 to 255: node at block/)
  assert.equal(first.recountedCount, 0)
  assert.equal((await serve(mended)).get('web')?.storedIsExact, false, 'what is lost cannot be counted')
})

for (const kind of ['a discard', 'zeros that keep their place', 'a write'] as const)
  for (const sharing of ['alone', 'with a snapshot'] as const)
    test(`${kind} of all of a lost leaf takes its place, which the volume had ${sharing}`, async () => {
      if (sharing === 'with a snapshot') await store.snapshot('web', 'one')
      await store.checkpoint()
      const left = killed(nodeAt(0, 0).address)
      let opened = await serve(left)
      const device = volumeDevice(opened, 'web')
      await assert.rejects(read(opened, 1), /node at block/)
      await assert.rejects(device.zero(0, 255 * BLOCK_BYTES), /node at block/)
      await assert.rejects(device.write(BLOCK_BYTES, new Uint8Array(255 * BLOCK_BYTES)), /node at block/)
      assert.equal(opened.get('web')?.storedIsExact, true)
      // With what is behind it and before the next.
      const [fill, lengthBytes] = [kind === 'a write' ? 9 : 0, 299 * BLOCK_BYTES]
      if (kind === 'a write') await device.write(0, new Uint8Array(lengthBytes).fill(9))
      else await device.zero(0, lengthBytes, { noHole: kind !== 'a discard' })
      const assertTaken = async (): Promise<void> => {
        for (const block of [0, 1, 255, 298]) assert.equal(await read(opened, block), fill)
        assert.equal(await read(opened, 300), 100)
        assert.equal(opened.get('web')?.storedIsExact, false)
      }
      await assertTaken()
      await opened.flush()
      // The journal tells it again, whether the leaf can be read by then or not.
      let again = left.copy()
      opened = await serve(again)
      await assertTaken()
      await opened.checkpoint()
      again = again.copy()
      opened = await serve(again)
      await assertTaken()
      if (sharing === 'with a snapshot') {
        await assert.rejects(volumeDevice(opened, 'web@one').read(BLOCK_BYTES, new Uint8Array(BLOCK_BYTES)), /node at block/)
        await opened.remove('web@one')
        await opened.collected()
        await opened.flush()
      }
      await opened.close()
      const { first, second, mended } = await checkTwice(again.copy())
      // The two blocks that it led to; the leaf itself is free.
      assert.partialDeepStrictEqual(first, { damage: [], leakedCount: 2, recountedCount: 1, isRepaired: true })
      assert.partialDeepStrictEqual(second, SOUND)
      opened = await serve(mended)
      const { storedBytes, storedIsExact } = opened.get('web') as VolumeDescription // it is there
      const storedCount = (kind === 'a write' ? 299 : 0) + WRITTEN.filter((block) => block >= 299).length
      assert.deepEqual([storedBytes, storedIsExact], [storedCount * BLOCK_BYTES, true])
    })

test('data that is damaged is named by volume and place', async () => {
  const { words } = nodeAt(0, 300)
  const address = words[(300 % 256) * 4] as number // the low word is all of it here
  const { first, second, mended } = await checkTwice(killed(address))
  assert.deepEqual(first.damage.length, 1)
  assert.match(first.damage[0] ?? '', new RegExp(`^web at ${300 * BLOCK_BYTES}: block ${address} has checksum`))
  assert.deepEqual(second.damage, first.damage)
  const opened = await serve(mended)
  await assert.rejects(read(opened, 300), /has checksum/)
  assert.equal(await read(opened, 1), 1)
})

test('what a deleted volume leads to and is damaged keeps its blocks until a check, and the collector goes on', async () => {
  const leaf = nodeAt(0, 0)
  await store.createVolume('other', SIZE_BYTES)
  await store.checkpoint()
  const left = killed(leaf.address)
  const opened = await serve(left)
  await opened.remove('web')
  await opened.collected()
  assert.equal(opened.state.lostCount, 1)
  await opened.flush()
  const { first, second } = await checkTwice(left.copy())
  // The leaf itself, and blocks 0 and 1.
  assert.partialDeepStrictEqual(first, { damage: [], leakedCount: 3, isRepaired: true })
  assert.partialDeepStrictEqual(second, SOUND)
})

test('a page of the catalog is mended from its second copy', async () => {
  const { catalogTree } = store.state
  const leaf = catalogTree.leaf(0)
  assert.ok(leaf !== null && leaf !== MISSING)
  const [address, distance] = [leaf.words[0] as number, (leaf.words[1] as number) >> 16] // a page has an entry
  for (const block of [address, address + distance]) await assertMended(killed(block), { mendedCount: 1 })
  await refused(killed(address, address + distance), /catalog page 0 at block/, true)
})

test('one superblock is enough; of a checkpoint without any the journal tells', async () => {
  const first = store.state.checkpointGeneration % 2 === 0 ? 0 : 2
  await assertSoundWith(first)
  await assertSoundWith(first + 1)
  await write(store, 9, 9)
  await store.flush()
  await refused(killed(first, first + 1), /superblock of checkpoint \d+, the journal tells of checkpoint \d+: both copies/, true)
  await refused(killed(0, 1, 2, 3), /none of the four superblocks/, true)
})

test('a damaged record at the end of the journal was not safe and is cut off; one before is damage', async () => {
  const end = () => SUPERBLOCK_COUNT * BLOCK_BYTES + store.state.journal.head.offset
  await store.flush()
  const middle = end()
  await write(store, 9, 9)
  await store.flush()
  const { checkpointGeneration } = store.state
  const last = end()
  await write(store, 10, 10)
  assert.equal(store.state.checkpointGeneration, checkpointGeneration)
  const rotten = (position: number): SimStoreFile => {
    const left = file.copy()
    left.rot(position + 40)
    return left
  }
  const opened = await serve(rotten(last))
  assert.deepEqual([await read(opened, 9), await read(opened, 10)], [9, 0])
  await refused(rotten(middle), /journal: record \d+ is damaged/, true)
})

/** Writes until there is hardly room in the first group. @returns the block behind. */
async function fillGroup(): Promise<number> {
  const { allocator } = store.state
  let block = 512
  for (; allocator.blockCount - allocator.usedCount - allocator.setAsideCount > 600; block += PIECE_BLOCKS)
    await writePiece(block)
  await store.checkpoint()
  assert.equal(allocator.groupCount, 1)
  return block
}

const PIECE_BLOCKS = 256
const writePiece = (block: number): Promise<void> =>
  volumeDevice(store, 'web').write(block * BLOCK_BYTES, new Uint8Array(PIECE_BLOCKS * BLOCK_BYTES).fill(7))

test('a group that comes while a checkpoint is written has its table with the next', async () => {
  const { now } = volumeDevice(store, 'web')
  let block = await fillGroup()
  const written = store.checkpoint()
  for (; store.state.allocator.groupCount === 1; block += PIECE_BLOCKS) {
    assert.ok(now?.write(block * BLOCK_BYTES, new Uint8Array(PIECE_BLOCKS * BLOCK_BYTES).fill(7)))
    now?.commit()
  }
  await written
  const { first } = await checkTwice(killed())
  assert.partialDeepStrictEqual(first, SOUND)
})

test('a table that an unfinished checkpoint has left is never taken for one in force', async () => {
  let block = await fillGroup()
  for (; store.state.allocator.groupCount === 1; block += PIECE_BLOCKS) await writePiece(block)
  await volumeDevice(store, 'web').zero(1024 * BLOCK_BYTES, 1024 * BLOCK_BYTES)
  await store.checkpoint()
  // A store that is opened looks for room from the front: from here on all that is written anew is in the first group.
  file = file.copy()
  store = await serve(file)
  await write(store, 9, 9)
  await store.checkpoint()
  // Up to the second group, and never safe: the power goes when the tables are written and the superblock is not.
  const last = SUPERBLOCK_COUNT * BLOCK_BYTES + store.state.journal.head.offset
  for (let piece = 0; piece < 5; piece += 1) await writePiece(block + piece * PIECE_BLOCKS)
  isFailing = true
  await assert.rejects(store.checkpoint(), /checkpoint: the disk says no/)
  isFailing = false
  const left = killed()
  left.rot(last + 40)
  const opened = await serve(left)
  assert.equal(await read(opened, block), 0)
  await write(opened, 10, 10)
  await opened.checkpoint()
  const { first, mended } = await checkTwice(left.copy())
  assert.partialDeepStrictEqual(first, SOUND)
  assert.equal(await read(await serve(mended), 10), 10)
})

/** The same with blocks that cannot be read. */
function unread(...blocks: number[]): SimStoreFile {
  const left = file.copy()
  for (const block of blocks) left.makeUnreadable(block)
  return left
}

test('a node of which the first copy cannot be read is read from its second, at once and beside the loop, and mended', async () => {
  const node = nodeAt(1, 300)
  assert.notEqual(node.copy, 0)
  for (const readsNow of [true, false]) {
    const left = unread(node.address)
    const opened = await serve(left)
    const content = new Uint8Array(BLOCK_BYTES)
    if (readsNow) assert.equal(volumeDevice(opened, 'web').now?.read(300 * BLOCK_BYTES, BLOCK_BYTES, content, 0), true)
    else assert.equal(await read(opened, 300), 100)
    assert.equal(opened.state.mendedCount, 1)
  }
  await refusedRead(
    unread(node.address, node.copy),
    new RegExp(`node at block ${node.address}: read at .* input/output error; nor`),
  )
  await assertMended(unread(node.address), { mendedCount: 1 })
})

const refusedRead = async (left: SimStoreFile, want: RegExp): Promise<void> => {
  const opened = await serve(left)
  await assert.rejects(read(opened, 300), want)
}

test('of the superblocks any that can be read is taken; a file of which none can is not taken for an empty one', async () => {
  const newest = store.state.checkpointGeneration % 2 === 0 ? 0 : 2
  for (const blocks of [[0], [1], [2], [3], [newest, 2 - newest, 3 - newest]])
    assert.equal(await read(await serve(unread(...blocks)), 300), 100)
  await refused(unread(0, 1, 2, 3), /none of the four superblocks is whole: read at .* input\/output error/)
  await assert.rejects(Store.create(options(unread(0, 1, 2, 3))), /none of the four superblocks is whole/)
})

test('a block of data that cannot be read is named, also among others, and is there again when it has been written', async () => {
  await write(store, 2, 2)
  await store.checkpoint()
  const leaf = nodeAt(0, 0)
  const address = leaf.words[4] as number // of block 1
  const opened = await serve(unread(address))
  const want = new RegExp(`web at ${BLOCK_BYTES}: block ${address} cannot be read: .*input/output error`)
  await assert.rejects(volumeDevice(opened, 'web').read(0, new Uint8Array(3 * BLOCK_BYTES)), want)
  assert.equal(await read(opened, 0), 0)
  const { damage } = await opened.check({ readsData: true, repairs: false })
  assert.match(damage.join(), want)
  await assert.rejects(volumeDevice(opened, 'web').write(BLOCK_BYTES + 5, new Uint8Array(7)), want)
  await write(opened, 1, 9)
  assert.equal(await read(opened, 1), 9)
})

test('a journal that cannot be read where it ends is not opened; a check goes on without it, and it can be written again', async () => {
  const block = SUPERBLOCK_COUNT + Math.floor(store.state.journal.head.offset / BLOCK_BYTES)
  await write(store, 0, 77)
  const left = unread(block)
  await refused(left, /journal: record \d+ cannot be read: .*volume check goes on without it/)
  const checked = await Store.open({ ...options(left), repairs: true, collects: false })
  await checked.check({ readsData: true, repairs: true })
  await checked.close()
  const again = await serve(left.copy())
  assert.equal(await read(again, 0), 0)
  for (let count = 0; count < 400; count += 1) await write(again, count % 7, count % 200)
  assert.equal(again.state.wounded, null)
})

test('a block of the journal that cannot be read, and in which nothing is, harms nothing', async () => {
  const opened = await serve(unread(SUPERBLOCK_COUNT + JOURNAL_BLOCKS - 1))
  for (let count = 0; count < 1000; count += 1) await write(opened, count % 7, count % 200)
  assert.equal(opened.state.wounded, null)
})

test('data that cannot be read behind a record that was not safe cuts the journal there, as a lost write does', async () => {
  await write(store, 3, 33)
  await write(store, 4, 44)
  const address = nodeAt(0, 4).words[16] as number // of block 4
  const opened = await serve(unread(address))
  assert.deepEqual([await read(opened, 3), await read(opened, 4)], [33, 0])
  assert.equal(opened.report.cutCount, 1)
})

test('a store of another version is refused, told which it is and which is wanted, and is left as it is', async () => {
  const left = file.copy()
  for (let block = 0; block < SUPERBLOCK_COUNT; block += 1) {
    const content = left.pageAt(block)
    const found = SUPERBLOCK.decode(content)
    SUPERBLOCK.encode({ ...found, version: FORMAT_VERSION + 1, checksum: 0 }, content)
    new DataView(content.buffer).setUint32(SUPERBLOCK.at.checksum, nodeChecksum(content), true)
    left.replacePage(block, content)
  }
  const isRefusal = (error: unknown): boolean =>
    error instanceof Fault &&
    error.code === 'unsupported' &&
    error.message.startsWith(`store: got format version ${FORMAT_VERSION + 1}, want ${FORMAT_VERSION}`)
  await assert.rejects(Store.open(options(left)), isRefusal)
  await assert.rejects(Store.open({ ...options(left), repairs: true }), isRefusal)
  await assert.rejects(Store.create(options(left)), isRefusal)
  assert.equal(left.writeCount, 0)
})
