/**
 * A whole EFI guest, for tests of firmware: one program with no signature, on a disk that UEFI boots by itself. On the serial port it says
 * `RUNS`, and stands still.
 *
 *   disk   FAT16, no partitions: /EFI/BOOT/BOOTX64.EFI
 *   file   PE32+, one section
 *
 * Assembled with GNU as (.code64) from:
 *   start: lea text(%rip), %rsi
 *   1: lodsb; test %al, %al; jz 3f; mov %al, %bl
 *   2: in 0x3fd (line status), bit 5, else 2b; out 0x3f8, %bl; jmp 1b
 *   3: hlt; jmp 3b
 * References: PE/COFF specification 8.3, UEFI 2.10 section 3.5.1.1 (removable media), Microsoft's FAT specification 1.03.
 */
export const RUNS = 'an unsigned program runs\n'
const CODE = '488d351c000000ac84c0741488c366bafd03eca82074f766baf80388d8eeebe7f4ebfd'

const ALIGNMENT = 0x200
const IMAGE_SIZE = 0x2000
const SECTION_ADDRESS = 0x1000

export function efiProgram(): Uint8Array {
  const code = [...(CODE.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)), ...new TextEncoder().encode(RUNS), 0]
  const file = new Uint8Array(2 * ALIGNMENT)
  const view = new DataView(file.buffer)
  const ascii = (at: number, text: string): void => file.set(new TextEncoder().encode(text), at)
  const [u16, u32] = [
    (at: number, value: number): void => view.setUint16(at, value, true),
    (at: number, value: number): void => view.setUint32(at, value, true),
  ]
  ascii(0, 'MZ')
  u32(0x3c, 0x40)
  ascii(0x40, 'PE\0\0')
  u16(0x44, 0x8664) // machine: x64
  u16(0x46, 1) // one section
  u16(0x54, 0xf0) // size of the optional header
  u16(0x56, 0x22e) // executable, large addresses, nothing stripped that there is
  const optional = 0x58
  u16(optional, 0x20b) // PE32+
  u32(optional + 4, ALIGNMENT) // size of code
  u32(optional + 16, SECTION_ADDRESS) // entry
  u32(optional + 20, SECTION_ADDRESS) // base of code
  u32(optional + 32, 0x1000)
  u32(optional + 36, ALIGNMENT)
  u32(optional + 56, IMAGE_SIZE)
  u32(optional + 60, ALIGNMENT) // size of headers
  u16(optional + 68, 10) // EFI application
  u32(optional + 108, 16) // data directories, all empty
  const section = optional + 0xf0
  ascii(section, '.text')
  u32(section + 8, code.length)
  u32(section + 12, SECTION_ADDRESS)
  u32(section + 16, ALIGNMENT)
  u32(section + 20, ALIGNMENT)
  u32(section + 36, 0x60000020) // code, execute, read
  file.set(code, ALIGNMENT)
  return file
}

const SECTOR = 512
const SECTOR_COUNT = 16384
const FAT_SECTORS = 64
const ROOT_ENTRIES = 512
const CLUSTER_FIRST = 1 + 2 * FAT_SECTORS + (ROOT_ENTRIES * 32) / SECTOR
const END = 0xffff

/** 8 MiB. Cluster 2 is /EFI, 3 is /EFI/BOOT, from 4 on the program. */
export function efiDisk(program: Uint8Array = efiProgram()): Uint8Array {
  const disk = new Uint8Array(SECTOR * SECTOR_COUNT)
  const view = new DataView(disk.buffer)
  const ascii = (at: number, text: string): void => disk.set(new TextEncoder().encode(text), at)
  disk.set([0xeb, 0x3c, 0x90])
  ascii(3, 'MSWIN4.1')
  view.setUint16(11, SECTOR, true)
  view.setUint8(13, 1) // a cluster is a sector
  view.setUint16(14, 1, true)
  view.setUint8(16, 2)
  view.setUint16(17, ROOT_ENTRIES, true)
  view.setUint16(19, SECTOR_COUNT, true)
  view.setUint8(21, 0xf8)
  view.setUint16(22, FAT_SECTORS, true)
  view.setUint8(38, 0x29)
  ascii(43, 'TYPEVISOR  FAT16   ')
  disk.set([0x55, 0xaa], 510)
  const clusterCount = Math.ceil(program.length / SECTOR)
  const chain = [
    0xfff8,
    END,
    END,
    END,
    ...Array.from({ length: clusterCount }, (_, at) => (at + 1 < clusterCount ? 5 + at : END)),
  ]
  for (const fat of [1, 1 + FAT_SECTORS])
    for (const [at, next] of chain.entries()) view.setUint16(fat * SECTOR + 2 * at, next, true)
  const entry = (sector: number, index: number, name: string, attributes: number, cluster: number, size: number): void => {
    const at = sector * SECTOR + 32 * index
    ascii(at, name)
    view.setUint8(at + 11, attributes)
    view.setUint16(at + 26, cluster, true)
    view.setUint32(at + 28, size, true)
  }
  const sectorOf = (cluster: number): number => CLUSTER_FIRST + cluster - 2
  const folder = 0x10
  entry(1 + 2 * FAT_SECTORS, 0, 'EFI        ', folder, 2, 0)
  entry(sectorOf(2), 0, '.          ', folder, 2, 0)
  entry(sectorOf(2), 1, '..         ', folder, 0, 0)
  entry(sectorOf(2), 2, 'BOOT       ', folder, 3, 0)
  entry(sectorOf(3), 0, '.          ', folder, 3, 0)
  entry(sectorOf(3), 1, '..         ', folder, 2, 0)
  entry(sectorOf(3), 2, 'BOOTX64 EFI', 0x20, 4, program.length)
  disk.set(program, sectorOf(4) * SECTOR)
  return disk
}
