/**
 * A journal: records appended to one file, safe when `append` resolves.
 *
 *   append ─┐
 *   append ─┼─> pending ──one frame──> append, sync ──> all of them resolve
 *   append ─┘      ^ gathers while a sync runs
 *
 * Records appended without an `await` in between are always in one frame: after a crash they are all there, or none.
 *
 * Compaction replaces the whole file, in one atomic step, by a snapshot: records that lead to the same state when replayed. It is
 * taken between two frames, when every record appended so far is reflected in it, so the pending ones are committed with it.
 *
 * Failure paths: a full disk stalls the journal (the torn frame is cut, then it is tried again until there is room; nothing is lost
 * or rejected). A failed sync breaks it for good: what the kernel has dropped is unknown, only reading the file again tells
 * ("Can Applications Recover from fsync Failures?", USENIX ATC 2020).
 */
import { Fault, millis, toFault, type AppendFile, type Clock, type Disk, type Log } from '@typevisor/base'
import { encodeFrame, scanFrames } from './frames.ts'

export interface Codec<R> {
  encode(record: R): Uint8Array
  /** @throws for what `encode` cannot have made. */
  decode(content: Uint8Array): R
}

export interface JournalOptions<R> {
  readonly disk: Disk
  readonly name: string
  readonly codec: Codec<R>
  readonly clock: Clock
  readonly log: Log
  /** Gets every record of the file, in order, before `openJournal` resolves. */
  readonly replay: (record: R) => void
  /**
   * Records that lead to the state of all records appended so far. Called between frames once the file has grown to
   * `compactBytesMin` and to four times the last snapshot. Missing: only `compact` compacts.
   */
  readonly snapshot?: () => Iterable<R>
  readonly compactBytesMin?: number
}

export interface Journal<R> {
  readonly sizeBytes: number
  /**
   * Resolves when the records are safe.
   * @throws Fault `unavailable` when the journal is broken or closed: the records may or may not be safe.
   */
  append(records: readonly R[]): Promise<void>
  /** Replaces the file by `snapshot()`. */
  compact(): Promise<void>
  /** Waits for what was appended. */
  close(): Promise<void>
}

const FULL_PAUSE_MS = 1000
const COMPACT_BYTES_MIN = 4 * 1024 * 1024

/** @throws Fault `failed` when committed records are damaged: nothing is changed then. */
export async function openJournal<R>(options: JournalOptions<R>): Promise<Journal<R>> {
  const { disk, name, codec, replay, log } = options
  const content = (await disk.read(name)) ?? new Uint8Array(0)
  const scan = scanFrames(content)
  if (scan.damageFollowedBy !== null) {
    throw new Fault(
      'failed',
      `open journal ${name}: damaged at byte ${scan.goodBytes}, with good records from byte ${scan.damageFollowedBy}`,
    )
  }
  for (const record of scan.records) {
    let decoded: R
    try {
      decoded = codec.decode(record)
    } catch (error) {
      throw new Fault('failed', `open journal ${name}: a record that this version cannot read`, { cause: error })
    }
    replay(decoded)
  }
  const file = await disk.open(name)
  if (scan.goodBytes < content.length) {
    log.info('journal.tail_cut', { name, goodBytes: scan.goodBytes, cutBytes: content.length - scan.goodBytes })
    await file.truncate(scan.goodBytes)
    await file.sync()
  }
  return new FileJournal(options, file, scan.lastSequence)
}

interface Pending {
  readonly records: Uint8Array[]
  readonly resolve: () => void
  readonly reject: (fault: Fault) => void
}

class FileJournal<R> implements Journal<R> {
  readonly #options: JournalOptions<R>
  readonly #closing = new AbortController()
  #file: AppendFile
  #sequence: number
  #snapshotBytes: number
  #pending: Pending[] = []
  #compactAsked: { resolve: () => void; reject: (fault: Fault) => void }[] = []
  #writing: Promise<void> | undefined
  #broken: Fault | undefined

  constructor(options: JournalOptions<R>, file: AppendFile, lastSequence: number) {
    this.#options = options
    this.#file = file
    this.#sequence = lastSequence
    this.#snapshotBytes = file.sizeBytes
  }

  get sizeBytes(): number {
    return this.#file.sizeBytes
  }

  append(records: readonly R[]): Promise<void> {
    const encoded = records.map((record) => this.#options.codec.encode(record))
    return this.#enqueue((resolve, reject) => this.#pending.push({ records: encoded, resolve, reject }))
  }

  compact(): Promise<void> {
    return this.#enqueue((resolve, reject) => this.#compactAsked.push({ resolve, reject }))
  }

  async close(): Promise<void> {
    this.#closing.abort()
    await this.#writing
    await this.#file.close()
  }

  #enqueue(push: (resolve: () => void, reject: (fault: Fault) => void) => void): Promise<void> {
    const promise = new Promise<void>((resolve, reject) => {
      if (this.#broken) return reject(this.#broken)
      if (this.#closing.signal.aborted) return reject(new Fault('unavailable', `journal ${this.#options.name} is closed`))
      push(resolve, reject)
      this.#writing ??= this.#write()
    })
    // Who appends beside another record in one frame may leave the waiting to the other.
    promise.catch(() => {})
    return promise
  }

  async #write(): Promise<void> {
    await null
    while (this.#pending.length > 0 || this.#compactAsked.length > 0) {
      const group = this.#pending
      const compactions = this.#compactAsked
      this.#pending = []
      this.#compactAsked = []
      try {
        const refused = compactions.length > 0 || this.#grown() ? await this.#tryCompact() : 'not asked'
        if (refused && group.length > 0) await this.#writeFrame(group.flatMap(({ records }) => records))
        for (const { resolve } of group) resolve()
        for (const { resolve, reject } of compactions) {
          if (refused instanceof Fault) reject(refused)
          else resolve()
        }
      } catch (error) {
        const { name, log } = this.#options
        const cause = toFault(error)
        log.error('journal.broken', { name, fault: cause.message, code: cause.code })
        this.#broken = new Fault('unavailable', `journal ${name} is broken: ${cause.message}`, { cause })
        const waiting = [...group, ...compactions, ...this.#pending, ...this.#compactAsked]
        this.#pending = []
        this.#compactAsked = []
        for (const { reject } of waiting) reject(this.#broken)
      }
    }
    this.#writing = undefined
  }

  #grown(): boolean {
    const { snapshot, compactBytesMin = COMPACT_BYTES_MIN } = this.#options
    return snapshot !== undefined && this.#file.sizeBytes >= Math.max(compactBytesMin, 4 * this.#snapshotBytes)
  }

  async #writeFrame(records: Uint8Array[]): Promise<void> {
    const { name, clock, log } = this.#options
    const goodBytes = this.#file.sizeBytes
    const frame = encodeFrame(this.#sequence + 1, records)
    for (let stallCount = 0; ; stallCount += 1) {
      try {
        await this.#file.append(frame)
        break
      } catch (error) {
        if (this.#file.sizeBytes !== goodBytes) await this.#file.truncate(goodBytes)
        if (!(error instanceof Fault) || error.code !== 'exhausted' || this.#closing.signal.aborted) throw error
        if (stallCount === 0) log.error('journal.disk_full', { name, sizeBytes: goodBytes, fault: error.message })
        await clock.sleep(millis(FULL_PAUSE_MS), { signal: this.#closing.signal }).catch(() => {})
      }
    }
    await this.#file.sync()
    this.#sequence += 1
  }

  /** Answers a fault when there was no room: the old file is still good. */
  async #tryCompact(): Promise<Fault | null> {
    const { disk, name, codec, snapshot, log } = this.#options
    if (!snapshot) throw new Fault('unsupported', `compact journal ${name}: it was opened without a snapshot`)
    const records: Uint8Array[] = []
    for (const record of snapshot()) records.push(codec.encode(record))
    const frame = encodeFrame(this.#sequence + 1, records)
    const before = this.#file.sizeBytes
    try {
      await disk.replace(name, frame)
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'exhausted') throw error
      log.warn('journal.compaction_failed', { name, fault: error.message })
      this.#snapshotBytes = before
      return error
    }
    const old = this.#file
    this.#file = await disk.open(name)
    await old.close()
    this.#sequence += 1
    this.#snapshotBytes = frame.length
    log.debug('journal.compacted', { name, beforeBytes: before, afterBytes: frame.length, recordCount: records.length })
    return null
  }
}

/** Records as JSON text. */
export function jsonCodec<R>(): Codec<R> {
  const encoder = new TextEncoder()
  const decoder = new TextDecoder('utf-8', { fatal: true })
  return {
    encode: (record) => encoder.encode(JSON.stringify(record)),
    decode: (content) => JSON.parse(decoder.decode(content)) as R,
  }
}
