/**
 * Leases under one seed: writers that do not know that their lease is over go on writing, beside changes of the lease, through kills and
 * power cuts at any turn. What they write names their epoch, so that the disk itself tells who wrote when it was not his turn.
 */
import assert from 'node:assert/strict'
import { Fault, type Rng } from '@typevisor/base'
import { memoryLog, seededRng } from '@typevisor/sim'
import { underSeeds } from '@typevisor/sim/testing'
import { nodeChecksum } from '../node-store-file.ts'
import { SimStoreFile } from './sim-store-file.ts'
import { turnClock } from './store-sim.ts'
import { BLOCK_BYTES } from '../store/format.ts'
import { acquireLease, handOverLease, offerLease, Opening, releaseLease, type LeaseChange } from '../store/lease.ts'
import { Store } from '../store/store.ts'
import { volumeDevice } from '../store/volume-device.ts'

const WRITER_COUNT = 3
const BLOCK_COUNT = 3
const VOLUME = 'web'
const EXPECTED: ReadonlySet<string> = new Set(['stale_fence', 'forbidden', 'conflict', 'aborted'])

const holderOf = (writer: number): Uint8Array => new Uint8Array(16).fill(writer + 1)

/** What all lives of one seed share: what the world outside of the store knows. */
class World {
  readonly rng: Rng
  /** Epochs that each writer was told are its own; it is never told that one is over. */
  readonly epochs: number[][] = Array.from({ length: WRITER_COUNT }, () => [])
  /** Who was told of an epoch. */
  readonly owners = new Map<number, number>()
  /** By block, the newest epoch of a write that was acknowledged, and of one that is safe from a power cut. */
  acknowledged: number[] = Array.from({ length: BLOCK_COUNT }, () => 0)
  safe: number[] = [...this.acknowledged]
  /** Of a change of the lease that was acknowledged. */
  epoch = 0
  refusedCount = 0
  writtenCount = 0
  /** What is still open goes no further: without it a store that a failure left behind would turn for ever. */
  isOver = false

  constructor(seed: number) {
    this.rng = seededRng(seed)
  }

  tell(writer: number, epoch: number): void {
    assert.ok(!this.owners.has(epoch), `epoch ${epoch} was given out twice`)
    this.owners.set(epoch, writer)
    this.epochs[writer]?.push(epoch)
  }

  /** Of two changes the earlier one may be answered later. */
  inForce(epoch: number): void {
    this.epoch = Math.max(this.epoch, epoch)
  }

  /** A flush (or a change, which ends with one) makes safe what was acknowledged when it began. */
  async flushed<T>(work: () => Promise<T>): Promise<T> {
    const begun = [...this.acknowledged]
    const result = await work()
    this.safe = this.safe.map((epoch, block) => Math.max(epoch, begun[block] ?? 0))
    return result
  }
}

class Life {
  readonly #world: World
  readonly #store: Store
  isOver = false

  constructor(world: World, store: Store) {
    this.#world = world
    this.#store = store
  }

  /** The epoch that stands in a block. */
  #epochAt(block: number): number {
    const content = new Uint8Array(4)
    assert.equal(volumeDevice(this.#store, VOLUME).now?.read(block * BLOCK_BYTES, 4, content, 0), true)
    return new DataView(content.buffer).getUint32(0)
  }

  /** Reads like anybody, all the time: no block ever goes back to an older epoch, nor to one that was never in force. */
  async watch(): Promise<void> {
    const seen = Array.from({ length: BLOCK_COUNT }, (_, block) => this.#epochAt(block))
    while (!this.isOver) {
      for (let block = 0; block < BLOCK_COUNT; block += 1) {
        const epoch = this.#epochAt(block)
        assert.ok(epoch >= (seen[block] ?? 0), `block ${block}: epoch ${epoch} came over ${seen[block]}`)
        assert.ok(epoch <= this.#store.entry(VOLUME).record.leaseEpoch, `block ${block}: epoch ${epoch} is not in force yet`)
        seen[block] = epoch
      }
      for (let turn = this.#world.rng.below(6); turn >= 0; turn -= 1) await null
    }
  }

  async write(writer: number): Promise<void> {
    const { rng, epochs } = this.#world
    const entry = this.#store.entry(VOLUME)
    while (!this.isOver) {
      await null
      const known = epochs[writer] ?? []
      // Mostly the newest, often enough an old one; now and then as anybody.
      const epoch = rng.below(3) === 0 ? known[rng.below(known.length || 1)] : known.at(-1)
      try {
        const opening = epoch === undefined || rng.below(20) === 0 ? Opening.plain(entry) : Opening.under(entry, epoch)
        const device = volumeDevice(this.#store, VOLUME, { opening })
        for (let count = 0; count < 5 && !this.isOver; count += 1) await this.#writeOnce(device, opening)
      } catch (error) {
        if (!(error instanceof Fault) || !EXPECTED.has(error.code)) throw error
        this.#world.refusedCount += 1
      }
    }
  }

  async #writeOnce(device: ReturnType<typeof volumeDevice>, opening: Opening): Promise<void> {
    const { rng, acknowledged } = this.#world
    const block = rng.below(BLOCK_COUNT)
    const content = new Uint8Array(BLOCK_BYTES)
    new DataView(content.buffer).setUint32(0, opening.epoch)
    const at = block * BLOCK_BYTES
    const choice = rng.below(4)
    if (choice === 0 && device.now?.write(at, content)) device.now.commit()
    else if (choice === 1) {
      // A part of a block: what is there has to be read first.
      await device.write(at, content.subarray(0, 512))
    } else {
      for (let turn = rng.below(4); turn > 0; turn -= 1) await null
      await device.write(at, content, { fua: choice === 2 })
    }
    this.#world.writtenCount += 1
    acknowledged[block] = Math.max(acknowledged[block] ?? 0, opening.epoch)
  }

  /** Who decides whose the volume is, one of two who do not know of each other: by what the store says, and what was answered. */
  async decide(): Promise<void> {
    const world = this.#world
    const { rng } = world
    const change = (how: LeaseChange) => world.flushed(() => this.#store.changeLease(VOLUME, how))
    while (!this.isOver) {
      for (let turn = rng.below(60); turn > 0; turn -= 1) await null
      const { leaseEpoch: epoch, leaseHolder } = this.#store.entry(VOLUME).record
      const writer = rng.below(WRITER_COUNT)
      const choice = rng.below(10)
      try {
        if (choice < 4) {
          const lease = await change(acquireLease(holderOf(writer), leaseHolder ? epoch : undefined))
          world.tell(writer, lease.epoch)
          world.inForce(lease.epoch)
        } else if (choice < 7 && leaseHolder) {
          const { offeredEpoch } = await change(offerLease(epoch))
          world.tell(writer, offeredEpoch)
          for (let turn = rng.below(40); turn > 0; turn -= 1) await null
          world.inForce((await change(handOverLease(epoch, holderOf(writer), offeredEpoch))).epoch)
        } else if (choice < 8 && leaseHolder) world.inForce((await change(releaseLease(epoch))).epoch)
        else if (choice < 9) await world.flushed(() => this.#store.flush())
        else await this.#store.checkpoint()
      } catch (error) {
        if (!(error instanceof Fault) || !EXPECTED.has(error.code)) throw error
      }
    }
  }

  /** What must be there at the beginning of a life. */
  begin(kind: 'kill' | 'power'): void {
    const { acknowledged, safe, epoch } = this.#world
    const { leaseEpoch } = this.#store.entry(VOLUME).record
    assert.ok(leaseEpoch >= epoch, `epoch ${leaseEpoch} is in force again, ${epoch} was acknowledged`)
    const found = acknowledged.map((_, block) => this.#epochAt(block))
    for (const [block, least] of (kind === 'kill' ? acknowledged : safe).entries()) {
      const got = found[block] ?? 0
      assert.ok(got >= least && got <= leaseEpoch, `block ${block} (${kind}): epoch ${got}, want ${least} to ${leaseEpoch}`)
    }
    this.#world.acknowledged = found
    this.#world.safe = [...found]
  }
}

async function live(world: World): Promise<void> {
  const { rng } = world
  const optionsOf = (file: SimStoreFile) => ({
    file,
    checksum: nodeChecksum,
    clock: turnClock(rng, () => world.isOver || file.isDead),
    rng,
    log: memoryLog(),
    journalBytes: 16 * BLOCK_BYTES,
    dirtyNodeCountMax: 10,
    turnBlockCount: 1,
  })
  let file = new SimStoreFile({ rng, capacityBytes: 2 ** 32 })
  let store = await Store.create(optionsOf(file))
  await store.createVolume(VOLUME, 2 ** 20)
  await store.flush()
  for (let count = 1 + rng.below(4); count > 0; count -= 1) {
    const life = new Life(world, store)
    const parts = [life.watch(), life.decide(), life.decide(), ...world.epochs.map((_, writer) => life.write(writer))]
    const failure = Promise.all(parts).then(
      () => null,
      (error: unknown) => error,
    )
    for (let turn = rng.below(2000); turn > 0; turn -= 1) await null
    life.isOver = true
    const kind = rng.below(2) === 0 ? 'kill' : 'power'
    file = file.crash(kind)
    // Who waits for a dead disk waits for ever.
    const error = await Promise.race([failure, new Promise((resolve) => setImmediate(resolve, null))])
    if (error !== null && !(error instanceof Fault && error.message.includes('the process is dead'))) throw error
    store = await Store.open(optionsOf(file))
    new Life(world, store).begin(kind)
  }
  await store.close()
}

export async function liveAllLeases(seeds: readonly number[]): Promise<void> {
  let [written, refused] = [0, 0]
  await underSeeds(
    'lease.sim',
    async (seed) => {
      const world = new World(seed)
      try {
        await live(world)
      } finally {
        world.isOver = true
      }
      written += world.writtenCount
      refused += world.refusedCount
    },
    seeds,
  )
  assert.ok(
    process.env['SEED'] !== undefined || (written > 10 * seeds.length && refused > seeds.length),
    `${written} written, ${refused} refused: too few to say anything`,
  )
}
