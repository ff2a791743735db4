/** A tar archive of a few texts: POSIX.1-1988 (ustar), https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html. */
import { Fault } from '@typevisor/base'

export interface TarEntry {
  /** At most 100 bytes. */
  readonly path: string
  readonly content: Uint8Array
}

const BLOCK = 512
const PATH_BYTES_MAX = 100

function header({ path, content }: TarEntry, mtimeSeconds: number): Buffer {
  if (Buffer.byteLength(path) > PATH_BYTES_MAX)
    throw new Fault('invalid', `tar: ${path}: want a path of at most ${PATH_BYTES_MAX} bytes`)
  const block = Buffer.alloc(BLOCK)
  const octal = (value: number, at: number, width: number): void =>
    void block.write(value.toString(8).padStart(width - 1, '0'), at)
  block.write(path, 0)
  octal(0o600, 100, 8)
  octal(0, 108, 8) // uid
  octal(0, 116, 8) // gid
  octal(content.length, 124, 12)
  octal(mtimeSeconds, 136, 12)
  block.write('        ', 148) // the checksum counts itself as blanks
  block.write('0', 156) // a file
  block.write('ustar\u000000', 257)
  octal(
    block.reduce((sum, byte) => sum + byte, 0),
    148,
    7,
  )
  block[154] = 0
  return block
}

export function tar(entries: readonly TarEntry[], mtimeSeconds: number): Buffer {
  const parts = entries.flatMap((entry) => {
    const rest = (BLOCK - (entry.content.length % BLOCK)) % BLOCK
    return [header(entry, mtimeSeconds), entry.content, Buffer.alloc(rest)]
  })
  return Buffer.concat([...parts, Buffer.alloc(2 * BLOCK)])
}
