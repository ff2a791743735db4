/**
 * The second part of a connection: requests and replies, as many in flight as the client likes, in any order.
 *
 *   chunk --parse--> read   --now--> the output buffer ----------------------+--> one write to the socket
 *                    write  --now--> taken in --+ commit, once a chunk --+   |    for all that a chunk brought
 *                    others, and what would have to wait: promises  --> replies when they resolve, gathered by turn
 *
 * What a client can make the server hold is bounded: requests under way by count and by bytes, replies by bytes; beyond it the connection's
 * bytes are left in the kernel. What all clients together can make it hold is bounded too: beyond `OWN_BYTES` a connection takes from the
 * server's budget, for each request as a whole before it begins, and waits for its turn where that is used up (`byte-budget.ts`). A write's payload is read in place where it came whole, else gathered into a buffer of its size, which is
 * at most `PAYLOAD_BYTES_MAX`: larger ones are passed over as they come and refused.
 *
 * Invariants: each request gets exactly one final reply; no reply says done before the device did; nothing outside of the export is asked of
 * the device.
 *
 * Source: NetworkBlockDevice/nbd, doc/proto.md, "Transmission".
 */
import { assert, toFault, type BlockDevice, type Extent, type FaultCode, type ImmediateBlockDevice } from '@typevisor/base'
import { ByteShare, type ByteBudget } from './byte-budget.ts'
import type { Agreement } from './negotiation.ts'
import { OutputBuffer, type SegmentPool } from './output-buffer.ts'
import type { ByteChannel, MetaContext } from './ports.ts'
import {
  CMD,
  CMD_FLAG,
  ERRNO,
  EXTENDED_REPLY,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST,
  EXTENDED_REQUEST_MAGIC,
  OFFSET_DATA,
  OFFSET_HOLE,
  PAYLOAD_BYTES_MAX,
  REPLY_ERROR,
  REPLY_FLAG_DONE,
  REPLY_TYPE,
  REQUEST,
  REQUEST_MAGIC,
  SIMPLE_REPLY,
  SIMPLE_REPLY_MAGIC,
  STATE_HOLE,
  STATE_ZERO,
  STATUS_EXTENT,
  STATUS_EXTENT_EXTENDED,
  STATUS_HEADER,
  STATUS_HEADER_EXTENDED,
  STRUCTURED_REPLY,
  STRUCTURED_REPLY_MAGIC,
} from './wire.ts'

/** A connection that has more than this under way or unsent is not read from. */
const IN_FLIGHT_COUNT_MAX = 256
const IN_FLIGHT_BYTES_MAX = 64 * 1024 * 1024
const QUEUED_BYTES_MAX = 8 * 1024 * 1024
/** Reads from this size on are asked for holes first, where the client can be told of them. */
const HOLES_FROM_BYTES = 32 * 1024
const EXTENT_COUNT_MAX = 2048
/** The longest extent that 32 bits tell of, in whole blocks. */
const STATUS_BYTES_MAX = 0xfffff000
/** What a connection may hold in any case: small requests go on whatever others do. */
const OWN_BYTES = 256 * 1024
const FLAGS_ALLOWED: Readonly<Record<number, number>> = {
  [CMD.read]: CMD_FLAG.df | CMD_FLAG.fua,
  [CMD.write]: CMD_FLAG.fua | CMD_FLAG.payloadLength,
  [CMD.flush]: CMD_FLAG.fua,
  [CMD.trim]: CMD_FLAG.fua,
  [CMD.cache]: CMD_FLAG.fua,
  [CMD.writeZeroes]: CMD_FLAG.fua | CMD_FLAG.noHole | CMD_FLAG.fastZero,
  [CMD.blockStatus]: CMD_FLAG.fua | CMD_FLAG.reqOne,
}

const ERRNO_OF: Readonly<Partial<Record<FaultCode, number>>> = {
  invalid: ERRNO.EINVAL,
  forbidden: ERRNO.EPERM,
  stale_fence: ERRNO.EPERM,
  unsupported: ERRNO.ENOTSUP,
  exhausted: ERRNO.ENOSPC,
  unavailable: ERRNO.ESHUTDOWN,
}

const utf8 = new TextEncoder()
const NOTHING = new Uint8Array(0)

/** One request, its numbers taken apart so that none of them is a bigint. */
interface Request {
  readonly type: number
  readonly flags: number
  readonly cookieHigh: number
  readonly cookieLow: number
  readonly offset: number
  readonly lengthBytes: number
}

export interface TransmissionOptions {
  readonly channel: ByteChannel
  readonly agreement: Agreement
  readonly pool: SegmentPool
  readonly budget: ByteBudget
  /** Told of what a device did that it should not: the client has EIO. */
  onDefect(error: unknown): void
}

export class Transmission {
  readonly #channel: ByteChannel
  readonly #device: BlockDevice
  readonly #now: ImmediateBlockDevice | undefined
  readonly #contexts: readonly (MetaContext | null)[]
  readonly #structured: boolean
  readonly #extended: boolean
  readonly #onDefect: (error: unknown) => void
  readonly #out: OutputBuffer
  readonly #headerBytes: number
  /** What a read may ask for and be answered at once. */
  readonly #flagsNow: number

  /** A header that came in pieces. */
  readonly #partial: Uint8Array
  #partialBytes = 0
  /** A payload that came in pieces, and whose it is. */
  #payload: Uint8Array | null = null
  #payloadBytes = 0
  #payloadOf: Request | null = null
  /** Buffers of ours in which payloads of staged writes lie. */
  readonly #stagedPayloads: Uint8Array[] = []
  /** Bytes of a payload that is passed over. */
  #skipBytes = 0
  #skipOf: Request | null = null
  /** A request whose turn has not come: the budget of all connections is used up. */
  #waiting: Request | null = null
  readonly #share: ByteShare
  readonly #pool: SegmentPool
  /** Chunks not looked at yet: too much is under way. */
  #held: Uint8Array[] = []
  /** Something that is not over yet lies in the chunk that is looked at. */
  #keepsChunk = false
  #paused = false

  /** Writes that the device took in and did not carry out yet. */
  readonly #staged: Request[] = []
  #inFlightCount = 0
  #inFlightBytes = 0
  #flushScheduled = false
  #leaving = false
  #ended = false
  readonly #idle = Promise.withResolvers<void>()

  constructor({ channel, agreement, pool, budget, onDefect }: TransmissionOptions) {
    this.#channel = channel
    this.#device = agreement.export.device
    this.#now = this.#device.now
    this.#contexts = agreement.contexts
    this.#structured = agreement.structuredReplies
    this.#extended = agreement.extendedHeaders
    this.#onDefect = onDefect
    this.#flagsNow = this.#structured ? CMD_FLAG.df : 0
    this.#headerBytes = this.#extended ? EXTENDED_REQUEST.sizeBytes : REQUEST.sizeBytes
    this.#partial = new Uint8Array(this.#headerBytes)
    this.#pool = pool
    this.#share = new ByteShare(budget, () => this.#goOn())
    this.#out = new OutputBuffer(channel, pool, (countBytes, hasRoom) => {
      this.movedBytes += countBytes
      this.#lower()
      if (hasRoom) this.#goOn()
    })
  }

  /** What has come from the client, and of replies what the connection has let go of. */
  movedBytes = 0

  /** Takes the next bytes of the connection. @returns whether it is done with them; else they must not change afterwards. */
  push(chunk: Uint8Array): boolean {
    this.movedBytes += chunk.length
    if (this.#ended || this.#leaving) return true
    if (this.#held.length > 0 || this.#waiting !== null || this.#isFull()) {
      this.#hold(chunk)
      return false
    }
    this.#keepsChunk = false
    this.#consume(chunk)
    this.#settle()
    return !this.#keepsChunk
  }

  /** The connection is over. Resolves when nothing of it is under way any more. */
  async end(): Promise<void> {
    this.#ended = true
    this.#held = []
    this.#waiting = null
    this.#payload = null
    this.#share.leaveLine()
    this.#checkIdle()
    await this.#idle.promise
    this.#share.lower(0)
  }

  /** The channel is paused: it is resumed here. */
  get isPaused(): boolean {
    return this.#paused
  }

  /** It holds some of what all connections share, and nothing but its client can end that. */
  get waitsForClient(): boolean {
    return this.#share.claimedBytes > 0 && this.#inFlightCount === 0
  }

  get #heldBytes(): number {
    return this.#inFlightBytes + (this.#payload?.length ?? 0) + this.#out.queuedBytes
  }

  /** Whether a request that makes it hold so much more may begin. Where not, `#goOn` is called when it may. */
  #mayBegin(costBytes: number): boolean {
    const wantedBytes = this.#heldBytes + costBytes - OWN_BYTES
    return wantedBytes <= 0 || this.#share.claim(wantedBytes)
  }

  #lower(): void {
    if (this.#share.claimedBytes > 0) this.#share.lower(Math.max(0, this.#heldBytes - OWN_BYTES))
  }

  #isFull(): boolean {
    return (
      this.#inFlightCount >= IN_FLIGHT_COUNT_MAX ||
      this.#inFlightBytes >= IN_FLIGHT_BYTES_MAX ||
      this.#out.queuedBytes >= QUEUED_BYTES_MAX
    )
  }

  #hold(chunk: Uint8Array): void {
    if (chunk.length > 0) this.#held.push(chunk)
    if (this.#paused) return
    this.#paused = true
    this.#channel.pause()
  }

  /** Something has ended: what was held can go on. */
  #goOn(): void {
    if (this.#ended) return
    this.#lower()
    if (this.#waiting !== null && !this.#leaving) {
      this.#consume(NOTHING)
      this.#settle()
    }
    while (this.#held.length > 0 && this.#waiting === null && !this.#isFull() && !this.#leaving) {
      const chunk = this.#held.shift() as Uint8Array // the length was looked at
      this.#consume(chunk)
      this.#settle()
    }
    if (this.#paused && this.#held.length === 0 && this.#waiting === null && !this.#isFull()) {
      this.#paused = false
      this.#channel.resume()
    }
  }

  #consume(chunk: Uint8Array): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length)
    let at = 0
    while (at < chunk.length || this.#waiting !== null) {
      if (this.#ended || this.#leaving) return
      if (this.#waiting !== null) {
        const request = this.#waiting
        this.#waiting = null
        at = this.#begin(request, chunk, at)
        if (this.#waiting === null) continue
        this.#keepsChunk = true
        if (at < chunk.length) this.#held.unshift(chunk.subarray(at))
        this.#hold(NOTHING)
        return
      }
      const leftBytes = chunk.length - at
      if (this.#payload !== null) {
        const partBytes = Math.min(leftBytes, this.#payload.length - this.#payloadBytes)
        this.#payload.set(chunk.subarray(at, at + partBytes), this.#payloadBytes)
        this.#payloadBytes += partBytes
        at += partBytes
        if (this.#payloadBytes < this.#payload.length) return
        const [payload, request] = [this.#payload, this.#payloadOf]
        this.#payload = null
        this.#payloadOf = null
        assert(request !== null, 'a payload has its request')
        this.#write(request, payload, true)
        continue
      }
      if (this.#skipOf !== null) {
        const partBytes = Math.min(leftBytes, this.#skipBytes)
        this.#skipBytes -= partBytes
        at += partBytes
        if (this.#skipBytes > 0) return
        const request = this.#skipOf
        this.#skipOf = null
        const what = request.type === CMD.write ? `want at most ${PAYLOAD_BYTES_MAX}` : 'want none'
        this.#refuse(request, ERRNO.EINVAL, `payload of command ${request.type}: got ${request.lengthBytes} bytes, ${what}`)
        continue
      }
      // Only between two requests, so that what is held begins with a header.
      if (this.#isFull()) {
        this.#keepsChunk = true
        this.#held.unshift(chunk.subarray(at))
        this.#hold(NOTHING)
        return
      }
      if (this.#partialBytes > 0 || leftBytes < this.#headerBytes) {
        const partBytes = Math.min(leftBytes, this.#headerBytes - this.#partialBytes)
        this.#partial.set(chunk.subarray(at, at + partBytes), this.#partialBytes)
        this.#partialBytes += partBytes
        at += partBytes
        if (this.#partialBytes < this.#headerBytes) return
        this.#partialBytes = 0
        at = this.#request(new DataView(this.#partial.buffer), 0, chunk, at)
      } else {
        at = this.#request(view, at, chunk, at + this.#headerBytes)
      }
    }
  }

  /** One request, its header at `from`, what follows it at `at` of the chunk. @returns where the next one begins. */
  #request(view: DataView, from: number, chunk: Uint8Array, at: number): number {
    const extended = this.#extended
    const magic = view.getUint32(from)
    if (magic !== (extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC)) {
      // There is no telling where the next request would begin.
      this.#channel.destroy()
      this.#leaving = true
      return chunk.length
    }
    const flags = view.getUint16(from + REQUEST.at.flags)
    const type = view.getUint16(from + REQUEST.at.type)
    const cookieHigh = view.getUint32(from + REQUEST.at.cookie)
    const cookieLow = view.getUint32(from + REQUEST.at.cookie + 4)
    // Beyond 2^53 it is not exact, and beyond every export.
    const offset = view.getUint32(from + REQUEST.at.offset) * 4294967296 + view.getUint32(from + REQUEST.at.offset + 4)
    const lengthBytes = extended
      ? view.getUint32(from + EXTENDED_REQUEST.at.lengthBytes) * 4294967296 +
        view.getUint32(from + EXTENDED_REQUEST.at.lengthBytes + 4)
      : view.getUint32(from + REQUEST.at.lengthBytes)

    if (
      type === CMD.read &&
      (lengthBytes > PAYLOAD_BYTES_MAX || this.#mayBegin(lengthBytes)) &&
      this.#readNow(flags, cookieHigh, cookieLow, offset, lengthBytes)
    )
      return at
    return this.#begin({ type, flags, cookieHigh, cookieLow, offset, lengthBytes }, chunk, at)
  }

  /** What was not a read that could be answered at once. @returns where the next one begins; it may be `#waiting` then. */
  #begin(request: Request, chunk: Uint8Array, at: number): number {
    const { type, flags, lengthBytes } = request
    const extended = this.#extended
    if (!this.#mayBegin(this.#costBytes(request))) {
      this.#waiting = request
      return at
    }
    // With extended headers the flag, not the command, says whether a payload follows. But QEMU (10.0) leaves it out of its writes.
    const hasPayload = type === CMD.write || (extended && (flags & CMD_FLAG.payloadLength) !== 0)
    if (hasPayload && lengthBytes > 0) {
      if (lengthBytes > PAYLOAD_BYTES_MAX || type !== CMD.write) {
        this.#skipBytes = lengthBytes
        this.#skipOf = request
        return at
      }
      if (chunk.length - at < lengthBytes) {
        this.#payload = this.#pool.takePayload(lengthBytes)
        this.#payloadBytes = 0
        this.#payloadOf = request
        return at
      }
      this.#write(request, chunk.subarray(at, at + lengthBytes), false)
      return at + lengthBytes
    }
    this.#other(request)
    return at
  }

  /** What it will hold at most beside its reply's head. */
  #costBytes({ type, flags, lengthBytes }: Request): number {
    if (type === CMD.write) return lengthBytes > PAYLOAD_BYTES_MAX ? 0 : lengthBytes
    // Held twice for a moment: as the device gives it, and as a reply.
    if (type === CMD.read) return lengthBytes > PAYLOAD_BYTES_MAX ? 0 : 2 * lengthBytes
    if (type !== CMD.blockStatus) return 0
    const countMax = (flags & CMD_FLAG.reqOne) !== 0 ? 1 : EXTENT_COUNT_MAX
    return 2 * this.#contexts.length * countMax * STATUS_EXTENT_EXTENDED.sizeBytes
  }

  /** The way of most reads. @returns false for those that are refused, split by holes or have to wait. */
  #readNow(flags: number, cookieHigh: number, cookieLow: number, offset: number, lengthBytes: number): boolean {
    const now = this.#now
    if (now === undefined || (flags & ~this.#flagsNow) !== 0 || lengthBytes === 0 || lengthBytes > PAYLOAD_BYTES_MAX) return false
    const device = this.#device
    if (offset + lengthBytes > device.sizeBytes || ((offset | 0) & (device.blockBytesMin - 1)) !== 0) return false
    if ((lengthBytes & (device.blockBytesMin - 1)) !== 0) return false
    if (lengthBytes >= HOLES_FROM_BYTES && this.#structured && (flags & CMD_FLAG.df) === 0 && now.hasHoles(offset, lengthBytes))
      return false
    const headBytes = this.#dataHeadBytes
    const out = this.#out
    const start = out.room(headBytes + lengthBytes)
    try {
      if (!now.read(offset, lengthBytes, out.bytes, start + headBytes)) return false
    } catch (error) {
      this.#fail({ type: CMD.read, flags, cookieHigh, cookieLow, offset, lengthBytes }, error)
      return true
    }
    this.#putDataHead(start, cookieHigh, cookieLow, offset, offset, lengthBytes, REPLY_FLAG_DONE)
    out.advance(headBytes + lengthBytes)
    return true
  }

  /** `isGathered`: the payload lies in a buffer of ours, which can be used again when the device has carried the write out. */
  #write(request: Request, payload: Uint8Array, isGathered: boolean): void {
    const refusal = this.#refusalOf(request)
    if (refusal) {
      this.#refuse(request, refusal.error, refusal.message)
      return
    }
    const { offset, flags } = request
    if (this.#now !== undefined && (flags & CMD_FLAG.fua) === 0) {
      try {
        if (this.#now.write(offset, payload)) {
          this.#staged.push(request)
          if (isGathered) this.#stagedPayloads.push(payload)
          return
        }
      } catch (error) {
        this.#fail(request, error)
        return
      }
    }
    // The payload may stay where it lies.
    if (!isGathered) this.#keepsChunk = true
    this.#run(request, payload.length, () => this.#device.write(offset, payload, { fua: (flags & CMD_FLAG.fua) !== 0 }))
  }

  #other(request: Request): void {
    const refusal = this.#refusalOf(request)
    if (refusal) {
      this.#refuse(request, refusal.error, refusal.message)
      return
    }
    const { type, flags, offset, lengthBytes } = request
    const device = this.#device
    const fua = (flags & CMD_FLAG.fua) !== 0
    switch (type) {
      case CMD.disconnect:
        this.#commit()
        this.#leaving = true
        this.#checkIdle()
        return
      case CMD.read:
        this.#run(request, this.#costBytes(request), () => this.#readLater(request), true)
        return
      case CMD.flush:
        this.#run(request, 0, () => device.flush())
        return
      case CMD.trim:
        this.#run(request, 0, () => device.trim(offset, lengthBytes, { fua }))
        return
      case CMD.writeZeroes:
        this.#run(request, 0, () =>
          device.zero(offset, lengthBytes, {
            fua,
            noHole: (flags & CMD_FLAG.noHole) !== 0,
            fast: (flags & CMD_FLAG.fastZero) !== 0,
          }),
        )
        return
      case CMD.cache:
        this.#run(request, 0, () => device.cache(offset, lengthBytes))
        return
      case CMD.blockStatus:
        this.#run(request, this.#costBytes(request), () => this.#blockStatus(request), true)
        return
      default:
        this.#refuse(request, ERRNO.EINVAL, `command ${type}: not known`)
    }
  }

  #refusalOf({ type, flags, offset, lengthBytes }: Request): { error: number; message: string } | null {
    const invalid = (message: string) => ({ error: ERRNO.EINVAL, message })
    if (type === CMD.disconnect) return null
    const allowed = FLAGS_ALLOWED[type]
    if (allowed === undefined) return invalid(`command ${type}: not known`)
    if ((flags & ~allowed) !== 0)
      return invalid(`command ${type}: flags ${flags.toString(16)}, want none but ${allowed.toString(16)}`)
    if ((flags & CMD_FLAG.df) !== 0 && !this.#structured) return invalid('DF wants structured replies')
    const { sizeBytes, blockBytesMin, readOnly } = this.#device
    const changes = type === CMD.write || type === CMD.trim || type === CMD.writeZeroes
    if (changes && readOnly) return { error: ERRNO.EPERM, message: 'this export is read-only' }
    if (type === CMD.flush) return offset === 0 && lengthBytes === 0 ? null : invalid('flush: want neither offset nor length')
    if (lengthBytes === 0) return invalid('length: got 0')
    if (offset + lengthBytes > sizeBytes)
      return {
        error: type === CMD.write || type === CMD.writeZeroes ? ERRNO.ENOSPC : ERRNO.EINVAL,
        message: `got ${offset}+${lengthBytes}, want within ${sizeBytes}`,
      }
    if (offset % blockBytesMin !== 0 || lengthBytes % blockBytesMin !== 0)
      return invalid(`got ${offset}+${lengthBytes}, want multiples of ${blockBytesMin}`)
    if (type === CMD.read && lengthBytes > PAYLOAD_BYTES_MAX)
      return invalid(`read: got ${lengthBytes}, want at most ${PAYLOAD_BYTES_MAX}`)
    if (type === CMD.blockStatus && this.#contexts.length === 0) return invalid('block status: no context was agreed upon')
    return null
  }

  /** `repliesItself`: the work has put its own reply. */
  #run(request: Request, payloadBytes: number, work: () => Promise<void>, repliesItself = false): void {
    // In the order of asking, as far as the device sees it.
    this.#commit()
    this.#inFlightCount += 1
    this.#inFlightBytes += payloadBytes
    const over = (): void => {
      this.#inFlightCount -= 1
      this.#inFlightBytes -= payloadBytes
      this.#schedule()
      this.#checkIdle()
    }
    work().then(
      () => {
        if (!this.#ended && !repliesItself) this.#done(request)
        over()
      },
      (error: unknown) => {
        if (!this.#ended) this.#fail(request, error)
        over()
      },
    )
  }

  /** Ends the turn: what was taken in is carried out, what was answered is sent. */
  #settle(): void {
    this.#commit()
    this.#out.flush()
    this.#lower()
  }

  /** Gathers what several promises answer in one turn. */
  #schedule(): void {
    if (this.#flushScheduled) return
    this.#flushScheduled = true
    queueMicrotask(() => {
      this.#flushScheduled = false
      this.#out.flush()
      this.#goOn()
    })
  }

  #commit(): void {
    const staged = this.#staged
    if (staged.length === 0) return
    try {
      this.#now?.commit()
    } catch (error) {
      for (const request of staged) this.#fail(request, error)
      staged.length = 0
      this.#stagedPayloads.length = 0
      return
    }
    for (const request of staged) this.#done(request)
    staged.length = 0
    for (const payload of this.#stagedPayloads) this.#pool.giveBackPayload(payload)
    this.#stagedPayloads.length = 0
  }

  #checkIdle(): void {
    if (this.#inFlightCount > 0) return
    if (this.#leaving && !this.#ended) {
      this.#out.flush()
      this.#channel.end()
    }
    if (!this.#ended) return
    this.#out.close()
    this.#idle.resolve()
  }

  async #readLater({ offset, lengthBytes, cookieHigh, cookieLow, flags }: Request): Promise<void> {
    if (this.#structured && (flags & CMD_FLAG.df) === 0 && lengthBytes >= HOLES_FROM_BYTES) {
      const extents = await this.#device.extents(offset, lengthBytes, EXTENT_COUNT_MAX)
      if (extents.some(({ zero }) => zero)) {
        await this.#readSparse(offset, lengthBytes, cookieHigh, cookieLow, extents)
        return
      }
    }
    const content = new Uint8Array(lengthBytes)
    await this.#device.read(offset, content)
    if (!this.#ended) this.#putData(cookieHigh, cookieLow, offset, offset, content, REPLY_FLAG_DONE)
  }

  /** As chunks: data where there is some, holes where zeros are. */
  async #readSparse(
    offset: number,
    lengthBytes: number,
    cookieHigh: number,
    cookieLow: number,
    extents: readonly Extent[],
  ): Promise<void> {
    let at = 0
    for (const extent of extents) {
      const partBytes = Math.min(extent.lengthBytes, lengthBytes - at)
      if (partBytes <= 0) break
      if (extent.zero) {
        if (!this.#ended) this.#putHole(cookieHigh, cookieLow, offset, offset + at, partBytes)
      } else {
        const content = new Uint8Array(partBytes)
        await this.#device.read(offset + at, content)
        if (!this.#ended) this.#putData(cookieHigh, cookieLow, offset, offset + at, content, 0)
      }
      at += partBytes
    }
    if (at < lengthBytes) {
      const content = new Uint8Array(lengthBytes - at)
      await this.#device.read(offset + at, content)
      if (!this.#ended) this.#putData(cookieHigh, cookieLow, offset, offset + at, content, 0)
    }
    if (!this.#ended) this.#putReplyHead(REPLY_TYPE.none, REPLY_FLAG_DONE, cookieHigh, cookieLow, 0, offset)
  }

  async #blockStatus({ offset, lengthBytes, flags, cookieHigh, cookieLow }: Request): Promise<void> {
    const countMax = (flags & CMD_FLAG.reqOne) !== 0 ? 1 : EXTENT_COUNT_MAX
    const answers = await Promise.all(
      this.#contexts.map(async (context) =>
        context === null
          ? (await this.#device.extents(offset, lengthBytes, countMax)).map((extent) => ({
              lengthBytes: extent.lengthBytes,
              status: (extent.hole ? STATE_HOLE : 0) | (extent.zero ? STATE_ZERO : 0),
            }))
          : context.extents(offset, lengthBytes, countMax),
      ),
    )
    if (this.#ended) return
    for (const [id, extents] of answers.entries()) {
      const isLast = id === answers.length - 1
      this.#putStatus(id, extents.slice(0, countMax), offset, cookieHigh, cookieLow, isLast ? REPLY_FLAG_DONE : 0)
    }
  }

  #putStatus(
    id: number,
    all: readonly { lengthBytes: number; status: number }[],
    offset: number,
    cookieHigh: number,
    cookieLow: number,
    flags: number,
  ): void {
    const entry = this.#extended ? STATUS_EXTENT_EXTENDED : STATUS_EXTENT
    const headBytes = (this.#extended ? STATUS_HEADER_EXTENDED : STATUS_HEADER).sizeBytes
    const type = this.#extended ? REPLY_TYPE.blockStatusExtended : REPLY_TYPE.blockStatus
    // A longer one is told in part; the client asks on from there.
    const cut = this.#extended ? -1 : all.findIndex(({ lengthBytes }) => lengthBytes > STATUS_BYTES_MAX)
    const extents = cut === -1 ? all : all.slice(0, cut + 1)
    const payloadBytes = headBytes + extents.length * entry.sizeBytes
    const start = this.#putReplyHead(type, flags, cookieHigh, cookieLow, payloadBytes, offset)
    const { view } = this.#out
    view.setUint32(start + STATUS_HEADER.at.contextId, id)
    if (this.#extended) view.setUint32(start + STATUS_HEADER_EXTENDED.at.extentCount, extents.length)
    let at = start + headBytes
    for (const extent of extents) {
      if (this.#extended) {
        setU64(view, at + STATUS_EXTENT_EXTENDED.at.lengthBytes, extent.lengthBytes)
        setU64(view, at + STATUS_EXTENT_EXTENDED.at.status, extent.status)
      } else {
        view.setUint32(at + STATUS_EXTENT.at.lengthBytes, Math.min(extent.lengthBytes, STATUS_BYTES_MAX))
        view.setUint32(at + STATUS_EXTENT.at.status, extent.status)
      }
      at += entry.sizeBytes
    }
  }

  #done(request: Request): void {
    this.#putResult(request.cookieHigh, request.cookieLow, ERRNO.none, '', request.offset)
  }

  #fail(request: Request, error: unknown): void {
    const fault = toFault(error)
    if (fault.code === 'internal' || fault.code === 'failed') this.#onDefect(error)
    const message = fault.code === 'internal' ? 'a defect of the server' : fault.message
    this.#refuse(request, ERRNO_OF[fault.code] ?? ERRNO.EIO, message)
  }

  #refuse({ cookieHigh, cookieLow, offset }: Request, error: number, message: string): void {
    this.#putResult(cookieHigh, cookieLow, error, message, offset)
  }

  #putResult(cookieHigh: number, cookieLow: number, error: number, message: string, offset: number): void {
    const out = this.#out
    if (!this.#structured) {
      const start = out.room(SIMPLE_REPLY.sizeBytes)
      this.#putSimpleHead(start, error, cookieHigh, cookieLow)
      out.advance(SIMPLE_REPLY.sizeBytes)
      return
    }
    if (error === ERRNO.none) {
      this.#putReplyHead(REPLY_TYPE.none, REPLY_FLAG_DONE, cookieHigh, cookieLow, 0, offset)
      return
    }
    const words = utf8.encode(message).subarray(0, 1024)
    const start = this.#putReplyHead(
      REPLY_TYPE.error,
      REPLY_FLAG_DONE,
      cookieHigh,
      cookieLow,
      REPLY_ERROR.sizeBytes + words.length,
      offset,
    )
    out.view.setUint32(start + REPLY_ERROR.at.error, error)
    out.view.setUint16(start + REPLY_ERROR.at.messageBytes, words.length)
    out.bytes.set(words, start + REPLY_ERROR.sizeBytes)
  }

  get #dataHeadBytes(): number {
    if (!this.#structured) return SIMPLE_REPLY.sizeBytes
    return (this.#extended ? EXTENDED_REPLY.sizeBytes : STRUCTURED_REPLY.sizeBytes) + OFFSET_DATA.sizeBytes
  }

  /** Every chunk of a reply repeats the request's own offset (with extended headers), and says where its data lies. */
  #putData(cookieHigh: number, cookieLow: number, offset: number, at: number, content: Uint8Array, flags: number): void {
    const headBytes = this.#dataHeadBytes
    const start = this.#out.room(headBytes + content.length)
    this.#putDataHead(start, cookieHigh, cookieLow, offset, at, content.length, flags)
    this.#out.bytes.set(content, start + headBytes)
    this.#out.advance(headBytes + content.length)
  }

  #putDataHead(
    start: number,
    cookieHigh: number,
    cookieLow: number,
    offset: number,
    at: number,
    lengthBytes: number,
    flags: number,
  ): void {
    if (!this.#structured) {
      this.#putSimpleHead(start, ERRNO.none, cookieHigh, cookieLow)
      return
    }
    const head = this.#putHeadAt(
      start,
      REPLY_TYPE.offsetData,
      flags,
      cookieHigh,
      cookieLow,
      OFFSET_DATA.sizeBytes + lengthBytes,
      offset,
    )
    setU64(this.#out.view, head, at)
  }

  #putHole(cookieHigh: number, cookieLow: number, offset: number, at: number, lengthBytes: number): void {
    const start = this.#putReplyHead(REPLY_TYPE.offsetHole, 0, cookieHigh, cookieLow, OFFSET_HOLE.sizeBytes, offset)
    setU64(this.#out.view, start, at)
    this.#out.view.setUint32(start + OFFSET_HOLE.at.lengthBytes, lengthBytes)
  }

  #putSimpleHead(start: number, error: number, cookieHigh: number, cookieLow: number): void {
    const { view } = this.#out
    view.setUint32(start, SIMPLE_REPLY_MAGIC)
    view.setUint32(start + SIMPLE_REPLY.at.error, error)
    view.setUint32(start + SIMPLE_REPLY.at.cookie, cookieHigh)
    view.setUint32(start + SIMPLE_REPLY.at.cookie + 4, cookieLow)
  }

  /** Head and room for a payload, taken. @returns where the payload begins. */
  #putReplyHead(
    type: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    payloadBytes: number,
    offset: number,
  ): number {
    const headBytes = this.#extended ? EXTENDED_REPLY.sizeBytes : STRUCTURED_REPLY.sizeBytes
    const start = this.#out.room(headBytes + payloadBytes)
    const payload = this.#putHeadAt(start, type, flags, cookieHigh, cookieLow, payloadBytes, offset)
    this.#out.advance(headBytes + payloadBytes)
    return payload
  }

  #putHeadAt(
    start: number,
    type: number,
    flags: number,
    cookieHigh: number,
    cookieLow: number,
    payloadBytes: number,
    offset: number,
  ): number {
    const { view } = this.#out
    view.setUint32(start, this.#extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC)
    view.setUint16(start + STRUCTURED_REPLY.at.flags, flags)
    view.setUint16(start + STRUCTURED_REPLY.at.type, type)
    view.setUint32(start + STRUCTURED_REPLY.at.cookie, cookieHigh)
    view.setUint32(start + STRUCTURED_REPLY.at.cookie + 4, cookieLow)
    if (!this.#extended) {
      view.setUint32(start + STRUCTURED_REPLY.at.lengthBytes, payloadBytes)
      return start + STRUCTURED_REPLY.sizeBytes
    }
    setU64(view, start + EXTENDED_REPLY.at.offset, offset)
    setU64(view, start + EXTENDED_REPLY.at.lengthBytes, payloadBytes)
    return start + EXTENDED_REPLY.sizeBytes
  }
}

function setU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 4294967296))
  view.setUint32(at + 4, value >>> 0)
}
