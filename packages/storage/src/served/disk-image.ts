/**
 * Images of disks in other people's formats, as far as they have to be known before QEMU opens one: which format it is, and whether it
 * names other files. QEMU would open those; an image that somebody sends must not read what its reader may.
 *
 * Sources: QEMU docs/interop/qcow2.rst; block/vmdk.c (a header with capacity 0, or a text, names its extents), block/vpc.c, vhdx.c, vdi.c.
 */
import { Fault } from '@typevisor/base'
import { layout } from '@typevisor/codec'

/** By the names that QEMU's drivers have. */
export const IMAGE_FORMATS = ['qcow2', 'raw', 'vmdk', 'vpc', 'vhdx', 'vdi'] as const
export type ImageFormat = (typeof IMAGE_FORMATS)[number]

/** @throws Fault `invalid`. `vhd` is what people call QEMU's vpc. */
export function parseImageFormat(text: string): ImageFormat {
  const found = IMAGE_FORMATS.find((name) => name === (text === 'vhd' ? 'vpc' : text))
  if (!found) throw new Fault('invalid', `image format: got ${JSON.stringify(text)}, want ${IMAGE_FORMATS.join(', ')} or vhd`)
  return found
}

/** What of an image's file is looked at. */
export const IMAGE_HEAD_BYTES = 512

const QCOW2_HEAD = layout([
  ['magic', 'u32'],
  ['version', 'u32'],
  ['backingOffset', 'u64', '0: none'],
  ['backingBytes', 'u32'],
  ['clusterBits', 'u32'],
  ['sizeBytes', 'u64'],
  ['cryptMethod', 'u32'],
  ['l1Count', 'u32'],
  ['l1Offset', 'u64'],
  ['refcountOffset', 'u64'],
  ['refcountClusters', 'u32'],
  ['snapshotCount', 'u32'],
  ['snapshotOffset', 'u64'],
  ['incompatible', 'u64', 'from version 3 on'],
])
const QCOW2_MAGIC = 0x514649fb
const QCOW2_EXTERNAL_DATA = 4n
const VMDK_HEAD = layout(
  [
    ['magic', 'u32'],
    ['version', 'u32'],
    ['flags', 'u32'],
    ['capacity', 'u64', 'in sectors; 0: a descriptor says where the data is'],
  ],
  { littleEndian: true },
)
const VMDK_MAGIC = 0x564d444b
const VDI_MAGIC_AT = 0x40
const VDI_MAGIC = 0xbeda107f

const text = new TextDecoder('latin1')

/** `first`, `last`: the beginning and the end of the file, 512 bytes each or all there is. What nothing else claims is raw. */
export function probeImage(first: Uint8Array, last: Uint8Array): ImageFormat {
  const begin = text.decode(first)
  const view = new DataView(first.buffer, first.byteOffset, first.byteLength)
  if (first.length >= 4 && view.getUint32(0) === QCOW2_MAGIC) return 'qcow2'
  if (begin.startsWith('KDMV') || begin.startsWith('COWD') || /^(#[^\n]*\n)*# Disk Descriptor/i.test(begin)) return 'vmdk'
  if (begin.startsWith('vhdxfile')) return 'vhdx'
  if (first.length >= VDI_MAGIC_AT + 4 && view.getUint32(VDI_MAGIC_AT, true) === VDI_MAGIC) return 'vdi'
  if (begin.startsWith('conectix') || text.decode(last).startsWith('conectix')) return 'vpc'
  return 'raw'
}

/**
 * That an image of this format has QEMU open no other file than itself, but for a backing file where `withBacking`.
 * @throws Fault `forbidden` naming what it asks for, `invalid` for a head that is none.
 */
export function assertAlone(format: ImageFormat, first: Uint8Array, withBacking: boolean): void {
  if (format === 'qcow2') {
    const { magic, version, backingOffset, incompatible } = QCOW2_HEAD.decode(first)
    if (magic !== QCOW2_MAGIC || (version !== 2 && version !== 3))
      throw new Fault('invalid', `qcow2 image: got magic ${magic.toString(16)}, version ${version}, want version 2 or 3`)
    if (version === 3 && (incompatible & QCOW2_EXTERNAL_DATA) !== 0n)
      throw new Fault('forbidden', 'qcow2 image: its data lies in another file, want an image that is whole')
    if (backingOffset !== 0n && !withBacking) throw backingFault()
  }
  if (format === 'vmdk' && text.decode(first.subarray(0, 4)) !== 'COWD') {
    const { magic, capacity } = VMDK_HEAD.decode(first)
    if (magic !== VMDK_MAGIC || capacity === 0n)
      throw new Fault('forbidden', 'vmdk image: it names other files for its data, want monolithicSparse or streamOptimized')
  }
}

export const backingFault = (name?: string): Fault =>
  new Fault(
    'forbidden',
    `image: it goes on from another file${name === undefined ? '' : ` (${JSON.stringify(name)})`}, which would be read too; --with-backing allows it`,
  )
