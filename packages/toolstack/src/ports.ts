/** The port behind which every hypervisor stands. `sim` is its first driver, `qemu` the first real one; one conformance suite runs on all. */
import type { Bytes, EpochMillis, Json } from '@typevisor/base'
import { DUMP_FORMATS, type DumpFormat } from '@typevisor/model'
import type { VolumeSource } from '@typevisor/storage'
import type {
  Capability,
  Chord,
  DomainBoot,
  DeviceRequest,
  DomainCause,
  DomainDevice,
  DomainHardware,
  DomainId,
  DomainSettings,
  DomainSpec,
  DomainStatistics,
  ExecResult,
  GuestsOffered,
  DomainName,
  GuestAddress,
  MigrationOffer,
  MigrationParameters,
  MigrationProgress,
  MigrationStatistics,
  PortForward,
  DriverSettingName,
  VolumeId,
} from '@typevisor/model'

export type { Capability, GuestCapabilities } from '@typevisor/model'

export interface DriverCapabilities {
  readonly driver: string
  /** e.g. `QEMU 7.2.22`. */
  readonly version: string
  /** `tcg`, `kvm`, or `none` for a driver without guest code. */
  readonly accelerator: 'tcg' | 'kvm' | 'none'
  /** Why this accelerator, e.g. `probe guest on /dev/kvm gave no output in 3000 ms`. */
  readonly acceleratorReason: string
  readonly architectures: readonly string[]
  /** By architecture, what a guest of it can be begun by. Absent, as of agents of before: `x86_64` by `bios` from its disk, and no more. */
  readonly guests?: GuestsOffered
  readonly save: Capability
  readonly console: Capability
  readonly vnc: Capability
  readonly guestAgent: Capability
  readonly statistics: Capability
  readonly liveMigration: Capability
  /** Memory that follows the guest to the other host instead of going before it. */
  readonly postCopy?: Capability
  readonly hotplug: Capability
  readonly coreDump: Capability
  readonly keyboard: Capability
  /** What may be set of a domain, also while it runs. */
  readonly settings: Readonly<Record<DriverSettingName, Capability>>
  /** Whether a guest that runs can be given fewer vCPUs again. */
  readonly vcpuUnplug: Capability
}

/** What a driver needs to bring a domain to life; the toolstack keeps it in its journal. */
export interface DriverDomain {
  readonly id: DomainId
  readonly name: DomainName
  readonly spec: DomainSpec
  readonly hardware: DomainHardware
  readonly boot: DomainBoot
  /** In force from the start on; absent: none. */
  readonly settings?: DomainSettings
  /** Volume to what the driver opens. */
  readonly volumes: Readonly<Record<VolumeId, VolumeAttachment>>
}

/** How a driver reaches a volume. */
export type VolumeAttachment = VolumeSource

/** A domain as the hypervisor has it now. `gone`: no process, nothing held. */
export type DriverState =
  | { readonly kind: 'running' }
  | { readonly kind: 'paused'; readonly cause: DomainCause }
  /** The guest powered off; the process is kept so that nobody misses it, until `destroy`. */
  | { readonly kind: 'powered-off'; readonly cause: DomainCause }
  | { readonly kind: 'crashed'; readonly cause: DomainCause; readonly detail: string | null }
  | { readonly kind: 'gone'; readonly cause: DomainCause; readonly detail: string | null }

/** At least once; a driver that cannot tell the cause says `unknown`. `reset` changes no state: the guest rebooted. */
export interface DriverEvent {
  readonly at: EpochMillis
  readonly domain: DomainId
  readonly kind: 'state' | 'reset'
  readonly state: DriverState
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined
}

export interface SettingsOptions extends CallOptions {
  /** For the guest to take up or let go of what it is asked to. */
  readonly timeoutMs: number
}

export interface SettingsOutcome {
  /** What the guest has not taken up, and why; it may yet. */
  readonly notes: readonly string[]
}

export interface DetachOptions extends CallOptions {
  /** For the guest to let go. */
  readonly timeoutMs: number
  /** Without asking the guest, which sees its device vanish. */
  readonly force: boolean
}

export interface ConsoleOptions extends CallOptions {
  readonly fromOffset?: number | undefined
}

/** `elf`: for gdb. `kdump`: compressed, makedumpfile's flattened format, for crash. */
export const CORE_FORMATS = DUMP_FORMATS
export type CoreFormat = DumpFormat

export interface ExecRequest {
  readonly argv: readonly string[]
  readonly stdin?: Uint8Array
  readonly timeoutMs: number
}

/** A byte stream to a guest: the serial console, or VNC's RFB protocol. */
export interface GuestStream {
  readonly readable: AsyncIterable<Uint8Array>
  write(content: Uint8Array): Promise<void>
  close(): void
}

/** A piece of the console's kept output. Offsets count from the domain's first byte ever and never restart. */
export interface ConsoleSlice {
  readonly startOffset: number
  readonly endOffset: number
  readonly content: Uint8Array
}

/**
 * A stream of bytes between the hypervisors of two hosts. `readable` ends when the other side has ended its own, or is gone.
 * `write` resolves when there is room for more. @throws Fault `unavailable` when the other side is gone.
 */
export interface MigrationStream {
  readonly readable: AsyncIterable<Uint8Array>
  write(content: Uint8Array): Promise<void>
  /** Nothing more is written; what was written arrives. */
  end(): Promise<void>
  /** At once; what was not read yet is lost. */
  close(): void
}

/** What the source's driver needs of the other host. */
export interface MigrationPeer {
  /** `channel` as `MigrationTarget.connect` takes it. */
  open(channel: string, options?: CallOptions): Promise<MigrationStream>
  /** The disks are whole and nothing more is written to them; resolves when the other side has taken note. */
  disksDone(options?: CallOptions): Promise<void>
}

/** What a driver that receives a domain offers to the other host; it ends with `destroy`, or when the domain is taken over. */
export interface MigrationTarget {
  /** To its hypervisor. The names are the driver's own and the same on both sides: `memory`, `disk:root`. @throws Fault `not_found`. */
  connect(channel: string, options?: CallOptions): Promise<MigrationStream>
  /** Where its memory goes instead, by the channel `memory`: to what outlives this process. Absent: by `connect`. */
  readonly memory?: MigrationOffer
  disksDone(options?: CallOptions): Promise<void>
  /** Resolves when the domain stands paused and can be taken over: all has come, by post-copy all but memory. @throws Fault `failed` when it never will. */
  loaded(options?: CallOptions): Promise<void>
  /** Resolves when its memory is whole, at once of one that did not come by post-copy. @throws Fault `failed` when the domain has ended. */
  arrived(options?: CallOptions): Promise<void>
}

export interface TakenOver {
  /** When it went on; null: it did not. */
  readonly goneOnAt: number | null
  /** false: it lacks memory, which comes (`MigrationTarget.arrived`). */
  readonly isWhole: boolean
}

export interface TakeOverOptions extends CallOptions {
  readonly goesOn?: boolean | undefined
}

export interface ReceiveOptions extends CallOptions {
  /** As the source will use it. */
  readonly channelCount?: number | undefined
  readonly postCopy?: boolean | undefined
}

export interface MigrateOptions extends ReceiveOptions, Omit<MigrationParameters, 'dropSnapshots'> {
  readonly onProgress?: ((progress: MigrationProgress) => void) | undefined
}

export interface SendRestOptions extends CallOptions {
  readonly onProgress?: ((progress: MigrationProgress) => void) | undefined
}

export interface DomainDriver {
  readonly name: string
  capabilities(options?: CallOptions): Promise<DriverCapabilities>
  /** Fixes what the guest keeps for life. Pure in its inputs and this host's versions; asked once, at definition. `volumes` by device name. */
  planHardware(
    id: DomainId,
    spec: DomainSpec,
    volumes: readonly { name: string; volume: VolumeId; readOnly: boolean }[],
  ): Promise<DomainHardware>

  /**
   * Makes the domain, paused before its first instruction, and resolves when it can be unpaused. Idempotent: a domain that is there is kept.
   * @throws Fault `failed` with the emulator's last words when it dies at start; nothing is left behind then.
   */
  create(domain: DriverDomain, options?: CallOptions): Promise<void>
  unpause(id: DomainId, options?: CallOptions): Promise<void>
  pause(id: DomainId, options?: CallOptions): Promise<void>
  /** Asks the guest to power off (ACPI); resolves when asked, not when done. */
  requestShutdown(id: DomainId, options?: CallOptions): Promise<void>
  /** Resets the machine. The guest is not asked. */
  reset(id: DomainId, options?: CallOptions): Promise<void>
  /** Ends the domain at once and frees all that it held on the host (not its volumes). Idempotent. */
  destroy(id: DomainId, options?: CallOptions): Promise<void>

  /**
   * Writes memory and device state to `path` and ends the domain. On any fault the domain goes on as before and no file is left.
   * Idempotent: when the domain is gone and a whole save of it lies at `path`, that one is answered. Therefore `path` is of this save alone.
   */
  save(id: DomainId, path: string, options?: CallOptions): Promise<{ sizeBytes: number }>
  /** Makes the domain out of a save, paused. @throws Fault `failed` when the file is damaged or of another machine; nothing is left behind then. Idempotent as `create` is. */
  restore(domain: DriverDomain, path: string, options?: CallOptions): Promise<void>
  /** Whether `restore` would take the file, all of which is read. @throws Fault `not_found`, `failed`. */
  checkSave(domain: DriverDomain, path: string, options?: CallOptions): Promise<void>

  /**
   * Writes memory and device state to `path` and leaves the domain paused, with all that it has written in its volumes, so that those can be
   * taken too; `unpause` lets it go on. `restore` takes the file as often as the volumes are put back to that moment. On any fault the domain
   * is as before and no file is left. Idempotent: of a domain that stands still behind it since, a whole file at `path` is answered.
   */
  snapshotMemory(id: DomainId, path: string, options?: CallOptions): Promise<{ sizeBytes: number }>

  /**
   * Writes what the guest's firmware and TPM have written down to `path`, of a domain that is there or gone. False: it keeps nothing, and no
   * file is there. Of a running guest it is as after a power cut.
   */
  keepFirmware(domain: DriverDomain, path: string, options?: CallOptions): Promise<boolean>
  /**
   * Puts that back, for the next start of a domain that is gone; `nvramOnly`: without what is the TPM's. Idempotent.
   * @throws Fault `conflict` for a domain that is there, `not_found` and `failed` for a file that is not.
   */
  putFirmwareBack(domain: DriverDomain, path: string, options?: CallOptions & { readonly nvramOnly?: boolean }): Promise<void>

  /**
   * Makes the domain as `create` does, waiting for its memory and disks from another host; what a call before it left of one that waits is
   * ended first. From then on it stands paused until `takeOver`. A caller that is killed before all has come leaves nothing of it.
   * @throws Fault `unsupported`; `failed` when this host cannot run it as it is.
   */
  receive(domain: DriverDomain, options?: ReceiveOptions): Promise<MigrationTarget>
  /**
   * What was received is an ordinary paused domain from here on. With `goesOn` it is let go on at once; one that does not is seen by its state,
   * and `unpause` says why. @throws Fault `conflict` when not all of it has come. Idempotent.
   */
  takeOver(id: DomainId, options?: TakeOverOptions): Promise<TakenOver>
  /**
   * Sends disks and memory; resolves when all is sent and the guest stands still behind it, with its disks let go of. It goes on by `takeBack`
   * alone. On any fault, and when aborted, the domain goes on as before. A caller that is killed meanwhile leaves it to `takeBack`.
   * By post-copy it resolves when all has gone but memory and the processor's state, which go by `sendRest`.
   */
  migrateTo(id: DomainId, peer: MigrationPeer, options?: MigrateOptions): Promise<MigrationStatistics>
  /**
   * Behind a `migrateTo` by post-copy: the other side can take it over soon, from where there is no way back, and this resolves when all of its
   * memory has gone. What breaks is joined again by `peer`, for as long as it takes. Idempotent; at once where all has gone, or nothing is there.
   * @throws Fault `failed` when the other side has nothing of it and never will.
   */
  sendRest(id: DomainId, peer: Pick<MigrationPeer, 'open'>, options?: SendRestOptions): Promise<void>
  /** Of a domain that waits to be taken over, or lacks memory: for whoever takes up what a killed caller has left. null: there is none such. */
  receiving(id: DomainId, options?: CallOptions): Promise<MigrationTarget | null>
  /**
   * Whatever became of `migrateTo`: the domain is as before it, running or paused. Idempotent. One that the other side fetches memory of, and
   * has lost, cannot go on: it ends, as by a fault of its own.
   */
  takeBack(id: DomainId, wasRunning: boolean, options?: CallOptions): Promise<void>

  /**
   * Has the guest write back and freeze its file systems, through its agent. What is frozen already is thawed first. On any fault it is thawed.
   * @throws Fault `unavailable` while no agent answers in the guest, `timeout` past `limitMs`, `failed` with the agent's words.
   */
  freeze(id: DomainId, limitMs: number, options?: CallOptions): Promise<void>
  /** Nothing frozen is fine. */
  thaw(id: DomainId, options?: CallOptions): Promise<void>

  /**
   * Brings a domain that is there from `domain.settings` to `settings`, which the caller has checked (`assertSettings`). Idempotent. `create`
   * and `restore` bring a domain to its settings themselves.
   * @throws Fault `unsupported` for what `capabilities` says cannot be set, before anything is changed; `conflict` for
   * vCPUs of a guest that does not run, `timeout` when it does not let go of one or of memory, or does not take it, in time: part may be done then.
   */
  applySettings(domain: DriverDomain, settings: DomainSettings, options: SettingsOptions): Promise<SettingsOutcome>
  /**
   * Fixes what the device keeps for as long as it is attached: port, address, MAC, serial. Pure in its inputs. Another one that has to come
   * first (a USB controller) stands before it. `volume`: of a device that has one.
   * @throws Fault `unsupported` where the domain or the driver has no place for such a device, `exhausted` when all ports are taken.
   */
  planDevice(domain: DriverDomain, request: DeviceRequest, volume: VolumeId | null): Promise<readonly DomainDevice[]>
  /**
   * Gives a device to the guest. `domain` has it in its hardware already, and its volume among its volumes. Idempotent. On any fault the
   * guest has nothing of it. @throws Fault `conflict` for a domain that is not there.
   */
  attach(domain: DriverDomain, device: DomainDevice, options?: CallOptions): Promise<void>
  /**
   * Takes a device from the guest, which is asked to let go first. What is not there is detached already, also of a domain that is gone.
   * @throws Fault `timeout` when the guest does not let go: it may do so later, which `attachedDevices` tells.
   */
  detach(id: DomainId, name: string, options: DetachOptions): Promise<void>
  /** Names of the devices that came by `attach`, or were planned behind a port, and that the guest has now. @throws Fault `conflict` for a domain that is not there. */
  attachedDevices(id: DomainId, options?: CallOptions): Promise<readonly string[]>
  /** Puts what `domain` has in the drive of this name into the guest's, or takes out what is there. Idempotent. */
  changeMedium(domain: DriverDomain, name: string, options?: CallOptions): Promise<void>
  /**
   * Makes a disk larger under its guest. `grow` makes its volume so, which is done when nobody has it open; a driver that grows the volume itself
   * does not call it. Idempotent.
   */
  resizeDisk(
    domain: DriverDomain,
    name: string,
    sizeBytes: Bytes,
    grow: () => Promise<void>,
    options?: CallOptions,
  ): Promise<void>
  /** The guest's clock is set by the host's, through its agent. @throws Fault `unavailable` while no agent answers in the guest, `failed` with its words. */
  correctClock(id: DomainId, options?: CallOptions): Promise<void>

  state(id: DomainId, options?: CallOptions): Promise<DriverState>
  /** Finds what still runs after a restart of the caller, takes it over and answers each one's state; `gone` for those that are not there. */
  adopt(domains: readonly DriverDomain[], options?: CallOptions): Promise<ReadonlyMap<DomainId, DriverState>>
  /** Ends with `close`. One reader; the queue is bounded, and a reader that is too slow gets Fault `busy` and must `adopt` again. */
  events(options?: CallOptions): AsyncIterable<DriverEvent>

  /** The host ports in use, with those that the host chose. @throws Fault `conflict` for a domain that is not there. */
  forwards(id: DomainId, options?: CallOptions): Promise<readonly PortForward[]>
  statistics(id: DomainId, options?: CallOptions): Promise<DomainStatistics>
  /**
   * Live console. Many may be open at once; all see the output, the input is merged. With `fromOffset` the output begins with what was
   * kept from there (or the oldest kept byte after it) and goes on live, no byte lost or repeated; without it begins now.
   */
  openConsole(id: DomainId, options?: ConsoleOptions): Promise<GuestStream>
  /** Kept output from `fromOffset` (or the oldest kept byte after it), at most `sizeMax` bytes; works for a domain that is gone. */
  readConsole(id: DomainId, fromOffset: number, sizeMax: number, options?: CallOptions): Promise<ConsoleSlice>
  openVnc(id: DomainId, options?: CallOptions): Promise<GuestStream>

  /**
   * Runs a program in the guest. One that is not there ends with 127, one that cannot be executed with 126, as under a shell.
   * @throws Fault `unavailable` while no agent answers in the guest, `timeout` past the request's limit, `failed` when the guest is reset, goes
   * off or panics meanwhile.
   */
  exec(id: DomainId, request: ExecRequest, options?: CallOptions): Promise<ExecResult>
  addresses(id: DomainId, options?: CallOptions): Promise<readonly GuestAddress[]>

  /** A file of the guest, through its agent, at most `sizeMax` bytes from `fromOffset`. @throws as `exec`; Fault `failed` with the agent's words. */
  readGuestFile(id: DomainId, path: string, fromOffset: number, sizeMax: number, options?: CallOptions): Promise<Uint8Array>
  /** Writes a file of the guest whole, or behind what is there (`append`). @throws as `readGuestFile`. */
  writeGuestFile(
    id: DomainId,
    path: string,
    content: Uint8Array,
    options?: CallOptions & { readonly append?: boolean },
  ): Promise<void>
  /** Sets the password of an account that the guest has. @throws as `readGuestFile`. */
  setGuestPassword(id: DomainId, user: string, password: string, options?: CallOptions): Promise<void>

  /** What the screen shows, as a PNG picture. @throws Fault `unsupported` where there is none. */
  screenshot(id: DomainId, options?: CallOptions): Promise<Uint8Array>
  /** Presses chords of keys, one after the other. @throws Fault `unsupported` where there is no keyboard. */
  sendKeys(id: DomainId, chords: readonly Chord[], options?: CallOptions): Promise<void>
  /** Writes the guest's memory to a core file at `path`; the guest stands still meanwhile and goes on as it was. On any fault no file is left. */
  dumpCore(id: DomainId, path: string, options?: CallOptions & { readonly format?: CoreFormat }): Promise<{ sizeBytes: number }>

  /** What the host's own records and messages call the domain from now on, also one that is gone. Its guest is not told. Idempotent. */
  rename(id: DomainId, name: DomainName, options?: CallOptions): Promise<void>
  /** Drops what is kept of the domain on the host (console log, sockets, working folder). The domain must be gone. Idempotent. */
  forget(id: DomainId, options?: CallOptions): Promise<void>
  /** Lets go of everything; domains go on. */
  close(): Promise<void>
}

export interface MigrationListener {
  readonly offer: MigrationOffer
  /** For `MigrationLinks.listen`; a secret. */
  readonly kept: Json
  /** Those who are connected stay so. */
  close(): Promise<void>
}

/** Streams between the toolstacks of two hosts, encrypted, of those alone who were told of each other. */
export interface MigrationLinks {
  /**
   * For one migration. `take` is given each stream of whoever has the token, with the channel that it names. `kept`: as a listener of before
   * had it, so that its offer holds. @throws Fault `conflict` while somebody else has its port.
   */
  listen(take: (channel: string, stream: MigrationStream) => void, kept?: Json): Promise<MigrationListener>
  /** @throws Fault `unavailable`; `forbidden` when somebody else listens there, or the token is not in force. */
  connect(offer: MigrationOffer, channel: string, options?: CallOptions): Promise<MigrationStream>
}
