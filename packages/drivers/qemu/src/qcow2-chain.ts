/**
 * Follows a qcow2 file to its backing files by reading headers, so that QEMU gets every layer by name (or by inherited descriptor)
 * and opens nothing that a header could smuggle in.
 *
 *   0 "QFI\xfb"   4 version   8 backing file name's offset (u64)   16 its size (u32)          all big-endian
 *
 * Reference: QEMU docs/interop/qcow2.txt, "Header" and the extension 0xe2792aca, "Backing file format name".
 */
import { Fault } from '@typevisor/base'
import type { HostFiles } from './ports.ts'

export interface ImageLayer {
  readonly path: string
  readonly format: 'qcow2' | 'raw'
}

const MAGIC = 0x514649fb
const HEADER_SIZE_MAX = 65536
const NAME_SIZE_MAX = 1023
const DEPTH_MAX = 32
const EXTENSION_BACKING_FORMAT = 0xe2792aca

/**
 * @param folders Where layers may lie; null: anywhere. The driver may run as root and hands files on to QEMU as open descriptors, so a
 * header of foreign make must not choose which.
 * @throws Fault `failed` when a layer is missing, no qcow2 where one is wanted, or the chain is too deep; `forbidden` outside of `folders`.
 */
export async function readChain(
  files: HostFiles,
  path: string,
  format: 'qcow2' | 'raw',
  folders: readonly string[] | null = null,
): Promise<ImageLayer[]> {
  const layers: ImageLayer[] = []
  let next: ImageLayer | null = { path, format }
  while (next) {
    if (layers.length >= DEPTH_MAX) throw new Fault('failed', `open disk ${path}: more than ${DEPTH_MAX} layers`)
    if (folders && !isWithin(next.path, folders))
      throw new Fault('forbidden', `open disk ${path}: layer ${next.path} lies outside of the folders for disks`)
    const header: Uint8Array | null = await files.read(next.path, 0, HEADER_SIZE_MAX)
    if (!header) throw new Fault('failed', `open disk ${path}: no file ${next.path}`)
    layers.push(next)
    next = next.format === 'raw' ? null : parseBacking(next.path, header)
  }
  return layers
}

/** By names: who may make links in these folders may also put files there. */
const isWithin = (path: string, folders: readonly string[]): boolean =>
  !path.split('/').some((part) => part === '..' || part === '.') &&
  folders.some((folder) => path.startsWith(folder.endsWith('/') ? folder : `${folder}/`))

/** @throws Fault `failed` for a file that is no qcow2. */
export function parseBacking(path: string, header: Uint8Array): ImageLayer | null {
  const view = new DataView(header.buffer, header.byteOffset, header.byteLength)
  const magic = header.length >= 72 ? view.getUint32(0) : 0
  if (magic !== MAGIC)
    throw new Fault('failed', `open disk ${path}: magic 0x${magic.toString(16)}, want 0x${MAGIC.toString(16)} (qcow2)`)
  const offset = Number(view.getBigUint64(8))
  const size = view.getUint32(16)
  if (offset === 0 || size === 0) return null
  if (size > NAME_SIZE_MAX || offset + size > header.length)
    throw new Fault('failed', `open disk ${path}: backing name of ${size} bytes at ${offset} is outside of the header`)
  const name = new TextDecoder().decode(header.subarray(offset, offset + size))
  if (name.startsWith('json:') || /^[a-z][a-z0-9+.-]*:/i.test(name)) {
    throw new Fault('failed', `open disk ${path}: backing ${JSON.stringify(name)} is no plain file`)
  }
  const folder = path.slice(0, path.lastIndexOf('/') + 1)
  return { path: name.startsWith('/') ? name : `${folder}${name}`, format: backingFormat(path, view, header) }
}

function backingFormat(path: string, view: DataView, header: Uint8Array): 'qcow2' | 'raw' {
  let at = view.getUint32(4) >= 3 && header.length >= 104 ? view.getUint32(100) : 72
  while (at + 8 <= header.length) {
    const type = view.getUint32(at)
    const size = view.getUint32(at + 4)
    if (type === 0) break
    if (type === EXTENSION_BACKING_FORMAT && at + 8 + size <= header.length) {
      const format = new TextDecoder().decode(header.subarray(at + 8, at + 8 + size))
      if (format === 'qcow2' || format === 'raw') return format
      throw new Fault('failed', `open disk ${path}: backing format ${JSON.stringify(format)}, want qcow2 or raw`)
    }
    at += 8 + Math.ceil(size / 8) * 8
  }
  // Guessing the format would let a guest write a header into a raw base and have it believed.
  throw new Fault('failed', `open disk ${path}: it does not say its backing file's format; qemu-img rebase -u -F sets it`)
}
