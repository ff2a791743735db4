/** What the hosts of a move, and whoever stands over both, tell each other. All of it is JSON. */
import type { Bytes, EpochMillis } from '@typevisor/base'
import type { DomainBoot, DomainHardware, DomainSpec } from './domain.ts'
import type { DomainName, VolumeId } from './ids.ts'
import type { DomainSettings } from './settings.ts'

/** What the target has to know of a domain; told by the source. */
export interface MigrationRequest {
  readonly name: DomainName
  readonly driver: string
  readonly accelerator: string
  readonly spec: DomainSpec
  readonly hardware: DomainHardware
  readonly boot: DomainBoot
  /** Of the image whose files it boots from; null: it needs none. */
  readonly imageDigest: string | null
  /** Those that are written to. */
  readonly disks: readonly { readonly volume: VolumeId; readonly virtualBytes: Bytes }[]
  /** What was changed of it while it ran; absent: nothing, or a source that does not know of it. */
  readonly settings?: DomainSettings
  readonly createdAt: EpochMillis
  /** It runs, and is to run there. */
  readonly goesOn: boolean
  /** It does not run: `disks` are all of its volumes then, kept ones too. Absent: it runs or is paused. */
  readonly cold?: {
    /** Of its saved memory; null: it is stopped. */
    readonly savedBytes: Bytes | null
  }
}

/** Where a domain is expected, and who may bring it: once, and only soon. */
export interface MigrationOffer {
  readonly address: string
  readonly port: number
  /** SHA-256 of the listener's certificate, in hexadecimal. */
  readonly fingerprint: string
  readonly token: string
  /** It is expected by post-copy. */
  readonly postCopy?: boolean
  /** Where its memory goes, when that is carried by another process. */
  readonly memory?: MigrationOffer
}

/** Absent: as the driver has it by itself. */
export interface MigrationParameters {
  /** How long the guest may stand still for the last of its memory, milliseconds. */
  readonly downtimeLimitMs?: number | undefined
  /** Bytes a second, of memory and of each disk; of one that does not run, of all together. */
  readonly bandwidthBytes?: number | undefined
  /** Slows a guest down that writes faster than its memory goes. */
  readonly autoConverge?: boolean | undefined
  /** Streams for the memory beside the one that there always is. */
  readonly channelCount?: number | undefined
  /**
   * It goes on there when its memory has gone over once, and fetches what it wrote meanwhile. Until all has come it needs both hosts: while they
   * do not reach each other it waits, and the end of either is its own.
   */
  readonly postCopy?: boolean | undefined
  /** Its snapshots stay behind, and go with its disks there. */
  readonly dropSnapshots?: boolean | undefined
}

export interface MigrationProgress {
  /** `fetched`: it runs there, and what it lacks of its memory goes over. */
  readonly phase: 'disks' | 'memory' | 'switchover' | 'fetched'
  readonly memoryBytes: number
  readonly memoryRemainingBytes: number
  readonly diskBytes: number
  readonly diskRemainingBytes: number
  /** What the guest writes over again; null: not known yet. */
  readonly dirtyBytesPerSecond: number | null
}

export interface MigrationStatistics {
  readonly totalMs: number
  /** For how long the guest stood still, by the source's clock: to when the target said that it runs, or, where it did not say, that all had come. 0: it did not run. */
  readonly downtimeMs: number
  readonly memoryBytes: number
  readonly diskBytes: number
}

export interface MigrationResult {
  /** false: the target did not answer; the domain is `handed-over` on the source until that is known. */
  readonly confirmed: boolean
  readonly statistics: MigrationStatistics
}
