import type { ByteChannel } from './ports.ts'

/** A large buffer that goes from connection to connection. */
export interface Segment {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** Writes of its parts that the connection has not let go of. */
  writeCount: number
}

const SEGMENT_BYTES = 1024 * 1024 + 64 * 1024
const SPARE_COUNT_MAX = 16
/** With more connections than this that have something to say, the others get small ones. */
const LARGE_COUNT_MAX = 64
const SMALL_SEGMENT_BYTES = 64 * 1024
const SPARE_PAYLOAD_COUNT_MAX = 4

/** Buffers of one server: only connections that have something to say, or to take in, hold one. */
export class SegmentPool {
  readonly #spare: Segment[] = []
  readonly #sparePayloads: Uint8Array[] = []
  #largeCount = 0

  take(countBytes: number): Segment {
    const isLarge = countBytes <= SEGMENT_BYTES && this.#largeCount < LARGE_COUNT_MAX
    if (isLarge) {
      this.#largeCount += 1
      const spare = this.#spare.pop()
      if (spare) return spare
    }
    const bytes = new Uint8Array(isLarge ? SEGMENT_BYTES : Math.max(countBytes, SMALL_SEGMENT_BYTES))
    return { bytes, view: new DataView(bytes.buffer), writeCount: 0 }
  }

  giveBack(segment: Segment): void {
    if (segment.bytes.length !== SEGMENT_BYTES) return
    this.#largeCount -= 1
    if (this.#spare.length < SPARE_COUNT_MAX) this.#spare.push(segment)
  }

  /** A new one has to be cleared by the machine page by page: as costly as what is then put into it. */
  takePayload(lengthBytes: number): Uint8Array {
    const index = this.#sparePayloads.findIndex((spare) => spare.length === lengthBytes)
    return index === -1 ? new Uint8Array(lengthBytes) : (this.#sparePayloads.splice(index, 1)[0] as Uint8Array) // it was found there
  }

  giveBackPayload(payload: Uint8Array): void {
    this.#sparePayloads.push(payload)
    if (this.#sparePayloads.length > SPARE_PAYLOAD_COUNT_MAX) this.#sparePayloads.shift()
  }
}

/** Who waits for room is told when no more than this is under way. */
const ROOM_BYTES = 4 * 1024 * 1024
/** A segment with less room than this is put aside rather than filled to the last byte. */
const REST_BYTES_MIN = 8 * 1024

/**
 * Replies, gathered and sent as one piece. A part that was handed to the connection is not touched until the connection lets go of it.
 */
export class OutputBuffer {
  readonly #channel: ByteChannel
  readonly #pool: SegmentPool
  readonly #onSent: (countBytes: number, hasRoom: boolean) => void
  #segment: Segment | null = null
  /** What is put and not sent: from `#start` to `#end` of the segment. */
  #start = 0
  #end = 0
  #sentBytes = 0

  constructor(channel: ByteChannel, pool: SegmentPool, onSent: (countBytes: number, hasRoom: boolean) => void) {
    this.#channel = channel
    this.#pool = pool
    this.#onSent = onSent
  }

  /** Bytes that are not with the other side yet. */
  get queuedBytes(): number {
    return this.#sentBytes + this.#end - this.#start
  }

  /** The segment in which `room` was made. */
  get bytes(): Uint8Array {
    return this.#current().bytes
  }
  get view(): DataView {
    return this.#current().view
  }

  /** Room for so many bytes in one piece, in `bytes`. @returns where it begins; it is sent only after `advance`. */
  room(countBytes: number): number {
    const segment = this.#segment
    if (segment === null || segment.bytes.length - this.#end < countBytes) {
      this.flush()
      this.#letGo()
      this.#segment = this.#pool.take(countBytes)
    }
    return this.#end
  }

  advance(countBytes: number): void {
    this.#end += countBytes
  }

  flush(): void {
    const segment = this.#segment
    const countBytes = this.#end - this.#start
    if (segment === null || countBytes === 0) return
    const part = segment.bytes.subarray(this.#start, this.#end)
    this.#start = this.#end
    this.#sentBytes += countBytes
    segment.writeCount += 1
    if (segment.bytes.length - this.#end < REST_BYTES_MIN) this.#letGo()
    this.#channel.write(part, () => {
      segment.writeCount -= 1
      this.#sentBytes -= countBytes
      if (segment.writeCount === 0) {
        if (this.#segment !== segment) this.#pool.giveBack(segment)
        else if (this.#start === this.#end) this.#letGo()
      }
      this.#onSent(countBytes, this.#sentBytes <= ROOM_BYTES)
    })
  }

  /** The connection is over: what it still has of the segment comes back by itself. */
  close(): void {
    this.#start = this.#end
    this.#letGo()
  }

  #letGo(): void {
    const segment = this.#segment
    this.#segment = null
    this.#start = this.#end = 0
    if (segment?.writeCount === 0) this.#pool.giveBack(segment)
  }

  #current(): Segment {
    return (this.#segment ??= this.#pool.take(0))
  }
}
