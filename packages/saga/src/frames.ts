/**
 * The format of a journal file: frames, one after the other.
 *
 *   0       4          8         12        16                       16 + length
 *   | magic | sequence | length  | crc32c  | record | record | ... |
 *                                            record = length u32, bytes
 *
 * All numbers are little endian, 32 bit. The checksum covers the header without itself, and the payload. The sequence grows by one
 * from frame to frame, also over compactions, so that bytes of an older file are never taken for frames of this one.
 *
 * One frame is one group commit, and the next frame is written only when the one before is synced. So at most the last frame can be
 * torn, and a damaged frame with a good one behind it is damage to what was committed: that is reported, never cut away.
 */
import { crc32c } from './crc32c.hot.ts'

const MAGIC = 0x314a5654 // 'TVJ1'
export const FRAME_HEADER_BYTES = 16
/** Bounds what a damaged length can make us read. */
const FRAME_BYTES_MAX = 1 << 30

export function encodeFrame(sequence: number, records: readonly Uint8Array[]): Uint8Array {
  let payloadBytes = 0
  for (const record of records) payloadBytes += 4 + record.length
  const frame = new Uint8Array(FRAME_HEADER_BYTES + payloadBytes)
  const view = new DataView(frame.buffer)
  view.setUint32(0, MAGIC, true)
  view.setUint32(4, sequence >>> 0, true)
  view.setUint32(8, payloadBytes, true)
  let at = FRAME_HEADER_BYTES
  for (const record of records) {
    view.setUint32(at, record.length, true)
    frame.set(record, at + 4)
    at += 4 + record.length
  }
  view.setUint32(12, checksum(frame, 0, frame.length), true)
  return frame
}

const checksum = (file: Uint8Array, start: number, end: number): number =>
  crc32c(file, start + FRAME_HEADER_BYTES, end, crc32c(file, start, start + 12))

export interface FrameScan {
  readonly records: Uint8Array[]
  /** Sequence of the last good frame; 0 where there is none. */
  readonly lastSequence: number
  /** Up to here the file is whole. */
  readonly goodBytes: number
  /** Where a good frame begins behind a damaged one, if so. */
  readonly damageFollowedBy: number | null
}

/** Reads any bytes; never throws. */
export function scanFrames(file: Uint8Array): FrameScan {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const records: Uint8Array[] = []
  let lastSequence = 0
  let at = 0
  while (true) {
    const frame = frameAt(file, view, at)
    if (!frame || (at > 0 && frame.sequence !== (lastSequence + 1) >>> 0)) break
    for (const record of frame.records) records.push(record)
    lastSequence = frame.sequence
    at = frame.end
  }
  return { records, lastSequence, goodBytes: at, damageFollowedBy: findFrame(file, view, at + 1) }
}

function findFrame(file: Uint8Array, view: DataView, from: number): number | null {
  for (let at = file.indexOf(MAGIC & 0xff, from); at !== -1; at = file.indexOf(MAGIC & 0xff, at + 1)) {
    if (frameAt(file, view, at)) return at
  }
  return null
}

function frameAt(file: Uint8Array, view: DataView, at: number): { sequence: number; records: Uint8Array[]; end: number } | null {
  if (at + FRAME_HEADER_BYTES > file.length || view.getUint32(at, true) !== MAGIC) return null
  const payloadBytes = view.getUint32(at + 8, true)
  const end = at + FRAME_HEADER_BYTES + payloadBytes
  if (payloadBytes > FRAME_BYTES_MAX || end > file.length) return null
  if (view.getUint32(at + 12, true) !== checksum(file, at, end)) return null
  const records: Uint8Array[] = []
  let cursor = at + FRAME_HEADER_BYTES
  while (cursor + 4 <= end) {
    const recordBytes = view.getUint32(cursor, true)
    if (cursor + 4 + recordBytes > end) return null
    records.push(file.subarray(cursor + 4, cursor + 4 + recordBytes))
    cursor += 4 + recordBytes
  }
  return cursor === end ? { sequence: view.getUint32(at + 4, true), records, end } : null
}
