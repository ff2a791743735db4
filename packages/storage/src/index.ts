/**
 * Volumes: where a guest's disks come from.
 *
 *        VolumeStore (port)
 *          |         |            |
 *     qcow2 files   memory   NBD volumes --control socket--> volume server --> store/     one conformance suite runs on all (testing.ts)
 *          |                      |
 *   VolumeFiles + CommandRunner --+    ports; node-files.ts and node-command.ts are the real ones
 *          |
 *       qemu-img
 *
 * Invariants: a volume is whole or not there; making, putting and removing can be done twice; one id is one volume of one kind;
 * no name, path or id is ever read as an option or a protocol; a base is never written.
 *
 * Failure paths: no space is `exhausted`, a missing base `not_found`, a smaller size than the base's or a bad id `invalid`, a damaged
 * image `failed` with qemu-img's words. After each of them, and after a kill, nothing half-made stays.
 *
 * What it is not: it moves nothing between hosts by itself (`content-stream.ts` is what a volume goes in, `open` where it comes from and goes
 * to), and has snapshots of NBD volumes only; it does not know which guest uses a volume.
 *
 * The store (store/; docs/volumes.md is its format and failure model): one file of copy-on-write volumes, their snapshots and clones.
 *
 *   NBD server -- served/: limits, statistics, leases, transfers -- volume-device -- writer --> blocks, then the journal, then the trees
 *                                                                        |
 *   store.ts: catalog, flushes, collector -- checkpoint.ts --> nodes, tables of free blocks, superblock;   recovery.ts: back from there
 *
 * Its invariants: a block is written once; every pointer has the checksum of its target; what was acknowledged is in the journal; what was
 * flushed is safe; a block is used again only when nothing that a crash may bring back leads to it. Tests that would see them broken:
 * store.sim (crashes at any turn), crash-states (all that a power cut may leave of short runs), rot.sim (blocks that change by themselves),
 * lease.sim (writers whose time is over).
 *
 * References: QEMU docs/interop/qcow2.txt; `man qemu-img`; docs/system/images.rst.
 */
export { commandFault, runChecked } from './command.ts'
export { memoryVolumeStore, type MemoryVolumeOptions, type MemoryVolumeStore } from './memory.ts'
export { exportNameFor } from './nbd-volume-leases.ts'
export { nbdVolumeStore, type MasterRecords, type NbdVolumeOptions } from './nbd-volume-store.ts'
export { nodeCommandRunner } from './node-command.ts'
export { nodeMasterRecords } from './node-master-records.ts'
export { nodeVolumeFiles, type NodeVolumeFilesOptions } from './node-files.ts'
export { qcow2VolumeStore, type Qcow2Options } from './qcow2.ts'
export { fileOf } from './ports.ts'
export {
  bytesOfFile,
  dataBytesOf,
  decodeContent,
  encodeContent,
  partsOfDisk,
  partsOfFile,
  writeParts,
  type ContentPart,
  type ContentSection,
} from './content-stream.ts'
export type {
  CommandOptions,
  CommandResult,
  CommandRunner,
  OpenVolume,
  SnapshotRef,
  VolumeFiles,
  VolumeInfo,
  VolumeLeases,
  VolumeSnapshots,
  VolumeSource,
  VolumeStore,
} from './ports.ts'
export { initVolumeFolder, openVolumeFolder, type VolumeFolder, type VolumeFolderOptions } from './node-volume-folder.ts'
export {
  askServer,
  type ServerCaller,
  type ServerCommands,
  type ServerHello,
  type VolumeServerConnection,
} from './node-volume-server.ts'
export { nodeChecksum, nodeStoreFile, type FileCalls, type NodeStoreFileOptions } from './node-store-file.ts'
export type { Checksum, HostSpace, StoreFile } from './store/ports.ts'
export type { LeaseReport } from './served/lease-commands.ts'
export type { OwnSpace, VolumeUsage } from './served/space.ts'
export type { SpaceLevel } from './served/space-watch.ts'
export { OPERATIONS, type OperationStatistics, type VolumeStatisticsReport } from './served/volume-statistics.ts'
export { LIMITS_MAX, type VolumeLimits } from './store/limits.ts'
export { BLOCK_BYTES } from './store/format.ts'
export {
  assertName,
  SIZE_BYTES_MAX,
  Store,
  type StoreCheck,
  type StoreOptions,
  type StoreUsage,
  type VolumeDescription,
  type VolumeOptions,
} from './store/store.ts'
export { COMPRESSION_KINDS, type CompressionKind } from './store/catalog.ts'
export { volumeDevice } from './store/volume-device.ts'
export { ServedStore, type CommandCaller, type VolumeCommand, type VolumeCommands } from './volume-commands.ts'
export { openImage } from './node-image-device.ts'
export { exportImage, imageEnds, importImage, type ImageOptions } from './node-images.ts'
export { writeNewFile } from './node-new-file.ts'
export { exportSnapshot, importStream, openServed, type ServedFolder } from './node-streams.ts'
export { IMAGE_FORMATS, parseImageFormat, type ImageFormat } from './served/disk-image.ts'
export type { VolumeForm } from './served/transfer-commands.ts'
export { isStream } from './served/volume-stream.ts'
export { diffExtents } from './served/diff-extents.ts'
export type { DiffExtent, DiffKind, DiffPage } from './store/diff.ts'
export type { ImportStatus, StreamTarget } from './store/transfers.ts'
