import type { Bytes } from '@typevisor/base'
import type { VolumeId } from '@typevisor/model'

export interface VolumeInfo {
  readonly id: VolumeId
  readonly virtualBytes: Bytes
  readonly allocatedBytes: Bytes
  readonly format: 'qcow2' | 'raw'
  readonly path: string
}

/** Where volumes come from. Today qcow2 files through qemu-img; volumes of our own come behind the same port. */
export interface VolumeStore {
  /** A copy-on-write overlay over `base` (a read-only file that outlives it), grown to `virtualBytes`. Idempotent on `id`. @throws Fault `exhausted` without space, `not_found` without base. */
  clone(id: VolumeId, base: { path: string; format: 'qcow2' | 'raw' }, virtualBytes: Bytes, options?: { signal?: AbortSignal | undefined }): Promise<VolumeInfo>
  /** Takes a whole small file as a raw, read-only volume (cloud-init seeds). Idempotent on `id`. */
  put(id: VolumeId, content: Uint8Array): Promise<VolumeInfo>
  get(id: VolumeId): Promise<VolumeInfo | null>
  /** Idempotent. */
  remove(id: VolumeId): Promise<void>
  list(): Promise<readonly VolumeInfo[]>
}
