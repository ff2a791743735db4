/** Diffs and depths against a model that remembers which write each block is of. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault, type Clock, type Rng } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { SimStoreFile } from '../testing/sim-store-file.ts'
import { depthOf, diffPage, isSameTree, rangesOf, type DiffKind } from './diff.ts'
import { BLOCK_BYTES, UNIT_BLOCKS } from './format.ts'
import { Store, type StoreOptions } from './store.ts'
import { volumeDevice } from './volume-device.ts'

/** A block is of a write, or zeros that keep their place; what is not in it is a hole. */
type Block = { readonly write: number; readonly line: readonly string[] }
interface Point {
  readonly sizeBlocks: number
  readonly blocks: ReadonlyMap<number, Block>
  /** Snapshots that it goes on from, the oldest first. */
  readonly line: readonly string[]
  readonly isCompressed: boolean
  /** By unit of blocks, which change was the last that touched it: of compressed volumes all of it may be another then. */
  readonly units: ReadonlyMap<number, number>
}
const ZERO = -1

const CRYPTO = nodeVolumeCrypto({ scryptCost: 4 })
const PLACES = [0, 1, 2, 5, 250, 255, 256, 300, 511, 512, 65_535, 65_536, 65_790]
const SIZE = 66_000

const clock: Clock = {
  now: () => 1_700_000_000_000 as ReturnType<Clock['now']>,
  monotonic: () => 0,
  async sleep(duration, options) {
    if (duration > 0)
      await new Promise((_resolve, reject) =>
        options?.signal?.addEventListener('abort', () => reject(options.signal?.reason as Error), { once: true }),
      )
    else await null
  },
}

const optionsOf = (rng: Rng, file: SimStoreFile): StoreOptions => ({
  file,
  checksum: nodeChecksum,
  crypto: CRYPTO,
  compressor: nodeCompressor,
  clock,
  rng,
  log: memoryLog(),
  journalBytes: 64 * BLOCK_BYTES,
  dirtyNodeCountMax: 20,
})

/** A store with no node in memory. */
async function reopened(store: Store, rng: Rng, file: SimStoreFile): Promise<Store> {
  await store.close()
  return Store.open(optionsOf(rng, file))
}

const kindAt = (point: Point | null, block: number): DiffKind => {
  const found = point?.blocks.get(block)
  return found === undefined ? 'hole' : found.write === ZERO ? 'zero' : 'data'
}

function expectedDiff(from: Point | null, to: Point): Map<number, DiffKind> {
  const different = new Map<number, DiffKind>()
  for (const block of new Set([...(from?.blocks.keys() ?? []), ...to.blocks.keys()]))
    if (block < to.sizeBlocks && from?.blocks.get(block)?.write !== to.blocks.get(block)?.write)
      different.set(block, kindAt(to, block))
  return different
}

const unitOf = (block: number): number => Math.floor(block / UNIT_BLOCKS)

/** The units that a change of these blocks touches; of those behind its first only those that there is something in. */
function touched(point: Point, first: number, end: number, change: number): Map<number, number> {
  const units = new Map(point.units)
  for (const unit of [unitOf(first), ...units.keys(), ...[...point.blocks.keys()].map(unitOf)])
    if (unit >= unitOf(first) && unit * UNIT_BLOCKS < end) units.set(unit, change)
  return units
}

/** Of compressed volumes: what differs is told, and besides only what shares a unit with what was changed. */
function assertCovers(found: Map<number, DiffKind>, want: Map<number, DiffKind>, from: Point | null, to: Point): void {
  for (const [block, kind] of want)
    if (kind === 'data' || kindAt(from, block) === 'data') assert.ok(found.has(block), `block ${block} is told of`)
  for (const [block, kind] of found) {
    assert.notEqual(from?.units.get(unitOf(block)), to.units.get(unitOf(block)), `block ${block} was touched`)
    // What is packed is data, whatever is in it.
    if (kindAt(to, block) === 'data') assert.equal(kind, 'data', `block ${block}`)
  }
}

async function foundDiff(store: Store, from: string | null, to: string, countMax: number): Promise<Map<number, DiffKind>> {
  const different = new Map<number, DiffKind>()
  let last = -1
  for (let offset: number | null = 0; offset !== null;) {
    const page = await diffPage(store, from === null ? null : store.entry(from), store.entry(to), { offset, countMax })
    assert.ok(page.extents.length <= countMax)
    assert.ok(page.next === null || page.next > offset || page.extents.length > 0, 'a page goes on')
    for (const extent of page.extents)
      for (let at = 0; at < extent.lengthBytes; at += BLOCK_BYTES) {
        const block = (extent.offset + at) / BLOCK_BYTES
        assert.ok(block > last, 'in order, once')
        last = block
        different.set(block, extent.kind)
      }
    offset = page.next
  }
  return different
}

const sorted = <T>(of: Map<number, T>): [number, T][] => [...of].toSorted(([a], [b]) => a - b)

async function live(steps: readonly number[], seed: number): Promise<void> {
  const rng = seededRng(seed)
  const pick = <T>(from: readonly T[]): T => from[rng.below(from.length)] as T
  const store = await Store.create(optionsOf(rng, new SimStoreFile({ rng, coldPerMille: 100 })))
  const points = new Map<string, Point>()
  const volumes = (): string[] => [...points.keys()].filter((name) => !name.includes('@'))
  const snapshots = (): string[] => [...points.keys()].filter((name) => name.includes('@'))
  let count = 0
  for (const step of steps) {
    const name = volumes().length === 0 ? null : pick(volumes())
    const point = name === null ? null : (points.get(name) as Point)
    count += 1
    if (name === null || point === null || (step === 0 && volumes().length < 4)) {
      const made = `v${count}`
      const isCompressed = rng.below(2) === 0
      await store.createVolume(made, SIZE * BLOCK_BYTES, {
        ...(rng.below(3) === 0 ? { secret: new Uint8Array(32).fill(count) } : {}),
        compression: isCompressed ? 'zstd' : 'none',
      })
      points.set(made, { sizeBlocks: SIZE, blocks: new Map(), line: [], isCompressed, units: new Map() })
    } else if (step <= 5) {
      const first = Math.min(pick(PLACES), point.sizeBlocks - 1)
      const length = Math.min(1 + rng.below(step === 5 ? 300 : 6), point.sizeBlocks - first)
      const blocks = new Map(point.blocks)
      const device = volumeDevice(store, name)
      const fill = step <= 3 ? count : step === 4 && rng.below(2) === 0 ? ZERO : null
      for (let block = first; block < first + length; block += 1)
        if (fill === null) blocks.delete(block)
        else blocks.set(block, { write: fill, line: point.line })
      if (fill === null || fill === ZERO) await device.zero(first * BLOCK_BYTES, length * BLOCK_BYTES, { noHole: fill === ZERO })
      else await device.write(first * BLOCK_BYTES, contentOf(rng, length * BLOCK_BYTES, fill))
      points.set(name, { ...point, blocks, units: touched({ ...point, blocks }, first, first + length, count) })
    } else if (step === 6) {
      const taken = `${name}@s${count}`
      await store.snapshot(name, `s${count}`)
      points.set(taken, point)
      points.set(name, { ...point, line: [...point.line, taken] })
    } else if (step === 7 && snapshots().length > 0) {
      const from = pick(snapshots())
      await store.clone(from, `c${count}`)
      points.set(`c${count}`, { ...(points.get(from) as Point), line: [...(points.get(from) as Point).line, from] })
    } else if (step === 8 && snapshots().length > 0) {
      const from = pick(snapshots())
      await store.revert(name, from)
      points.set(name, { ...(points.get(from) as Point), line: [...(points.get(from) as Point).line, from] })
    } else if (step === 9) {
      const sizeBlocks = pick([600, SIZE, 70_000])
      await store.resize(name, sizeBlocks * BLOCK_BYTES)
      points.set(name, {
        ...point,
        sizeBlocks,
        units: touched(point, Math.min(sizeBlocks, point.sizeBlocks), point.sizeBlocks, count),
        blocks: new Map([...point.blocks].filter(([block]) => block < sizeBlocks)),
      })
    } else if (step === 10) await store.checkpoint()
    else if (step === 11 && snapshots().length > 2) {
      const gone = pick(snapshots())
      await store.remove(gone)
      points.delete(gone)
    }
  }
  const names = [...points.keys()]
  for (let tries = 0; tries < 12 && names.length > 0; tries += 1) {
    const from = rng.below(4) === 0 ? null : pick(names)
    const to = pick(names)
    const found = await foundDiff(store, from, to, pick([1, 2, 7, 1000]))
    const [before, now] = [from === null ? null : (points.get(from) as Point), points.get(to) as Point]
    const want = expectedDiff(before, now)
    if (before?.isCompressed || now.isCompressed) assertCovers(found, want, before, now)
    else assert.deepEqual(sorted(found), sorted(want), `${from} to ${to}`)
    if (from !== null && isSameTree(store.entry(from), store.entry(to))) assert.equal(want.size, 0)
    await depths(store, to, points)
  }
  await store.close()
}

async function depths(store: Store, name: string, points: ReadonlyMap<string, Point>): Promise<void> {
  const { blocks, line, sizeBlocks, isCompressed, units } = points.get(name) as Point
  const want = new Map<number, number>()
  // Of the snapshots that the block was there in, those that have a name still.
  for (const [block, { line: before }] of blocks)
    want.set(block, 1 + line.slice(before.length).filter((one) => points.has(one)).length)
  const found = new Map<number, number>()
  const entry = store.entry(name)
  const label = depthOf(entry)
  for (let first: number | null = 0; first !== null;) {
    const page = await rangesOf(store, null, entry, label, { first, end: sizeBlocks, countMax: 5 })
    for (const range of page.ranges)
      for (let block = range.first; block < range.first + range.count; block += 1) found.set(block, range.label)
    first = page.next
  }
  if (!isCompressed) assert.deepEqual(sorted(found), sorted(want), `depths of ${name}`)
  else {
    // Of a unit that is packed all was written when the last of it was.
    for (const [block, { write }] of blocks)
      if (write !== ZERO)
        assert.ok((found.get(block) ?? 0) >= 1 && (found.get(block) as number) <= (want.get(block) as number), `${name} ${block}`)
    for (const block of found.keys()) assert.ok(units.has(unitOf(block)), `${name} ${block}`)
  }
}

/** Some can be packed, some cannot. */
const contentOf = (rng: Rng, lengthBytes: number, fill: number): Uint8Array =>
  rng.below(3) === 0 ? rng.bytes(lengthBytes) : new Uint8Array(lengthBytes).fill(fill)

test('a diff of any two points says which blocks differ, and what they are now; a depth is where a block was written', async () => {
  await fc.assert(fc.asyncProperty(fc.array(fc.nat(11), { minLength: 5, maxLength: 60 }), fc.nat(), live), { numRuns: 120 })
})

test('what is alike is passed over: a small change of a large volume is found without looking at the rest', async () => {
  const rng = seededRng(1)
  const file = new SimStoreFile({ rng })
  let store = await Store.create(optionsOf(rng, file))
  await store.createVolume('v', 2 ** 40)
  const device = volumeDevice(store, 'v')
  // A leaf every GiB, so that there is something to look at.
  for (let gib = 0; gib < 1024; gib += 4) await device.write(gib * 2 ** 30, new Uint8Array(BLOCK_BYTES).fill(1))
  await store.snapshot('v', 's')
  await device.write(700 * 2 ** 30, new Uint8Array(BLOCK_BYTES).fill(2))
  store = await reopened(store, rng, file)
  const page = await diffPage(store, store.entry('v@s'), store.entry('v'), { offset: 0, countMax: 10 })
  assert.deepEqual(page, { extents: [{ offset: 700 * 2 ** 30, lengthBytes: BLOCK_BYTES, kind: 'data' }], next: null })
  // Four levels of both, and the catalog's one.
  assert.ok(store.state.cache.size <= 9, `it read ${store.state.cache.size} nodes`)
  await store.close()
})

test('a diff goes on beside writes, and ends when one of both is deleted', async () => {
  const rng = seededRng(2)
  const file = new SimStoreFile({ rng, coldPerMille: 1000 })
  let store = await Store.create(optionsOf(rng, file))
  await store.createVolume('v', SIZE * BLOCK_BYTES)
  let device = volumeDevice(store, 'v')
  for (let block = 0; block < SIZE; block += 512) await device.write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(3))
  await store.snapshot('v', 'a')
  for (let block = 0; block < SIZE; block += 512) await device.write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(4))
  await store.snapshot('v', 'b')
  store = await reopened(store, rng, file)
  device = volumeDevice(store, 'v')
  const writing = (async () => {
    for (let block = 0; block < SIZE; block += 999) await device.write(block * BLOCK_BYTES, new Uint8Array(BLOCK_BYTES).fill(5))
  })()
  const found = await foundDiff(store, 'v@a', 'v@b', 50)
  await writing
  assert.equal(found.size, Math.ceil(SIZE / 512))
  store = await reopened(store, rng, file)
  const [from, to] = [store.entry('v@a'), store.entry('v@b')]
  const diff = diffPage(store, from, to, { offset: 0, countMax: 1000 })
  await store.remove('v@b')
  await assert.rejects(diff, (error) => error instanceof Fault && error.code === 'unavailable')
  await store.close()
})
