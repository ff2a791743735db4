import { assert, type BlockDevice, type Bytes } from '@typevisor/base'
import type { VolumeId } from '@typevisor/model'

/** How whoever uses a volume opens it. */
export type VolumeSource =
  | { readonly kind: 'file'; readonly path: string; readonly format: 'qcow2' | 'raw' }
  | { readonly kind: 'nbd'; readonly socketPath: string; readonly exportName: string }

/** Of a volume that is a file. */
export function fileOf({ id, source }: VolumeInfo): VolumeSource & { kind: 'file' } {
  assert(source.kind === 'file', `volume ${id} is a file`)
  return source
}

export interface VolumeInfo {
  readonly id: VolumeId
  readonly virtualBytes: Bytes
  /** null: its store does not count by volume. */
  readonly allocatedBytes: Bytes | null
  readonly source: VolumeSource
  /** The file that it was made of; null: it stands by itself. */
  readonly basePath: string | null
}

/** A snapshot by its volume and its name: `[a-zA-Z0-9][a-zA-Z0-9._:-]{0,62}`, of one volume only once. */
export interface SnapshotRef {
  readonly volume: VolumeId
  readonly snapshot: string
}

/** Absent where a store has no snapshots. All of it takes constant time and is idempotent. */
export interface VolumeSnapshots {
  /** Of what has been written to the volume up to now; whoever has it open goes on. @throws Fault `not_found`, `exhausted`. */
  take(of: SnapshotRef): Promise<void>
  /** The volume is again as the snapshot is. @throws Fault `conflict` while the volume is in use, or another's. */
  revert(to: SnapshotRef): Promise<void>
  /** A new volume that begins as the snapshot is. */
  clone(id: VolumeId, from: SnapshotRef): Promise<VolumeInfo>
  /** Volumes that were cloned from it stay. Also of a volume that is gone: snapshots outlive their volume. */
  remove(of: SnapshotRef): Promise<void>
  list(volume: VolumeId): Promise<readonly string[]>
}

/**
 * Who may write a volume that others can reach too: one holder at a time, under an epoch, a number that only grows. The store refuses every
 * other writer when it writes. Absent where a store has no leases. What is here is done by one holder, and is idempotent but for `offer`.
 */
export interface VolumeLeases {
  /** A UUID in small letters that stands for this host. */
  readonly holder: string
  /** The epoch in which the holder has the volume. null: it has not. */
  held(volume: VolumeId): Promise<number | null>
  /** The volume is the holder's; what is so already stays so, in its epoch, which is answered. @throws Fault `conflict` while another has it, `not_found`. */
  take(volume: VolumeId): Promise<number>
  /** The volume is nobody's; what another has stays that one's. To be called when the holder's writer has gone. */
  release(volume: VolumeId): Promise<void>
  /** Gives out the epoch after a hand-over: under it the next holder can open the volume, and read. @throws Fault `conflict` when it is not the holder's. */
  offer(volume: VolumeId): Promise<number>
  /**
   * The volume is `to`'s from now on, in the epoch that `offer` gave out. All that the holder's writer had acknowledged is flushed, its next write
   * is refused. @throws Fault `conflict` when it is not the holder's.
   */
  handOver(volume: VolumeId, to: string, nextEpoch: number): Promise<void>
}

/** A volume as whoever has nothing to do with its guest has it. Disposing resolves when nobody has it by this any more. */
export type OpenVolume = BlockDevice & AsyncDisposable

/** Where volumes come from. */
export interface VolumeStore {
  readonly leases?: VolumeLeases
  readonly snapshots?: VolumeSnapshots
  /**
   * The disk's bytes, while no guest has it. Absent where a store gives its volumes to guests alone.
   * @throws Fault `not_found`; `unsupported` for one that this store cannot read.
   */
  open?(id: VolumeId): Promise<OpenVolume>
  /** A copy-on-write overlay over `base` (a read-only file that outlives it), grown to `virtualBytes`. Idempotent on `id`. @throws Fault `exhausted` without space, `not_found` without base. */
  clone(
    id: VolumeId,
    base: { path: string; format: 'qcow2' | 'raw' },
    virtualBytes: Bytes,
    options?: { signal?: AbortSignal | undefined },
  ): Promise<VolumeInfo>
  /** Takes a whole small file as a raw, read-only volume (cloud-init seeds). Idempotent on `id`. */
  put(id: VolumeId, content: Uint8Array): Promise<VolumeInfo>
  /** An empty disk, of zeros. Idempotent on `id`; one that is there keeps its size. @throws Fault `exhausted` without space. */
  create(id: VolumeId, virtualBytes: Bytes): Promise<VolumeInfo>
  /** Makes a disk larger; one that has the size has been made so. @throws Fault `invalid` for less than it has, `conflict` while somebody has it open, `not_found`. */
  grow(id: VolumeId, virtualBytes: Bytes): Promise<VolumeInfo>
  get(id: VolumeId): Promise<VolumeInfo | null>
  /** Idempotent. @throws Fault `conflict` while the volume is another's by its lease. */
  remove(id: VolumeId): Promise<void>
  /** `prefix`: only those whose id begins with it. */
  list(options?: { readonly prefix?: string }): Promise<readonly VolumeInfo[]>
}

/** Runs a program to its end. There is no shell between: `argv[0]` is a program, the rest are its arguments as they are. */
export interface CommandRunner {
  /** @throws Fault `failed` when the program is not there or cannot be started; the signal's reason when aborted (the program is ended then). */
  run(argv: readonly [string, ...string[]], options?: CommandOptions): Promise<CommandResult>
}

export interface CommandOptions {
  readonly folder?: string | undefined
  /** Added to a small, fixed environment (PATH, LC_ALL=C). */
  readonly env?: Readonly<Record<string, string>> | undefined
  readonly stdin?: Uint8Array | undefined
  readonly signal?: AbortSignal | undefined
  /** Told of each part of its standard output as it comes. */
  readonly onStdout?: ((text: string) => void) | undefined
}

export interface CommandResult {
  /** null when a signal ended it. */
  readonly exitCode: number | null
  readonly stdout: Uint8Array
  readonly stderr: string
}

/** The files of one folder, flat. A name has no separator; an operation on a missing name answers as its doc says. */
export interface VolumeFiles {
  /** Absolute path of a name. */
  path(name: string): string
  /** null where there is none. `allocatedBytes` is what the file takes on its disk. */
  stat(name: string): Promise<{ sizeBytes: number; allocatedBytes: number } | null>
  /** Is there a readable file at an absolute path outside the folder? */
  exists(path: string): Promise<boolean>
  /** Makes a new file, whole and synced. @throws Fault `exhausted` without space (nothing is left then). */
  write(name: string, content: Uint8Array): Promise<void>
  /** Sets owner and mode, syncs the file, renames it over `to` and syncs the folder. */
  publish(from: string, to: string, mode: number): Promise<void>
  /** Idempotent. */
  remove(name: string): Promise<void>
  list(): Promise<readonly string[]>
}
