/** The sim of the volume port: sizes and names; of bytes those that a test writes by `write`, which snapshots and clones keep as a disk does. */
import { bytes, Fault } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import { sizeFor } from './qcow2.ts'
import type { OpenVolume, SnapshotRef, VolumeInfo, VolumeSnapshots, VolumeStore } from './ports.ts'

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
const SNAPSHOT_NAME = /^[a-zA-Z0-9][a-zA-Z0-9._:-]{0,62}$/

interface MemorySnapshot {
  readonly info: VolumeInfo
  readonly content: Uint8Array | null
}

export interface MemoryVolumeStore extends VolumeStore {
  readonly snapshots: VolumeSnapshots
  /** What was put or written there; null: nothing. */
  content(id: VolumeId): Uint8Array | null
  /** As the guest that has it writes. */
  write(id: VolumeId, content: Uint8Array): void
  /** In use until it is disposed of. */
  open(id: VolumeId): Promise<OpenVolume>
}

export function memoryVolumeStore(options: MemoryVolumeOptions = {}): MemoryVolumeStore {
  const volumes = new Map<VolumeId, VolumeInfo>()
  const contents = new Map<VolumeId, Uint8Array>()
  const taken = new Map<VolumeId, Map<string, MemorySnapshot>>()
  const inUse = new Map<VolumeId, number>()
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
  const need = (id: VolumeId): VolumeInfo => {
    const info = volumes.get(parseVolumeId(id))
    if (!info) throw new Fault('not_found', `volume ${id}: there is none of this id`)
    return info
  }
  const needSnapshot = ({ volume, snapshot }: SnapshotRef): MemorySnapshot => {
    const found = taken.get(parseVolumeId(volume))?.get(snapshot)
    if (!found) throw new Fault('not_found', `snapshot ${snapshot} of volume ${volume}: there is none of this name`)
    return found
  }
  const setContent = (id: VolumeId, content: Uint8Array | null): void => {
    if (content === null) contents.delete(id)
    else contents.set(id, content)
  }
  const snapshots: VolumeSnapshots = {
    async take({ volume, snapshot }) {
      if (!SNAPSHOT_NAME.test(snapshot))
        throw new Fault('invalid', `snapshot: got ${JSON.stringify(snapshot)}, want ${SNAPSHOT_NAME.source}`)
      const info = need(volume)
      if (formatOf(info) === 'raw') throw new Fault('unsupported', `snapshot of volume ${volume}: it is a file`)
      const of = taken.get(volume) ?? new Map<string, MemorySnapshot>()
      taken.set(volume, of)
      if (!of.has(snapshot)) of.set(snapshot, { info, content: contents.get(volume) ?? null })
    },
    async revert(to) {
      const info = need(to.volume)
      if (inUse.get(to.volume)) throw new Fault('conflict', `revert volume ${to.volume}: it is in use`)
      const { content, info: then } = needSnapshot(to)
      volumes.set(to.volume, { ...info, virtualBytes: then.virtualBytes })
      setContent(to.volume, content)
    },
    async clone(id, from) {
      parseVolumeId(id)
      const { info, content } = needSnapshot(from)
      const there = again(id, formatOf(info))
      if (there) return there
      const format = formatOf(info)
      setContent(id, content)
      return add({ ...info, id, source: { kind: 'file', path: `/sim/volumes/${id}.${format}`, format } })
    },
    async remove({ volume, snapshot }) {
      const of = taken.get(parseVolumeId(volume))
      of?.delete(snapshot)
      if (of?.size === 0) taken.delete(volume)
    },
    async list(volume) {
      return [...(taken.get(parseVolumeId(volume))?.keys() ?? [])]
    },
  }
  return {
    snapshots,
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
    async create(id, virtualBytes) {
      parseVolumeId(id)
      return (
        again(id, 'qcow2') ??
        add({
          id,
          virtualBytes: bytes(sizeFor(id, virtualBytes, bytes(0))),
          allocatedBytes: bytes(CLONE_BYTES),
          source: { kind: 'file', path: `/sim/volumes/${id}.qcow2`, format: 'qcow2' },
          basePath: null,
        })
      )
    },
    async grow(id, virtualBytes) {
      const info = need(id)
      if (formatOf(info) === 'raw') throw new Fault('unsupported', `grow volume ${id}: it is a file`)
      if (inUse.get(id)) throw new Fault('conflict', `grow volume ${id}: it is in use`)
      const grown = { ...info, virtualBytes: bytes(sizeFor(id, virtualBytes, info.virtualBytes)) }
      volumes.set(id, grown)
      return grown
    },
    async get(id) {
      return volumes.get(parseVolumeId(id)) ?? null
    },
    async remove(id) {
      volumes.delete(parseVolumeId(id))
      contents.delete(id)
    },
    async list({ prefix = '' } = {}) {
      return [...volumes.values()].filter(({ id }) => id.startsWith(prefix)).sort((a, b) => (a.id < b.id ? -1 : 1))
    },
    content: (id) => contents.get(id) ?? null,
    write(id, content) {
      contents.set(need(id).id, content.slice())
    },
    async open(id) {
      const info = need(id)
      inUse.set(id, (inUse.get(id) ?? 0) + 1)
      const write = (offset: number, source: Uint8Array): void => {
        const before = contents.get(id) ?? new Uint8Array()
        const next = new Uint8Array(Math.max(before.length, offset + source.length))
        next.set(before)
        next.set(source, offset)
        contents.set(id, next)
      }
      const clear = async (offset: number, lengthBytes: number): Promise<void> => {
        const there = Math.min(lengthBytes, (contents.get(id)?.length ?? 0) - offset)
        if (there > 0) write(offset, new Uint8Array(there))
      }
      return {
        sizeBytes: info.virtualBytes,
        readOnly: formatOf(info) === 'raw',
        blockBytesMin: 1,
        blockBytesPreferred: 4096,
        async read(offset, target) {
          target.fill(0)
          target.set(contents.get(id)?.subarray(offset, offset + target.length) ?? [])
        },
        write: async (offset, source) => write(offset, source),
        async flush() {},
        trim: clear,
        zero: clear,
        async cache() {},
        async extents(offset, lengthBytes) {
          const dataBytes = Math.min(lengthBytes, Math.max(0, (contents.get(id)?.length ?? 0) - offset))
          const found = [
            { lengthBytes: dataBytes, hole: false, zero: false },
            { lengthBytes: lengthBytes - dataBytes, hole: true, zero: true },
          ]
          return found.filter((extent) => extent.lengthBytes > 0)
        },
        [Symbol.asyncDispose]: async () => void inUse.set(id, (inUse.get(id) ?? 1) - 1),
      }
    },
  }
}
