/** Sessions byte by byte, for what no honest client says. */
import { joinBytes } from '@typevisor/base'
import { seededRng } from '@typevisor/sim'
import type { ExportSource } from '../ports.ts'
import { linkInMemory } from '../testing.ts'
import {
  CLIENT_FLAGS,
  CONTEXT_QUERIES,
  encodeString,
  EXTENDED_REQUEST,
  EXTENDED_REQUEST_MAGIC,
  GREETING,
  HANDSHAKE_FIXED_NEWSTYLE,
  HANDSHAKE_NO_ZEROES,
  INFO_REQUESTS,
  OPT,
  OPTION,
  OPTION_MAGIC,
  OPTION_REPLY,
  REP,
  REQUEST,
  REQUEST_MAGIC,
  SIMPLE_REPLY,
  STRUCTURED_REPLY,
} from '../wire.ts'

const NOTHING = new Uint8Array(0)

export const clientFlags = (flags = HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES): Uint8Array => CLIENT_FLAGS.encode({ flags })
export const option = (number: number, payload: Uint8Array = NOTHING): Uint8Array =>
  joinBytes([OPTION.encode({ magic: OPTION_MAGIC, option: number, lengthBytes: payload.length }), payload])
/** The payload of GO and INFO. */
export const wanting = (name: string): Uint8Array => joinBytes([encodeString(name), INFO_REQUESTS.encode({ count: 0 })])
/** The payload of LIST_META_CONTEXT and SET_META_CONTEXT. */
export const asking = (name: string, queries: readonly string[]): Uint8Array =>
  joinBytes([encodeString(name), CONTEXT_QUERIES.encode({ count: queries.length }), ...queries.map(encodeString)])

export interface RawRequest {
  readonly type: number
  readonly flags?: number
  readonly offset?: number
  readonly lengthBytes?: number
  readonly cookie?: number
}
export function request({ type, flags = 0, offset = 0, lengthBytes = 0, cookie = 1 }: RawRequest, extended = false): Uint8Array {
  const common = { type, flags, cookie: BigInt(cookie), offset: BigInt(offset) }
  return extended
    ? EXTENDED_REQUEST.encode({ magic: EXTENDED_REQUEST_MAGIC, ...common, lengthBytes: BigInt(lengthBytes) })
    : REQUEST.encode({ magic: REQUEST_MAGIC, ...common, lengthBytes })
}

/** A client that says what it is told to, joined with a server in memory. */
export function rawClient(source: ExportSource, options: Parameters<typeof linkInMemory>[2] = {}) {
  const link = linkInMemory(source, seededRng(1), options)
  const { reader, channel } = link.client
  const send = (...parts: readonly Uint8Array[]): void => channel.write(joinBytes(parts), () => {})
  return {
    link,
    send,
    take: (countBytes: number) => reader.take(countBytes),
    async greet(flags?: number): Promise<void> {
      await reader.take(GREETING.sizeBytes)
      send(clientFlags(flags))
    },
    /** All replies to an option, to the one that ends it. */
    async ask(number: number, payload?: Uint8Array): Promise<{ reply: number; payload: Buffer }[]> {
      send(option(number, payload))
      const replies = []
      for (;;) {
        const { reply, lengthBytes } = OPTION_REPLY.decode(await reader.take(OPTION_REPLY.sizeBytes))
        replies.push({ reply, payload: Buffer.from(await reader.take(lengthBytes)) })
        if (reply === REP.ack || reply > 2 ** 31) return replies
      }
    },
    /** Chooses an export, and what is agreed before. */
    async open(name: string, ...before: readonly number[]): Promise<void> {
      for (const number of before) await this.ask(number)
      await this.ask(OPT.go, wanting(name))
    },
    async simpleReply(): Promise<{ error: number; cookie: number }> {
      const { error, cookie } = SIMPLE_REPLY.decode(await reader.take(SIMPLE_REPLY.sizeBytes))
      return { error, cookie: Number(cookie) }
    },
    async chunk(): Promise<{ flags: number; type: number; payload: Buffer }> {
      const { flags, type, lengthBytes } = STRUCTURED_REPLY.decode(await reader.take(STRUCTURED_REPLY.sizeBytes))
      return { flags, type, payload: Buffer.from(await reader.take(lengthBytes)) }
    },
    async leave(): Promise<void> {
      channel.end()
      await link.connection.over
    },
  }
}
