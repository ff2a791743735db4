/**
 * Linux kernel images: from the bzImage that a distribution ships to the ELF file inside it.
 *
 *   bzImage:  | boot sector + setup header | real-mode setup | protected-mode stub ... payload (compressed vmlinux) ... |
 *                              0x1f1 setup_sects                     0x248 payload_offset, 0x24c payload_length
 *
 * Why: QEMU with TCG reached the first process in 1.75 s from the bzImage and in 1.47 s from its ELF file (6.1, LZ4; medians of 3). A kernel with the PVH entry note is started by QEMU
 * (and Xen) directly as ELF, so it is unpacked once, here, instead of at every boot of every guest. What a kernel loses by it: the
 * stub also moves the kernel to a random address (KASLR).
 *
 * References: Documentation/arch/x86/boot.rst (header), xen/include/public/elfnote.h (PHYS32_ENTRY, 18),
 * https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md ("Legacy frame").
 */
import { Fault } from '@typevisor/base'
import { decodeLz4Legacy } from './lz4.ts'

const SETUP_SECTOR_COUNT = 0x1f1
const BOOT_FLAG = 0x1fe
const HEADER_MAGIC = 0x202
const BOOT_VERSION = 0x206
const PAYLOAD_OFFSET = 0x248
const PAYLOAD_LENGTH = 0x24c
const XEN_ELFNOTE_PHYS32_ENTRY = 18

/** Unpacks other formats than LZ4 (gzip, zstd: what the host's runtime can); answers null for what it does not know. */
export type Unpack = (packed: Uint8Array, format: 'gzip' | 'zstd') => Uint8Array | null

export type KernelImage =
  /** Starts without a boot loader, by its PVH note. */
  | { readonly kind: 'elf'; readonly content: Uint8Array }
  /** Could not be unpacked, for `reason`; boots as it is, later. */
  | { readonly kind: 'bzimage'; readonly content: Uint8Array; readonly reason: string }

/** @throws Fault `invalid` when `file` is no bzImage of boot protocol 2.08 or later. */
export function unpackKernel(file: Uint8Array, unpack: Unpack = () => null): KernelImage {
  const keep = (reason: string): KernelImage => ({ kind: 'bzimage', content: file, reason })
  const payload = bzImagePayload(file)
  const format = payloadFormat(payload)
  if (format === null) return keep(`payload begins with ${hex(payload.subarray(0, 4))}, want lz4, gzip or zstd`)
  const sizeBytes = view(payload).getUint32(payload.byteLength - 4, true)
  if (sizeBytes > 512 * 1024 * 1024) return keep(`payload says it unpacks to ${sizeBytes} bytes, want at most 512 MiB`)
  // The size follows the compressed data, except in gzip, whose own trailer ends with it.
  const packed = format === 'gzip' ? payload : payload.subarray(0, -4)
  const content = format === 'lz4' ? decodeLz4Legacy(packed, sizeBytes) : unpack(packed, format)
  if (content === null) return keep(`no decompressor for ${format}`)
  if (!hasPvhEntry(content)) return keep('no PVH entry note (CONFIG_PVH)')
  return { kind: 'elf', content }
}

function bzImagePayload(file: Uint8Array): Uint8Array {
  const header = view(file)
  if (
    file.byteLength < 0x260 ||
    header.getUint16(BOOT_FLAG, true) !== 0xaa55 ||
    header.getUint32(HEADER_MAGIC, true) !== 0x53726448
  ) {
    throw new Fault('invalid', `read kernel: ${file.byteLength} bytes without the header magic HdrS, want a Linux bzImage`)
  }
  const version = header.getUint16(BOOT_VERSION, true)
  if (version < 0x208) throw new Fault('invalid', `read kernel: boot protocol 0x${version.toString(16)}, want at least 0x208`)
  const protectedMode = ((header.getUint8(SETUP_SECTOR_COUNT) || 4) + 1) * 512
  const start = protectedMode + header.getUint32(PAYLOAD_OFFSET, true)
  const length = header.getUint32(PAYLOAD_LENGTH, true)
  if (length < 16 || start + length > file.byteLength) {
    throw new Fault(
      'invalid',
      `read kernel: payload of ${length} bytes at ${start}, want it inside the file of ${file.byteLength}`,
    )
  }
  return file.subarray(start, start + length)
}

function payloadFormat(payload: Uint8Array): 'lz4' | 'gzip' | 'zstd' | null {
  switch (view(payload).getUint32(0, true)) {
    case 0x184c2102:
      return 'lz4'
    case 0xfd2fb528:
      return 'zstd'
    default:
      return payload[0] === 0x1f && payload[1] === 0x8b ? 'gzip' : null
  }
}

/** Looks for the Xen note PHYS32_ENTRY in the program headers of type PT_NOTE. */
export function hasPvhEntry(elf: Uint8Array): boolean {
  const file = view(elf)
  if (elf.byteLength < 64 || file.getUint32(0, false) !== 0x7f454c46 || file.getUint8(4) !== 2) return false
  const tableOffset = Number(file.getBigUint64(32, true))
  const entryBytes = file.getUint16(54, true)
  const entryCount = file.getUint16(56, true)
  if (entryBytes < 56 || tableOffset + entryBytes * entryCount > elf.byteLength) return false
  for (let index = 0; index < entryCount; index += 1) {
    const entry = tableOffset + index * entryBytes
    if (file.getUint32(entry, true) !== 4) continue
    const start = Number(file.getBigUint64(entry + 8, true))
    const end = Math.min(start + Number(file.getBigUint64(entry + 32, true)), elf.byteLength)
    for (let note = start; note + 12 <= end;) {
      const nameBytes = file.getUint32(note, true)
      const valueBytes = file.getUint32(note + 4, true)
      const name = String.fromCharCode(...elf.subarray(note + 12, note + 12 + Math.min(nameBytes, 4)))
      if (file.getUint32(note + 8, true) === XEN_ELFNOTE_PHYS32_ENTRY && name === 'Xen\0') return true
      note += 12 + align4(nameBytes) + align4(valueBytes)
    }
  }
  return false
}

const align4 = (count: number): number => (count + 3) & ~3
const view = (content: Uint8Array): DataView => new DataView(content.buffer, content.byteOffset, content.byteLength)
const hex = (content: Uint8Array): string => Array.from(content, (byte) => byte.toString(16).padStart(2, '0')).join(' ')
