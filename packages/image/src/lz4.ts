/**
 * LZ4's legacy frame, the one that Linux kernels are packed with: a magic number, then blocks of at most 8 MiB unpacked, each behind
 * its packed length. A block is a row of (literals, match) pairs and knows nothing of the blocks before it.
 *
 * Reference: https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
 */
import { Fault } from '@typevisor/base'

const MAGIC = 0x184c2102

/** Unpacks to exactly `sizeBytes`. @throws Fault `invalid` for a damaged frame; never reads or writes out of range. */
export function decodeLz4Legacy(packed: Uint8Array, sizeBytes: number): Uint8Array {
  const header = new DataView(packed.buffer, packed.byteOffset, packed.byteLength)
  if (packed.byteLength < 4 || header.getUint32(0, true) !== MAGIC) throw damaged('no magic number 0x184c2102')
  const out = new Uint8Array(sizeBytes)
  let read = 4
  let written = 0
  while (read + 4 <= packed.byteLength) {
    const length = header.getUint32(read, true)
    read += 4
    if (length === MAGIC) continue
    if (length > packed.byteLength - read)
      throw damaged(`block of ${length} bytes at ${read}, ${packed.byteLength - read} are left`)
    written = decodeBlock(packed, read, read + length, out, written)
    read += length
  }
  if (written !== sizeBytes) throw damaged(`unpacked to ${written} bytes, want ${sizeBytes}`)
  return out
}

function decodeBlock(packed: Uint8Array, start: number, end: number, out: Uint8Array, blockStart: number): number {
  let read = start
  let written = blockStart
  const extended = (nibble: number): number => {
    let length = nibble
    if (nibble !== 15) return length
    for (let byte = 255; byte === 255; length += byte) {
      if (read >= end) throw damaged('length runs past its block')
      byte = packed[read++] as number // read < end was just checked
    }
    return length
  }
  while (read < end) {
    const token = packed[read++] as number // read < end: the loop's condition
    const literalCount = extended(token >> 4)
    if (literalCount > end - read || literalCount > out.length - written)
      throw damaged(`${literalCount} literals at ${read} do not fit`)
    out.set(packed.subarray(read, read + literalCount), written)
    read += literalCount
    written += literalCount
    if (read >= end) break // the last sequence has no match
    if (read + 2 > end) throw damaged('offset runs past its block')
    const offset = (packed[read] as number) | ((packed[read + 1] as number) << 8) // both < end: just checked
    read += 2
    const matchCount = extended(token & 15) + 4
    if (offset === 0 || offset > written - blockStart)
      throw damaged(`match ${offset} bytes back, ${written - blockStart} are there`)
    if (matchCount > out.length - written) throw damaged(`match of ${matchCount} bytes does not fit`)
    if (offset >= matchCount) out.copyWithin(written, written - offset, written - offset + matchCount)
    else for (let index = 0; index < matchCount; index += 1) out[written + index] = out[written + index - offset] as number // overlap: byte by byte
    written += matchCount
  }
  return written
}

const damaged = (why: string): Fault => new Fault('invalid', `unpack lz4: ${why}`)
