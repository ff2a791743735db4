import { bytes, type Bytes, type EpochMillis } from '@typevisor/base'
import type { UsbModel } from './device.ts'
import type { Architecture, BootSource, Firmware } from './firmware.ts'
import type { DomainId, DomainName, ImageName, VolumeId } from './ids.ts'
import type { CrashAction, DomainSettings } from './settings.ts'
import type { DomainSnapshot } from './snapshot.ts'

/** What a caller asks for. Everything here may be chosen by a policy above; nothing is guessed below. */
export interface DomainSpec {
  readonly name: DomainName
  readonly vcpuCount: number
  readonly memoryBytes: Bytes
  readonly image: ImageName
  /** Size of the root disk; at least the image's. */
  readonly rootDiskBytes: Bytes
  readonly cloudInit: CloudInitSpec
  /** Host ports that reach guest ports by QEMU's user networking; `hostPort` 0: the host chooses, and the record says which. */
  readonly forwards: readonly PortForward[]
  readonly labels: Readonly<Record<string, string>>
  /** Absent, as in records of before it was asked: `pause`. */
  readonly diskFull?: DiskFull
  /** How many vCPUs it may be given while it runs; absent: `vcpuCount`, and no more. */
  readonly vcpuCountMax?: number
  /** How much memory it may be given while it runs; absent: `memoryBytes`, and no more. */
  readonly memoryBytesMax?: Bytes
  /** Its memory lies in huge pages, which the host has set aside. */
  readonly hugePages?: boolean
  /** How many devices can be attached to it later, at most 16. Absent: none. */
  readonly hotplugPortCount?: number
  /** What its settings of these names begin with. */
  readonly autostart?: boolean
  readonly autostartOrder?: number
  readonly onCrash?: CrashAction
  /** A USB controller from the start. Absent: none; the first USB device brings one, which takes a port. */
  readonly usb?: boolean
  /** Absent: `x86_64`. */
  readonly architecture?: Architecture
  /** Absent: `bios`. */
  readonly firmware?: Firmware
  /** A TPM 2.0, whose state is the guest's for life. */
  readonly tpm?: boolean
  /** What is tried, in this order; absent: the disk. */
  readonly bootOrder?: readonly BootSource[]
  /** Instead of what its image boots by: files of the host. Of a caller of the library, never of the API: it could name any file. */
  readonly boot?: DomainBoot
}

/** When there is no room for what the guest writes: it waits and goes on when there is, or it gets the error. */
export const DISK_FULL = ['pause', 'error'] as const
export type DiskFull = (typeof DISK_FULL)[number]

export interface PortForward {
  readonly protocol: 'tcp' | 'udp'
  readonly hostPort: number
  readonly guestPort: number
}

/** NoCloud: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html */
export interface CloudInitSpec {
  readonly hostname: string
  /** Account made in the guest; null: the image's default. */
  readonly user: string | null
  readonly sshKeys: readonly string[]
  /** Passed through as `user-data` when set (`#cloud-config` or a script). */
  readonly userData: string | null
}

/**
 * What the guest keeps for life, fixed at definition: saves and migrations must survive upgrades of the platform and of QEMU.
 * `machine` and `cpuModel` are versioned names (`pc-q35-7.2`, `Nehalem-v1`), never aliases.
 */
export interface DomainHardware {
  readonly machine: string
  readonly cpuModel: string
  readonly devices: readonly DomainDevice[]
}

/**
 * `address` is the PCI address, `slot.function` in hexadecimal: `4.0`; on the root bus, or behind the hot-plug port that `port` names. Of a USB
 * device it is its port of the controller.
 */
export type DomainDevice =
  | {
      readonly kind: 'disk'
      readonly name: string
      readonly volume: VolumeId
      readonly readOnly: boolean
      readonly address: string
      readonly serial: string
      readonly port?: string
      readonly leaving?: boolean
    }
  | {
      readonly kind: 'nic'
      readonly name: string
      readonly mac: string
      readonly address: string
      readonly forwards: readonly PortForward[]
      readonly port?: string
      readonly leaving?: boolean
    }
  | {
      readonly kind: 'cd'
      readonly name: string
      /** Both null: the drive is empty. */
      readonly medium: string | null
      readonly volume: VolumeId | null
      readonly address: string
      readonly serial: string
      readonly port?: string
      readonly leaving?: boolean
    }
  | {
      readonly kind: 'usb-controller'
      readonly name: string
      readonly address: string
      readonly port?: string
      readonly leaving?: boolean
    }
  | {
      readonly kind: 'usb'
      readonly name: string
      readonly model: UsbModel
      /** Of a `storage` device. */
      readonly volume?: VolumeId
      readonly address: string
      readonly serial: string
      readonly leaving?: boolean
    }
  /** Empty, or with the device that names it. */
  | { readonly kind: 'port'; readonly name: string; readonly address: string }
  | { readonly kind: 'agent-channel'; readonly name: string; readonly address: string }
  | { readonly kind: 'rng'; readonly name: string; readonly address: string }
  | { readonly kind: 'balloon'; readonly name: string; readonly address: string }
  /** Memory that is plugged while the guest runs, up to `sizeBytes`. */
  | { readonly kind: 'memory'; readonly name: string; readonly address: string; readonly sizeBytes: Bytes }
  | { readonly kind: 'video'; readonly name: string; readonly address: string }

/** How the guest is booted. Paths are files of the image, kept with the domain so that an image may be replaced. */
export type DomainBoot =
  | {
      readonly kind: 'kernel'
      readonly kernelPath: string
      /** The same kernel as UEFI loads it; absent: `kernelPath` is for both. */
      readonly efiKernelPath?: string
      readonly initrdPath: string | null
      readonly commandLine: string
    }
  | { readonly kind: 'disk' }

/** Why a state was entered. `unknown`: nobody watched, and the host keeps no trace of it. */
export type DomainCause =
  | 'requested'
  | 'guest' // the guest powered itself off, reset or slept
  | 'guest-panic'
  | 'watchdog'
  | 'disk-full' // there is no room for what the guest writes; it goes on by itself when there is
  | 'io-error' // a disk failed; the guest waits until it is let go on
  | 'process-failed' // the emulator ended by itself; its last words are in `detail`
  | 'autostart' // it ran when its host went down, and was started with it again
  | 'on-crash' // what its policy for crashes asks for
  | 'adopted' // found running by a new agent
  | 'migrated' // it went to another host, or came from one
  | 'unknown'

/**
 *               start                    pause
 *   stopped ------------> running <---------------> paused
 *      ^  ^                |   |       unpause         |
 *      |  +-- shutdown ----+   +-- save --> saved <----+ save
 *      |      poweroff         |              |
 *      |                       +<-- restore --+
 *      +--- poweroff --- crashed <-- guest-panic, process-failed
 *
 * `crashed` with a process keeps the guest's memory for a look; without one there is nothing left but the reason.
 */
export type DomainState =
  | { readonly kind: 'stopped'; readonly cause: DomainCause; readonly detail: string | null }
  | { readonly kind: 'running' }
  | { readonly kind: 'paused'; readonly cause: DomainCause }
  | { readonly kind: 'saved'; readonly savePath: string; readonly sizeBytes: Bytes }
  | { readonly kind: 'crashed'; readonly cause: DomainCause; readonly detail: string | null }

export type DomainStateKind = DomainState['kind']

/** Nobody paused it: it is to run, as soon as there is room on its disk. */
export const waitsForRoom = (state: { readonly kind: string; readonly cause?: string }): boolean =>
  state.kind === 'paused' && state.cause === 'disk-full'
export const isToRun = (state: { readonly kind: string; readonly cause?: string }): boolean =>
  state.kind === 'running' || waitsForRoom(state)

/** The side of a move to another host that does not run the guest, and does nothing with it but what the move asks for. */
export interface DomainMigration {
  /**
   * `incoming`: its memory and disks come, or have come; it runs when it is told to. `handed-over`: it runs on the other host, or is about to,
   * and here no more unless that is taken back.
   */
  readonly role: 'incoming' | 'handed-over'
  /** It was running, and runs on the side that has it in the end. */
  readonly goesOn: boolean
  /** Of an incoming one that does not run: what it is here once it is told to go; null until all of it has come. Absent: it runs. */
  readonly arrives?: DomainState | null
}

export interface DomainRecord {
  readonly id: DomainId
  readonly name: DomainName
  readonly driver: string
  readonly spec: DomainSpec
  readonly hardware: DomainHardware
  readonly boot: DomainBoot
  /** As they are in effect: each start may choose other host ports where 0 was asked. */
  readonly forwards: readonly PortForward[]
  /** Absent: nothing was ever set. */
  readonly settings?: DomainSettings
  /** What of the settings the guest has not taken up, and why; absent: all is as it was set. */
  readonly settingsNotes?: readonly string[]
  readonly state: DomainState
  /** The oldest first. */
  readonly snapshots: readonly DomainSnapshot[]
  /** The newest core dump of its memory, a file of the host; absent: there is none. */
  readonly dump?: DomainDump
  readonly createdAt: EpochMillis
  /** Absent: it is where it is. */
  readonly migration?: DomainMigration
}

export const DUMP_FORMATS = ['elf', 'kdump'] as const
export type DumpFormat = (typeof DUMP_FORMATS)[number]

export interface DomainDump {
  /** On its host. */
  readonly path: string
  /** `elf`: for gdb and crash; `kdump`: compressed, for crash. Absent, of an agent of before: `elf`. */
  readonly format?: DumpFormat
  readonly sizeBytes: Bytes
  readonly takenAt: EpochMillis
}

/** Cumulative counters unless named otherwise; null where the driver cannot tell. */
export interface DomainStatistics {
  readonly at: EpochMillis
  readonly cpuTimeNs: number | null
  /** What the emulator or hypervisor really holds now. */
  readonly residentBytes: number | null
  /** What the balloon leaves the guest, with what is plugged. */
  readonly balloonBytes: number | null
  /** Absent: an agent of before. */
  readonly vcpus?: readonly VcpuStatistics[]
  readonly disks: readonly {
    name: string
    readBytes: number
    writeBytes: number
    readCount: number
    writeCount: number
    flushCount: number
    /** How long they took together; absent: an agent of before. */
    readTimeNs?: number | null
    writeTimeNs?: number | null
    flushTimeNs?: number | null
  }[]
  readonly nics: readonly { name: string; receiveBytes: number | null; transmitBytes: number | null }[]
}

/** One of the guest's processors, as the host's scheduler sees its thread. */
export interface VcpuStatistics {
  readonly index: number
  readonly cpuTimeNs: number | null
  /** How long it could have run and no CPU was free. */
  readonly waitTimeNs: number | null
}

export interface GuestAddress {
  readonly device: string
  readonly mac: string | null
  readonly addresses: readonly { readonly family: 'ipv4' | 'ipv6'; readonly address: string; readonly prefixLength: number }[]
}

export interface ExecResult {
  readonly exitCode: number | null
  /** Signal number when the command was ended by one. */
  readonly signal: number | null
  readonly stdout: Uint8Array
  readonly stderr: Uint8Array
  /** Output was longer than the agent keeps (16 MiB with QEMU's). */
  readonly truncated: boolean
}

/** An amount that `bytes()` has checked, for literals in tables. */
export const DEFAULT_ROOT_DISK_BYTES = bytes(1024 * 1024 * 1024)
