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

/** Segments of one server: only connections that have something to say hold one. */
export class SegmentPool {
  readonly #spare: Segment[] = []

  take(countBytes: number): Segment {
    const spare = countBytes <= SEGMENT_BYTES ? this.#spare.pop() : undefined
    if (spare) return spare
    const bytes = new Uint8Array(Math.max(countBytes, SEGMENT_BYTES))
    return { bytes, view: new DataView(bytes.buffer), writeCount: 0 }
  }

  giveBack(segment: Segment): void {
    if (segment.bytes.length === SEGMENT_BYTES && this.#spare.length < SPARE_COUNT_MAX) this.#spare.push(segment)
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
  readonly #onRoom: () => void
  #segment: Segment | null = null
  /** What is put and not sent: from `#start` to `#end` of the segment. */
  #start = 0
  #end = 0
  #sentBytes = 0

  constructor(channel: ByteChannel, pool: SegmentPool, onRoom: () => void) {
    this.#channel = channel
    this.#pool = pool
    this.#onRoom = onRoom
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
      if (this.#sentBytes <= ROOM_BYTES) this.#onRoom()
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
