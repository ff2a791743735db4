/**
 * All that a power cut may leave of a short run of the store, one after the other, opened and compared with what may be.
 *
 *   run      short random work of one seed, with kills in between; each write, each sync is recorded, with what was promised before it
 *   cut      before each operation: what a sync has covered is safe, of the rest any part may be there
 *   states   all parts of few writes; of many: all, none, all but one, all but two, one alone, two alone, and some by chance; one write torn by
 *            sector; one that was under way unreadable, but of the journal
 *   each     is opened, all is checked that it leads to, and what it holds is one of the worlds that are allowed; of some also nothing leaks
 *
 * A state that was possible at an earlier cut is not looked at again, unless more has been promised since.
 */
import assert from 'node:assert/strict'
import { memoryLog, seededRng } from '@typevisor/sim'
import { toldWith } from '@typevisor/sim/testing'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { ImageFile, putInto, type Pages } from './image-file.ts'
import { SimStoreFile, type Recorded } from './sim-store-file.ts'
import { stillClock } from './still-clock.ts'
import { assertHolds, JOURNAL_END_BYTES, openUnlocked, Run, tight, type World } from './store-sim.ts'
import { checkStore } from '../store/check.ts'
import { BLOCK_BYTES, SUPERBLOCK_COUNT } from '../store/format.ts'
import { Store } from '../store/store.ts'

const SECTOR_BYTES = 512
/** Few enough to be used again and again; the store keeps 256 back. */
const CAPACITY_BYTES = 420 * BLOCK_BYTES
const STEPS = 50
/** Of so many unsafe writes all parts are looked at. */
const ALL_PARTS_OF = 3
/** Of so many, all pairs. */
const PAIRS_OF = 6
/** The newest of more, each alone. */
const SINGLES_OF = 12
const CHANCE_COUNT = 4
/** One in so many states is worked on until nothing more is to be done. */
const TIGHT_EVERY = 50

type Write = Extract<Recorded, { kind: 'write' }>

/** What was promised when an operation was asked for. */
interface Promised {
  readonly history: readonly World[]
  readonly underWay: readonly World[]
}

interface Recording {
  readonly operations: readonly Recorded[]
  /** For each operation, and one for the end. */
  readonly promised: readonly Promised[]
}

/** Work that meets: few places, many checkpoints while other work goes on, a journal that goes round, kills. */
async function record(seed: number): Promise<Recording> {
  using run = new Run(seed, { places: [0, 1, 2, 255, 256], sizes: [600], contentCount: 3 })
  const { rng } = run
  const operations: Recorded[] = []
  const promised: Promised[] = []
  const promise = (): Promised => ({ history: [...run.history], underWay: run.underWay })
  const log = {
    get length() {
      return operations.length
    },
    push(operation: Recorded) {
      operations.push(operation)
      promised.push(promise())
    },
  }
  let file = new SimStoreFile({ rng, capacityBytes: CAPACITY_BYTES, record: log })
  let store = await Store.create(run.options(file))
  await run.create(store)
  await run.flush(store)
  for (let step = 0; step < STEPS; step += 1) {
    const choice = rng.below(100)
    // One that fails wounds the store, which the next step tells; one that a kill has cut off fails when all is over.
    if (choice < 12) void store.checkpoint().catch(() => {})
    else if (choice < 16) await goRound(run, store)
    else if (choice < 22) {
      for (let turn = rng.below(30); turn > 0; turn -= 1) await null
      file = file.crash('kill')
      store = await openUnlocked(run.options(file))
      run.isSafe()
    } else if (choice < 34) await run.flush(store)
    else await run.step(store)
  }
  await store.flush()
  run.isSafe()
  return { operations, promised: [...promised, promise()] }
}

/** Fills the ring of the journal with what needs no room elsewhere. */
async function goRound(run: Run, store: Store): Promise<void> {
  const volume = run.pick(run.names('volume'))
  if (volume === undefined) return
  for (let name = volume, count = 20 + run.rng.below(60); count > 0; count -= 1) {
    await run.rename(store, name)
    name = [...run.world.keys()].find((one) => one === `r${run.count}`) ?? name
  }
}

/** Which writes of a cut are there: all of them before, and a part of one perhaps. */
interface State {
  readonly kept: readonly Write[]
  /** Sectors of one of them that are not there. */
  readonly torn?: { readonly write: Write; readonly isLost: (sector: number) => boolean }
  readonly unreadable?: Write
}

function* statesOf(unsafe: readonly Write[], isNewPromise: boolean, rng: ReturnType<typeof seededRng>): Iterable<State> {
  const last = unsafe.at(-1)
  const before = unsafe.slice(0, -1)
  // What has not the newest write was possible before.
  const rest = isNewPromise ? unsafe : before
  const always = isNewPromise || !last ? [] : [last]
  const state = (isKept: (index: number) => boolean): State => ({
    kept: [...rest.filter((_, index) => isKept(index)), ...always],
  })
  const { length } = rest
  if (length <= ALL_PARTS_OF)
    for (let part = 0; part < 2 ** length; part += 1) yield state((index) => (part & (1 << index)) !== 0)
  else {
    yield state(() => true)
    yield state(() => false)
    for (let one = Math.max(0, length - SINGLES_OF); one < length; one += 1) {
      yield state((index) => index !== one)
      yield state((index) => index === one)
      if (length <= PAIRS_OF)
        for (let other = 0; other < one; other += 1) {
          yield state((index) => index !== one && index !== other)
          yield state((index) => index === one || index === other)
        }
    }
    for (let count = 0; count < CHANCE_COUNT; count += 1) {
      const perCent = rng.below(100)
      yield state(() => rng.below(100) < perCent)
    }
  }
  if (!last) return
  if (last.sectors.length > SECTOR_BYTES) {
    const odd = rng.below(2)
    const cut = 1 + rng.below(last.sectors.length / SECTOR_BYTES - 1)
    for (const isLost of [
      (sector: number) => sector % 2 === odd,
      (sector: number) => sector >= cut,
      (sector: number) => sector < cut,
    ])
      for (const kept of [unsafe, [last]]) yield { kept, torn: { write: last, isLost } }
  }
  if (last.position < SUPERBLOCK_COUNT * BLOCK_BYTES || last.position >= JOURNAL_END_BYTES)
    yield { kept: unsafe, unreadable: last }
}

const crypto = nodeVolumeCrypto()

function imageOf(safe: Pages, { kept, torn, unreadable }: State): ImageFile {
  const image = new ImageFile(safe, CAPACITY_BYTES)
  for (const write of kept) {
    if (torn?.write !== write) image.write(write.position, [write.sectors])
    else
      for (let sector = 0; sector * SECTOR_BYTES < write.sectors.length; sector += 1) {
        const at = sector * SECTOR_BYTES
        if (!torn.isLost(sector)) image.write(write.position + at, [write.sectors.subarray(at, at + SECTOR_BYTES)])
      }
  }
  if (unreadable) image.makeUnreadable(unreadable.position, unreadable.sectors.length)
  return image
}

async function assertIsOneOf(image: ImageFile, worlds: readonly World[], step: string, isTight: boolean): Promise<void> {
  const store = await openUnlocked({
    file: image,
    checksum: nodeChecksum,
    crypto,
    compressor: nodeCompressor,
    clock: stillClock,
    rng: seededRng(1),
    log: memoryLog(),
    collects: false,
  })
  await assertHolds(store, worlds, step)
  const report = await checkStore(store.state, { readsData: false, sleep: async () => {} })
  assert.deepEqual([report.damage, report.missing], [[], []], step)
  if (isTight) await tight(store, `${step}, worked on`)
}

/** @returns how many states there were. */
export async function crashEverywhere(seed: number): Promise<number> {
  const { operations, promised } = await record(seed)
  const rng = seededRng(seed)
  const safe: Pages = new Map()
  let unsafe: { index: number; write: Write }[] = []
  let stateCount = 0
  let floor: World | undefined
  // The store has to be made before it can be opened.
  let isMade = false
  for (let cut = 0; cut <= operations.length; cut += 1) {
    const { history, underWay } = promised[cut] as Promised // one for each
    isMade ||= history[0] !== undefined && history[0].size > 0
    if (isMade) {
      const isNewPromise = floor !== history[0]
      floor = history[0]
      const before = operations[cut - 1]
      if (isNewPromise || before?.kind === 'write')
        for (const state of statesOf(
          unsafe.map(({ write }) => write),
          isNewPromise,
          rng,
        )) {
          stateCount += 1
          const step = `cut before operation ${cut} of ${operations.length}, ${state.kept.length} of ${unsafe.length} unsafe writes there${state.torn ? ', the last torn' : ''}${state.unreadable ? ', the last unreadable' : ''}`
          await assertIsOneOf(imageOf(safe, state), [...history, ...underWay], step, stateCount % TIGHT_EVERY === 0)
        }
      // A kill loses nothing that was acknowledged.
      if (before?.kind === 'write') {
        const all = { kept: unsafe.map(({ write }) => write) }
        await assertIsOneOf(imageOf(safe, all), [...history.slice(-1), ...underWay], `killed before operation ${cut}`, false)
        stateCount += 1
      }
    }
    const operation = operations[cut]
    if (operation?.kind === 'write') unsafe.push({ index: cut, write: operation })
    else if (operation) {
      for (const { index, write } of unsafe) if (index < operation.covered) putInto(safe, write.position, write.sectors)
      unsafe = unsafe.filter(({ index }) => index >= operation.covered)
    }
  }
  return stateCount
}

/** @returns how many states there were under all seeds. */
export async function crashEverywhereUnder(seeds: Iterable<number>): Promise<number> {
  const only = process.env['SEED']
  let count = 0
  for (const seed of only === undefined ? seeds : [Number(only)])
    await toldWith(`SEED=${seed} npm test -- crash-states`, async () => {
      count += await crashEverywhere(seed)
    })
  return count
}
