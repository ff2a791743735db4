/** The store under one seed: random work, a crash at any turn, recovery, and a comparison with a model. */
import assert from 'node:assert/strict'
import { Fault, type BlockDevice, type Clock, type Rng } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { underSeeds } from '@typevisor/sim/testing'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import { nodeVolumeCrypto } from '../node-volume-crypto.ts'
import { SimStoreFile } from './sim-store-file.ts'
import { checkStore } from '../store/check.ts'
import { BLOCK_BYTES } from '../store/format.ts'
import { acquireLease, Opening, releaseLease } from '../store/lease.ts'
import { Store, type StoreOptions } from '../store/store.ts'
import { volumeDevice } from '../store/volume-device.ts'

/** What every volume and snapshot is. */
export interface Disk {
  readonly sizeBlocks: number
  readonly isCompressed: boolean
  /** The number of a content by block. Blocks that are not in it are zeros. */
  readonly blocks: ReadonlyMap<number, number>
  /** What a volume has of its own: snapshots and clones begin without. */
  readonly iopsMax: number
  readonly leaseEpoch: number
  readonly isLeased: boolean
}
export type World = ReadonlyMap<string, Disk>

const UNSET = { iopsMax: 0, leaseEpoch: 0, isLeased: false }

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
/** Of volumes that are resized. */
const SIZES_LATER = [300, 512, ...SIZES]

const crypto = nodeVolumeCrypto()
const SECRET = Uint8Array.from({ length: 32 }, (_, index) => 255 - index)
const HOLDER = new Uint8Array(16).fill(7)
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
  readonly places: readonly number[]
  readonly sizes: readonly number[]
  readonly encryptedPerCent: number
  readonly compressedPerCent: number
  readonly reapStep: number
  /** The world after each acknowledged operation; the first is what is surely safe. */
  history: World[] = [new Map()]
  /** All worlds that ever were. */
  readonly past: World[] = [new Map()]
  /** What an operation under way would make of it, in several steps perhaps. */
  underWay: readonly World[] = []
  /** Writes of this life with the world that each made. */
  writes: { world: World; write: Write }[] = []
  /** One that the crash before took: as guests do, this life begins with it. */
  again: Write | null = null
  count = 0
  refusedCount = 0
  /** The disk fails now and then. */
  isFaulty = false
  /** Something of it is lost. */
  isRotten = false
  /** Nothing fails, and room that was made stays: however full store and disk are, checkpoints and the collector have theirs. */
  hasRoomMade = false
  /** Nothing more can be written. */
  isWounded: () => boolean = () => false
  readonly #files = new DisposableStack()

  constructor(seed: number, narrow: { places?: readonly number[]; sizes?: readonly number[]; contentCount?: number } = {}) {
    this.rng = seededRng(seed)
    this.collects = this.rng.below(2) === 0
    this.flushPerCent = this.pick([1, 5, 15]) as number
    this.reapStep = this.pick([3, 70, 4096]) as number
    this.contentCount = narrow.contentCount ?? (this.pick([3, CONTENTS.length]) as number)
    this.places = narrow.places ?? PLACES
    this.sizes = narrow.sizes ?? SIZES
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

  readonly unlessFull = (error: unknown): void => {
    if (this.hasRoomMade || !(error instanceof Fault) || error.code !== 'exhausted') throw error
  }

  pick<T>(from: readonly T[]): T | undefined {
    return from.length === 0 ? undefined : from[this.rng.below(from.length)]
  }
  names(kind: 'volume' | 'snapshot' | 'any'): string[] {
    return [...this.world.keys()].filter((name) => kind === 'any' || name.includes('@') === (kind === 'snapshot'))
  }

  /** Runs `work`; when it is done the world is `next`, and before it may be each of `steps` for a while. */
  async did(store: Store, next: World, work: () => Promise<unknown>, steps: readonly World[] = []): Promise<void> {
    this.underWay = [...steps, next]
    try {
      await work()
      // A power cut may take the last steps alone.
      for (const world of [...steps, next]) this.#is(world)
    } catch (error) {
      // A full store, or a disk that fails, refuses, and all is as before, or as one of the steps has left it.
      if (!(error instanceof Fault) || (error.code !== 'exhausted' && error.code !== 'failed') || this.isWounded()) throw error
      this.refusedCount += 1
      if (steps.length > 0) await this.#isOneOf(store, [this.world, ...this.underWay])
    }
    this.underWay = []
  }

  #is(world: World): void {
    this.history.push(world)
    this.past.push(world)
  }

  async #isOneOf(store: Store, worlds: readonly World[]): Promise<void> {
    const before = this.isFaulty
    this.isFaulty = false
    const unread = this.isRotten ? new Set<string>() : undefined
    const found = await contentOf(store, unread)
    this.isFaulty = before
    const world = worlds.find((one) => signatureOf(one, unread) === found)
    assert.ok(world, `what was refused has left what no step makes: ${found}`)
    this.#is(world)
  }

  /** What was acknowledged is safe from a power cut. */
  isSafe(): void {
    this.history = [this.world]
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
    if (again && again.first + again.count <= (this.world.get(again.name)?.sizeBlocks ?? 0)) return this.write(store, again)
    const volume = this.pick(this.names('volume'))
    if (volume === undefined) return this.create(store)
    const snapshot = this.pick(this.names('snapshot'))
    if (rng.below(100) < this.flushPerCent) return this.flush(store)
    const choice = rng.below(100)
    if (choice < 48) await this.write(store, this.newWrite(volume))
    else if (choice < 55) await this.trim(store, volume)
    else if (choice < 58) await store.checkpoint().catch(this.unlessFull)
    else if (choice < 61) await this.create(store)
    else if (choice < 70) await this.snapshot(store, volume)
    else if (choice < 74 && snapshot !== undefined && this.names('volume').length < 6) await this.clone(store, snapshot)
    else if (choice < 77 && snapshot !== undefined) await this.revert(store, volume, snapshot)
    else if (choice < 86) await this.remove(store)
    else if (choice < 89) await this.rename(store, this.pick(this.names('any')) as string) // there is one
    else if (choice < 92) await this.resize(store, volume)
    else if (choice < 94) await this.limit(store, volume)
    else if (choice < 97) await this.lease(store, volume)
    else if (choice < 98) await this.did(store, this.world, () => store.rekey(volume, SECRET, NEXT_SECRET).catch(unlessRefused))
    else await store.collect().catch(this.unlessFull)
  }

  async snapshot(store: Store, volume: string): Promise<void> {
    if (this.names('snapshot').length >= 8) return
    const name = `s${(this.count += 1)}`
    const taken = { ...(this.world.get(volume) as Disk), ...UNSET }
    await this.did(store, this.with(`${volume}@${name}`, taken), () => store.snapshot(volume, name))
    this.isSafe()
  }

  async clone(store: Store, snapshot: string): Promise<void> {
    const name = `c${(this.count += 1)}`
    await this.did(store, this.with(name, this.world.get(snapshot) as Disk), () => store.clone(snapshot, name))
  }

  async revert(store: Store, volume: string, snapshot: string): Promise<void> {
    const { iopsMax, leaseEpoch, isLeased } = this.world.get(volume) as Disk
    const next = { ...(this.world.get(snapshot) as Disk), iopsMax, leaseEpoch, isLeased }
    await this.did(store, this.with(volume, next), () => store.revert(volume, snapshot))
  }

  async remove(store: Store): Promise<void> {
    const name = this.pick(this.names('any'))
    if (name !== undefined && (name.includes('@') || this.rng.below(3) === 0))
      await this.did(store, this.with(name, null), () => store.remove(name))
  }

  /** Volumes with all their snapshots. */
  async rename(store: Store, name: string): Promise<void> {
    const next = name.includes('@') ? `${name.slice(0, name.indexOf('@'))}@r${(this.count += 1)}` : `r${(this.count += 1)}`
    const renamed = (old: string): string =>
      old === name ? next : !name.includes('@') && old.startsWith(`${name}@`) ? `${next}${old.slice(name.length)}` : old
    const world: World = new Map([...this.world].map(([old, disk]) => [renamed(old), disk]))
    await this.did(store, world, () => store.rename(name, next))
  }

  async resize(store: Store, name: string): Promise<void> {
    const disk = this.world.get(name) as Disk
    const sizeBlocks = this.pick(SIZES_LATER) as number
    // A leased volume is not resized by who serves it.
    if (disk.isLeased) return
    const steps = sizeBlocks < disk.sizeBlocks ? this.#emptied(name, sizeBlocks, disk.sizeBlocks) : []
    const blocks = new Map([...disk.blocks].filter(([block]) => block < sizeBlocks))
    await this.did(
      store,
      this.with(name, { ...disk, sizeBlocks, blocks }),
      () => store.resize(name, sizeBlocks * BLOCK_BYTES),
      steps,
    )
  }

  async limit(store: Store, name: string): Promise<void> {
    const iopsMax = this.rng.below(1000)
    await this.did(store, this.with(name, { ...(this.world.get(name) as Disk), iopsMax }), () =>
      store.setLimits(name, { iopsMax }),
    )
    this.isSafe()
  }

  /** Taken when nobody has it, else given back. */
  async lease(store: Store, name: string): Promise<void> {
    const disk = this.world.get(name) as Disk
    const next = { ...disk, leaseEpoch: disk.leaseEpoch + 1, isLeased: !disk.isLeased }
    const change = disk.isLeased ? releaseLease(disk.leaseEpoch) : acquireLease(HOLDER)
    await this.did(store, this.with(name, next), () => store.changeLease(name, change))
    this.isSafe()
  }

  /** The device for who may write. */
  device(store: Store, name: string): BlockDevice {
    const { isLeased, leaseEpoch } = this.world.get(name) as Disk
    return volumeDevice(store, name, isLeased ? { opening: Opening.under(store.entry(name), leaseEpoch) } : {})
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
    const sizeBlocks = this.pick(this.sizes) as number
    const isCompressed = this.rng.below(100) < this.compressedPerCent
    const options = {
      ...(this.rng.below(100) < this.encryptedPerCent ? { secret: SECRET } : {}),
      compression: isCompressed ? ('zstd' as const) : ('none' as const),
    }
    await this.did(store, this.with(name, { sizeBlocks, isCompressed, blocks: new Map(), ...UNSET }), () =>
      store.createVolume(name, sizeBlocks * BLOCK_BYTES, options),
    )
  }

  newWrite(name: string): Write {
    const { rng } = this
    const { sizeBlocks } = this.world.get(name) as Disk
    const first = Math.min(this.pick(this.places) as number, sizeBlocks - 1)
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
    const device = this.device(store, name)
    const next = this.with(name, { ...disk, blocks })
    const fua = this.rng.below(12) === 0
    this.writes.push({ world: next, write })
    const { refusedCount } = this
    await this.did(store, next, async () => {
      const { now } = device
      if (fua) await device.write(first * BLOCK_BYTES, content, { fua })
      else if (this.rng.below(2) === 0 && now?.write(first * BLOCK_BYTES, content)) now.commit()
      else await device.write(first * BLOCK_BYTES, content)
    })
    if (fua && this.refusedCount === refusedCount) this.isSafe()
  }

  async trim(store: Store, name: string): Promise<void> {
    const { rng } = this
    const disk = this.world.get(name) as Disk
    const first = Math.min(this.pick(this.places) as number, disk.sizeBlocks - 1)
    const count = rng.below(3) === 0 ? disk.sizeBlocks - first : Math.min(1 + rng.below(300), disk.sizeBlocks - first)
    const steps = this.#emptied(name, first, first + count)
    const device = this.device(store, name)
    const noHole = rng.below(3) === 0
    // Nothing is there but on a few blocks: of the rest all would be written that is to keep its place.
    if (noHole && count > 300) return
    await this.did(
      store,
      steps.at(-1) ?? this.world,
      () => device.zero(first * BLOCK_BYTES, count * BLOCK_BYTES, { noHole }),
      steps,
    )
  }

  /** The worlds that there are while a volume is emptied from one block to before another. */
  #emptied(name: string, from: number, to: number): World[] {
    const disk = this.world.get(name) as Disk
    const blocks = new Map(disk.blocks)
    const steps: World[] = []
    for (const block of [...blocks.keys()].filter((at) => at >= from && at < to).toSorted((a, b) => a - b)) {
      blocks.delete(block)
      steps.push(this.with(name, { ...disk, blocks: new Map(blocks) }))
    }
    return steps
  }
}

/** It is not encrypted, or has the next key file already. */
function unlessRefused(error: unknown): void {
  if (!(error instanceof Fault) || (error.code !== 'conflict' && error.code !== 'unauthenticated')) throw error
}

/** Blocks that are looked at: those that work may have written. */
const LOOKED_AT = [
  ...new Set([...PLACES.flatMap((place) => [0, 1, 2, 3].map((more) => place + more)), ...SIZES_LATER.map((size) => size - 1)]),
].toSorted((a, b) => a - b)
const IS_LOOKED_AT: ReadonlySet<number> = new Set(LOOKED_AT)
const NUMBERS = new Map(
  CONTENTS.map((content, number) => [new DataView(content.buffer, content.byteOffset).getUint32(0), number]),
)

/** null: no content that was ever written. */
function numberOf(content: Uint8Array): number | null {
  const number = NUMBERS.get(new DataView(content.buffer, content.byteOffset).getUint32(0))
  return number !== undefined && Buffer.compare(content, CONTENTS[number] as Uint8Array) === 0 ? number : null
}

const lineOf = (name: string, disk: Omit<Disk, 'isCompressed' | 'blocks'>, blocks: readonly string[]): string =>
  `${name}: ${disk.sizeBlocks} blocks, ${disk.iopsMax} a second, epoch ${disk.leaseEpoch}${disk.isLeased ? ' leased' : ''}: ${blocks.join(' ')}`

const NONE: ReadonlySet<string> = new Set()
const signatures = new WeakMap<World, string>()

/** The world in words, but for blocks of which nobody knows and those at which nobody looks: two are the same when these are. */
export function signatureOf(world: World, unread: ReadonlySet<string> = NONE): string {
  const known = unread.size === 0 ? signatures.get(world) : undefined
  if (known !== undefined) return known
  const lines = [...world].map(([name, disk]) => {
    const isShown = (block: number, number: number): boolean =>
      number !== 0 && IS_LOOKED_AT.has(block) && !unread.has(`${name} ${block}`)
    const blocks = [...disk.blocks].filter((one) => isShown(...one)).toSorted(([a], [b]) => a - b)
    return lineOf(
      name,
      disk,
      blocks.map(([block, number]) => `${block}=${number}`),
    )
  })
  const signature = lines.toSorted().join('\n')
  if (unread.size === 0) signatures.set(world, signature)
  return signature
}

/** What a store holds, in the words of `signatureOf`. `unread`: gets the blocks that cannot be read, where there may be such. */
export async function contentOf(store: Store, unread?: Set<string>): Promise<string> {
  const content = new Uint8Array(BLOCK_BYTES)
  const lines: string[] = []
  for (const { name, sizeBytes, limits, lease } of store.list()) {
    const device = volumeDevice(store, name)
    const blocks: string[] = []
    const sizeBlocks = sizeBytes / BLOCK_BYTES
    for (const block of LOOKED_AT) {
      if (block >= sizeBlocks) break
      try {
        if (!device.now?.read(block * BLOCK_BYTES, BLOCK_BYTES, content, 0)) await device.read(block * BLOCK_BYTES, content)
      } catch (error) {
        if (!unread || !(error instanceof Fault) || error.code !== 'failed') throw error
        unread.add(`${name} ${block}`)
        continue
      }
      const number = numberOf(content)
      if (number !== 0) blocks.push(`${block}=${number ?? 'what was never written'}`)
    }
    const disk = { sizeBlocks, iopsMax: limits.iopsMax, leaseEpoch: lease.epoch, isLeased: lease.holder !== null }
    lines.push(lineOf(name, disk, blocks))
  }
  return lines.toSorted().join('\n')
}

/** @returns the one of these worlds that the store holds, the last of several. */
export async function assertHolds(store: Store, worlds: readonly World[], step: string): Promise<World> {
  const found = await contentOf(store)
  const world = worlds.findLast((one) => signatureOf(one) === found)
  assert.ok(
    world,
    `${step}: none of ${worlds.length} worlds:\n${found}\nthe last of them:\n${signatureOf(worlds.at(-1) ?? new Map())}`,
  )
  return world
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
export async function tight(store: Store, step: string): Promise<void> {
  await store.flush()
  await store.collected()
  await store.checkpoint()
  await store.checkpoint()
  const report = await checkStore(store.state, { readsData: true, sleep: async () => {} })
  assert.deepEqual([report.damage, report.leaked, report.missing], [[], [], []], step)
}

/** As `volume check` does, when nothing else is to be done. */
async function giveBack(store: Store): Promise<void> {
  await store.flush()
  await store.collected()
  await store.checkpoint()
  await store.checkpoint()
  await store.check({ readsData: false, repairs: true })
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
  run.hasRoomMade = faultPerMille === 0
  // Of some the disk is full, by their own doing or by that of others.
  const isCrowded = rng.below(3) === 0
  // Some have many short lives: what one leaves in the journal meets what the next writes.
  const isRestless = rng.below(3) === 0
  // What could not be read while something was taken apart stays in use.
  let isLeaky = false
  const lives = 1 + rng.below(isRestless ? 30 : 4)
  for (let life = 0; life < lives; life += 1) {
    const kind = rng.below(2) === 0 ? 'kill' : 'power'
    // The crash comes in the middle of whatever is going on.
    const turns = rng.below(run.pick(isRestless ? [20, 60, 200] : [500, 4000, 12_000]) as number)
    let crashed = false
    run.isFaulty = true
    if (isCrowded) file.roomBytes = rng.below(2) * rng.below(700) * BLOCK_BYTES
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
    isLeaky ||= store.state.lostCount > 0
    const next = file.crash(kind)
    const error = await Promise.race([failure, new Promise((resolve) => setImmediate(resolve, undefined))])
    if (error) throw error instanceof Error ? error : new Error(String(error))
    const possible = [...run.history, ...run.underWay]
    // A killed process loses nothing that was acknowledged.
    const allowed = kind === 'kill' ? possible.slice(run.history.length - 1) : possible
    file = next
    await sound(run, file, `life ${life} (${kind})`)
    store = await openUnlocked(run.options(file))
    const found = await assertHolds(store, allowed, `life ${life} (${kind})`)
    const lost = new Set(possible.slice(possible.indexOf(found) + 1))
    run.again = rng.below(2) === 0 ? (run.writes.find(({ world }) => lost.has(world))?.write ?? null) : null
    run.writes = []
    run.history = [found]
    run.underWay = []
  }
  for (const name of run.names('any').slice(0, 6)) {
    await store.remove(name)
    run.history.push(run.with(name, null))
  }
  if (isLeaky) await giveBack(store)
  await tight(store, 'at the end')
  await assertHolds(store, [run.world], 'at the end')
  await store.close()
  const again = await openUnlocked(run.options(file.crash('kill')))
  await assertHolds(again, [run.world], 'opened again')
  await tight(again, 'opened again')
  await again.close()
}

export const liveAll = (seeds: Iterable<number>): Promise<void> => underSeeds('store.sim', live, seeds)
