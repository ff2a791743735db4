/**
 * The journal: a ring of records in the store's file, each naming the checksum of the one before.
 *
 *   | ... replayed at opening ... | free, or records of an earlier lap |
 *   tail (the superblock's)       head
 *
 * A record is appended by one write before what it tells of is acknowledged. It never crosses the end of the ring: a `wrap` record fills what
 * is left. The tail moves when a checkpoint holds what the records before it said.
 *
 * Invariants: the head never reaches the tail; the chain is broken behind the last record that was appended, and stays so for ever, since each
 * opening appends a record of random bytes before anything else.
 *
 * A break that is no end but damage is told from it by what lies behind: a whole record that says of a record at or behind the break that it
 * was safe.
 */
import { assert } from '@typevisor/base'
import { BLOCK_BYTES, RECORD_HEAD, RECORD_MAGIC, RECORD_TYPE, type RecordType } from './format.ts'
import type { Checksum, StoreFile } from './ports.ts'

export interface JournalPlace {
  /** Bytes from the start of the ring. */
  readonly offset: number
  readonly sequence: number
  /** Checksum of the record before it. */
  readonly chain: number
}

export interface JournalRecord {
  readonly type: RecordType
  readonly count: number
  readonly body: Uint8Array
  /** Records before it were safe from a power cut when this one was written. */
  readonly safeSequence: number
  /** Where it begins, and what comes behind it. */
  readonly place: JournalPlace
  readonly next: JournalPlace
}

interface Sealed {
  readonly sequence: number
  readonly previous: number
  readonly lengthBytes: number
  readonly checksum: number
}

const HEAD_BYTES = RECORD_HEAD.sizeBytes
/** The checksum covers all that is behind it. */
const SEALED_FROM = RECORD_HEAD.at.previous
const ALIGN = 8
const LENGTH_MAX = 1024 * 1024
/** Looked through at a time. */
const SCAN_BYTES = 1024 * 1024

export class Journal {
  readonly #file: StoreFile
  readonly #checksum: Checksum
  readonly #startByte: number
  readonly sizeBytes: number
  #head: JournalPlace
  /** Bytes between tail and head. */
  #usedBytes = 0
  #safeSequence: number
  #contentSequence: number
  #buffer = new Uint8Array(256 * 1024)
  #view = new DataView(this.#buffer.buffer)
  #unread: unknown

  constructor(options: { file: StoreFile; checksum: Checksum; startByte: number; sizeBytes: number; head: JournalPlace }) {
    this.#file = options.file
    this.#checksum = options.checksum
    this.#startByte = options.startByte
    this.sizeBytes = options.sizeBytes
    this.#head = options.head
    this.#safeSequence = options.head.sequence
    this.#contentSequence = options.head.sequence
  }

  /** Records before it are safe from a power cut. */
  get safeSequence(): number {
    return this.#safeSequence
  }
  /** When records before it are safe, everything is: what follows are marks. */
  get contentSequence(): number {
    return this.#contentSequence
  }
  markSafe(sequence: number): void {
    this.#safeSequence = Math.max(this.#safeSequence, sequence)
  }

  get head(): JournalPlace {
    return this.#head
  }
  get usedBytes(): number {
    return this.#usedBytes
  }

  /** Whether a record with so large a body fits, leaving `reserveBytes` for what must always be possible. */
  hasRoom(bodyBytes: number, reserveBytes = 0): boolean {
    const lengthBytes = padded(HEAD_BYTES + bodyBytes)
    // A record that does not fit before the end of the ring leaves the rest of it unused.
    return this.#usedBytes + 2 * lengthBytes + HEAD_BYTES + reserveBytes < this.sizeBytes
  }

  /** A place for a record's body: to be filled, then `append`ed. Its numbers are written through `view` at `start` and on. */
  begin(bodyBytes: number): { view: DataView; bytes: Uint8Array; start: number } {
    const lengthBytes = padded(HEAD_BYTES + bodyBytes)
    if (this.#buffer.length < lengthBytes) {
      this.#buffer = new Uint8Array(lengthBytes)
      this.#view = new DataView(this.#buffer.buffer)
    }
    this.#buffer.fill(0, HEAD_BYTES + bodyBytes, lengthBytes)
    return { view: this.#view, bytes: this.#buffer, start: HEAD_BYTES }
  }

  /** Appends what was begun. @throws Fault of the file; the journal is as before then. */
  append(type: RecordType, count: number, bodyBytes: number): void {
    const lengthBytes = padded(HEAD_BYTES + bodyBytes)
    assert(lengthBytes <= LENGTH_MAX, `a record of ${lengthBytes} bytes`)
    assert(this.hasRoom(bodyBytes), 'the journal has room')
    let place = this.#head
    const restBytes = this.sizeBytes - place.offset
    let skippedBytes = 0
    if (restBytes < lengthBytes) {
      skippedBytes = restBytes
      place = this.#wrap(place, restBytes)
    }
    const chain = this.#seal(this.#buffer, this.#view, type, count, lengthBytes, place)
    this.#file.write(this.#startByte + place.offset, [this.#buffer.subarray(0, lengthBytes)])
    this.#usedBytes += lengthBytes + skippedBytes
    this.#head = this.#after(place, lengthBytes, chain)
    if (type !== RECORD_TYPE.mark) this.#contentSequence = this.#head.sequence
  }

  /** What is before `place` is not needed any more. */
  moveTail(place: JournalPlace): void {
    const between = this.#head.offset - place.offset
    this.#usedBytes = between >= 0 ? between : between + this.sizeBytes
  }

  /** Records from `from` on, to the first break of the chain. A pure look at the file: nothing is changed. */
  *scan(from: JournalPlace): Iterable<JournalRecord> {
    let place = from
    for (let readBytes = 0; readBytes < this.sizeBytes;) {
      const restBytes = this.sizeBytes - place.offset
      if (restBytes < HEAD_BYTES) {
        readBytes += restBytes
        place = atStart(place)
        continue
      }
      const record = this.#recordAt(place.offset)
      if (!record || record.sequence !== place.sequence || record.previous !== place.chain) return
      const takenBytes = record.type === RECORD_TYPE.wrap ? restBytes : record.lengthBytes
      readBytes += takenBytes
      const next = this.#after(place, takenBytes, record.checksum)
      const { type, count, body, safeSequence } = record
      yield { type, count, body, safeSequence, place, next }
      place = next
    }
  }

  /**
   * Whether the break of the chain at `place` is damage: behind it is a record that proves that there was more, and that it was safe. What
   * cannot be read tells nothing.
   */
  isDamagedAt(place: JournalPlace): boolean {
    const piece = new Uint8Array(Math.min(SCAN_BYTES, this.sizeBytes))
    const words = new Uint32Array(piece.buffer)
    for (let start = 0; start < this.sizeBytes; start += piece.length) {
      const lengthBytes = Math.min(piece.length, this.sizeBytes - start)
      if (!this.#canRead(start, piece, 0, lengthBytes))
        for (let at = 0; at < lengthBytes; at += BLOCK_BYTES)
          if (!this.#canRead(start + at, piece, at, BLOCK_BYTES)) piece.fill(0, at, at + BLOCK_BYTES)
      for (let word = 0; word < words.length; word += ALIGN / 4) {
        const offset = start + word * 4
        if (words[word] !== RECORD_MAGIC || offset + HEAD_BYTES > this.sizeBytes) continue
        const record = this.#recordAt(offset)
        if (record && record.sequence > place.sequence && record.safeSequence > place.sequence) return true
      }
    }
    return false
  }

  #canRead(offset: number, target: Uint8Array, start: number, lengthBytes: number): boolean {
    try {
      this.#file.readBlocking(this.#startByte + offset, target, start, lengthBytes)
      return true
    } catch (error) {
      this.#unread ??= error
      return false
    }
  }

  /** Why something of the ring could not be read since this was asked before; undefined: all could. */
  takeUnread(): unknown {
    const unread = this.#unread
    this.#unread = undefined
    return unread
  }

  /**
   * Writes blocks of the ring that cannot be read: of a block of which a part is written the kernel reads the rest first, so that appending
   * to them would fail for ever. No record that counts lies in them: the chain has ended before.
   */
  mendUnread(): void {
    const content = new Uint8Array(BLOCK_BYTES)
    for (let offset = 0; offset < this.sizeBytes; offset += BLOCK_BYTES)
      if (!this.#canRead(offset, content, 0, BLOCK_BYTES))
        this.#file.write(this.#startByte + offset, [new Uint8Array(BLOCK_BYTES)])
  }

  /** A record that is whole in itself and can be read; whether it belongs there is for the caller to say. */
  #recordAt(offset: number): (Omit<JournalRecord, 'place' | 'next'> & Sealed) | null {
    const head = new Uint8Array(HEAD_BYTES)
    if (!this.#canRead(offset, head, 0, HEAD_BYTES)) return null
    const { magic, checksum, previous, lengthBytes, sequence, safeSequence, type, count } = RECORD_HEAD.decode(head)
    if (magic !== RECORD_MAGIC || lengthBytes < HEAD_BYTES || lengthBytes > LENGTH_MAX || lengthBytes % ALIGN !== 0) return null
    if (lengthBytes > this.sizeBytes - offset) return null
    const bytes = new Uint8Array(lengthBytes)
    if (!this.#canRead(offset, bytes, 0, lengthBytes)) return null
    if (this.#checksum(bytes.subarray(SEALED_FROM)) !== checksum) return null
    return {
      type: type as RecordType,
      count,
      body: bytes.subarray(HEAD_BYTES),
      safeSequence: Number(safeSequence),
      sequence: Number(sequence),
      previous,
      lengthBytes,
      checksum,
    }
  }

  /** Appending goes on from here: what comes behind is cut off by the first record that is appended. */
  resume(tail: JournalPlace, head: JournalPlace): void {
    this.#head = head
    this.moveTail(tail)
  }

  #after(place: JournalPlace, lengthBytes: number, chain: number): JournalPlace {
    const offset = place.offset + lengthBytes
    return { offset: offset === this.sizeBytes ? 0 : offset, sequence: place.sequence + 1, chain }
  }

  #wrap(place: JournalPlace, restBytes: number): JournalPlace {
    // Too little even for a head: `scan` goes on at the start by itself.
    if (restBytes < HEAD_BYTES) return atStart(place)
    const bytes = new Uint8Array(HEAD_BYTES)
    const chain = this.#seal(bytes, new DataView(bytes.buffer), RECORD_TYPE.wrap, 0, HEAD_BYTES, place)
    this.#file.write(this.#startByte + place.offset, [bytes])
    return { offset: 0, sequence: place.sequence + 1, chain }
  }

  #seal(bytes: Uint8Array, view: DataView, type: RecordType, count: number, lengthBytes: number, place: JournalPlace): number {
    const { at } = RECORD_HEAD
    view.setUint32(at.magic, RECORD_MAGIC, true)
    view.setUint32(at.previous, place.chain, true)
    view.setUint32(at.lengthBytes, lengthBytes, true)
    setU64(view, at.sequence, place.sequence)
    setU64(view, at.safeSequence, this.#safeSequence)
    view.setUint32(at.type, type, true)
    view.setUint32(at.count, count, true)
    const checksum = this.#checksum(bytes.subarray(SEALED_FROM, lengthBytes))
    view.setUint32(at.checksum, checksum, true)
    return checksum
  }
}

const atStart = ({ sequence, chain }: JournalPlace): JournalPlace => ({ offset: 0, sequence, chain })

export function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true)
  view.setUint32(at + 4, Math.floor(value / 4294967296), true)
}

const padded = (bytes: number): number => Math.ceil(bytes / ALIGN) * ALIGN
