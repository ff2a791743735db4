/**
 * The first part of a connection: which export, and how both sides will speak of it.
 *
 *   greeting --> client's flags --> option, reply, option, reply ... --> EXPORT_NAME or GO --> transmission
 *                                        | STARTTLS: what was agreed before is forgotten
 *
 * Slow code on purpose: a few messages a connection. What a client can make it hold is bounded: an option of at most
 * `OPTION_BYTES_MAX`; a longer one is skipped and refused, and the connection goes on.
 *
 * Source: NetworkBlockDevice/nbd, doc/proto.md, "Handshake".
 */
import { Fault, joinBytes, toFault } from '@typevisor/base'
import type { Decoded, Field, Layout } from '@typevisor/codec'
import type { ByteReader } from './byte-reader.ts'
import type { ByteChannel, ExportSource, MetaContext, NbdExport } from './ports.ts'
import {
  BASE_ALLOCATION,
  CLIENT_FLAGS,
  CONTEXT_QUERIES,
  encodeString,
  EXPORT_ANSWER,
  EXPORT_ANSWER_ZERO_BYTES,
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
  OPT,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  OPTION_REPLY_MAGIC,
  PAYLOAD_BYTES_MAX,
  REP,
  STRING,
  STRING_BYTES_MAX,
} from './wire.ts'

export type TlsPolicy = 'off' | 'offered' | 'required'

/** What both sides agreed upon. */
export interface Agreement {
  readonly export: NbdExport
  readonly structuredReplies: boolean
  readonly extendedHeaders: boolean
  /** By the id that stands for each on the wire: its index. null: `base:allocation`. */
  readonly contexts: readonly (MetaContext | null)[]
}

export interface NegotiationOptions {
  readonly reader: ByteReader
  readonly channel: ByteChannel
  readonly source: ExportSource
  readonly tls: TlsPolicy
}

const OPTION_BYTES_MAX = 64 * 1024
const OPTION_COUNT_MAX = 1024
const CONTEXT_COUNT_MAX = 64

const utf8 = new TextEncoder()
const text = new TextDecoder('utf-8', { fatal: true })
const EMPTY = new Uint8Array(0)

/** @returns null when the client has taken its leave. @throws Fault `invalid` when what comes is not NBD; `aborted` when the connection ends. */
export async function negotiate(options: NegotiationOptions): Promise<Agreement | null> {
  return new Negotiation(options).run()
}

/** A reply that refuses: the connection goes on. */
class Refusal {
  readonly reply: number
  readonly message: string
  constructor(reply: number, message: string) {
    this.reply = reply
    this.message = message
  }
}

class Negotiation {
  readonly #reader: ByteReader
  readonly #channel: ByteChannel
  readonly #source: ExportSource
  readonly #tls: TlsPolicy
  #secured = false
  #noZeroes = false
  #structured = false
  #extended = false
  /** What SET_META_CONTEXT chose, and for which export. */
  #contexts: { exportName: string; chosen: readonly (MetaContext | null)[] } | null = null

  constructor(options: NegotiationOptions) {
    this.#reader = options.reader
    this.#channel = options.channel
    this.#source = options.source
    this.#tls = options.channel.startTls === null ? 'off' : options.tls
  }

  async run(): Promise<Agreement | null> {
    this.#send(
      GREETING.encode({ nbdMagic: NBD_MAGIC, optionMagic: OPTION_MAGIC, flags: HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES }),
    )
    const { flags } = CLIENT_FLAGS.decode(await this.#reader.take(CLIENT_FLAGS.sizeBytes))
    if ((flags & ~(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES)) !== 0)
      throw new Fault('invalid', `client flags: got ${flags.toString(16)}, want only known ones`)
    this.#noZeroes = (flags & HANDSHAKE_NO_ZEROES) !== 0
    for (let count = 0; count < OPTION_COUNT_MAX; count += 1) {
      const { magic, option, lengthBytes } = OPTION.decode(await this.#reader.take(OPTION.sizeBytes))
      if (magic !== OPTION_MAGIC)
        throw new Fault('invalid', `option: got magic ${magic.toString(16)}, want ${OPTION_MAGIC.toString(16)}`)
      if (lengthBytes > OPTION_BYTES_MAX) {
        if (option === OPT.exportName)
          throw new Fault('invalid', `EXPORT_NAME: got ${lengthBytes} bytes, want at most ${STRING_BYTES_MAX}`)
        await this.#reader.skip(lengthBytes)
        this.#reply(option, REP.tooBig, utf8.encode(`got ${lengthBytes} bytes, want at most ${OPTION_BYTES_MAX}`))
        continue
      }
      // Copied: the answer may wait, and the chunk it lies in is large.
      const payload = (await this.#reader.take(lengthBytes)).slice()
      if (option === OPT.abort) {
        this.#reply(option, REP.ack)
        this.#channel.end()
        return null
      }
      try {
        const agreement = await this.#option(option, payload)
        if (agreement) return agreement
      } catch (error) {
        // EXPORT_NAME has no way to refuse but to end.
        if (!(error instanceof Refusal)) throw error
        if (option === OPT.exportName) throw new Fault('not_found', `EXPORT_NAME: ${error.message}`)
        this.#reply(option, error.reply, utf8.encode(error.message).subarray(0, STRING_BYTES_MAX))
      }
    }
    throw new Fault('invalid', `options: got more than ${OPTION_COUNT_MAX}`)
  }

  async #option(option: number, payload: Uint8Array): Promise<Agreement | null> {
    if (this.#tls === 'required' && !this.#secured && option !== OPT.startTls)
      throw new Refusal(REP.tlsRequired, 'this server wants TLS first')
    switch (option) {
      case OPT.exportName:
        return this.#exportName(payload)
      case OPT.go:
        return this.#go(payload)
      case OPT.info:
        await this.#info(OPT.info, payload)
        return null
      case OPT.list:
        await this.#list(payload)
        return null
      case OPT.startTls:
        this.#startTls(payload)
        return null
      case OPT.structuredReply:
        wantEmpty(payload)
        if (this.#extended) throw new Refusal(REP.invalid, 'extended headers were agreed upon already')
        this.#structured = true
        this.#reply(option, REP.ack)
        return null
      case OPT.extendedHeaders:
        wantEmpty(payload)
        this.#extended = true
        this.#structured = true
        // Ids and extents are the same, their width is not: a client that wants contexts asks again.
        this.#contexts = null
        this.#reply(option, REP.ack)
        return null
      case OPT.listMetaContext:
      case OPT.setMetaContext:
        await this.#metaContext(option, payload)
        return null
      default:
        throw new Refusal(REP.unsupported, `option ${option}: this server does not know it`)
    }
  }

  #startTls(payload: Uint8Array): void {
    wantEmpty(payload)
    if (this.#tls === 'off') throw new Refusal(REP.policy, 'this server has no TLS')
    if (this.#secured) throw new Refusal(REP.invalid, 'TLS is on already')
    // What a client (or somebody between) sent ahead in the clear must not be taken for a part of what follows.
    if (this.#reader.waitingBytes > 0) throw new Fault('invalid', 'STARTTLS: bytes came before the answer')
    this.#reply(OPT.startTls, REP.ack)
    this.#channel.startTls?.()
    this.#secured = true
    this.#structured = false
    this.#extended = false
    this.#contexts = null
  }

  async #list(payload: Uint8Array): Promise<void> {
    wantEmpty(payload)
    for (const { name, description } of await this.#ask(() => this.#source.list()))
      this.#reply(OPT.list, REP.server, joinBytes([encodeString(name), utf8.encode(description ?? '')]))
    this.#reply(OPT.list, REP.ack)
  }

  async #exportName(payload: Uint8Array): Promise<Agreement> {
    const name = nameOf(payload)
    const opened = await this.#open(name)
    const answer = EXPORT_ANSWER.encode({ sizeBytes: BigInt(opened.device.sizeBytes), flags: this.#flagsOf(opened) })
    this.#send(this.#noZeroes ? answer : joinBytes([answer, new Uint8Array(EXPORT_ANSWER_ZERO_BYTES)]))
    return this.#agreement(name, opened)
  }

  async #go(payload: Uint8Array): Promise<Agreement> {
    const { name, wanted } = infoRequest(payload)
    const opened = await this.#open(name)
    this.#sendInfo(OPT.go, opened, wanted)
    this.#reply(OPT.go, REP.ack)
    return this.#agreement(name, opened)
  }

  async #info(option: number, payload: Uint8Array): Promise<void> {
    const { name, wanted } = infoRequest(payload)
    const found = await this.#ask(() => this.#source.look(name))
    if (!found) throw new Refusal(REP.unknown, `there is no export ${JSON.stringify(name)}`)
    this.#sendInfo(option, found, wanted)
    this.#reply(option, REP.ack)
  }

  async #open(name: string): Promise<NbdExport> {
    const opened = await this.#ask(() => this.#source.open(name))
    if (!opened) throw new Refusal(REP.unknown, `there is no export ${JSON.stringify(name)}`)
    return opened
  }

  /** What the source refuses becomes a refusal of the option. */
  async #ask<T>(question: () => Promise<T>): Promise<T> {
    try {
      return await question()
    } catch (error) {
      const fault = toFault(error)
      if (fault.code === 'internal') throw error
      throw new Refusal(fault.code === 'unavailable' ? REP.shutdown : REP.policy, fault.message)
    }
  }

  #agreement(name: string, opened: NbdExport): Agreement {
    return {
      export: opened,
      structuredReplies: this.#structured,
      extendedHeaders: this.#extended,
      contexts: this.#contexts?.exportName === name ? this.#contexts.chosen : [],
    }
  }

  #flagsOf({ device, canMultiConn }: NbdExport): number {
    let flags = FLAG.hasFlags | FLAG.sendFlush | FLAG.sendCache
    if (device.readOnly) flags |= FLAG.readOnly
    else flags |= FLAG.sendFua | FLAG.sendTrim | FLAG.sendWriteZeroes | FLAG.sendFastZero
    if (this.#structured) flags |= FLAG.sendDf
    if (canMultiConn) flags |= FLAG.canMultiConn
    return flags
  }

  #sendInfo(option: number, of: NbdExport, wanted: ReadonlySet<number>): void {
    const { device } = of
    const info = (payload: Uint8Array) => this.#reply(option, REP.info, payload)
    const infoText = (type: number, value: string) => info(joinBytes([INFO_TYPE.encode({ type }), utf8.encode(value)]))
    info(INFO_EXPORT.encode({ type: INFO.export, sizeBytes: BigInt(device.sizeBytes), flags: this.#flagsOf(of) }))
    if (wanted.has(INFO.name)) infoText(INFO.name, of.name)
    if (wanted.has(INFO.description) && of.description !== undefined) infoText(INFO.description, of.description)
    // Told in any case: clients that do not know it pass over it, and those that do are spared a refusal.
    info(
      INFO_BLOCK_SIZE.encode({
        type: INFO.blockSize,
        minimumBytes: device.blockBytesMin,
        preferredBytes: device.blockBytesPreferred,
        maximumBytes: PAYLOAD_BYTES_MAX,
      }),
    )
  }

  async #metaContext(option: number, payload: Uint8Array): Promise<void> {
    const { name, queries } = contextRequest(payload)
    if (!this.#structured) throw new Refusal(REP.invalid, 'meta contexts want structured replies first')
    const found = await this.#ask(() => this.#source.look(name))
    if (option === OPT.setMetaContext) this.#contexts = null
    if (!found) throw new Refusal(REP.unknown, `there is no export ${JSON.stringify(name)}`)
    const known: { name: string; context: MetaContext | null }[] = [{ name: BASE_ALLOCATION, context: null }]
    for (const context of found.contexts ?? []) known.push({ name: context.name, context })
    const isListing = option === OPT.listMetaContext
    const matches = (query: string, contextName: string): boolean => {
      if (query === contextName) return true
      // `base:` and `qemu:dirty-bitmap:` ask what there is below; choosing wants whole names.
      return isListing && query.endsWith(':') && contextName.startsWith(query)
    }
    const chosen =
      isListing && queries.length === 0
        ? known
        : known.filter(({ name: contextName }) => queries.some((query) => matches(query, contextName)))
    if (!isListing && chosen.length > CONTEXT_COUNT_MAX)
      throw new Refusal(REP.tooBig, `meta contexts: got ${chosen.length}, want at most ${CONTEXT_COUNT_MAX}`)
    for (const [index, { name: contextName }] of chosen.entries()) {
      const contextId = isListing ? 0 : index
      this.#reply(option, REP.metaContext, joinBytes([META_CONTEXT.encode({ contextId }), utf8.encode(contextName)]))
    }
    if (!isListing) this.#contexts = { exportName: name, chosen: chosen.map(({ context }) => context) }
    this.#reply(option, REP.ack)
  }

  #reply(option: number, reply: number, payload: Uint8Array = EMPTY): void {
    const header = OPTION_REPLY.encode({ magic: OPTION_REPLY_MAGIC, option, reply, lengthBytes: payload.length })
    this.#send(payload.length === 0 ? header : joinBytes([header, payload]))
  }

  #send(content: Uint8Array): void {
    this.#channel.write(content, () => {})
  }
}

function wantEmpty(payload: Uint8Array): void {
  if (payload.length > 0) throw new Refusal(REP.invalid, `got ${payload.length} bytes, want none`)
}

function nameOf(bytes: Uint8Array): string {
  if (bytes.length > STRING_BYTES_MAX)
    throw new Refusal(REP.tooBig, `export name: got ${bytes.length} bytes, want at most ${STRING_BYTES_MAX}`)
  try {
    return text.decode(bytes)
  } catch {
    throw new Refusal(REP.invalid, 'export name: got bytes that are no UTF-8')
  }
}

/** Reads one option's payload from front to back; every length in it is the client's word only. */
class PayloadReader {
  readonly #payload: Uint8Array
  #at = 0
  constructor(payload: Uint8Array) {
    this.#payload = payload
  }
  get isAtEnd(): boolean {
    return this.#at === this.#payload.length
  }
  record<const F extends readonly Field[]>(of: Layout<F>): Decoded<F> {
    this.#want(of.sizeBytes)
    const record = of.decode(this.#payload, this.#at)
    this.#at += of.sizeBytes
    return record
  }
  string(): string {
    const { lengthBytes } = this.record(STRING)
    this.#want(lengthBytes)
    this.#at += lengthBytes
    return nameOf(this.#payload.subarray(this.#at - lengthBytes, this.#at))
  }
  #want(countBytes: number): void {
    if (this.#payload.length - this.#at < countBytes)
      throw new Refusal(REP.invalid, `got ${this.#payload.length - this.#at} bytes at ${this.#at}, want ${countBytes}`)
  }
}

function infoRequest(payload: Uint8Array): { name: string; wanted: ReadonlySet<number> } {
  const reader = new PayloadReader(payload)
  const name = reader.string()
  const { count } = reader.record(INFO_REQUESTS)
  const wanted = new Set<number>()
  for (let index = 0; index < count; index += 1) wanted.add(reader.record(INFO_TYPE).type)
  if (!reader.isAtEnd) throw new Refusal(REP.invalid, 'got bytes behind the last information request')
  return { name, wanted }
}

function contextRequest(payload: Uint8Array): { name: string; queries: readonly string[] } {
  const reader = new PayloadReader(payload)
  const name = reader.string()
  const { count } = reader.record(CONTEXT_QUERIES)
  const queries: string[] = []
  for (let index = 0; index < count; index += 1) queries.push(reader.string())
  if (!reader.isAtEnd) throw new Refusal(REP.invalid, 'got bytes behind the last query')
  return { name, queries }
}
