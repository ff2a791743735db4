import type { Bytes, EpochMillis } from '@typevisor/base'
import type { DomainSettings } from './settings.ts'
import type { DomainHardware } from './domain.ts'
import type { SnapshotId, SnapshotName, VolumeId } from './ids.ts'

/** Whether the guest's file systems are frozen while its disks are taken: `try` goes on without where the guest does not answer. */
export type Quiesce = 'try' | 'must' | 'no'
export const QUIESCE_MODES = ['try', 'must', 'no'] as const satisfies readonly Quiesce[]

/** Snapshots that one domain may have. */
export const SNAPSHOT_COUNT_MAX = 128

/** A domain as it was at one moment: its disks, and its memory if that was asked for. */
export interface DomainSnapshot {
  /** The volumes' snapshots carry it as their name. */
  readonly id: SnapshotId
  readonly name: SnapshotName
  readonly takenAt: EpochMillis
  /** What the domain was then; with memory it is that again after a revert. */
  readonly state: 'stopped' | 'running' | 'paused'
  /** null: disks only. */
  readonly memory: { readonly path: string; readonly sizeBytes: Bytes } | null
  /**
   * Are the disks as a guest leaves them that has written everything back? Else a file system on them recovers as after a power cut. Always
   * so with memory or of a stopped domain.
   */
  readonly quiesced: boolean
  /** Of its disks that can be written, all of one moment. */
  readonly volumes: readonly VolumeId[]
  /** As they were then; absent: none, or a snapshot of before. */
  readonly settings?: DomainSettings
  /** The machine's devices then, which a revert puts back. Absent, as in snapshots of before: those that it has. */
  readonly hardware?: DomainHardware
  /** What firmware and TPM had written down, a file of the host. Absent: the domain has neither, or a snapshot of before. */
  readonly firmwarePath?: string
}
