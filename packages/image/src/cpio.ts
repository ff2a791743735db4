/**
 * The archive that a kernel unpacks as its first root: cpio, format `newc`.
 *
 *   (header 110 bytes of ASCII hex | name NUL, padded to 4 | content, padded to 4)*  TRAILER!!!  padded to 512
 *
 * Reference: Documentation/driver-api/early-userspace/buffer-format.rst
 */
import type { Tree, TreeEntry } from './tree.ts'

/** The fields of a header in their order, each eight hexadecimal digits. */
const NEWC_FIELDS = [
  'ino',
  'mode',
  'uid',
  'gid',
  'nlink',
  'mtime',
  'filesize',
  'devmajor',
  'devminor',
  'rdevmajor',
  'rdevminor',
  'namesize',
  'check',
] as const
const MAGIC = '070701'

type Header = Partial<Record<(typeof NEWC_FIELDS)[number], number>>

/** Equal trees give equal bytes: numbers are given in order, every time is `mtimeSeconds`. */
export function writeCpio(tree: Tree, mtimeSeconds: number): Uint8Array {
  const parts: Uint8Array[] = []
  let sizeBytes = 0
  const push = (part: Uint8Array, alignment: number): void => {
    const padding = (alignment - ((sizeBytes + part.byteLength) % alignment)) % alignment
    parts.push(part, new Uint8Array(padding))
    sizeBytes += part.byteLength + padding
  }
  let inode = 1
  for (const [path, entry] of tree) {
    const content = contentOf(entry)
    push(
      record(
        {
          ino: inode++,
          mtime: mtimeSeconds,
          filesize: content.byteLength,
          nlink: entry.kind === 'folder' ? 2 : 1,
          ...typeOf(entry),
        },
        path,
      ),
      4,
    )
    push(content, 4)
  }
  push(record({ nlink: 1 }, 'TRAILER!!!'), 512)
  const archive = new Uint8Array(sizeBytes)
  let offset = 0
  for (const part of parts) {
    archive.set(part, offset)
    offset += part.byteLength
  }
  return archive
}

function record(header: Header, name: string): Uint8Array {
  const encoded = new TextEncoder().encode(`${name}\0`)
  const fields = NEWC_FIELDS.map((field) =>
    (field === 'namesize' ? encoded.byteLength : (header[field] ?? 0)).toString(16).padStart(8, '0'),
  )
  const head = new TextEncoder().encode(MAGIC + fields.join(''))
  const out = new Uint8Array(head.byteLength + encoded.byteLength)
  out.set(head)
  out.set(encoded, head.byteLength)
  return out
}

function contentOf(entry: TreeEntry): Uint8Array {
  if (entry.kind === 'file') return entry.content
  return entry.kind === 'link' ? new TextEncoder().encode(entry.target) : new Uint8Array(0)
}

function typeOf(entry: TreeEntry): Header {
  switch (entry.kind) {
    case 'folder':
      return { mode: 0o040000 | entry.mode }
    case 'file':
      return { mode: 0o100000 | entry.mode }
    case 'link':
      return { mode: 0o120777 }
    case 'character-device':
      return { mode: 0o020000 | entry.mode, rdevmajor: entry.major, rdevminor: entry.minor }
  }
}
