/**
 * A snapshot as a stream of bytes, whole or as what differs from an earlier one: what `snapshot export` writes and `volume import` reads.
 *
 *   head | record, data | record, data | ... | end record, SHA-256 of all before it
 *
 * Records come in the order of the volume, do not overlap, and speak of whole blocks. A stream may begin anywhere in the volume (`startBytes`):
 * so one that was cut is gone on with by another. Snapshots do not change, so both tell of the same bytes.
 *
 * A stream may be compressed: then records of data are packed, each for itself, where that saves something. So it is gone on with as any other,
 * and what is unpacked is never more than one record, whatever it says of itself.
 *
 * Invariants: nothing is written of a record whose checksum is wrong; a stream without its end is not taken for whole.
 */
import { Fault, toFault, type BlockDevice } from '@typevisor/base'
import { layout } from '@typevisor/codec'
import type { DiffExtent, DiffKind } from '../store/diff.ts'
import type { CompressionKind } from '../store/catalog.ts'
import { BLOCK_BYTES } from '../store/format.ts'
import type { Checksum, Compressor } from '../store/ports.ts'
import { ChunkReader } from './chunk-reader.ts'

const LITTLE = { littleEndian: true }
export const STREAM_MAGIC = 0x31_4d_52_54_53_56_54n // "TVSTRM1" read from the lowest byte
/** 1: not compressed. 2: its head says with what. */
export const STREAM_VERSIONS = { none: 1, compressed: 2 } as const
const COMPRESSION = { zstd: 1 } as const
const NAME_BYTES_MAX = 128

/** The beginning of the head, in every version. */
const STREAM_BEGIN = layout(
  [
    ['magic', 'u64'],
    ['version', 'u32', 'refused when it is not known'],
    ['checksum', 'u32', 'CRC-32 of the whole head with this field zero'],
  ],
  LITTLE,
)
export const STREAM_HEAD = layout(
  [
    ...STREAM_BEGIN.fields,
    ['snapshotId', 16],
    ['baseId', 16, 'zeros: a whole volume'],
    ['sizeBytes', 'u64', 'of the volume'],
    ['startBytes', 'u64', 'where in the volume the stream begins'],
    ['createdAt', 'u64', 'of the snapshot, in milliseconds since 1970'],
    ['snapshotNameBytes', 'u32'],
    ['baseNameBytes', 'u32'],
    ['snapshotName', NAME_BYTES_MAX, 'VOLUME@SNAPSHOT where it comes from, UTF-8'],
    ['baseName', NAME_BYTES_MAX],
  ],
  LITTLE,
)
/** From version 2 on. */
export const STREAM_HEAD_COMPRESSED = layout([...STREAM_HEAD.fields, ['compression', 'u32', '1: Zstandard']], LITTLE)
/** Behind a record of data come its bytes, behind a packed one how many they are packed to and those, behind the end the digest. */
export const STREAM_RECORD = layout(
  [
    ['kind', 'u32', '1: data; 2: zeros that keep their place; 3: a hole; 4: the end; 5: packed data'],
    ['checksum', 'u32', 'CRC-32 of the record with this field zero, and of what comes behind it'],
    ['offset', 'u64', 'in the volume; of the end: the size of the volume'],
    ['lengthBytes', 'u64', 'in the volume; of the end: how many records there were'],
  ],
  LITTLE,
)
/** What a packed record's data begins with. */
const STREAM_PACKED = layout([['packedBytes', 'u32', 'fewer than the record has']], LITTLE)
const RECORD_KIND = { data: 1, zero: 2, hole: 3, end: 4, packed: 5 } as const
const KINDS: readonly DiffKind[] = ['data', 'zero', 'hole']
const DATA_BYTES_MAX = 1024 * 1024
const DIGEST_BYTES = 32
/** Reads or writes of the volume under way at once. */
const IN_FLIGHT_COUNT = 4
/** What an interruption may cost. */
const MARK_BYTES = 64 * 1024 * 1024

/** SHA-256. */
export interface Digest {
  update(content: Uint8Array): void
  digest(): Uint8Array
}
export interface StreamParts {
  readonly checksum: Checksum
  readonly digest: () => Digest
  readonly compressor: Compressor
}

export interface StreamHead {
  /** UUIDs as 32 hexadecimal digits. */
  readonly snapshotId: string
  readonly snapshotName: string
  readonly base: { readonly id: string; readonly name: string } | null
  readonly sizeBytes: number
  readonly startBytes: number
  readonly createdAt: number
  /** What its data is packed with. */
  readonly compression: CompressionKind
}

const utf8 = new TextEncoder()
const text = new TextDecoder()
const hexOf = (bytes: Uint8Array): string => [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')
const bytesOf = (hex: string): Uint8Array =>
  Uint8Array.from({ length: 16 }, (_, index) => Number.parseInt(hex.slice(index * 2, index * 2 + 2), 16))

function encodeHead(head: StreamHead, checksum: Checksum): Uint8Array {
  const [snapshotName, baseName] = [utf8.encode(head.snapshotName), utf8.encode(head.base?.name ?? '')]
  const fields = {
    magic: STREAM_MAGIC,
    checksum: 0,
    snapshotId: bytesOf(head.snapshotId),
    baseId: head.base ? bytesOf(head.base.id) : new Uint8Array(16),
    sizeBytes: BigInt(head.sizeBytes),
    startBytes: BigInt(head.startBytes),
    createdAt: BigInt(head.createdAt),
    snapshotNameBytes: snapshotName.length,
    baseNameBytes: baseName.length,
    snapshotName,
    baseName,
  }
  const { compression } = head
  const content =
    compression === 'none'
      ? STREAM_HEAD.encode({ ...fields, version: STREAM_VERSIONS.none })
      : STREAM_HEAD_COMPRESSED.encode({
          ...fields,
          version: STREAM_VERSIONS.compressed,
          compression: COMPRESSION[compression],
        })
  setChecksum(content, STREAM_HEAD.at.checksum, checksum(content))
  return content
}

const setChecksum = (content: Uint8Array, at: number, value: number): void =>
  new DataView(content.buffer, content.byteOffset).setUint32(at, value, true)

/** Whether something begins as a stream does. */
export const isStream = (first: Uint8Array): boolean =>
  first.length >= 8 && new DataView(first.buffer, first.byteOffset).getBigUint64(0, true) === STREAM_MAGIC

/**
 * The bytes of a stream. `extents` begin at `head.startBytes` at the earliest; what a chunk holds is not changed afterwards.
 *
 * @param onProgress told of the byte of the volume up to which the stream has come.
 */
export async function* writeStream(
  head: StreamHead,
  extents: AsyncIterable<DiffExtent>,
  device: Pick<BlockDevice, 'read'>,
  { checksum, digest, compressor }: StreamParts,
  onProgress: (positionBytes: number) => void = () => {},
): AsyncGenerator<Uint8Array, void, void> {
  const whole = digest()
  const seal = (read: Uint8Array): Uint8Array => {
    const record = head.compression === 'none' ? read : packed(read, compressor)
    setChecksum(record, STREAM_RECORD.at.checksum, checksum(record))
    whole.update(record)
    return record
  }
  const first = encodeHead(head, checksum)
  whole.update(first)
  yield first
  let count = 0
  const reading: Promise<Uint8Array>[] = []
  try {
    for await (const { kind, offset, lengthBytes } of extents) {
      const partBytesMax = kind === 'data' ? DATA_BYTES_MAX : lengthBytes
      for (let done = 0; done < lengthBytes; done += partBytesMax) {
        const at = offset + done
        const partBytes = Math.min(partBytesMax, lengthBytes - done)
        reading.push(readRecord(device, kind, at, partBytes))
        count += 1
        if (reading.length < IN_FLIGHT_COUNT) continue
        yield seal(await (reading.shift() as Promise<Uint8Array>)) // there are some
        onProgress(at)
      }
    }
    for (let next = reading.shift(); next; next = reading.shift()) yield seal(await next)
  } finally {
    await Promise.allSettled(reading)
  }
  const end = new Uint8Array(STREAM_RECORD.sizeBytes + DIGEST_BYTES)
  STREAM_RECORD.encode({ kind: RECORD_KIND.end, checksum: 0, offset: BigInt(head.sizeBytes), lengthBytes: BigInt(count) }, end)
  end.set(whole.digest(), STREAM_RECORD.sizeBytes)
  setChecksum(end, STREAM_RECORD.at.checksum, checksum(end))
  yield end
  onProgress(head.sizeBytes)
}

async function readRecord(
  device: Pick<BlockDevice, 'read'>,
  kind: DiffKind,
  offset: number,
  lengthBytes: number,
): Promise<Uint8Array> {
  const record = new Uint8Array(STREAM_RECORD.sizeBytes + (kind === 'data' ? lengthBytes : 0))
  STREAM_RECORD.encode({ kind: RECORD_KIND[kind], checksum: 0, offset: BigInt(offset), lengthBytes: BigInt(lengthBytes) }, record)
  if (kind === 'data') await device.read(offset, record.subarray(STREAM_RECORD.sizeBytes))
  return record
}

/** A record of data that can be packed is; any other stays as it is. */
function packed(record: Uint8Array, compressor: Compressor): Uint8Array {
  const { kind, ...fields } = STREAM_RECORD.decode(record)
  if (kind !== RECORD_KIND.data) return record
  const content = compressor.compress(record.subarray(STREAM_RECORD.sizeBytes))
  const sizeBytes = STREAM_RECORD.sizeBytes + STREAM_PACKED.sizeBytes + content.length
  if (sizeBytes >= record.length) return record
  const made = new Uint8Array(sizeBytes)
  STREAM_RECORD.encode({ ...fields, kind: RECORD_KIND.packed }, made)
  STREAM_PACKED.encode({ packedBytes: content.length }, made.subarray(STREAM_RECORD.sizeBytes))
  made.set(content, STREAM_RECORD.sizeBytes + STREAM_PACKED.sizeBytes)
  return made
}

/** Where a stream goes. */
export interface StreamSink {
  /** Before anything is written. @returns the byte before which all is there already. */
  begin(head: StreamHead): Promise<number>
  readonly device: () => Pick<BlockDevice, 'write' | 'zero' | 'trim'>
  /** All before it is there. Resolves when that is safe. */
  mark(positionBytes: number): Promise<void>
}

/**
 * Takes in a stream to its end, and what comes behind it is nothing.
 *
 * @throws Fault `invalid` for what is no whole stream, `unsupported` for another version; what came whole before is there, and marked.
 */
export async function readStream(
  chunks: AsyncIterable<Uint8Array>,
  sink: StreamSink,
  { checksum, digest, compressor }: StreamParts,
  onProgress: (positionBytes: number, head: StreamHead) => void = () => {},
): Promise<StreamHead> {
  const reader = new ChunkReader(chunks)
  const whole = digest()
  const head = await readHead(reader, whole, checksum)
  const had = await sink.begin(head)
  let position = head.startBytes
  let marked = had
  let unmarkedBytes = 0
  const writing = new Set<Promise<void>>()
  let wrong: unknown = null
  const write = (work: Promise<void>): void => {
    const kept = work
      .catch((error: unknown) => {
        wrong ??= error
      })
      .finally(() => writing.delete(kept))
    writing.add(kept)
  }
  const mark = async (): Promise<void> => {
    await Promise.all(writing)
    if (wrong) throw wrong
    if (position > marked) await sink.mark(position)
    marked = Math.max(marked, position)
    unmarkedBytes = 0
  }
  try {
    for (let count = 0; ; count += 1) {
      const record = await readRecordHead(reader, head, position)
      const content = await readContent(reader, record)
      const found = checksum(content, checksum(record.sealed))
      if (found !== record.checksum)
        throw new Fault(
          'invalid',
          `stream: the record at ${record.offset} has checksum ${hex(found)}, want ${hex(record.checksum)}`,
        )
      if (record.kind === 'end') {
        checkEnd(content, record.lengthBytes, count, whole.digest())
        if (!(await reader.isAtEnd())) throw new Fault('invalid', 'stream: there is more behind its end')
        break
      }
      whole.update(record.bytes)
      whole.update(content)
      if (record.offset + record.lengthBytes > had)
        write(apply(sink.device(), record, record.isPacked ? unpacked(content, record, compressor) : content))
      if (writing.size >= IN_FLIGHT_COUNT) await Promise.race(writing)
      if (wrong) throw wrong
      position = record.offset + record.lengthBytes
      unmarkedBytes += record.kind === 'data' ? record.lengthBytes : 0
      if (unmarkedBytes >= MARK_BYTES) await mark()
      onProgress(position, head)
    }
    position = head.sizeBytes
  } catch (error) {
    // What came whole is kept, and the one who goes on is told where.
    if (!wrong) await mark().catch(() => {})
    throw error
  } finally {
    await Promise.all(writing)
  }
  await mark()
  onProgress(position, head)
  return head
}

/** What stands behind a record, as it came. */
async function readContent(reader: ChunkReader, { kind, isPacked, offset, lengthBytes }: RecordHead): Promise<Uint8Array> {
  const what = `the data of the record at ${offset}`
  if (kind === 'end') return reader.take(DIGEST_BYTES, what)
  if (kind !== 'data') return reader.take(0, what)
  if (!isPacked) return reader.take(lengthBytes, what)
  const first = (await reader.take(STREAM_PACKED.sizeBytes, what)).slice()
  const { packedBytes } = STREAM_PACKED.decode(first)
  if (packedBytes === 0 || packedBytes >= lengthBytes)
    throw new Fault('invalid', `stream: the record at ${offset} is packed to ${packedBytes} bytes, want 1 to ${lengthBytes - 1}`)
  const content = new Uint8Array(first.length + packedBytes)
  content.set(first)
  content.set(await reader.take(packedBytes, what), first.length)
  return content
}

/** @throws Fault `invalid` when it is not as much as the record says. */
function unpacked(content: Uint8Array, { offset, lengthBytes }: RecordHead, compressor: Compressor): Uint8Array {
  let found: Uint8Array
  try {
    found = compressor.expand(content.subarray(STREAM_PACKED.sizeBytes), lengthBytes)
  } catch (error) {
    throw new Fault(
      'invalid',
      `stream: the record at ${offset} cannot be unpacked to ${lengthBytes} bytes: ${toFault(error).message}`,
      {
        cause: error,
      },
    )
  }
  if (found.length !== lengthBytes)
    throw new Fault('invalid', `stream: the record at ${offset} unpacks to ${found.length} bytes, want ${lengthBytes}`)
  return found
}

const apply = (
  device: Pick<BlockDevice, 'write' | 'zero' | 'trim'>,
  { kind, offset, lengthBytes }: { kind: DiffKind | 'end'; offset: number; lengthBytes: number },
  content: Uint8Array,
): Promise<void> =>
  kind === 'data'
    ? device.write(offset, content)
    : kind === 'zero'
      ? device.zero(offset, lengthBytes, { noHole: true })
      : device.trim(offset, lengthBytes)

const hex = (value: number): string => value.toString(16).padStart(8, '0')

async function readHead(reader: ChunkReader, whole: Digest, checksum: Checksum): Promise<StreamHead> {
  const first = await reader.take(STREAM_BEGIN.sizeBytes, 'the head')
  const { magic, version } = STREAM_BEGIN.decode(first)
  if (magic !== STREAM_MAGIC)
    throw new Fault(
      'invalid',
      `stream: it begins with ${magic.toString(16)}, want ${STREAM_MAGIC.toString(16)}: no exported snapshot`,
    )
  const isCompressed = version === STREAM_VERSIONS.compressed
  if (!isCompressed && version !== STREAM_VERSIONS.none)
    throw new Fault('unsupported', `stream: got version ${version}, want ${Object.values(STREAM_VERSIONS).join(' or ')}`)
  const { sizeBytes: headBytes } = isCompressed ? STREAM_HEAD_COMPRESSED : STREAM_HEAD
  const content = new Uint8Array(headBytes)
  content.set(first)
  content.set(await reader.take(headBytes - first.length, 'the head'), first.length)
  whole.update(content)
  const compression = isCompressed ? STREAM_HEAD_COMPRESSED.decode(content).compression : null
  const found = STREAM_HEAD.decode(content.slice())
  setChecksum(content, STREAM_HEAD.at.checksum, 0)
  const sum = checksum(content)
  if (sum !== found.checksum) throw new Fault('invalid', `stream: its head has checksum ${hex(sum)}, want ${hex(found.checksum)}`)
  if (compression !== null && compression !== COMPRESSION.zstd)
    throw new Fault('unsupported', `stream: got compression ${compression}, want ${COMPRESSION.zstd} (Zstandard)`)
  const baseId = hexOf(found.baseId)
  const [sizeBytes, startBytes] = [Number(found.sizeBytes), Number(found.startBytes)]
  if (startBytes > sizeBytes || startBytes % BLOCK_BYTES !== 0)
    throw new Fault('invalid', `stream: it begins at ${startBytes}, want a multiple of ${BLOCK_BYTES} up to ${sizeBytes}`)
  return {
    snapshotId: hexOf(found.snapshotId),
    snapshotName: text.decode(found.snapshotName.subarray(0, found.snapshotNameBytes)),
    base: /^0*$/.test(baseId) ? null : { id: baseId, name: text.decode(found.baseName.subarray(0, found.baseNameBytes)) },
    sizeBytes,
    startBytes,
    createdAt: Number(found.createdAt),
    compression: compression === null ? 'none' : 'zstd',
  }
}

interface RecordHead {
  readonly kind: DiffKind | 'end'
  readonly isPacked: boolean
  readonly checksum: number
  readonly offset: number
  readonly lengthBytes: number
  /** As they came, and with the checksum's field zero. */
  readonly bytes: Uint8Array
  readonly sealed: Uint8Array
}

async function readRecordHead(reader: ChunkReader, head: StreamHead, position: number): Promise<RecordHead> {
  const bytes = (await reader.take(STREAM_RECORD.sizeBytes, `a record behind ${position}`)).slice()
  const decoded = STREAM_RECORD.decode(bytes)
  const isPacked = decoded.kind === RECORD_KIND.packed && head.compression !== 'none'
  const kind =
    decoded.kind === RECORD_KIND.end ? 'end' : isPacked ? 'data' : KINDS.find((name) => RECORD_KIND[name] === decoded.kind)
  const [offset, lengthBytes] = [Number(decoded.offset), Number(decoded.lengthBytes)]
  // Before anything of that length is waited for; a wrong checksum would be found behind it only.
  const isWithin =
    offset >= position &&
    lengthBytes > 0 &&
    offset % BLOCK_BYTES === 0 &&
    lengthBytes % BLOCK_BYTES === 0 &&
    offset + lengthBytes <= head.sizeBytes &&
    (kind !== 'data' || lengthBytes <= DATA_BYTES_MAX)
  if (kind === undefined || (kind !== 'end' && !isWithin))
    throw new Fault(
      'invalid',
      `stream: got a record of kind ${decoded.kind}, ${offset}+${lengthBytes}, want blocks between ${position} and ${head.sizeBytes}`,
    )
  const sealed = bytes.slice()
  setChecksum(sealed, STREAM_RECORD.at.checksum, 0)
  return { kind, isPacked, checksum: decoded.checksum, offset, lengthBytes, bytes, sealed }
}

function checkEnd(digest: Uint8Array, recordCount: number, count: number, want: Uint8Array): void {
  if (recordCount !== count) throw new Fault('invalid', `stream: got ${count} records, want ${recordCount}`)
  if (hexOf(digest) !== hexOf(want)) throw new Fault('invalid', `stream: its SHA-256 is ${hexOf(want)}, want ${hexOf(digest)}`)
}
