/** The store under one seed: random work, a crash at any turn, recovery, and a comparison with a model. */
import assert from 'node:assert/strict'
import { Fault, type Clock, type Rng } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { underSeeds } from '@typevisor/sim/testing'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { SimStoreFile } from './sim-store-file.ts'
import { checkStore } from '../store/check.ts'
import { BLOCK_BYTES, UNIT_BLOCKS } from '../store/format.ts'
import { Store, type StoreOptions } from '../store/store.ts'
import { volumeDevice } from '../store/volume-device.ts'

/** What every volume and snapshot holds: the number of a content by block. Blocks that are not in it are zeros. */
export type Disk = { readonly sizeBlocks: number; readonly isCompressed: boolean; readonly blocks: ReadonlyMap<number, number> }
export type World = ReadonlyMap<string, Disk>

/** Some are packed to next to nothing, some not at all. */
export const CONTENTS = Array.from({ length: 256 }, (_, number) =>
  number % 3 === 2 ? seededRng(number).bytes(BLOCK_BYTES) : new Uint8Array(BLOCK_BYTES).fill(number),
)

/** Far apart, so that trees have several levels; near each other, so that writes meet. */
export const PLACES = [0, 1, 2, 3, 5, 254, 255, 256, 257, 300, 511, 512, 4095, 65_535, 65_536, 65_537]
const JOURNAL_BLOCKS = 16
const SUPERBLOCKS = 4
export const JOURNAL_END_BYTES = (SUPERBLOCKS + JOURNAL_BLOCKS) * BLOCK_BYTES
const SIZES = [600, 4096, 66_000]

const crypto = nodeVolumeCrypto()
const SECRET = Uint8Array.from({ length: 32 }, (_, index) => 255 - index)
const NEXT_SECRET = Uint8Array.from({ length: 32 }, (_, index) => 200 - index)

export async function openUnlocked(options: StoreOptions): Promise<Store> {
  const store = await Store.open(options)
  for (const secret of [SECRET, NEXT_SECRET]) await store.unlock(secret)
  return store
}

/** Time is counted in turns: a sleep of nothing is a few, any other some hundreds. Who is dead sleeps for ever. */
export const turnClock = (rng: Rng, isDead: () => boolean): Clock => ({
  now: () => 1_700_000_000_000 as ReturnType<Clock['now']>,
  monotonic: () => 0,
  async sleep(duration, { signal } = {}) {
    const turns = duration === 0 ? rng.below(4) : 500 + rng.below(8000)
    for (let turn = turns; turn >= 0; turn -= 1) {
      if (isDead()) await new Promise(() => {})
      await null
      signal?.throwIfAborted()
    }
  },
})

interface Write {
  readonly name: string
  readonly first: number
  readonly count: number
  /** Of its content. */
  readonly number: number
}

/** What is done under one seed. A store that is still open at its end is ended: its clock would go on for ever. */
export class Run implements Disposable {
  readonly rng: Rng
  readonly collects: boolean
  /** Of a hundred steps so many flush; few of them leave much that a power cut may take. */
  readonly flushPerCent: number
  /** Different contents of blocks: with few of them what is written is often what was there in another life. */
  readonly contentCount: number
  readonly encryptedPerCent: number
  readonly compressedPerCent: number
  readonly reapStep: number
  /** The world after each acknowledged operation; the first is what is surely safe. */
  history: World[] = [new Map()]
  /** All worlds that ever were. */
  readonly past: World[] = [new Map()]
  /** What an operation under way would make of it. */
  underWay: World | null = null
  /** Writes of this life with the world that each made. */
  writes: { world: World; write: Write }[] = []
  /** One that the crash before took: as guests do, this life begins with it. */
  again: Write | null = null
  count = 0
  refusedCount = 0
  /** The disk fails now and then. */
  isFaulty = false
  /** Nothing more can be written. */
  isWounded: () => boolean = () => false
  readonly #files = new DisposableStack()

  constructor(seed: number) {
    this.rng = seededRng(seed)
    this.collects = this.rng.below(2) === 0
    this.flushPerCent = this.pick([1, 5, 15]) as number
    this.reapStep = this.pick([3, 70, 4096]) as number
    this.contentCount = this.pick([3, CONTENTS.length]) as number
    this.encryptedPerCent = this.pick([0, 50, 100]) as number
    this.compressedPerCent = this.pick([0, 50, 100]) as number
  }

  get world(): World {
    return this.history.at(-1) as World
  }

  [Symbol.dispose](): void {
    this.#files.dispose()
  }

  options(file: SimStoreFile): StoreOptions {
    this.#files.use(file)
    return {
      file,
      checksum: nodeChecksum,
      crypto,
      compressor: nodeCompressor,
      clock: turnClock(this.rng, () => file.isDead),
      rng: this.rng,
      log: memoryLog(),
      journalBytes: JOURNAL_BLOCKS * BLOCK_BYTES,
      dirtyNodeCountMax: 6 + this.rng.below(30),
      turnBlockCount: 1,
      collects: this.collects,
      reapStep: this.reapStep,
    }
  }

  pick<T>(from: readonly T[]): T | undefined {
    return from.length === 0 ? undefined : from[this.rng.below(from.length)]
  }
  names(kind: 'volume' | 'snapshot' | 'any'): string[] {
    return [...this.world.keys()].filter((name) => kind === 'any' || name.includes('@') === (kind === 'snapshot'))
  }

  /** Runs `work`; when it is done the world is `next`. */
  async did(next: World, work: () => Promise<unknown>): Promise<void> {
    this.underWay = next
    try {
      await work()
      this.history.push(next)
      this.past.push(next)
    } catch (error) {
      // A full store, or a disk that fails while data is written, refuses, and all is as before.
      if (!(error instanceof Fault) || (error.code !== 'exhausted' && error.code !== 'failed') || this.isWounded()) throw error
      this.refusedCount += 1
    }
    this.underWay = null
  }

  with(name: string, disk: Disk | null, also?: readonly [string, Disk]): World {
    const next = new Map(this.world)
    if (disk) next.set(name, disk)
    else next.delete(name)
    if (also) next.set(also[0], also[1])
    return next
  }

  async step(store: Store): Promise<void> {
    const { rng, again } = this
    this.again = null
    if (again && this.world.has(again.name)) return this.write(store, again)
    const volume = this.pick(this.names('volume'))
    if (volume === undefined) return this.create(store)
    const snapshot = this.pick(this.names('snapshot'))
    if (rng.below(100) < this.flushPerCent) return this.flush(store)
    const choice = rng.below(100)
    if (choice < 54) await this.write(store, this.newWrite(volume))
    else if (choice < 62) await this.trim(store, volume)
    else if (choice < 65) await store.checkpoint().catch(unlessFull)
    else if (choice < 68) await this.create(store)
    else if (choice < 80) {
      if (this.names('snapshot').length >= 8) return
      const name = `s${(this.count += 1)}`
      await this.did(this.with(`${volume}@${name}`, this.world.get(volume) as Disk), () => store.snapshot(volume, name))
      this.history = [this.world]
    } else if (choice < 98) {
      const name = this.pick(this.names('any'))
      if (choice < 84 && snapshot !== undefined && this.names('volume').length < 6) {
        const clone = `c${(this.count += 1)}`
        await this.did(this.with(clone, this.world.get(snapshot) as Disk), () => store.clone(snapshot, clone))
      } else if (choice < 87 && snapshot !== undefined)
        await this.did(this.with(volume, this.world.get(snapshot) as Disk), () => store.revert(volume, snapshot))
      else if (name !== undefined && (name.includes('@') || rng.below(3) === 0))
        await this.did(this.with(name, null), () => store.remove(name))
    } else if (choice < 99) await store.collect().catch(unlessFull)
    else await this.did(this.world, () => store.rekey(volume, SECRET, NEXT_SECRET).catch(unlessRefused))
  }

  /** When it is done, what had been acknowledged before is safe; now and then others work meanwhile. */
  async flush(store: Store): Promise<void> {
    const { world } = this
    const work = store.flush().then(() => {
      this.history = this.history.slice(Math.max(0, this.history.indexOf(world)))
    })
    if (this.rng.below(2) === 0) await work
    else void work.catch(() => {})
  }

  async create(store: Store): Promise<void> {
    if (this.names('volume').length >= 5) return
    const name = `v${(this.count += 1)}`
    const sizeBlocks = this.pick(SIZES) as number
    const isCompressed = this.rng.below(100) < this.compressedPerCent
    const options = {
      ...(this.rng.below(100) < this.encryptedPerCent ? { secret: SECRET } : {}),
      compression: isCompressed ? ('zstd' as const) : ('none' as const),
    }
    await this.did(this.with(name, { sizeBlocks, isCompressed, blocks: new Map() }), () =>
      store.createVolume(name, sizeBlocks * BLOCK_BYTES, options),
    )
  }

  newWrite(name: string): Write {
    const { rng } = this
    const { sizeBlocks } = this.world.get(name) as Disk
    const first = Math.min(this.pick(PLACES) as number, sizeBlocks - 1)
    return { name, first, count: Math.min(1 + rng.below(4), sizeBlocks - first), number: rng.below(this.contentCount) }
  }

  async write(store: Store, write: Write): Promise<void> {
    const { name, first, count, number } = write
    const disk = this.world.get(name) as Disk
    const blocks = new Map(disk.blocks)
    const content = new Uint8Array(count * BLOCK_BYTES)
    for (let index = 0; index < count; index += 1) {
      blocks.set(first + index, number)
      content.set(CONTENTS[number] as Uint8Array, index * BLOCK_BYTES)
    }
    const device = volumeDevice(store, name)
    const next = this.with(name, { ...disk, blocks })
    this.writes.push({ world: next, write })
    await this.did(next, async () => {
      const { now } = device
      if (this.rng.below(2) === 0 && now?.write(first * BLOCK_BYTES, content)) now.commit()
      else await device.write(first * BLOCK_BYTES, content)
    })
  }

  async trim(store: Store, name: string): Promise<void> {
    const { rng } = this
    const disk = this.world.get(name) as Disk
    const first = Math.min(this.pick(PLACES) as number, disk.sizeBlocks - 1)
    const count = rng.below(3) === 0 ? disk.sizeBlocks - first : Math.min(1 + rng.below(300), disk.sizeBlocks - first)
    const blocks = new Map([...disk.blocks].filter(([block]) => block < first || block >= first + count))
    const device = volumeDevice(store, name)
    // Of more than one step a crash may have done a part: then it is not one change, and small ones are enough here.
    if (count > 300) return
    const isWholeUnits = first % UNIT_BLOCKS === 0 && count % UNIT_BLOCKS === 0
    if (disk.isCompressed && !isWholeUnits && (first % UNIT_BLOCKS) + count > UNIT_BLOCKS) return
    await this.did(this.with(name, { ...disk, blocks }), () =>
      device.zero(first * BLOCK_BYTES, count * BLOCK_BYTES, { noHole: rng.below(3) === 0 }),
    )
  }
}

/** It is not encrypted, or has the next key file already. */
function unlessRefused(error: unknown): void {
  if (!(error instanceof Fault) || (error.code !== 'conflict' && error.code !== 'unauthenticated')) throw error
}

function unlessFull(error: unknown): void {
  if (!(error instanceof Fault) || error.code !== 'exhausted') throw error
}

/** null: the store holds this world. Else what differs. */
export async function difference(store: Store, world: World): Promise<string | null> {
  const names = store.list().map(({ name }) => name)
  if (names.toSorted().join() !== [...world.keys()].toSorted().join())
    return `names ${names.join()} for ${[...world.keys()].join()}`
  const content = new Uint8Array(BLOCK_BYTES)
  for (const [name, disk] of world) {
    const device = volumeDevice(store, name)
    if (device.sizeBytes !== disk.sizeBlocks * BLOCK_BYTES) return `size of ${name}`
    for (const place of PLACES) {
      for (let block = place; block < Math.min(place + 4, disk.sizeBlocks); block += 1) {
        await device.read(block * BLOCK_BYTES, content)
        const number = disk.blocks.get(block) ?? 0
        const want = CONTENTS[number] as Uint8Array
        if (!content.every((byte, index) => byte === want[index]))
          return `${name} block ${block}: got ${content[0]}.., want ${number}`
      }
    }
  }
  return null
}

/** On a copy, on which nothing else works. */
async function sound(run: Run, file: SimStoreFile, step: string): Promise<void> {
  using copy = file.copy()
  const store = await openUnlocked({ ...run.options(copy), collects: false })
  const report = await checkStore(store.state, { readsData: true, sleep: async () => {} })
  assert.deepEqual(report.damage, [], step)
  assert.deepEqual(report.missing, [], `${step}: blocks that something leads to count as free`)
}

/** When nothing is left to do, nothing is in use that nothing leads to. */
async function tight(store: Store, step: string): Promise<void> {
  await store.flush()
  await store.collected()
  await store.checkpoint()
  await store.checkpoint()
  const report = await checkStore(store.state, { readsData: true, sleep: async () => {} })
  assert.deepEqual([report.damage, report.leaked, report.missing], [[], [], []], step)
}

async function live(seed: number): Promise<void> {
  using run = new Run(seed)
  const { rng } = run
  // Small ones are full again and again, and use every block many times.
  const capacityBytes = rng.below(2) === 0 ? 2 ** 32 : (340 + rng.below(400)) * BLOCK_BYTES
  const faultPerMille = rng.below(3) === 0 ? 4 : 0
  const faults = () => (run.isFaulty && rng.below(1000) < faultPerMille ? new Fault('failed', 'the disk says no') : null)
  let file = new SimStoreFile({ rng, coldPerMille: 50, capacityBytes, faults, journalEndBytes: JOURNAL_END_BYTES })
  let store = await Store.create(run.options(file))
  // Some have many short lives: what one leaves in the journal meets what the next writes.
  const isRestless = rng.below(3) === 0
  const lives = 1 + rng.below(isRestless ? 30 : 4)
  for (let life = 0; life < lives; life += 1) {
    const kind = rng.below(2) === 0 ? 'kill' : 'power'
    // The crash comes in the middle of whatever is going on.
    const turns = rng.below(run.pick(isRestless ? [20, 60, 200] : [500, 4000, 12_000]) as number)
    let crashed = false
    run.isFaulty = true
    run.isWounded = () => store.state.wounded !== null
    const working = (async () => {
      for (let step = 0; !crashed; step += 1) {
        try {
          await run.step(store)
        } catch (error) {
          // After a journal or a flush that failed there is nothing to do but to open the store anew.
          if (crashed || run.isWounded()) return
          throw error
        }
      }
    })()
    const failure = working.catch((error: unknown) => error)
    for (let turn = 0; turn < turns; turn += 1) await null
    crashed = true
    run.isFaulty = false
    const next = file.crash(kind)
    const error = await Promise.race([failure, new Promise((resolve) => setImmediate(resolve, undefined))])
    if (error) throw error instanceof Error ? error : new Error(String(error))
    const possible = [...run.history, ...(run.underWay ? [run.underWay] : [])]
    // A killed process loses nothing that was acknowledged.
    const allowed = kind === 'kill' ? possible.slice(run.history.length - 1) : possible
    file = next
    await sound(run, file, `life ${life} (${kind})`)
    store = await openUnlocked(run.options(file))
    let found: World | null = null
    const reasons: string[] = []
    for (const world of allowed.toReversed()) {
      const reason = await difference(store, world)
      if (reason === null) {
        found = world
        break
      }
      reasons.push(reason)
    }
    assert.ok(found, `life ${life} (${kind}): none of ${allowed.length} worlds: ${reasons.slice(0, 5).join('; ')}`)
    const lost = new Set(possible.slice(possible.indexOf(found) + 1))
    run.again = rng.below(2) === 0 ? (run.writes.find(({ world }) => lost.has(world))?.write ?? null) : null
    run.writes = []
    run.history = [found]
    run.underWay = null
  }
  for (const name of run.names('any').slice(0, 6)) {
    await store.remove(name)
    run.history.push(run.with(name, null))
  }
  await tight(store, 'at the end')
  assert.equal(await difference(store, run.world), null)
  await store.close()
  const again = await openUnlocked(run.options(file.crash('kill')))
  assert.equal(await difference(again, run.world), null)
  await tight(again, 'opened again')
  await again.close()
}

export const liveAll = (seeds: Iterable<number>): Promise<void> => underSeeds('store.sim', live, seeds)
