/**
 * Files of a guest, through its agent, in pieces: one call carries 4 MiB at most, and a page that waits wants to say how far it is.
 * Pure but for what reads and writes a piece.
 */
import { Fault, formatBytes, MIB } from '@typevisor/base'

export const PIECE_BYTES = MIB
/** The page holds the whole file; the command line goes on where this ends. */
export const FILE_BYTES_MAX = 64 * MIB

export interface Going {
  readonly signal: AbortSignal
  /** So many bytes went so far. */
  readonly onBytes: (count: number) => void
}

/** `read`: at most so many bytes from an offset on; fewer at the end alone. @throws Fault `exhausted` of a file larger than the page takes. */
export async function readWhole(
  read: (from: number, limitBytes: number, signal: AbortSignal) => Promise<Uint8Array>,
  { signal, onBytes }: Going,
): Promise<Uint8Array<ArrayBuffer>> {
  const parts: Uint8Array[] = []
  let count = 0
  for (;;) {
    const part = await read(count, PIECE_BYTES, signal)
    parts.push(part)
    count += part.length
    if (count > FILE_BYTES_MAX)
      throw new Fault(
        'exhausted',
        `The file is larger than ${formatBytes(FILE_BYTES_MAX)}: read it by the command line, piece by piece (instance file-get --from).`,
      )
    onBytes(count)
    if (part.length < PIECE_BYTES) break
  }
  const whole = new Uint8Array(count)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** `write`: the first piece replaces what is there, the others go behind it. An abort leaves what was written so far. */
export async function writeWhole(
  content: Uint8Array,
  write: (piece: Uint8Array, append: boolean, signal: AbortSignal) => Promise<void>,
  { signal, onBytes }: Going,
): Promise<void> {
  let at = 0
  do {
    const piece = content.subarray(at, at + PIECE_BYTES)
    await write(piece, at > 0, signal)
    at += piece.length
    onBytes(at)
  } while (at < content.length)
}

/** Larger ones are no reading matter for a page. */
const TEXT_BYTES_MAX = 64 * 1024

/** Its text, where it is one that a person reads; null: bytes, or too many. */
export function textOf(content: Uint8Array): string | null {
  if (content.length > TEXT_BYTES_MAX) return null
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(content)
    // eslint-disable-next-line no-control-regex
    return /[\0-\x08\x0e-\x1a\x1c-\x1f]/.test(text) ? null : text
  } catch {
    return null
  }
}

/** `/etc/motd` -> `motd`. */
export const nameOf = (path: string): string => path.split('/').findLast((part) => part !== '') ?? 'file'
