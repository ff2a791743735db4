/**
 * The wire format of NBD, and its only source: sizes and offsets everywhere come from these tables.
 * Source: NetworkBlockDevice/nbd, doc/proto.md (with the extension of extended headers, merged in 2023).
 */
import { joinBytes } from '@typevisor/base'
import { layout } from '@typevisor/codec'

export const NBD_MAGIC = 0x4e42444d41474943n
export const OPTION_MAGIC = 0x49484156454f5054n
export const OPTION_REPLY_MAGIC = 0x3e889045565a9n
export const REQUEST_MAGIC = 0x25609513
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71
export const SIMPLE_REPLY_MAGIC = 0x67446698
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c

/** The server's first words. */
export const GREETING = layout([
  ['nbdMagic', 'u64'],
  ['optionMagic', 'u64'],
  ['flags', 'u16'],
])
export const CLIENT_FLAGS = layout([['flags', 'u32']])
export const OPTION = layout([
  ['magic', 'u64'],
  ['option', 'u32'],
  ['lengthBytes', 'u32'],
])
export const OPTION_REPLY = layout([
  ['magic', 'u64'],
  ['option', 'u32'],
  ['reply', 'u32'],
  ['lengthBytes', 'u32'],
])
/** What answers EXPORT_NAME, followed by 124 zeros unless NO_ZEROES was agreed. */
export const EXPORT_ANSWER = layout([
  ['sizeBytes', 'u64'],
  ['flags', 'u16'],
])
export const EXPORT_ANSWER_ZERO_BYTES = 124
export const INFO_EXPORT = layout([
  ['type', 'u16'],
  ['sizeBytes', 'u64'],
  ['flags', 'u16'],
])
export const INFO_BLOCK_SIZE = layout([
  ['type', 'u16'],
  ['minimumBytes', 'u32'],
  ['preferredBytes', 'u32'],
  ['maximumBytes', 'u32'],
])
/** Begins names, queries and descriptions that something follows; their UTF-8 comes behind it. */
export const STRING = layout([['lengthBytes', 'u32']])
/** Behind the name in INFO and GO, followed by so many `INFO_TYPE`. */
export const INFO_REQUESTS = layout([['count', 'u16']])
export const INFO_TYPE = layout([['type', 'u16']])
/** Behind the name in LIST_META_CONTEXT and SET_META_CONTEXT, followed by so many strings. */
export const CONTEXT_QUERIES = layout([['count', 'u32']])
/** Answers those, followed by the context's name. */
export const META_CONTEXT = layout([['contextId', 'u32']])

export const REQUEST = layout([
  ['magic', 'u32'],
  ['flags', 'u16'],
  ['type', 'u16'],
  ['cookie', 'u64'],
  ['offset', 'u64'],
  ['lengthBytes', 'u32'],
])
export const EXTENDED_REQUEST = layout([
  ['magic', 'u32'],
  ['flags', 'u16'],
  ['type', 'u16'],
  ['cookie', 'u64'],
  ['offset', 'u64'],
  ['lengthBytes', 'u64'],
])
export const SIMPLE_REPLY = layout([
  ['magic', 'u32'],
  ['error', 'u32'],
  ['cookie', 'u64'],
])
export const STRUCTURED_REPLY = layout([
  ['magic', 'u32'],
  ['flags', 'u16'],
  ['type', 'u16'],
  ['cookie', 'u64'],
  ['lengthBytes', 'u32'],
])
export const EXTENDED_REPLY = layout([
  ['magic', 'u32'],
  ['flags', 'u16'],
  ['type', 'u16'],
  ['cookie', 'u64'],
  ['offset', 'u64'],
  ['lengthBytes', 'u64'],
])
/** Payloads of structured replies. */
export const OFFSET_DATA = layout([['offset', 'u64']])
export const OFFSET_HOLE = layout([
  ['offset', 'u64'],
  ['lengthBytes', 'u32'],
])
export const REPLY_ERROR = layout([
  ['error', 'u32'],
  ['messageBytes', 'u16'],
])
export const STATUS_HEADER = layout([['contextId', 'u32']])
export const STATUS_EXTENT = layout([
  ['lengthBytes', 'u32'],
  ['status', 'u32'],
])
export const STATUS_HEADER_EXTENDED = layout([
  ['contextId', 'u32'],
  ['extentCount', 'u32'],
])
export const STATUS_EXTENT_EXTENDED = layout([
  ['lengthBytes', 'u64'],
  ['status', 'u64'],
])

export const HANDSHAKE_FIXED_NEWSTYLE = 1
export const HANDSHAKE_NO_ZEROES = 2

export const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const

const ERROR_BIT = 2 ** 31
export const REP = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  unsupported: ERROR_BIT + 1,
  policy: ERROR_BIT + 2,
  invalid: ERROR_BIT + 3,
  platform: ERROR_BIT + 4,
  tlsRequired: ERROR_BIT + 5,
  unknown: ERROR_BIT + 6,
  shutdown: ERROR_BIT + 7,
  blockSizeRequired: ERROR_BIT + 8,
  tooBig: ERROR_BIT + 9,
  extendedHeadersRequired: ERROR_BIT + 10,
} as const

export const INFO = { export: 0, name: 1, description: 2, blockSize: 3 } as const

/** Transmission flags of an export. */
export const FLAG = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendResize: 1 << 9,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
} as const

export const CMD = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, cache: 5, writeZeroes: 6, blockStatus: 7 } as const

/** Flags of a request. */
export const CMD_FLAG = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16, payloadLength: 32 } as const

export const REPLY_FLAG_DONE = 1
export const REPLY_TYPE = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExtended: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const

export const ERRNO = {
  none: 0,
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const

export const BASE_ALLOCATION = 'base:allocation'
export const STATE_HOLE = 1
export const STATE_ZERO = 2

/** Longest name, context name or message: proto.md, "Terminology: string". */
export const STRING_BYTES_MAX = 4096
/** The largest payload: what clients may count on where no block size is agreed, and what QEMU asks for at most. */
export const PAYLOAD_BYTES_MAX = 32 * 1024 * 1024

const utf8 = new TextEncoder()

/** A string with its length before it. */
export function encodeString(text: string): Uint8Array {
  const content = utf8.encode(text)
  return joinBytes([STRING.encode({ lengthBytes: content.length }), content])
}
