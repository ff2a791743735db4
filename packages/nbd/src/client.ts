/**
 * A client: an export of a server as a `BlockDevice`. Many requests may be under way; replies come in any order.
 *
 *   connect --greeting, options--> ready --requests and replies--> close | the connection breaks: all that waits gets `unavailable`
 *
 * Nothing that a server sends is believed beyond the request it answers: lengths outside of it end the connection.
 *
 * Source: NetworkBlockDevice/nbd, doc/proto.md.
 */
import {
  Fault,
  joinBytes,
  toFault,
  type BlockDevice,
  type Extent,
  type FaultCode,
  type WriteOptions,
  type ZeroOptions,
} from '@typevisor/base'
import { ByteReader } from './byte-reader.ts'
import type { ByteChannel } from './ports.ts'
import {
  BASE_ALLOCATION,
  CLIENT_FLAGS,
  CMD,
  CMD_FLAG,
  CONTEXT_QUERIES,
  encodeString,
  ERRNO,
  EXTENDED_REPLY,
  EXTENDED_REPLY_MAGIC,
  EXTENDED_REQUEST,
  EXTENDED_REQUEST_MAGIC,
  FLAG,
  GREETING,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  INFO,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  INFO_REQUESTS,
  INFO_TYPE,
  META_CONTEXT,
  NBD_MAGIC,
  OFFSET_DATA,
  OFFSET_HOLE,
  OPT,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  PAYLOAD_BYTES_MAX,
  REP,
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
  STRING,
  STRING_BYTES_MAX,
  STRUCTURED_REPLY,
  STRUCTURED_REPLY_MAGIC,
} from './wire.ts'

export interface NbdClientOptions {
  readonly exportName: string
  /** Asked for in this order beside `base:allocation`, such as `qemu:dirty-bitmap:monday`. */
  readonly contexts?: readonly string[]
  /** Asks for 64-bit lengths; a server that has none is used without. */
  readonly extendedHeaders?: boolean
  /** false: reads are answered in one piece and no contexts are asked for; for servers that do it badly. */
  readonly structuredReplies?: boolean
  /** TLS is begun first; `startTls` of the channel makes it. */
  readonly tls?: boolean
}

/** Status of a range in a context. */
export interface StatusExtent {
  readonly lengthBytes: number
  readonly status: number
}

export interface NbdClient extends BlockDevice, AsyncDisposable {
  readonly canMultiConn: boolean
  /** Contexts that the server has for this export. */
  readonly contexts: readonly string[]
  /** @throws Fault `unsupported` for a context that was not agreed upon. */
  status(context: string, offset: number, lengthBytes: number): Promise<readonly StatusExtent[]>
  close(): Promise<void>
}

/** What the client has of its connection: what comes is pushed in by who made it. */
export interface ClientConnection {
  readonly reader: ByteReader
  readonly channel: Pick<ByteChannel, 'write' | 'end' | 'destroy'>
  /** The channel's bytes are TLS from here on. Resolves when it is on. */
  startTls?(): Promise<void>
}

const OPTION_REPLY_BYTES_MAX = 64 * 1024
const OPTION_REPLY_COUNT_MAX = 100_000

const FAULT_OF: Readonly<Record<number, FaultCode>> = {
  [ERRNO.EPERM]: 'forbidden',
  [ERRNO.EINVAL]: 'invalid',
  [ERRNO.ENOSPC]: 'exhausted',
  [ERRNO.ENOMEM]: 'exhausted',
  [ERRNO.ENOTSUP]: 'unsupported',
  [ERRNO.EOVERFLOW]: 'invalid',
  [ERRNO.ESHUTDOWN]: 'unavailable',
}

const text = new TextDecoder()
const EMPTY = new Uint8Array(0)

interface OptionReply {
  readonly reply: number
  readonly payload: Uint8Array
}

/** The options of the handshake, asked one after the other. */
class Options {
  readonly #reader: ByteReader
  readonly #channel: ClientConnection['channel']
  constructor({ reader, channel }: ClientConnection) {
    this.#reader = reader
    this.#channel = channel
  }

  /** @throws Fault `invalid` when no NBD server of the fixed newstyle speaks. */
  async greet(): Promise<void> {
    const greeting = GREETING.decode(await this.#reader.take(GREETING.sizeBytes))
    if (greeting.nbdMagic !== NBD_MAGIC || greeting.optionMagic !== OPTION_MAGIC)
      throw new Fault('invalid', `greeting: got ${greeting.nbdMagic.toString(16)}, want an NBD server of the newstyle`)
    if ((greeting.flags & HANDSHAKE_FIXED_NEWSTYLE) === 0)
      throw new Fault('unsupported', 'greeting: the server has no fixed newstyle')
    this.send(CLIENT_FLAGS.encode({ flags: HANDSHAKE_FIXED_NEWSTYLE | (greeting.flags & HANDSHAKE_NO_ZEROES) }))
  }

  /** All replies to an option, to the final one. */
  async ask(option: number, payload: Uint8Array = EMPTY): Promise<readonly OptionReply[]> {
    const head = OPTION.encode({ magic: OPTION_MAGIC, option, lengthBytes: payload.length })
    this.send(head)
    if (payload.length > 0) this.send(payload)
    const replies: OptionReply[] = []
    while (replies.length < OPTION_REPLY_COUNT_MAX) {
      const reply = OPTION_REPLY.decode(await this.#reader.take(OPTION_REPLY.sizeBytes))
      if (reply.magic !== OPTION_REPLY_MAGIC || reply.option !== option || reply.lengthBytes > OPTION_REPLY_BYTES_MAX)
        throw new Fault('invalid', `reply to option ${option}: got option ${reply.option}, ${reply.lengthBytes} bytes`)
      replies.push({ reply: reply.reply, payload: (await this.#reader.take(reply.lengthBytes)).slice() })
      if (reply.reply === REP.ack || reply.reply >= REP.unsupported - 1) return replies
    }
    throw new Fault('invalid', `replies to option ${option}: more than ${OPTION_REPLY_COUNT_MAX}`)
  }

  /** Whether the server has it. */
  async offers(option: number): Promise<boolean> {
    const replies = await this.ask(option)
    return replies.at(-1)?.reply === REP.ack
  }

  send(content: Uint8Array): void {
    this.#channel.write(content, () => {})
  }
}

function refusalOf(what: string, replies: readonly OptionReply[]): Fault | null {
  const last = replies.at(-1)
  if (last?.reply === REP.ack) return null
  const words = last ? text.decode(last.payload) : ''
  const code: FaultCode =
    last?.reply === REP.unknown
      ? 'not_found'
      : last?.reply === REP.unsupported
        ? 'unsupported'
        : last?.reply === REP.shutdown
          ? 'unavailable'
          : last?.reply === REP.tlsRequired
            ? 'unauthenticated'
            : 'forbidden'
  return new Fault(
    code,
    `${what}: ${words === '' ? `the server refuses with ${((last?.reply ?? 0) - REP.unsupported + 1).toString()}` : words}`,
  )
}

function encodeName(name: string): Uint8Array {
  const bytes = encodeString(name)
  if (bytes.length - STRING.sizeBytes > STRING_BYTES_MAX)
    throw new Fault('invalid', `export name: got ${bytes.length - STRING.sizeBytes} bytes, want at most ${STRING_BYTES_MAX}`)
  return bytes
}

/** Names of the exports, as the server lists them. */
export async function listExports(
  connection: ClientConnection,
  wanted: { readonly tls?: boolean } = {},
): Promise<readonly { name: string; description: string }[]> {
  const options = new Options(connection)
  let replies: readonly OptionReply[]
  try {
    await options.greet()
    if (wanted.tls) await secure(options, connection)
    replies = await options.ask(OPT.list)
    const refusal = refusalOf('list exports', replies)
    if (refusal) throw refusal
  } catch (error) {
    connection.channel.destroy()
    throw error
  }
  await options.ask(OPT.abort).catch(() => {})
  connection.channel.end()
  return replies
    .filter(({ reply, payload }) => reply === REP.server && payload.length >= STRING.sizeBytes)
    .map(({ payload }) => {
      const behind = STRING.sizeBytes + STRING.decode(payload).lengthBytes
      return { name: text.decode(payload.subarray(STRING.sizeBytes, behind)), description: text.decode(payload.subarray(behind)) }
    })
}

async function secure(options: Options, connection: ClientConnection): Promise<void> {
  if (!(await options.offers(OPT.startTls)) || !connection.startTls) throw new Fault('unsupported', 'TLS: the server has none')
  // What somebody between put behind the answer in the clear must not be taken for the server's word under TLS.
  if (connection.reader.waitingBytes > 0) throw new Fault('invalid', 'TLS: bytes came behind the answer in the clear')
  await connection.startTls()
}

/** @throws Fault `not_found` for an export that is not there, `unavailable` when the connection breaks, others as the server refuses. */
export async function openExport(connection: ClientConnection, wanted: NbdClientOptions): Promise<NbdClient> {
  const options = new Options(connection)
  try {
    await options.greet()
    if (wanted.tls) await secure(options, connection)
    const extended = wanted.extendedHeaders === true && (await options.offers(OPT.extendedHeaders))
    const structured = extended || (wanted.structuredReplies !== false && (await options.offers(OPT.structuredReply)))
    const contexts = structured ? await agreeContexts(options, wanted) : new Map<number, string>()
    const payload = joinBytes([
      encodeName(wanted.exportName),
      INFO_REQUESTS.encode({ count: 1 }),
      INFO_TYPE.encode({ type: INFO.blockSize }),
    ])
    const replies = await options.ask(OPT.go, payload)
    const refusal = refusalOf(`open export ${JSON.stringify(wanted.exportName)}`, replies)
    if (refusal) throw refusal
    return new Client(connection, replies, { extended, structured, contexts })
  } catch (error) {
    connection.channel.destroy()
    const fault = toFault(error)
    throw fault.code === 'aborted'
      ? new Fault('unavailable', `open export ${JSON.stringify(wanted.exportName)}: ${fault.message}`)
      : error
  }
}

async function agreeContexts(options: Options, wanted: NbdClientOptions): Promise<Map<number, string>> {
  const queries = [BASE_ALLOCATION, ...(wanted.contexts ?? [])]
  const payload = joinBytes([
    encodeName(wanted.exportName),
    CONTEXT_QUERIES.encode({ count: queries.length }),
    ...queries.map(encodeName),
  ])
  const replies = await options.ask(OPT.setMetaContext, payload)
  const contexts = new Map<number, string>()
  for (const { reply, payload: context } of replies)
    if (reply === REP.metaContext && context.length >= META_CONTEXT.sizeBytes)
      contexts.set(META_CONTEXT.decode(context).contextId, text.decode(context.subarray(META_CONTEXT.sizeBytes)))
  return contexts
}

interface Pending {
  readonly type: number
  readonly offset: number
  readonly lengthBytes: number
  readonly target: Uint8Array | null
  /** Bytes of a read that have come. */
  gotBytes: number
  fault: Fault | null
  readonly status: Map<number, readonly StatusExtent[]>
  readonly resolve: () => void
  readonly reject: (error: unknown) => void
}

class Client implements NbdClient {
  readonly sizeBytes: number
  readonly readOnly: boolean
  readonly canMultiConn: boolean
  readonly blockBytesMin: number
  readonly blockBytesPreferred: number
  readonly contexts: readonly string[]
  readonly #flags: number
  readonly #payloadBytesMax: number
  readonly #connection: ClientConnection
  readonly #extended: boolean
  readonly #structured: boolean
  readonly #contextIds: ReadonlyMap<number, string>
  readonly #pending = new Map<number, Pending>()
  #cookie = 0
  #broken: Fault | null = null
  readonly #reading: Promise<void>

  constructor(
    connection: ClientConnection,
    replies: readonly OptionReply[],
    agreed: { extended: boolean; structured: boolean; contexts: ReadonlyMap<number, string> },
  ) {
    this.#connection = connection
    this.#extended = agreed.extended
    this.#structured = agreed.structured
    this.#contextIds = agreed.contexts
    this.contexts = [...agreed.contexts.values()]
    let info: { sizeBytes: bigint; flags: number } | null = null
    let sizes = { minimumBytes: 1, preferredBytes: 4096, maximumBytes: PAYLOAD_BYTES_MAX }
    for (const { reply, payload } of replies) {
      if (reply !== REP.info || payload.length < INFO_TYPE.sizeBytes) continue
      const { type } = INFO_TYPE.decode(payload)
      if (type === INFO.export) info = INFO_EXPORT.decode(payload)
      if (type === INFO.blockSize) sizes = INFO_BLOCK_SIZE.decode(payload)
    }
    if (!info || info.sizeBytes > BigInt(Number.MAX_SAFE_INTEGER))
      throw new Fault('invalid', `export: got ${info ? `${info.sizeBytes} bytes` : 'no size'}, want a size below 2^53`)
    this.sizeBytes = Number(info.sizeBytes)
    this.#flags = info.flags
    this.readOnly = (info.flags & FLAG.readOnly) !== 0
    this.canMultiConn = (info.flags & FLAG.canMultiConn) !== 0
    this.blockBytesMin = Math.max(1, sizes.minimumBytes)
    this.blockBytesPreferred = Math.max(1, sizes.preferredBytes)
    this.#payloadBytesMax = Math.max(this.blockBytesMin, Math.min(sizes.maximumBytes, PAYLOAD_BYTES_MAX))
    this.#reading = this.#read().catch((error: unknown) => this.#break(toFault(error)))
  }

  async read(offset: number, target: Uint8Array): Promise<void> {
    const parts: Promise<unknown>[] = []
    for (let at = 0; at < target.length; at += this.#payloadBytesMax) {
      const part = target.subarray(at, at + this.#payloadBytesMax)
      parts.push(this.#request(CMD.read, 0, offset + at, part.length, part))
    }
    await Promise.all(parts)
  }

  async write(offset: number, source: Uint8Array, options: WriteOptions = {}): Promise<void> {
    const parts: Promise<unknown>[] = []
    for (let at = 0; at < source.length; at += this.#payloadBytesMax) {
      const part = source.subarray(at, at + this.#payloadBytesMax)
      parts.push(
        this.#request(
          CMD.write,
          this.#fua(options) | (this.#extended ? CMD_FLAG.payloadLength : 0),
          offset + at,
          part.length,
          null,
          part,
        ),
      )
    }
    await Promise.all(parts)
  }

  async flush(): Promise<void> {
    if ((this.#flags & FLAG.sendFlush) !== 0) await this.#request(CMD.flush, 0, 0, 0)
  }
  async trim(offset: number, lengthBytes: number, options: WriteOptions = {}): Promise<void> {
    if ((this.#flags & FLAG.sendTrim) !== 0) await this.#inParts(CMD.trim, this.#fua(options), offset, lengthBytes)
  }
  async zero(offset: number, lengthBytes: number, options: ZeroOptions = {}): Promise<void> {
    if ((this.#flags & FLAG.sendWriteZeroes) === 0) throw new Fault('unsupported', 'write zeroes: the server has it not')
    const flags = this.#fua(options) | (options.noHole ? CMD_FLAG.noHole : 0) | (options.fast ? CMD_FLAG.fastZero : 0)
    await this.#inParts(CMD.writeZeroes, flags, offset, lengthBytes)
  }
  async cache(offset: number, lengthBytes: number): Promise<void> {
    if ((this.#flags & FLAG.sendCache) !== 0) await this.#inParts(CMD.cache, 0, offset, lengthBytes)
  }

  async extents(offset: number, lengthBytes: number, countMax: number): Promise<readonly Extent[]> {
    if (!this.contexts.includes(BASE_ALLOCATION)) return [{ lengthBytes, hole: false, zero: false }]
    const extents = await this.status(BASE_ALLOCATION, offset, lengthBytes)
    return extents.slice(0, countMax).map((extent) => ({
      lengthBytes: extent.lengthBytes,
      hole: (extent.status & STATE_HOLE) !== 0,
      zero: (extent.status & STATE_ZERO) !== 0,
    }))
  }

  async status(context: string, offset: number, lengthBytes: number): Promise<readonly StatusExtent[]> {
    const id = [...this.#contextIds].find(([, name]) => name === context)?.[0]
    if (id === undefined) throw new Fault('unsupported', `context ${context}: the server has it not`)
    const longest = this.#extended ? lengthBytes : Math.min(lengthBytes, 2 ** 32 - this.#payloadBytesMax)
    const { status } = await this.#request(CMD.blockStatus, 0, offset, longest)
    const extents = status.get(id)
    if (!extents || extents.length === 0) throw new Fault('failed', `status of ${context}: the server said nothing of it`)
    return extents
  }

  async close(): Promise<void> {
    if (!this.#broken) {
      this.#send(CMD.disconnect, 0, 0, 0, 0)
      this.#broken = new Fault('unavailable', 'the connection is closed')
      this.#connection.channel.end()
    }
    await this.#reading
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #fua(options: WriteOptions): number {
    return options.fua && (this.#flags & FLAG.sendFua) !== 0 ? CMD_FLAG.fua : 0
  }

  async #inParts(type: number, flags: number, offset: number, lengthBytes: number): Promise<void> {
    const partMax = this.#extended ? lengthBytes : 2 ** 31
    for (let at = 0; at < lengthBytes; at += partMax)
      await this.#request(type, flags, offset + at, Math.min(partMax, lengthBytes - at))
  }

  #request(
    type: number,
    flags: number,
    offset: number,
    lengthBytes: number,
    target: Uint8Array | null = null,
    payload: Uint8Array | null = null,
  ): Promise<Pending> {
    if (this.#broken) return Promise.reject(this.#broken)
    const cookie = (this.#cookie += 1)
    return new Promise((resolve, reject) => {
      const pending: Pending = {
        type,
        offset,
        lengthBytes,
        target,
        gotBytes: 0,
        fault: null,
        status: new Map(),
        resolve: () => resolve(pending),
        reject,
      }
      this.#pending.set(cookie, pending)
      this.#send(type, flags, cookie, offset, lengthBytes)
      if (payload) this.#connection.channel.write(payload, () => {})
    })
  }

  #send(type: number, flags: number, cookie: number, offset: number, lengthBytes: number): void {
    const common = { flags, type, cookie: BigInt(cookie), offset: BigInt(offset) }
    const head = this.#extended
      ? EXTENDED_REQUEST.encode({ magic: EXTENDED_REQUEST_MAGIC, ...common, lengthBytes: BigInt(lengthBytes) })
      : REQUEST.encode({ magic: REQUEST_MAGIC, ...common, lengthBytes })
    this.#connection.channel.write(head, () => {})
  }

  #break(fault: Fault): void {
    const reason = this.#broken ?? new Fault('unavailable', `NBD: ${fault.message}`, { cause: fault })
    this.#broken = reason
    for (const pending of this.#pending.values()) pending.reject(reason)
    this.#pending.clear()
    this.#connection.channel.destroy()
  }

  async #read(): Promise<void> {
    const { reader } = this.#connection
    for (;;) {
      if (!this.#structured) {
        const { magic, error, cookie } = SIMPLE_REPLY.decode(await reader.take(SIMPLE_REPLY.sizeBytes))
        await this.#simple(magic, error, Number(cookie))
        continue
      }
      if (this.#extended) {
        const head = EXTENDED_REPLY.decode(await reader.take(EXTENDED_REPLY.sizeBytes))
        const { magic, flags, type, cookie, offset, lengthBytes } = head
        if (magic !== EXTENDED_REPLY_MAGIC) throw new Fault('invalid', `reply: got magic ${magic.toString(16)}`)
        const asked = this.#pendingOf(Number(cookie)).offset
        if (Number(offset) !== asked)
          throw new Fault('invalid', `reply ${cookie}: got offset ${offset}, want the request's ${asked}`)
        await this.#chunk(flags, type, Number(cookie), Number(lengthBytes))
        continue
      }
      // A simple reply is shorter; requests without data may be answered by one.
      const first = (await reader.take(SIMPLE_REPLY.sizeBytes)).slice()
      const { magic, error, cookie } = SIMPLE_REPLY.decode(first)
      if (magic === SIMPLE_REPLY_MAGIC) {
        await this.#simple(magic, error, Number(cookie))
        continue
      }
      if (magic !== STRUCTURED_REPLY_MAGIC) throw new Fault('invalid', `reply: got magic ${magic.toString(16)}`)
      const head = new Uint8Array(STRUCTURED_REPLY.sizeBytes)
      head.set(first)
      head.set(await reader.take(STRUCTURED_REPLY.sizeBytes - SIMPLE_REPLY.sizeBytes), SIMPLE_REPLY.sizeBytes)
      const { flags, type, lengthBytes, ...of } = STRUCTURED_REPLY.decode(head)
      await this.#chunk(flags, type, Number(of.cookie), lengthBytes)
    }
  }

  #pendingOf(cookie: number): Pending {
    const pending = this.#pending.get(cookie)
    if (!pending) throw new Fault('invalid', `reply: got cookie ${cookie}, which no request has`)
    return pending
  }

  async #simple(magic: number, error: number, cookie: number): Promise<void> {
    if (magic !== SIMPLE_REPLY_MAGIC) throw new Fault('invalid', `reply: got magic ${magic.toString(16)}`)
    const pending = this.#pendingOf(cookie)
    if (error === ERRNO.none && pending.target) {
      pending.target.set(await this.#connection.reader.take(pending.lengthBytes))
      pending.gotBytes = pending.lengthBytes
    }
    if (error !== ERRNO.none) pending.fault = faultOf(pending, error, '')
    this.#finish(cookie, pending)
  }

  async #chunk(flags: number, type: number, cookie: number, lengthBytes: number): Promise<void> {
    const { reader } = this.#connection
    const pending = this.#pendingOf(cookie)
    if (lengthBytes > pending.lengthBytes + 1024 * 1024)
      throw new Fault('invalid', `reply: got ${lengthBytes} bytes for a request of ${pending.lengthBytes}`)
    if (type === REPLY_TYPE.offsetData && pending.target && lengthBytes >= OFFSET_DATA.sizeBytes) {
      const { offset } = OFFSET_DATA.decode(await reader.take(OFFSET_DATA.sizeBytes))
      const partBytes = lengthBytes - OFFSET_DATA.sizeBytes
      const part = this.#partOf(pending, Number(offset), partBytes)
      part.set(await reader.take(partBytes))
    } else {
      const payload = (await reader.take(lengthBytes)).slice()
      if (type === REPLY_TYPE.offsetHole && pending.target && lengthBytes === OFFSET_HOLE.sizeBytes) {
        const hole = OFFSET_HOLE.decode(payload)
        this.#partOf(pending, Number(hole.offset), hole.lengthBytes).fill(0)
      } else if (type === REPLY_TYPE.blockStatus && lengthBytes >= STATUS_HEADER.sizeBytes) {
        pending.status.set(STATUS_HEADER.decode(payload).contextId, extentsOf(payload, STATUS_HEADER.sizeBytes, STATUS_EXTENT))
      } else if (type === REPLY_TYPE.blockStatusExtended && lengthBytes >= STATUS_HEADER_EXTENDED.sizeBytes) {
        pending.status.set(
          STATUS_HEADER_EXTENDED.decode(payload).contextId,
          extentsOf(payload, STATUS_HEADER_EXTENDED.sizeBytes, STATUS_EXTENT_EXTENDED),
        )
      } else if ((type === REPLY_TYPE.error || type === REPLY_TYPE.errorOffset) && lengthBytes >= REPLY_ERROR.sizeBytes) {
        const { error, messageBytes } = REPLY_ERROR.decode(payload)
        const words = payload.subarray(REPLY_ERROR.sizeBytes, REPLY_ERROR.sizeBytes + messageBytes)
        pending.fault = faultOf(pending, error, text.decode(words))
      } else if (type !== REPLY_TYPE.none)
        throw new Fault('invalid', `reply: got chunk type ${type} of ${lengthBytes} bytes for command ${pending.type}`)
    }
    if ((flags & REPLY_FLAG_DONE) !== 0) this.#finish(cookie, pending)
  }

  #partOf(pending: Pending, offset: number, lengthBytes: number): Uint8Array {
    const start = offset - pending.offset
    if (!pending.target || start < 0 || lengthBytes <= 0 || start + lengthBytes > pending.lengthBytes)
      throw new Fault('invalid', `reply: got ${offset}+${lengthBytes}, want within ${pending.offset}+${pending.lengthBytes}`)
    pending.gotBytes += lengthBytes
    return pending.target.subarray(start, start + lengthBytes)
  }

  #finish(cookie: number, pending: Pending): void {
    this.#pending.delete(cookie)
    if (pending.fault) pending.reject(pending.fault)
    else if (pending.target && pending.gotBytes !== pending.lengthBytes)
      pending.reject(
        new Fault('failed', `read ${pending.offset}+${pending.lengthBytes}: the server gave ${pending.gotBytes} bytes`),
      )
    else pending.resolve()
  }
}

const COMMAND_NAMES = ['read', 'write', 'disconnect', 'flush', 'trim', 'cache', 'write zeroes', 'block status']

const faultOf = (pending: Pending, error: number, words: string): Fault =>
  new Fault(
    FAULT_OF[error] ?? 'failed',
    `${COMMAND_NAMES[pending.type]} ${pending.offset}+${pending.lengthBytes}: ${words === '' ? `the server says error ${error}` : words}`,
  )

function extentsOf(
  payload: Uint8Array,
  from: number,
  entry: typeof STATUS_EXTENT | typeof STATUS_EXTENT_EXTENDED,
): readonly StatusExtent[] {
  const extents: StatusExtent[] = []
  for (let at = from; at + entry.sizeBytes <= payload.length; at += entry.sizeBytes) {
    const { lengthBytes, status } = entry.decode(payload, at)
    extents.push({ lengthBytes: Number(lengthBytes), status: Number(status) })
  }
  return extents
}
