/**
 * A store: volumes, snapshots and clones on one file. docs/volumes.md explains format and failure model.
 *
 *   open/create --> serving --close--> (a last checkpoint)
 *                      |  the file fails while writing
 *                      v
 *                   wounded: reads go on; opened anew it recovers
 *
 * All changes are made at once, in one turn, through `changes.ts`, with their record in the journal before; what waits (flushes,
 * checkpoints, the collector, cold reads) works between them. One checkpoint and one flush are under way at a time.
 */
import { assert, Fault, millis, toFault } from '@typevisor/base'
import { emptyRecord, type CompressionKind, type Entry, type EntryRecord } from './catalog.ts'
import { applyCatalog, applyReap, applyTrim, TRIM_STEP_BLOCKS, type CatalogChange } from './changes.ts'
import { checkStore, type CheckOptions, type CheckReport } from './check.ts'
import { finishCheckpoint, freeze, writeCheckpoint, type CheckpointOptions } from './checkpoint.ts'
import { BLOCK_BYTES, DEAD_ENTRIES_PER_BLOCK, NAME_BYTES_MAX, RECORD_TYPE, SUPERBLOCK_COUNT } from './format.ts'
import { wrappingOf } from './keyring.ts'
import { assertMayWrite, leaseOf, Opening, type LeaseChange, type VolumeLease } from './lease.ts'
import { assertLimits, type VolumeLimits } from './limits.ts'
import { storedBlockCount } from './own-blocks.ts'
import type { WrappedKey } from './ports.ts'
import { appendOpening, emptyState, readSuperblock, recover, type RecoveryReport } from './recovery.ts'
import { appendCatalog, appendReap, appendTrim, catalogBodyBytes } from './records.ts'
import { hasRoom, KEPT, nodeBlocksFor, type Demand } from './reserve.ts'
import type { StoreParts, StoreState } from './state.ts'
import { cutsPackedUnit, unitStep } from './units.ts'
import { deviceOf } from './volume-device.ts'
import { hasRoomFor, isFull, journalReserve, Writer } from './writer.ts'

export interface StoreOptions extends StoreParts {
  /** Ring of a store that is made; a store that is there keeps its own. */
  readonly journalBytes?: number
  /** Dirty nodes that begin a checkpoint. */
  readonly dirtyNodeCountMax?: number
  /** Blocks of a checkpoint that are written before other work comes in between. */
  readonly turnBlockCount?: number
  /** The collector works by itself; tests let it work by hand. */
  readonly collects?: boolean
  /** Entries of a dead list that one step of the collector goes over, or as much work on a tree. */
  readonly reapStep?: number
  /** It is opened for `check` to mend it: also with a table of free blocks that is lost, and without records that cannot be read. */
  readonly repairs?: boolean
}

export interface VolumeOptions {
  /** The content of a key file: it is encrypted, and unlocked. */
  readonly secret?: Uint8Array
  readonly compression?: CompressionKind
}

export interface VolumeDescription {
  readonly id: string
  readonly name: string
  readonly kind: 'volume' | 'snapshot'
  readonly sizeBytes: number
  readonly createdAt: number
  /** Snapshots: the volume they were taken of, while it is there. */
  readonly volume: string | null
  /** The snapshot that it goes on from, while it has a name. */
  readonly parent: string | null
  readonly encryption: 'none' | 'unlocked' | 'locked'
  readonly compression: CompressionKind
  /** Data that it leads to on disk, shared or not. */
  readonly storedBytes: number
  /** A leaf of it was lost: it leads to as much as that at most, or to what a record that could not be done again has written. */
  readonly storedIsExact: boolean
  readonly limits: VolumeLimits
  readonly lease: {
    /** Of the epoch in force; null: nobody, and all who open the volume may write. */
    readonly holder: string | null
    readonly epoch: number
  }
}

export interface StoreUsage {
  readonly usedBytes: number
  readonly availableBytes: number
  readonly journalUsedBytes: number
  readonly journalBytes: number
}

export interface StoreCheck {
  readonly nodeCount: number
  readonly dataCount: number
  /** In words: what is wrong, and where. */
  readonly damage: readonly string[]
  /** Blocks that were damaged and are written again from their second copy. */
  readonly mendedCount: number
  /** Tables of free blocks that were lost and are made anew. */
  readonly rebuiltCount: number
  /** Blocks that counted as in use and are not, and the other way round. */
  readonly leakedCount: number
  readonly missingCount: number
  /** Volumes and snapshots of which it was counted anew how much they store. */
  readonly recountedCount: number
  readonly isRepaired: boolean
}

const JOURNAL_BYTES = 64 * 1024 * 1024
const JOURNAL_BYTES_MIN = 16 * BLOCK_BYTES
const DIRTY_NODE_COUNT_MAX = 16_384
/** Of one write each at worst: about 2 ms. */
const TURN_BLOCK_COUNT = 256
/** Blocks freed and not reusable before a flush: from so many on the store flushes by itself. */
const HELD_COUNT_MAX = 16_384
/** And at least as often as this, while there is something to make safe. */
const SYNC_EVERY_MS = 1000
/** Free runs shorter than this keep their room in the file. */
const GIVEN_BACK_COUNT_MIN = 16
const REAP_STEP = 4096
/** Of a volume. */
export const SIZE_BYTES_MAX = 2 ** 46
/** Catalog records in one record of the journal. */
const CHANGE_COUNT_MAX = 16

interface ChangeOptions {
  /** Entries of the catalog that it changes at most. */
  readonly slotCount?: number
  /** Blocks that it leaves set aside beyond what the next checkpoint needs. */
  readonly kept?: number
  readonly beginsEpoch?: boolean
}
const BEGINS_EPOCH: ChangeOptions = { beginsEpoch: true }
const MANY: ChangeOptions = { slotCount: CHANGE_COUNT_MAX }
const DELETES: ChangeOptions = { slotCount: 1, kept: KEPT.deletes }

export class Store {
  readonly #options: StoreOptions
  readonly state: StoreState
  readonly writer: Writer
  readonly report: RecoveryReport
  readonly #checkpointOptions: CheckpointOptions
  #lostGroupCount: number
  #checkpoint: Promise<void> | null = null
  #sync: Promise<void> | null = null
  #collecting: Promise<void> | null = null
  #collectorFault: Fault | null = null
  /** Volumes to which others are being renamed. */
  readonly #promisedNames = new Set<string>()
  readonly #closing = new AbortController()
  readonly #ticking: Promise<void>

  private constructor(options: StoreOptions, state: StoreState, report: RecoveryReport) {
    this.#options = options
    this.state = state
    this.report = report
    this.#lostGroupCount = report.lostGroupCount
    this.writer = new Writer(state)
    this.#checkpointOptions = {
      journalBlocks: state.journal.sizeBytes / BLOCK_BYTES,
      turnBlockCount: options.turnBlockCount ?? TURN_BLOCK_COUNT,
      pause: () => options.clock.sleep(millis(0)),
    }
    state.dirtyNodeCountLimit = 2 * (options.dirtyNodeCountMax ?? DIRTY_NODE_COUNT_MAX)
    this.#ticking = this.#tick()
    this.#wakeCollector()
  }

  /** Makes a store on a file that has none. @throws Fault `conflict` when there is one. */
  static async create(options: StoreOptions): Promise<Store> {
    const journalBytes = Math.max(JOURNAL_BYTES_MIN, options.journalBytes ?? JOURNAL_BYTES)
    if (readSuperblock(options.file, options.checksum)) throw new Fault('conflict', 'store: there is one already')
    const journalBlocks = Math.ceil(journalBytes / BLOCK_BYTES)
    // A record must never fail because something else has filled the disk.
    options.file.allocate(0, (SUPERBLOCK_COUNT + journalBlocks) * BLOCK_BYTES)
    const state = emptyState(options, journalBlocks)
    appendOpening(state.journal, options.rng)
    const store = new Store(options, state, { recordCount: 0, cutCount: 0, lostGroupCount: 0 })
    await store.checkpoint()
    // Twice, so that every superblock is one.
    await store.checkpoint()
    return store
  }

  /** @throws Fault `not_found` when the file is empty, `unsupported` for another format, `failed` for damage. */
  static async open(options: StoreOptions): Promise<Store> {
    const superblock = readSuperblock(options.file, options.checksum)
    if (!superblock)
      throw options.file.sizeBytes === 0
        ? new Fault('not_found', 'store: the file is empty')
        : new Fault(
            'failed',
            'store: none of the four superblocks is whole, and nothing else tells where its volumes lie: put a copy of its file back, or make another and import what was exported; this one is as it was',
          )
    const { state, report } = await recover(options, superblock, { repairs: options.repairs ?? false })
    return new Store(options, state, report)
  }

  list(): VolumeDescription[] {
    const shown: VolumeDescription[] = []
    for (const entry of this.state.catalog.entries())
      if (entry.kind === 'volume' || entry.kind === 'snapshot') shown.push(this.#describe(entry))
    return shown
  }

  get(name: string): VolumeDescription | null {
    const entry = this.state.catalog.byName(name)
    return entry && this.#describe(entry)
  }

  /** @throws Fault `not_found`. */
  entry(name: string): Entry {
    const entry = this.state.catalog.byName(name)
    if (!entry) throw new Fault('not_found', `volume ${JSON.stringify(name)}: there is none`)
    return entry
  }

  usage(): StoreUsage {
    const { allocator, journal } = this.state
    return {
      usedBytes: allocator.usedCount * BLOCK_BYTES,
      availableBytes: (allocator.availableCount + allocator.setAsideCount) * BLOCK_BYTES,
      journalUsedBytes: journal.usedBytes,
      journalBytes: journal.sizeBytes,
    }
  }

  async createVolume(name: string, sizeBytes: number, options: VolumeOptions = {}): Promise<VolumeDescription> {
    this.assertNew(name, 'volume')
    assertSize(sizeBytes)
    const form = await this.formOf(options)
    await this.#change(() => {
      this.assertNew(name, 'volume')
      return [this.#fresh({ kind: 'volume', name, sizeBytes, ...form })]
    })
    return this.#describe(this.entry(name))
  }

  /** What the catalog says of a volume that is made so. @throws Fault `unsupported`, `invalid` for a key file that is too little. */
  async formOf({ secret, compression = 'none' }: VolumeOptions): Promise<Pick<EntryRecord, 'key' | 'compression'>> {
    if (compression !== 'none' && !this.#options.compressor)
      throw new Fault('unsupported', 'store: it was opened without a compressor, so it has no compressed volumes')
    return { key: secret ? await this.state.keyring.make(secret) : null, compression }
  }

  /** Unlocks whatever of `names` (left out: of all) is locked and has its key from this key file. @returns their names. */
  async unlock(secret: Uint8Array, names?: readonly string[]): Promise<string[]> {
    const isAsked = (entry: Entry): boolean => entry.isLocked && entry.name !== '' && (!names || names.includes(entry.name))
    const asked = [...this.state.catalog.entries()].filter(isAsked)
    // Those that came of one volume are unlocked together.
    const keys = new Map(asked.flatMap(({ record: { key } }) => (key ? [[wrappingOf(key), key]] : [])))
    for (const key of keys.values()) await this.state.keyring.unlock(key, secret)
    return asked.flatMap((entry) => (entry.isLocked ? [] : [entry.name]))
  }

  /** Whether this is what an encrypted volume's key is wrapped with; it is unlocked then. */
  async isKeyFileOf(name: string, secret: Uint8Array): Promise<boolean> {
    const { key } = this.entry(name).record
    return key !== null && this.state.keyring.unlock(key, secret)
  }

  /** The volume's key, and that of its snapshots, is wrapped by another key file's from now on. Clones keep theirs. @throws Fault `unauthenticated` for a wrong key file. */
  async rekey(name: string, secret: Uint8Array, nextSecret: Uint8Array): Promise<VolumeDescription> {
    const { key } = this.#volume(name).record
    if (!key) throw new Fault('conflict', `${name}: it is not encrypted`)
    const next = await this.state.keyring.rewrap(key, secret, nextSecret)
    if (!next) throw new Fault('unauthenticated', `${name}: it is not encrypted with this key file`)
    // The volume last: done again after a crash, the rest of them follow.
    while (isWrappedAs(this.entry(name), key))
      await this.#change(() => {
        const wrapped = [...this.state.catalog.entries()].filter((entry) => isWrappedAs(entry, key))
        const snapshots = wrapped.filter((entry) => entry.name.startsWith(`${name}@`)).slice(0, CHANGE_COUNT_MAX)
        const part = snapshots.length > 0 ? snapshots : wrapped.filter((entry) => entry.name === name)
        return part.map((entry) => this.#changed(entry, { key: next }))
      }, MANY)
    await this.flush()
    return this.#describe(this.entry(name))
  }

  /** Constant time, whatever the size. Its name is `VOLUME@NAME`. Resolves when it is safe. */
  async snapshot(volumeName: string, name: string): Promise<VolumeDescription> {
    const full = `${volumeName}@${name}`
    this.assertNew(full, 'snapshot')
    await this.snapshotAs(volumeName, full)
    return this.#describe(this.entry(full))
  }

  /** The same under any name that is free. */
  async snapshotAs(volumeName: string, full: string): Promise<void> {
    await this.#change(() => {
      const head = this.#volume(volumeName)
      const { sizeBytes, parent, key, compression } = head.record
      const { epoch } = this.state
      const taken = this.#fresh({ kind: 'snapshot', name: full, sizeBytes, parent, key, compression, epoch })
      return [
        { ...taken, forkOf: head.slot, deadListOf: head.slot },
        { slot: head.slot, record: { ...head.record, parent: taken.slot }, forkOf: -1, deadListOf: -1 },
      ]
    }, BEGINS_EPOCH)
    await this.flush()
  }

  /** A volume that begins as a snapshot is, in constant time; grown to `sizeBytes` where that is said. @throws Fault `invalid` for less than the snapshot's. */
  async clone(snapshotName: string, name: string, sizeBytes?: number): Promise<VolumeDescription> {
    this.assertNew(name, 'volume')
    if (sizeBytes !== undefined) assertSize(sizeBytes)
    await this.#change(() => {
      const from = this.#snapshot(snapshotName)
      const { key, compression } = from.record
      const size = sizeBytes ?? from.record.sizeBytes
      if (size < from.record.sizeBytes)
        throw new Fault('invalid', `clone ${snapshotName}: got ${size} bytes, want at least its ${from.record.sizeBytes}`)
      const made = this.#fresh({ kind: 'volume', name, sizeBytes: size, key, compression, parent: from.slot })
      return [{ ...made, forkOf: from.slot }]
    })
    return this.#describe(this.entry(name))
  }

  /** The volume is again as the snapshot is; what it had is given up. */
  async revert(volumeName: string, snapshotName: string): Promise<void> {
    await this.#change(() => {
      const head = this.#volume(volumeName)
      const from = this.#snapshot(snapshotName)
      const { sizeBytes, key, compression } = from.record
      const { record } = head
      const { parent, key: oldKey } = record
      const old = this.#fresh({ kind: 'dying', sizeBytes: record.sizeBytes, parent, key: oldKey })
      return [
        { ...old, forkOf: head.slot, deadListOf: head.slot },
        {
          slot: head.slot,
          record: { ...record, parent: from.slot, sizeBytes, key, compression },
          forkOf: from.slot,
          deadListOf: -1,
        },
      ]
    })
    this.#wakeCollector()
  }

  /**
   * A volume's snapshots are renamed with it. Of more of them than one record of the journal holds, a crash may leave some renamed; done again,
   * the rest of them follow. @throws Fault `conflict` when one of the names is taken, and nothing is renamed then.
   */
  async rename(name: string, next: string): Promise<void> {
    const entry = this.entry(name)
    this.assertNew(next, entry.kind === 'snapshot' ? 'snapshot' : 'volume')
    this.#promisedNames.add(next)
    try {
      while (entry.name !== next)
        await this.#change(() => {
          if (this.state.catalog.byName(name) !== entry) throw new Fault('not_found', `rename ${name}: it is not there any more`)
          const snapshots = entry.kind === 'volume' ? this.#snapshotsOf(name) : []
          const isLast = snapshots.length < CHANGE_COUNT_MAX
          const renamed = snapshots.map((one) => this.#changed(one, { name: `${next}${one.name.slice(name.length)}` }))
          if (isLast) renamed.push(this.#changed(entry, { name: next }))
          for (const { record } of renamed) this.#assertFree(record.name)
          return renamed.slice(0, CHANGE_COUNT_MAX)
        }, MANY)
    } finally {
      this.#promisedNames.delete(next)
    }
  }

  #snapshotsOf(name: string): Entry[] {
    return [...this.state.catalog.entries()].filter((one) => one.kind === 'snapshot' && one.name.startsWith(`${name}@`))
  }

  /** Grows, or cuts off what is behind the new size. */
  async resize(name: string, sizeBytes: number): Promise<void> {
    assertSize(sizeBytes)
    const entry = this.#volume(name)
    const before = entry.record.sizeBytes
    // What was written to the end while it was cut off lies behind it: it is taken away before that end is moved.
    const [first, last] = [Math.min(before, sizeBytes), Math.max(before, sizeBytes)]
    await this.trim(entry, first / BLOCK_BYTES, (last - first) / BLOCK_BYTES, false)
    await this.#change(() => {
      if (this.state.catalog.byName(name) !== entry) throw new Fault('not_found', `resize ${name}: it is not there any more`)
      return [this.#changed(entry, { sizeBytes })]
    })
  }

  /** Resolves when it is safe. The rest of them stay as they are. */
  async setLimits(name: string, limits: Partial<VolumeLimits>): Promise<void> {
    await this.#change(() => {
      const head = this.#volume(name)
      const next = { ...limitsOf(head), ...limits }
      assertLimits(next)
      return [this.#changed(head, next)]
    })
    await this.flush()
  }

  /**
   * Carries out a change of a volume's lease, in one turn with its record. Writes that were acknowledged before it, and the change, are safe
   * when it resolves; those that were not taken in by then are refused, unless they are the new holder's.
   */
  async changeLease(name: string, change: LeaseChange): Promise<VolumeLease> {
    // What it is when the flush is done may be another's doing.
    let lease: VolumeLease | null = null
    await this.#change(() => {
      const head = this.#volume(name)
      const before = leaseOf(head.record)
      const next = change(before, name)
      lease = next ?? before
      if (next === null) return []
      return [this.#changed(head, { leaseEpoch: next.epoch, leaseHolder: next.holder, leaseOffered: next.offeredEpoch })]
    })
    await this.flush()
    assert(lease !== null, 'a change that did not throw was made')
    return lease
  }

  /** A volume or a snapshot; those that came of it stay. What nobody else has is given back by the collector. */
  async remove(name: string): Promise<void> {
    this.writer.commit()
    await this.#change(() => {
      const entry = this.entry(name)
      return [this.#changed(entry, { kind: entry.children.size > 1 ? 'branch' : 'dying', name: '', cursor: 0 })]
    }, DELETES)
    this.#wakeCollector()
  }

  /**
   * Makes holes (or zeros that keep their place) of whole blocks, step by step. Of a leaf that is lost they take the place where they cover all
   * of it.
   */
  async trim(entry: Entry, first: number, count: number, keepsPlace: boolean, opening = Opening.plain(entry)): Promise<void> {
    for (let done = 0; done < count;) {
      const block = first + done
      const most = Math.min(count - done, TRIM_STEP_BLOCKS - (block % entry.tree.geometry.leafEntries))
      let step = entry.isCompressed ? unitStep(block, most) : most
      const hole = entry.tree.missing(block) === null && entry.tree.leaf(block) === null
      // Where there is nothing there is nothing to be done, and a whole disk of it is passed over quickly.
      if (hole && !keepsPlace) {
        done += Math.min(count - done, entry.tree.holeEnd(block) - block)
        continue
      }
      const { leafEntries } = entry.tree.geometry
      const demandOf = (blockCount: number): Demand => ({
        nodeBlockCount: nodeBlocksFor(entry.tree, block, blockCount),
        deadCount: blockCount,
        slotCount: 1,
      })
      // In small steps where there is little room.
      const least = Math.min(step, leafEntries - (block % leafEntries))
      while (!this.#mayChange(64, demandOf(step), KEPT.trims)) {
        if (step > least) step = least
        else await this.#roomToChange(64, demandOf(step), KEPT.trims)
      }
      assertMayWrite(entry, opening)
      const lostEnd = this.state.lostLeafEnd(entry, block, first + count)
      if (lostEnd !== null) step = lostEnd - block
      else
        for (let each = block; each < block + step; each = entry.tree.geometry.leafEnd(each)) {
          // A leaf that is lost begins a step of its own.
          if (each > block && this.state.lostLeafEnd(entry, each, first + count) !== null) step = each - block
          else this.state.load(entry.tree, each, true)
        }
      this.writer.commit()
      if (lostEnd === null && entry.isCompressed && cutsPackedUnit(this.state, entry, block, step)) {
        await deviceOf(this, entry, { opening, reachesBehindEnd: true }).write(
          block * BLOCK_BYTES,
          new Uint8Array(step * BLOCK_BYTES),
        )
        done += step
        continue
      }
      this.#append(() => appendTrim(this.state.journal, entry.slot, block, step, keepsPlace))
      this.state.emptying(() => applyTrim(this.state, entry, block, step, keepsPlace))
      done += step
      if (done < count) await this.#options.clock.sleep(millis(0))
    }
  }

  /** Where blocks from `first` up to `end` cover leaves that are lost, holes take their place. @returns whether there was one. */
  async giveUpLost(entry: Entry, first: number, end: number, opening: Opening): Promise<boolean> {
    const { leafEntries } = entry.tree.geometry
    let found = false
    for (let block = Math.ceil(first / leafEntries) * leafEntries; block < end; block += leafEntries) {
      const lostEnd = this.state.lostLeafEnd(entry, block, end)
      if (lostEnd === null) continue
      await this.trim(entry, block, lostEnd - block, false, opening)
      found = true
    }
    return found
  }

  /**
   * Waits until a write of a range can be taken in. @throws Fault `exhausted` when there is no space, also after all that can be given back
   * was.
   */
  async roomFor(entry: Entry, first: number, count: number): Promise<void> {
    await this.#room(count * 48 + 4096)
    // What changes faster than a checkpoint is written waits for it.
    if (isFull(this.state)) await this.checkpoint()
    const fits = (): boolean => hasRoomFor(this.state, count, entry, first, count)
    if (fits()) return
    // Freed blocks wait for a flush, nodes for a checkpoint, deleted ones for the collector.
    await this.flush()
    await this.collected().catch(() => {})
    await this.flush()
    if (fits()) return
    await this.checkpoint()
    if (!fits()) throw new Fault('exhausted', 'store: no space left')
  }

  /** Whether the journal has room for a change, and the next checkpoint would have for what comes of it: asked in the turn in which it is made. */
  #mayChange(bodyBytes: number, demand: Demand, kept: number): boolean {
    if (this.state.wounded) throw this.state.wounded
    return this.state.journal.hasRoom(bodyBytes, journalReserve(this.state)) && hasRoom(this.state, 0, demand, kept)
  }

  /** Waits for that. @throws Fault `exhausted` when a checkpoint makes no room for it. */
  async #roomToChange(bodyBytes: number, demand: Demand, kept: number): Promise<void> {
    await this.#room(bodyBytes)
    if (this.#mayChange(bodyBytes, demand, kept)) return
    await this.checkpoint()
    await this.#room(bodyBytes)
    if (!this.#mayChange(bodyBytes, demand, kept)) throw new Fault('exhausted', 'store: no space left')
  }

  async #room(bodyBytes: number): Promise<void> {
    while (!this.state.journal.hasRoom(bodyBytes, journalReserve(this.state))) {
      if (this.state.wounded) throw this.state.wounded
      await this.checkpoint()
    }
  }

  /** Resolves when all that was acknowledged before the call is safe from a power cut. */
  async flush(): Promise<void> {
    const { journal } = this.state
    const wanted = journal.contentSequence
    // One that is under way may have begun before the last write.
    while (journal.safeSequence < wanted) {
      if (this.state.wounded) throw this.state.wounded
      await this.#syncSoon()
    }
    if (this.state.wounded) throw this.state.wounded
  }

  /** The sync that is under way, or one that begins now. */
  #syncSoon(): Promise<void> {
    return (this.#sync ??= this.#syncOnce().finally(() => {
      this.#sync = null
    }))
  }

  async #syncOnce(): Promise<void> {
    const { state } = this
    const { journal } = state
    const safe = journal.head.sequence
    const [freed, told] = [state.heldUntilSync.take(), state.heldUntilTold.take()]
    try {
      await this.#options.file.sync()
    } catch (error) {
      throw state.wound('sync', error)
    }
    journal.markSafe(safe)
    state.release(told)
    state.heldUntilMark.add(freed)
    if (!journal.hasRoom(0) || state.wounded) return
    this.#append(() => {
      journal.begin(0)
      journal.append(RECORD_TYPE.mark, state.checkpointGeneration, 0)
    })
    state.heldUntilTold.add(state.heldUntilMark.take())
  }

  /** Resolves when a checkpoint that began after the call is in force. */
  async checkpoint(): Promise<void> {
    if (this.#checkpoint) await this.#checkpoint.catch(() => {})
    await (this.#checkpoint ??= this.#checkpointOnce().finally(() => {
      this.#checkpoint = null
    }))
  }

  async #checkpointOnce(): Promise<void> {
    const { state } = this
    if (state.wounded) throw state.wounded
    this.writer.commit()
    let frozen: ReturnType<typeof freeze>
    try {
      frozen = freeze(state)
    } catch (error) {
      throw state.wound('checkpoint', error)
    }
    if (!frozen) throw new Fault('exhausted', 'store: no space left for a checkpoint')
    try {
      await writeCheckpoint(state, frozen, this.#checkpointOptions)
    } catch (error) {
      throw state.wound('checkpoint', error)
    }
    finishCheckpoint(state, frozen)
  }

  /** After each turn that wrote: begins a checkpoint or a flush when it is time. */
  look(): void {
    const { journal, dirtyNodeCount, heldUntilSync, wounded } = this.state
    if (wounded) return
    const isDue =
      journal.usedBytes > journal.sizeBytes / 2 || dirtyNodeCount > (this.#options.dirtyNodeCountMax ?? DIRTY_NODE_COUNT_MAX)
    if (isDue && !this.#checkpoint) void this.checkpoint().catch(() => {})
    if (heldUntilSync.blocks.length > HELD_COUNT_MAX && !this.#sync) void this.flush().catch(() => {})
  }

  async #tick(): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted) {
      await this.#options.clock.sleep(millis(SYNC_EVERY_MS), { signal }).catch(() => {})
      if (signal.aborted || this.state.wounded) continue
      await this.flush().catch(() => {})
      // The mark that tells of what was freed is safe by one more.
      const { heldUntilMark, heldUntilTold, wounded } = this.state
      if (!wounded && heldUntilMark.groups.size + heldUntilTold.groups.size > 0) await this.#syncSoon().catch(() => {})
      if (!this.state.wounded) await this.#giveBack()
      // It may have found no room for a checkpoint.
      this.#wakeCollector()
    }
  }

  /** What a trim or the collector freed is the file system's again. */
  async #giveBack(): Promise<void> {
    const { state } = this
    const { file } = state.parts
    if (state.emptied.size === 0) return
    // First what is to be kept back: what is punched out somebody else may have at once.
    hasRoom(state, 0, { slotCount: 0 }, KEPT.writes)
    for (const group of [...state.emptied]) {
      if (state.wounded || this.#closing.signal.aborted) return
      state.emptied.delete(group)
      state.allocator.giveBack(group, GIVEN_BACK_COUNT_MIN, (address, count) =>
        file.punch(address * BLOCK_BYTES, count * BLOCK_BYTES),
      )
      await this.#options.clock.sleep(millis(0))
    }
  }

  /** Resolves when the collector has nothing to do. @throws Fault of what keeps it from it, as `exhausted`. */
  async collected(): Promise<void> {
    while (this.#nextDying()) {
      this.#wakeCollector()
      await this.#collecting
      if (this.state.wounded) throw this.state.wounded
      if (this.#options.collects === false) await this.collect()
      // It is woken again once a second.
      else if (this.#collectorFault) throw this.#collectorFault
    }
  }

  #wakeCollector(): void {
    if (this.#collecting || this.#options.collects === false || !this.#nextDying()) return
    this.#collecting = this.collect()
      .then(
        () => {
          this.#collectorFault = null
        },
        (error: unknown) => {
          if (!this.#closing.signal.aborted && !this.#collectorFault)
            this.#options.log.error('store.collector_failed', { error: toFault(error).message })
          this.#collectorFault = toFault(error)
        },
      )
      .finally(() => {
        this.#collecting = null
      })
  }

  /** Goes over all that is dying. */
  async collect(): Promise<void> {
    while (this.#nextDying() && !this.#closing.signal.aborted) {
      // While one is written, nodes have places that are not in force.
      if (this.#checkpoint) await this.#checkpoint.catch(() => {})
      const step = this.#options.reapStep ?? REAP_STEP
      // Entries go from list to list; of one a block is read that is not gone through.
      const demand = { deadCount: step + DEAD_ENTRIES_PER_BLOCK, slotCount: 3 }
      if (!this.state.wounded) await this.#roomToChange(64, demand, KEPT.deletes)
      if (this.state.wounded) return
      // Chosen and done in one turn.
      const entry = this.#nextDying()
      if (this.#checkpoint || !entry || !this.#mayChange(64, demand, KEPT.deletes)) continue
      // Only what has its place on disk can be taken apart piece by piece.
      if (entry.tree.dirtyRoot !== null) {
        await this.checkpoint()
        continue
      }
      const { parent, slot } = entry
      this.#append(() => appendReap(this.state.journal, slot, step))
      let isGone = false
      try {
        isGone = this.state.emptying(() => applyReap(this.state, entry, step))
      } catch (error) {
        throw this.state.wound('collect', error)
      }
      if (isGone && parent?.kind === 'branch' && parent.children.size <= 1)
        await this.#change(() => [this.#changed(parent, { kind: 'dying', cursor: 0 })], DELETES)
      await this.#options.clock.sleep(millis(0))
    }
  }

  /** The next to be taken apart: what has begun goes on first; then those of which no child is dying too. */
  #nextDying(): Entry | null {
    let found: Entry | null = null
    for (const entry of this.state.catalog.entries()) {
      if (entry.kind !== 'dying' || entry.children.size > 1) continue
      if (entry.record.cursor > 0) {
        const parentHasBegun = entry.parent?.kind === 'dying' && entry.parent.record.cursor > 0
        if (!parentHasBegun) return entry
      } else if (
        found === null &&
        [...entry.children].every(({ kind }) => kind !== 'dying') &&
        !(entry.parent?.kind === 'dying' && entry.parent.record.cursor > 0)
      )
        found = entry
    }
    return found
  }

  /**
   * Looks at all that the store leads to, beside the load: a bad block is named, one of two copies that is bad is written again. With
   * `repairs`, when nobody uses the store, the table of free blocks is also compared with what is in use, and mended; what is damaged in all
   * its copies cannot be, and then nothing is given back.
   */
  async check(options: { repairs: boolean } & Omit<CheckOptions, 'sleep'>): Promise<StoreCheck> {
    const { repairs, ...rest } = options
    const { state } = this
    // What opening has mended is told with the rest.
    const mendedBefore = repairs ? 0 : state.mendedCount
    const { damage, nodeCount, dataCount, leaked, missing } = await this.#checkOnce(rest)
    const found = { damage, nodeCount, dataCount, mendedCount: state.mendedCount - mendedBefore }
    // While others work, blocks come and go.
    const nothing = { rebuiltCount: 0, leakedCount: 0, missingCount: 0, recountedCount: 0 }
    if (!repairs) return { ...found, ...nothing, isRepaired: found.mendedCount > 0 }
    const rebuiltCount = this.#lostGroupCount
    this.#lostGroupCount = 0
    for (const block of missing) state.allocator.take(block, 1)
    if (damage.length === 0) for (const block of leaked) state.freeLeaked(block)
    const isTableWrong = rebuiltCount + leaked.length + missing.length > 0
    const recountedCount = await this.#countAnew()
    if (isTableWrong || recountedCount > 0) await this.checkpoint()
    const counts = { rebuiltCount, leakedCount: leaked.length, missingCount: missing.length, recountedCount }
    return { ...found, ...counts, isRepaired: isTableWrong || recountedCount > 0 || found.mendedCount > 0 }
  }

  /** What is stored where a leaf was lost. Of a tree of which something still is, it cannot be told. @returns of how many it was. */
  async #countAnew(): Promise<number> {
    let count = 0
    for (const entry of this.state.catalog.entries()) {
      if (entry.isStoredExact || entry.kind === 'dying') continue
      const pause = (): Promise<void> => this.#options.clock.sleep(millis(0))
      const stored = await storedBlockCount(this.state, entry, pause).catch(() => null)
      if (stored === null) continue
      entry.storedCount = stored
      entry.isStoredExact = true
      this.state.changed(entry)
      count += 1
    }
    return count
  }

  async #checkOnce(options: Omit<CheckOptions, 'sleep'>): Promise<CheckReport> {
    using _pin = this.state.pin()
    return await checkStore(this.state, { ...options, sleep: (ms) => this.#options.clock.sleep(millis(ms)) })
  }

  /** A last checkpoint, so that the next opening has nothing to do. */
  async close(): Promise<void> {
    this.#closing.abort(new Fault('aborted', 'the store closes'))
    await this.#ticking
    await this.#collecting
    if (!this.state.wounded) await this.checkpoint().catch(() => {})
    await this.#options.file.close()
  }

  /** One record of the catalog, and what it does. `make` is asked when there is room, and decides by what is there then. */
  async #change(
    make: () => CatalogChange[],
    { slotCount = 3, kept = KEPT.changes, beginsEpoch }: ChangeOptions = {},
  ): Promise<void> {
    const bodyBytes = catalogBodyBytes(CHANGE_COUNT_MAX)
    while (!this.#mayChange(bodyBytes, { slotCount }, kept)) await this.#roomToChange(bodyBytes, { slotCount }, kept)
    this.writer.commit()
    const changes = make()
    if (changes.length === 0) return
    this.#assertNamesFree(changes)
    const epoch = this.state.epoch + (beginsEpoch === true ? 1 : 0)
    this.#append(() => appendCatalog(this.state.journal, epoch, changes))
    applyCatalog(this.state, epoch, changes)
  }

  /** For the modules of this folder that make changes of their own kind: one record of the catalog, as `#change` has it. */
  async changeCatalog(
    make: (tools: {
      fresh(record: Partial<EntryRecord>): CatalogChange
      changed(entry: Entry, difference: Partial<EntryRecord>): CatalogChange
    }) => CatalogChange[],
    beginsEpoch = false,
  ): Promise<void> {
    const tools = {
      fresh: (record: Partial<EntryRecord>) => this.#fresh(record),
      changed: (entry: Entry, difference: Partial<EntryRecord>) => this.#changed(entry, difference),
    }
    await this.#change(() => make(tools), { beginsEpoch })
    this.#wakeCollector()
  }

  /** How much of a record that failed is there is not known. */
  #append(append: () => void): void {
    try {
      append()
    } catch (error) {
      throw this.state.wound('append to the journal', error)
    }
  }

  #fresh(record: Partial<EntryRecord>): CatalogChange {
    const { rng, clock } = this.#options
    return {
      slot: this.state.catalog.freeSlot(),
      record: { ...emptyRecord, id: rng.bytes(16), createdAt: clock.now(), ...record },
      forkOf: -1,
      deadListOf: -1,
    }
  }

  #changed(entry: Entry, difference: Partial<EntryRecord>): CatalogChange {
    return { slot: entry.slot, record: { ...entry.record, ...difference }, forkOf: -1, deadListOf: -1 }
  }

  #volume(name: string): Entry {
    const entry = this.entry(name)
    if (entry.kind !== 'volume') throw new Fault('conflict', `${name}: it is a ${entry.kind}, want a volume`)
    return entry
  }

  #snapshot(name: string): Entry {
    const entry = this.entry(name)
    if (entry.kind !== 'snapshot') throw new Fault('conflict', `${name}: it is a ${entry.kind}, want a snapshot`)
    return entry
  }

  /** @throws Fault `invalid` for a name that cannot be, `conflict` for one that is taken. */
  assertNew(name: string, kind: 'volume' | 'snapshot'): void {
    assertName(name, kind)
    this.#assertFree(name)
    const volumeName = name.split('@', 1)[0] as string // it has a part before the first @
    if (this.#promisedNames.has(volumeName)) throw new Fault('conflict', `${kind} ${name}: another is being renamed to it`)
  }

  /** @throws Fault `conflict` for a name that is taken. */
  #assertFree(name: string): void {
    const taken = this.state.catalog.byName(name)
    if (taken) throw new Fault('conflict', `${taken.kind} ${name}: there is one already`)
  }

  /** Of two that ask for one name at once the second finds it taken here. @throws Fault `conflict`. */
  #assertNamesFree(changes: readonly CatalogChange[]): void {
    const named = new Map(changes.map(({ slot, record }) => [slot, record.name]))
    for (const { slot, record } of changes) {
      const { name } = record
      if (name === '') continue
      const taken = this.state.catalog.byName(name)
      if (taken && taken.slot !== slot && (named.get(taken.slot) ?? name) === name) this.#assertFree(name)
    }
  }

  #describe(entry: Entry): VolumeDescription {
    const { record, parent, kind } = entry
    assert(kind === 'volume' || kind === 'snapshot', 'only what has a name is shown')
    const nameOf = (of: Entry | null): string | null => (of && of.name !== '' ? of.name : null)
    return {
      id: uuidOf(record.id),
      name: record.name,
      kind,
      sizeBytes: record.sizeBytes,
      createdAt: record.createdAt,
      volume: kind === 'snapshot' ? nameOf(this.state.catalog.byName(record.name.slice(0, record.name.indexOf('@')))) : null,
      parent: nameOf(parent),
      encryption: record.key === null ? 'none' : entry.isLocked ? 'locked' : 'unlocked',
      compression: record.compression,
      storedBytes: entry.storedCount * BLOCK_BYTES,
      storedIsExact: entry.isStoredExact,
      limits: limitsOf(entry),
      lease: { holder: record.leaseHolder && uuidOf(record.leaseHolder), epoch: record.leaseEpoch },
    }
  }
}

const VOLUME_NAME = /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}$/
const SNAPSHOT_NAME = /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,62}@[a-zA-Z0-9][a-zA-Z0-9._:-]{0,62}$/

/** @throws Fault `invalid` for a name that a volume or a snapshot (`VOLUME@NAME`) cannot have. */
export function assertName(name: string, kind: 'volume' | 'snapshot'): void {
  const want = kind === 'volume' ? VOLUME_NAME : SNAPSHOT_NAME
  if (want.test(name) && name.length <= NAME_BYTES_MAX) return
  throw new Fault(
    'invalid',
    `name: got ${JSON.stringify(name)}, want 1 to 63 of a-z, A-Z, 0-9, ., _ and -, a letter or digit first${kind === 'snapshot' ? ', on both sides of @, and : too behind it' : ''}`,
  )
}

export const limitsOf = ({ record: { iopsMax, bytesPerSecondMax, burstSeconds } }: Entry): VolumeLimits => ({
  iopsMax,
  bytesPerSecondMax,
  burstSeconds,
})

/** @throws Fault `invalid`. */
export function assertSize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % BLOCK_BYTES !== 0 || sizeBytes > SIZE_BYTES_MAX)
    throw new Fault('invalid', `size: got ${sizeBytes}, want a multiple of ${BLOCK_BYTES} up to ${SIZE_BYTES_MAX}`)
}

const isWrappedAs = ({ record }: Entry, key: WrappedKey): boolean =>
  record.key !== null && wrappingOf(record.key) === wrappingOf(key)

export const uuidOf = (id: Uint8Array): string => {
  const text = [...id].map((byte) => byte.toString(16).padStart(2, '0')).join('')
  return `${text.slice(0, 8)}-${text.slice(8, 12)}-${text.slice(12, 16)}-${text.slice(16, 20)}-${text.slice(20)}`
}
