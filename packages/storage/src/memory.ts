/** The sim of the volume port: sizes and names, no bytes on a disk. */
import { bytes, Fault } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import type { VolumeInfo, VolumeStore } from './ports.ts'

type Format = 'qcow2' | 'raw'
const formatOf = ({ source }: VolumeInfo): Format => (source.kind === 'file' ? source.format : 'raw')

export interface MemoryVolumeOptions {
  /** Base path to its virtual size; missing: every base is there, with `defaultBaseBytes`. */
  readonly bases?: ReadonlyMap<string, number>
  readonly defaultBaseBytes?: number
  /** Bytes that all volumes may allocate together; each clone takes `cloneBytes`. Missing: no limit. */
  readonly capacityBytes?: number
}

/** What an empty overlay takes with qemu-img 7.2. */
const CLONE_BYTES = 196_608
const PUT_BYTES_MAX = 64 * 1024 * 1024

export function memoryVolumeStore(options: MemoryVolumeOptions = {}): VolumeStore & { content(id: VolumeId): Uint8Array | null } {
  const volumes = new Map<VolumeId, VolumeInfo>()
  const contents = new Map<VolumeId, Uint8Array>()
  const add = (info: VolumeInfo): VolumeInfo => {
    const used = [...volumes.values()].reduce((sum, each) => sum + (each.allocatedBytes ?? 0), 0)
    if (used + (info.allocatedBytes ?? 0) > (options.capacityBytes ?? Infinity))
      throw new Fault('exhausted', `make volume ${info.id}: no space left`)
    volumes.set(info.id, info)
    return info
  }
  const again = (id: VolumeId, format: Format): VolumeInfo | null => {
    const there = volumes.get(id)
    if (there && formatOf(there) !== format)
      throw new Fault('conflict', `volume ${id} is there as ${formatOf(there)}, want ${format}`)
    return there ?? null
  }
  return {
    async clone(id, base, virtualBytes, { signal } = {}) {
      parseVolumeId(id)
      signal?.throwIfAborted()
      if (!base.path.startsWith('/')) throw new Fault('invalid', `base: got ${JSON.stringify(base.path)}, want an absolute path`)
      const there = again(id, 'qcow2')
      if (there) return there
      const baseBytes = options.bases ? options.bases.get(base.path) : (options.defaultBaseBytes ?? 0)
      if (baseBytes === undefined) throw new Fault('not_found', `clone volume ${id}: no base ${base.path}`)
      if (virtualBytes < baseBytes)
        throw new Fault('invalid', `clone volume ${id}: got ${virtualBytes} bytes, want at least the base's ${baseBytes}`)
      return add({
        id,
        virtualBytes: bytes(Math.ceil(virtualBytes / 512) * 512),
        allocatedBytes: bytes(CLONE_BYTES),
        source: { kind: 'file', path: `/sim/volumes/${id}.qcow2`, format: 'qcow2' },
        basePath: base.path,
      })
    },
    async put(id, content) {
      parseVolumeId(id)
      if (content.byteLength === 0 || content.byteLength > PUT_BYTES_MAX)
        throw new Fault('invalid', `put volume ${id}: got ${content.byteLength} bytes, want 1 to ${PUT_BYTES_MAX}`)
      const there = again(id, 'raw')
      if (there) return there
      const sizeBytes = bytes(Math.ceil(content.byteLength / 512) * 512)
      const info = add({
        id,
        virtualBytes: sizeBytes,
        allocatedBytes: sizeBytes,
        source: { kind: 'file', path: `/sim/volumes/${id}.raw`, format: 'raw' },
        basePath: null,
      })
      contents.set(id, content.slice())
      return info
    },
    async get(id) {
      return volumes.get(parseVolumeId(id)) ?? null
    },
    async remove(id) {
      volumes.delete(parseVolumeId(id))
      contents.delete(id)
    },
    async list() {
      return [...volumes.values()].sort((a, b) => (a.id < b.id ? -1 : 1))
    },
    content: (id) => contents.get(id) ?? null,
  }
}
