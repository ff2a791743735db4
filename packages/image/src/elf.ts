/**
 * The two things that are asked of ELF files here: which libraries a program loads (PT_DYNAMIC: DT_NEEDED), and which modules a kernel
 * module wants first (section .modinfo: `depends=`). Little-endian ELF64 only; anything else answers "none".
 *
 * Reference: System V ABI, AMD64 supplement; `man 5 elf`.
 */

const PT_LOAD = 1
const PT_DYNAMIC = 2
const PT_INTERP = 3
const DT_NEEDED = 1
const DT_STRTAB = 5

interface Segment {
  readonly type: number
  readonly offset: number
  readonly address: number
  readonly fileBytes: number
}

function segments(file: Uint8Array): Segment[] {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  if (file.byteLength < 64 || view.getUint32(0, false) !== 0x7f454c46 || view.getUint8(4) !== 2 || view.getUint8(5) !== 1)
    return []
  const table = Number(view.getBigUint64(32, true))
  const entryBytes = view.getUint16(54, true)
  const count = view.getUint16(56, true)
  if (entryBytes < 56 || table + entryBytes * count > file.byteLength) return []
  return Array.from({ length: count }, (_, index) => {
    const at = table + index * entryBytes
    const read = (offset: number): number => Number(view.getBigUint64(at + offset, true))
    return { type: view.getUint32(at, true), offset: read(8), address: read(16), fileBytes: read(32) }
  }).filter((segment) => segment.offset + segment.fileBytes <= file.byteLength)
}

/** Names such as `libc.so.6`, and the program interpreter's path last; empty for what is static or no ELF file. */
export function neededLibraries(file: Uint8Array): {
  readonly libraries: readonly string[]
  readonly interpreter: string | null
} {
  const all = segments(file)
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  const interp = all.find((segment) => segment.type === PT_INTERP)
  const interpreter = interp ? text(file, interp.offset) : null
  const dynamic = all.find((segment) => segment.type === PT_DYNAMIC)
  if (!dynamic) return { libraries: [], interpreter }
  const needed: number[] = []
  let stringsAddress = 0
  for (let at = dynamic.offset; at + 16 <= dynamic.offset + dynamic.fileBytes; at += 16) {
    const tag = Number(view.getBigUint64(at, true))
    const value = Number(view.getBigUint64(at + 8, true))
    if (tag === DT_NEEDED) needed.push(value)
    if (tag === DT_STRTAB) stringsAddress = value
  }
  const home = all.find(
    (segment) =>
      segment.type === PT_LOAD && segment.address <= stringsAddress && stringsAddress < segment.address + segment.fileBytes,
  )
  if (!home) return { libraries: [], interpreter }
  const strings = home.offset + stringsAddress - home.address
  return { libraries: needed.map((offset) => text(file, strings + offset)), interpreter }
}

/** Module names as the kernel writes them (`virtio_ring`). */
export function moduleDepends(file: Uint8Array): string[] {
  return modinfo(file, 'depends')
    .flatMap((list) => list.split(','))
    .filter((name) => name !== '')
}

/** All values of one key in a module's .modinfo, such as its `alias`es. */
export function modinfo(file: Uint8Array, key: string): string[] {
  const section = sectionNamed(file, '.modinfo')
  if (!section) return []
  const entries = new TextDecoder('latin1').decode(section).split('\0')
  return entries.filter((entry) => entry.startsWith(`${key}=`)).map((entry) => entry.slice(key.length + 1))
}

function sectionNamed(file: Uint8Array, name: string): Uint8Array | null {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength)
  if (file.byteLength < 64 || view.getUint32(0, false) !== 0x7f454c46 || view.getUint8(4) !== 2) return null
  const table = Number(view.getBigUint64(40, true))
  const entryBytes = view.getUint16(58, true)
  const count = view.getUint16(60, true)
  const namesIndex = view.getUint16(62, true)
  if (entryBytes < 64 || namesIndex >= count || table + entryBytes * count > file.byteLength) return null
  const offsetOf = (index: number): number => Number(view.getBigUint64(table + index * entryBytes + 24, true))
  const names = offsetOf(namesIndex)
  for (let index = 0; index < count; index += 1) {
    if (text(file, names + view.getUint32(table + index * entryBytes, true)) !== name) continue
    const start = offsetOf(index)
    return file.subarray(start, start + Number(view.getBigUint64(table + index * entryBytes + 32, true)))
  }
  return null
}

function text(file: Uint8Array, offset: number): string {
  const end = file.indexOf(0, offset)
  return new TextDecoder('latin1').decode(file.subarray(offset, end < 0 ? file.byteLength : Math.min(end, offset + 4096)))
}
