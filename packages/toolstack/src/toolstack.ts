import {
  Fault,
  faultFromJson,
  millis,
  retryable,
  toFault,
  type Bytes,
  type Clock,
  type EpochMillis,
  type IdSource,
  type Json,
  type Log,
} from '@typevisor/base'
import {
  AUTOSTART_ORDER_DEFAULT,
  isToRun,
  type AgentEvent,
  type Chord,
  type DeviceInfo,
  type DeviceRequest,
  type DomainId,
  type DomainName,
  type DomainRecord,
  type DomainSpec,
  type DomainState,
  type DomainStatistics,
  type ExecResult,
  type GuestAddress,
  type HostEvent,
  type HostPart,
  type ImageName,
  type SettingsPatch,
  type MigrationOffer,
  type MigrationParameters,
  type MigrationProgress,
  type MigrationRequest,
  type MigrationResult,
  type SnapshotId,
  type VerbName,
} from '@typevisor/model'
import {
  createSagaEngine,
  fence as toFence,
  fileSagaStore,
  sagaId,
  type SagaEngine,
  type SagaId,
  type SagaRecord,
  type SagaStore,
  type StateFile,
} from '@typevisor/saga'
import type { ImageStore } from '@typevisor/image'
import type { VolumeStore } from '@typevisor/storage'
import { describeDevices, DETACH_DEFAULTS, type MediaFolder } from './devices.ts'
import { Ledger, type PartNote } from './ledger.ts'
import { crashVerdict, recover, type RecoverInput } from './recovery.ts'
import { MIGRATION_SAGAS, migrationRequest, resultOf, takeUpArrival } from './migration.ts'
import { checkRequest, type TOOLSTACK_OPERATIONS } from './operations.ts'
import type {
  ConsoleOptions,
  ConsoleSlice,
  DomainDriver,
  DriverCapabilities,
  DriverEvent,
  DriverState,
  ExecRequest,
  GuestStream,
  MigrationLinks,
} from './ports.ts'
import { holdsProcess, stateFromDriver } from './state.ts'
import { toRecord, type StoredDomain } from './stored-domain.ts'
import type { SnapshotRequest } from './snapshots.ts'
import type { Moves, SaveFolder, ToolstackServices } from './steps.ts'
import { TOOLSTACK_SAGAS } from './verbs.ts'

export interface ToolstackOptions {
  readonly driver: DomainDriver
  readonly volumes: VolumeStore
  readonly images: Pick<ImageStore, 'get'>
  /** Where sagas, domains, fences and events are kept; not opened yet, and the toolstack's own from then on. */
  readonly state: StateFile
  readonly saves: SaveFolder
  /** What CD drives take. Absent: nothing. */
  readonly media?: MediaFolder | undefined
  /** Left out: no domain moves from or to this host. */
  readonly links?: MigrationLinks | undefined
  readonly clock: Clock
  readonly ids: IdSource
  readonly log: Log
  /** Names this toolstack among the users of the saga store. */
  readonly owner: string
  /**
   * Names the boot of the host, such as `/proc/sys/kernel/random/boot_id` does. When it is another than that of the toolstack before, domains
   * that ran then and are set to `autostart` are started, one after the other by their order. Left out: none is.
   */
  readonly bootId?: string | undefined
}

/**
 * `commandId` makes a command idempotent: given twice it is done once, also over a crash. `fence` goes with commands of a control
 * plane; one that is lower than the highest seen for the domain is refused (`stale_fence`).
 */
export interface CommandOptions {
  readonly commandId: string
  readonly fence?: number
  /** Abort stops the waiting, not the command. */
  readonly signal?: AbortSignal | undefined
}

const commandOf = ({ commandId, fence }: CommandOptions) => ({ commandId, fence })

export interface DetachRequest {
  /** For the guest to let go; default 30 s. */
  readonly timeoutMs?: number
  /** Without asking the guest. */
  readonly force?: boolean
  readonly deleteVolume?: boolean
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined
}

export interface Toolstack {
  capabilities(options?: ReadOptions): Promise<DriverCapabilities>
  list(): DomainRecord[]
  get(id: DomainId): DomainRecord | null
  /** Makes disks and record; the domain is `stopped`. */
  define(id: DomainId, spec: DomainSpec, options: CommandOptions): Promise<DomainRecord>
  /** Carries out a verb of `VERBS`; null when the domain is gone by it. @throws Fault `conflict` from a state in which the table does not allow it. */
  carryOut(verb: VerbName, id: DomainId, options: CommandOptions & { timeoutMs?: number }): Promise<DomainRecord | null>
  /**
   * Changes settings, also of a running domain; from then on they are in force at each start. What the guest has not taken up yet is in the
   * record's `settingsNotes`. @throws Fault `unsupported` for what the driver cannot set, `timeout` when the guest does not take part in time.
   */
  set(id: DomainId, patch: SettingsPatch, options: CommandOptions & { timeoutMs?: number }): Promise<DomainRecord>
  /** In every state. The guest is not told. @throws Fault `conflict` when another domain has the name. */
  rename(id: DomainId, name: DomainName, options: CommandOptions): Promise<DomainRecord>
  /** Takes a snapshot; the domain goes on as it was. @throws Fault `unsupported` where the volumes have no snapshots. */
  snapshot(id: DomainId, request: SnapshotRequest, options: CommandOptions): Promise<DomainRecord>
  /**
   * Ends the guest and puts the disks back; what was written since is gone. With memory the domain goes on from the snapshot, running or paused
   * as it was; without it is stopped, or with `start` boots from the disks.
   */
  revert(id: DomainId, snapshot: SnapshotId, options: CommandOptions & { start?: boolean }): Promise<DomainRecord>
  /** Those that were cloned from it stay. One that is not there is deleted already. */
  removeSnapshot(id: DomainId, snapshot: SnapshotId, options: CommandOptions): Promise<DomainRecord>
  /**
   * Makes a new domain, stopped, whose root disk begins as the snapshot's; the rest is new: id, name, addresses, seed. Memory is not cloned:
   * there would be two of one identity. `spec` has the image and the disk's size of the domain that it comes from.
   */
  clone(
    id: DomainId,
    spec: DomainSpec,
    from: { readonly domain: DomainId; readonly snapshot: SnapshotId },
    options: CommandOptions,
  ): Promise<DomainRecord>
  /** What another host has to know of a domain to receive it. @throws Fault `conflict` when it cannot move as it is, `unsupported`. */
  migrationRequest(id: DomainId, parameters?: MigrationParameters): Promise<MigrationRequest>
  /**
   * Expects a domain of another host: its disks are made, and it waits for what comes by the offer. Nobody who comes soon, or all of whom go
   * before all has come, and it is gone again. @throws Fault `conflict` naming what does not fit here.
   */
  receive(
    id: DomainId,
    request: MigrationRequest,
    options: CommandOptions & Pick<MigrationParameters, 'channelCount' | 'postCopy'>,
  ): Promise<MigrationOffer>
  /**
   * Moves a domain to where it is expected, while it runs. Behind it the domain runs there and nothing of it is left here; or, not `confirmed`,
   * it is `handed-over`. On any fault it goes on here.
   */
  migrate(
    id: DomainId,
    offer: MigrationOffer,
    options: CommandOptions & MigrationParameters & { onProgress?: ((progress: MigrationProgress) => void) | undefined },
  ): Promise<MigrationResult>
  /** Ends what `migrate` began; answers where the domain is then: it may be too late. */
  cancelMigration(id: DomainId, options?: Pick<CommandOptions, 'fence' | 'signal'>): Promise<'here' | 'handed-over' | 'gone'>
  /** The source has handed it over: it runs here. One that does already is left as it is. @throws Fault `failed` when it never ran here and never will. */
  takeOverReceived(id: DomainId, options: CommandOptions): Promise<DomainRecord>
  /** It stays where it was: nothing is left of it here. One that runs here is left as it is. */
  abandonReceived(id: DomainId, options: CommandOptions): Promise<void>
  /** One that was handed over goes on here, for who knows that it never ran there and never will. */
  takeBackMigrated(id: DomainId, options: CommandOptions): Promise<DomainRecord>
  /**
   * Gives the domain a device, and the volume that it asks for. Running, the guest sees it at once.
   * @throws Fault `unsupported` without hot-plug ports, `exhausted` when they are all taken, `conflict` for a name that is taken.
   */
  attach(id: DomainId, device: DeviceRequest, options: CommandOptions): Promise<DomainRecord>
  /** Takes a device away; its volume is kept unless `deleteVolume`, and is attached again by its name. @throws Fault `timeout` when the guest does not let go. */
  detach(id: DomainId, name: string, options: CommandOptions & DetachRequest): Promise<DomainRecord>
  /** Makes a disk larger, also the root disk, also while the guest runs. */
  resizeDisk(id: DomainId, name: string, sizeBytes: Bytes, options: CommandOptions): Promise<DomainRecord>
  /** Puts an image of the host's media into a CD drive in place of what is there; null: ejects. */
  changeMedium(id: DomainId, name: string, medium: string | null, options: CommandOptions): Promise<DomainRecord>
  /** All devices, and the volumes that are kept of detached ones. */
  devices(id: DomainId): Promise<readonly DeviceInfo[]>
  /**
   * Guards a command on an image, which is no saga, since whoever is killed in it begins it anew: one that is done is not done again
   * (false), one of an owner that was replaced is refused.
   */
  onceForImage(name: ImageName, options: CommandOptions, work: () => Promise<void>): Promise<boolean>
  /** Is anything in this folder what a domain boots from, or what a volume is an overlay of? Always yes while a domain is being defined. */
  holdsFiles(folder: string): Promise<boolean>
  /** Keeps what happened to a part of the host and tells it, in the order of the domains' transitions. Resolves when it outlives a crash. */
  notePart(note: PartNote): Promise<void>
  /** What was noted of it last, also by a toolstack before this one. */
  newestOf(part: HostPart): HostEvent | null
  /** Transitions of domains and events of the host after `afterSequence`: kept ones, then live. At least once, in order. */
  events(afterSequence: number, options?: ReadOptions): AsyncIterable<AgentEvent>
  acknowledge(sequence: number): Promise<void>
  /** Sequence of the newest transition; `list` and `get` show at least it. */
  lastSequence(): number
  /** Which journal sequences are of: another one when the host was set up anew, and counts from the beginning. */
  journalId(): string
  statistics(id: DomainId, options?: ReadOptions): Promise<DomainStatistics>
  exec(id: DomainId, request: ExecRequest, options?: ReadOptions): Promise<ExecResult>
  addresses(id: DomainId, options?: ReadOptions): Promise<readonly GuestAddress[]>
  openConsole(id: DomainId, options?: ConsoleOptions): Promise<GuestStream>
  readConsole(id: DomainId, fromOffset: number, sizeMax: number, options?: ReadOptions): Promise<ConsoleSlice>
  /** A file of the guest through its agent: at most `sizeMax` bytes from `fromOffset`. */
  readGuestFile(id: DomainId, path: string, fromOffset: number, sizeMax: number, options?: ReadOptions): Promise<Uint8Array>
  /** Whole, or with `append` behind what is there. */
  writeGuestFile(
    id: DomainId,
    path: string,
    content: Uint8Array,
    options?: ReadOptions & { readonly append?: boolean },
  ): Promise<void>
  setGuestPassword(id: DomainId, user: string, password: string, options?: ReadOptions): Promise<void>
  /** The screen as a PNG picture. */
  screenshot(id: DomainId, options?: ReadOptions): Promise<Uint8Array>
  sendKeys(id: DomainId, chords: readonly Chord[], options?: ReadOptions): Promise<void>
  openVnc(id: DomainId, options?: ReadOptions): Promise<GuestStream>
  /** Lets go; domains go on, and the next toolstack on the same ledger adopts them. */
  close(): Promise<void>
}

/** Adopts what runs, resumes what was cut short, and serves. */
export async function openToolstack(options: ToolstackOptions): Promise<Toolstack> {
  const toolstack = new SagaToolstack(options)
  await toolstack.open()
  return toolstack
}

/** Beyond that the driver's queue holds them, which is bounded too. */
const EVENTS_UNDER_WAY_MAX = 1024
const LOOK_AGAIN = millis(1000)
const PARTS_OF_A_MOVE = ['receive', 'go', 'abandon', 'arrived', 'take-back', 'destroy']
const sagasOf = (names: readonly string[]): ReadonlySet<string> => new Set(names.map((name) => `domain.${name}`))
/** What can be done with a domain on the side that does not run it. */
const OF_MOVING = sagasOf([...PARTS_OF_A_MOVE, 'migrate'])
/** With one that lacks memory. */
const WHILE_ARRIVING = sagasOf([
  ...PARTS_OF_A_MOVE,
  ...['pause', 'unpause', 'shutdown', 'reboot', 'poweroff', 'rename', 'recover'],
])

interface Look {
  /** What was told; it has the cause, where it is still so. */
  readonly event?: DriverState
  readonly reconstructed?: boolean
}

class SagaToolstack implements Toolstack {
  readonly #options: ToolstackOptions
  readonly #ledger: Ledger
  readonly #engine: SagaEngine
  readonly #sagas: SagaStore
  /** Verbs at a step that the driver carries out. */
  readonly #intents = new Map<DomainId, VerbName>()
  /** Sagas at work and their names, by domain: they write their own transitions. */
  readonly #held = new Map<DomainId, Map<SagaId, string>>()
  /** When the last saga of a domain ended: what a driver saw up to then may be what that saga has changed since. */
  readonly #settledAt = new Map<DomainId, { readonly at: EpochMillis; readonly count: number }>()
  /** Domains of which something was seen and left to the saga at work; true: it happened while nobody watched. */
  readonly #missed = new Map<DomainId, boolean>()
  readonly #waiters = new Map<DomainId, Set<() => void>>()
  readonly #closing = new AbortController()
  readonly #moves: Moves = {
    incoming: new Map(),
    arriving: new Map(),
    sending: new Map(),
    controls: new Map(),
    listeners: new Map(),
    handingOver: new Map(),
    rests: new Map(),
    arrived: async (id) => void (await this.#command('domain.arrived', id, { id }, { commandId: this.#options.ids.next() })),
    go: async (id, commandId) => void (await this.#command('domain.go', id, { id }, { commandId })),
    abandon: async (id, commandId) => void (await this.#command('domain.abandon', id, { id }, { commandId })),
  }
  readonly #services: ToolstackServices
  #watching: Promise<void> = Promise.resolve()
  /** What was begun for domains that crashed, and for those that start with the host. */
  readonly #recovering = new Set<Promise<void>>()
  /** While it is found what the host's end has left: no domain crashed by itself then. */
  #hostRebooted = false

  constructor(options: ToolstackOptions) {
    this.#options = options
    this.#ledger = new Ledger(options.state, options.clock)
    this.#sagas = fileSagaStore({ state: options.state, clock: options.clock })
    this.#services = {
      driver: options.driver,
      volumes: options.volumes,
      images: options.images,
      ledger: this.#ledger,
      saves: options.saves,
      media: options.media,
      links: options.links ?? null,
      moves: this.#moves,
      clock: options.clock,
      untilNotRunning: (id, signal) => this.#untilNotRunning(id, signal),
      look: (id, signal) => this.#lookAt(id, { reconstructed: true, signal }),
      intend: (id, verb) => {
        if (verb === null) this.#intents.delete(id)
        else this.#intents.set(id, verb)
      },
    }
    this.#engine = createSagaEngine({
      store: this.#sagas,
      sagas: [...Object.values(TOOLSTACK_SAGAS), ...Object.values(MIGRATION_SAGAS), recover],
      services: this.#services,
      clock: options.clock,
      log: options.log,
      owner: options.owner,
    })
  }

  async open(): Promise<void> {
    const { state, ids } = this.#options
    await state.open()
    await this.#ledger.begin(ids.next())
    // A domain that a saga holds is left to it: the saga knows what it was doing, and says so in its own transition.
    for (const saga of await this.#sagas.list({ unfinished: true })) this.#hold(saga.resource as DomainId, saga.id, saga.name)
    await this.#noteBoot()
    await this.#adopt()
    this.#hostRebooted = false
    this.#watching = this.#watch()
    await this.#engine.start()
    this.#inBackground(this.#startPending())
    for (const { id, crashPending } of this.#ledger.list()) if (crashPending) this.#inBackground(this.#dealWithCrash(id))
    for (const { id, migration, arriving } of this.#ledger.list())
      if (migration?.role === 'incoming' && !migration.arrives && !arriving && !this.#held.has(id)) void this.#giveUpIfGone(id)
    for (const { id, arriving } of this.#ledger.list())
      if (arriving) this.#inBackground(takeUpArrival(this.#services, id, this.#options))
  }

  /** Before anything is found out: which domains ran when the host went down is what the last toolstack knew. */
  async #noteBoot(): Promise<void> {
    const { bootId } = this.#options
    const { boot } = this.#ledger
    if (bootId === undefined || boot?.id === bootId) return
    if (boot === null) return await this.#ledger.noteBoot({ id: bootId, pending: [] })
    this.#hostRebooted = true
    const pending = this.#ledger
      .list()
      .filter(({ id, state, settings, migration }) => {
        const ran = isToRun(state) || boot.pending.includes(id)
        return settings?.autostart === true && ran && migration === undefined
      })
      .toSorted((one, other) => {
        const order = ({ settings }: StoredDomain): number => settings?.autostartOrder ?? AUTOSTART_ORDER_DEFAULT
        return order(one) - order(other) || (one.name < other.name ? -1 : 1)
      })
    await this.#ledger.noteBoot({ id: bootId, pending: pending.map(({ id }) => id) })
  }

  #inBackground(work: Promise<void>): void {
    const settled = work.catch((error: unknown) => {
      if (!this.#closing.signal.aborted) this.#options.log.error('toolstack.recovery_failed', { error: toFault(error).message })
    })
    this.#recovering.add(settled)
    void settled.finally(() => this.#recovering.delete(settled))
  }

  async #startPending(): Promise<void> {
    const { signal } = this.#closing
    for (let { boot } = this.#ledger; boot !== null; { boot } = this.#ledger) {
      const [id, ...rest] = boot.pending
      if (id === undefined) return
      const done = await this.#recover(id, { id, action: 'reboot', cause: 'autostart' })
      signal.throwIfAborted()
      if (done && this.#ledger.get(id)) this.#options.log.info('domain.autostarted', { domain: id })
      await this.#ledger.noteBoot({ id: boot.id, pending: rest })
    }
  }

  async #dealWithCrash(id: DomainId): Promise<void> {
    const { clock } = this.#options
    const domain = this.#ledger.get(id)
    if (!domain?.crashPending) return
    const { action, restarts, note } = crashVerdict(domain, clock.now())
    await this.#ledger.update({ ...domain, restarts })
    if (note !== null) await this.#ledger.noteUnchanged(id, { cause: 'on-crash', detail: note })
    if (action !== 'keep') await this.#recover(id, { id, action, cause: 'on-crash' })
    this.#closing.signal.throwIfAborted()
    const after = this.#ledger.get(id)
    // It may have crashed again meanwhile, which is another's to deal with.
    if (after?.crashPending !== domain.crashPending) return
    const { crashPending: _dealtWith, ...rest } = after
    await this.#ledger.update(rest)
  }

  /** Whether it was done; what stands in its way is told as an event. Whoever holds the domain is waited for: it may be crashed no more then. */
  async #recover(id: DomainId, input: RecoverInput): Promise<boolean> {
    const { ids, clock, log } = this.#options
    const { signal } = this.#closing
    while (!signal.aborted && this.#ledger.get(id)?.state.kind === 'crashed') {
      try {
        await this.#command('domain.recover', id, input, { commandId: ids.next(), signal })
        return true
      } catch (error) {
        if (signal.aborted) return false
        const fault = toFault(error)
        if (fault.code === 'busy') {
          await clock.sleep(LOOK_AGAIN, { signal }).catch(() => {})
          continue
        }
        log.warn('domain.not_recovered', { domain: id, cause: input.cause, error: fault.message })
        if (this.#ledger.get(id)) await this.#ledger.noteUnchanged(id, { cause: input.cause, detail: fault.message })
        return false
      }
    }
    return false
  }

  /** One that was expected when the last toolstack ended, and had not come. */
  async #giveUpIfGone(id: DomainId): Promise<void> {
    const { driver, ids, log } = this.#options
    try {
      if ((await driver.state(id, { signal: this.#closing.signal })).kind === 'gone') await this.#moves.abandon(id, ids.next())
    } catch (error) {
      log.warn('migration.not_given_up', { domain: id, error: toFault(error).message })
    }
  }

  capabilities(options?: ReadOptions): Promise<DriverCapabilities> {
    return this.#options.driver.capabilities(options)
  }
  list(): DomainRecord[] {
    return this.#ledger.list().map(toRecord)
  }
  get(id: DomainId): DomainRecord | null {
    const stored = this.#ledger.get(id)
    return stored && toRecord(stored)
  }

  async define(id: DomainId, spec: DomainSpec, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('define', 'domain.define', id, { spec }, options)
  }

  async carryOut(verb: VerbName, id: DomainId, options: CommandOptions & { timeoutMs?: number }): Promise<DomainRecord | null> {
    const input = options.timeoutMs === undefined ? { id } : { id, timeoutMs: options.timeoutMs }
    checkRequest('carryOut', { ...input, verb, ...commandOf(options) })
    await this.#command(`domain.${verb}`, id, input, options)
    return this.get(id)
  }

  async set(id: DomainId, patch: SettingsPatch, options: CommandOptions & { timeoutMs?: number }): Promise<DomainRecord> {
    const limit = options.timeoutMs === undefined ? {} : { timeoutMs: options.timeoutMs }
    return await this.#change('set', 'domain.set', id, { patch, ...limit }, options)
  }

  async rename(id: DomainId, name: DomainName, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('rename', 'domain.rename', id, { name }, options)
  }

  async snapshot(id: DomainId, request: SnapshotRequest, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('snapshot', 'domain.snapshot', id, { ...request }, options)
  }

  async revert(id: DomainId, snapshot: SnapshotId, options: CommandOptions & { start?: boolean }): Promise<DomainRecord> {
    const { start = false } = options
    return await this.#change('revert', 'domain.revert', id, { snapshot, start }, options)
  }

  async removeSnapshot(id: DomainId, snapshot: SnapshotId, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('removeSnapshot', 'domain.snapshot-delete', id, { snapshot }, options)
  }

  async clone(
    id: DomainId,
    spec: DomainSpec,
    from: { readonly domain: DomainId; readonly snapshot: SnapshotId },
    options: CommandOptions,
  ): Promise<DomainRecord> {
    return await this.#change('clone', 'domain.clone', id, { spec, from }, options)
  }

  async attach(id: DomainId, device: DeviceRequest, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('attach', 'domain.attach', id, { device }, options)
  }

  async detach(id: DomainId, name: string, options: CommandOptions & DetachRequest): Promise<DomainRecord> {
    const { timeoutMs, force, deleteVolume } = { ...DETACH_DEFAULTS, ...options }
    return await this.#change('detach', 'domain.detach', id, { name, timeoutMs, force, deleteVolume }, options)
  }

  async resizeDisk(id: DomainId, name: string, sizeBytes: Bytes, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('resizeDisk', 'domain.resize', id, { name, sizeBytes }, options)
  }

  async changeMedium(id: DomainId, name: string, medium: string | null, options: CommandOptions): Promise<DomainRecord> {
    return await this.#change('changeMedium', 'domain.medium', id, { name, medium }, options)
  }

  async devices(id: DomainId): Promise<readonly DeviceInfo[]> {
    return describeDevices(this.#options, this.#ledger.need(id))
  }

  migrationRequest(id: DomainId, parameters: MigrationParameters = {}): Promise<MigrationRequest> {
    return migrationRequest(this.#services, id, parameters)
  }

  async receive(
    id: DomainId,
    request: MigrationRequest,
    options: CommandOptions & Pick<MigrationParameters, 'channelCount' | 'postCopy'>,
  ): Promise<MigrationOffer> {
    const input = { id, request, channelCount: options.channelCount ?? 0, ...(options.postCopy ? { postCopy: true } : {}) }
    const { outputs } = await this.#command('domain.receive', id, input as unknown as Json, options)
    return outputs['expect'] as unknown as MigrationOffer // as the step wrote it
  }

  async migrate(
    id: DomainId,
    offer: MigrationOffer,
    options: CommandOptions & MigrationParameters & { onProgress?: ((progress: MigrationProgress) => void) | undefined },
  ): Promise<MigrationResult> {
    const { downtimeLimitMs, bandwidthBytes, autoConverge, channelCount, postCopy, dropSnapshots } = options
    const parameters = { downtimeLimitMs, bandwidthBytes, autoConverge, channelCount, postCopy, dropSnapshots }
    const stated = Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== undefined))
    checkRequest('migrate', { id, offer, parameters: stated, ...commandOf(options) })
    const { onProgress } = options
    if (onProgress) this.#moves.listeners.set(id, onProgress)
    try {
      const { outputs } = await this.#command('domain.migrate', id, { id, offer, parameters: stated } as unknown as Json, options)
      return resultOf(outputs)
    } finally {
      if (onProgress && this.#moves.listeners.get(id) === onProgress) this.#moves.listeners.delete(id)
    }
  }

  async cancelMigration(
    id: DomainId,
    { fence, signal }: Pick<CommandOptions, 'fence' | 'signal'> = {},
  ): Promise<'here' | 'handed-over' | 'gone'> {
    if (fence !== undefined) await this.#ledger.admit(id, toFence(fence))
    this.#moves.sending.get(id)?.abort(new Fault('aborted', 'the migration was cancelled'))
    for (const [saga, name] of this.#held.get(id) ?? []) if (name === 'domain.migrate') await this.#engine.wait(saga, { signal })
    const domain = this.#ledger.get(id)
    if (!domain) return 'gone'
    return domain.migration?.role === 'handed-over' ? 'handed-over' : 'here'
  }

  async takeOverReceived(id: DomainId, options: CommandOptions): Promise<DomainRecord> {
    await this.#command('domain.go', id, { id }, options)
    return toRecord(this.#ledger.need(id))
  }

  async abandonReceived(id: DomainId, options: CommandOptions): Promise<void> {
    await this.#command('domain.abandon', id, { id }, options)
  }

  async takeBackMigrated(id: DomainId, options: CommandOptions): Promise<DomainRecord> {
    await this.#command('domain.take-back', id, { id }, options)
    return toRecord(this.#ledger.need(id))
  }

  async onceForImage(name: ImageName, { commandId, fence = 0 }: CommandOptions, work: () => Promise<void>): Promise<boolean> {
    if (await this.#ledger.admitImage(name, commandId, toFence(fence))) return false
    await work()
    await this.#ledger.imageDone(name, commandId)
    return true
  }

  async holdsFiles(folder: string): Promise<boolean> {
    const isDefining = () => [...this.#held.values()].some((sagas) => [...sagas.values()].includes('domain.define'))
    const isIn = (path: string | null) => path?.startsWith(`${folder}/`) === true
    if (isDefining()) return true
    const volumes = await this.#options.volumes.list()
    const booted = this.#ledger
      .list()
      .flatMap(({ boot }) => (boot.kind === 'kernel' ? [boot.kernelPath, boot.efiKernelPath ?? null, boot.initrdPath] : []))
    return isDefining() || booted.some(isIn) || volumes.some((volume) => isIn(volume.basePath))
  }

  notePart(note: PartNote): Promise<void> {
    return this.#ledger.notePart(note)
  }
  newestOf(part: HostPart): HostEvent | null {
    return this.#ledger.newestOf(part)
  }

  events(afterSequence: number, options?: ReadOptions): AsyncIterable<AgentEvent> {
    const signal = options?.signal ? AbortSignal.any([options.signal, this.#closing.signal]) : this.#closing.signal
    return this.#ledger.events(afterSequence, signal)
  }
  acknowledge(sequence: number): Promise<void> {
    return this.#ledger.acknowledge(sequence)
  }

  lastSequence(): number {
    return this.#ledger.lastSequence
  }

  journalId(): string {
    return this.#ledger.journal
  }

  async statistics(id: DomainId, options?: ReadOptions): Promise<DomainStatistics> {
    return this.#options.driver.statistics(this.#live(id, 'statistics').id, options)
  }
  async exec(id: DomainId, request: ExecRequest, options?: ReadOptions): Promise<ExecResult> {
    return this.#options.driver.exec(this.#running(id, 'exec').id, request, options)
  }
  async addresses(id: DomainId, options?: ReadOptions): Promise<readonly GuestAddress[]> {
    return this.#options.driver.addresses(this.#running(id, 'addresses').id, options)
  }
  async openConsole(id: DomainId, options?: ConsoleOptions): Promise<GuestStream> {
    return this.#options.driver.openConsole(this.#live(id, 'console').id, options)
  }
  async readConsole(id: DomainId, fromOffset: number, sizeMax: number, options?: ReadOptions): Promise<ConsoleSlice> {
    return this.#options.driver.readConsole(this.#ledger.need(id).id, fromOffset, sizeMax, options)
  }
  async readGuestFile(
    id: DomainId,
    path: string,
    fromOffset: number,
    sizeMax: number,
    options?: ReadOptions,
  ): Promise<Uint8Array> {
    return this.#options.driver.readGuestFile(this.#running(id, 'read a file of').id, path, fromOffset, sizeMax, options)
  }
  async writeGuestFile(
    id: DomainId,
    path: string,
    content: Uint8Array,
    options?: ReadOptions & { readonly append?: boolean },
  ): Promise<void> {
    return this.#options.driver.writeGuestFile(this.#running(id, 'write a file of').id, path, content, options)
  }
  async setGuestPassword(id: DomainId, user: string, password: string, options?: ReadOptions): Promise<void> {
    return this.#options.driver.setGuestPassword(this.#running(id, 'set a password in').id, user, password, options)
  }
  async screenshot(id: DomainId, options?: ReadOptions): Promise<Uint8Array> {
    return this.#options.driver.screenshot(this.#live(id, 'picture of').id, options)
  }
  async sendKeys(id: DomainId, chords: readonly Chord[], options?: ReadOptions): Promise<void> {
    return this.#options.driver.sendKeys(this.#running(id, 'keys for').id, chords, options)
  }
  async openVnc(id: DomainId, options?: ReadOptions): Promise<GuestStream> {
    return this.#options.driver.openVnc(this.#live(id, 'vnc').id, options)
  }

  async close(): Promise<void> {
    for (const incoming of this.#moves.incoming.values()) incoming.end()
    this.#closing.abort(new Fault('aborted', 'the toolstack closes'))
    await this.#engine.stop()
    for (const control of this.#moves.controls.values()) control.close()
    await Promise.allSettled(this.#recovering)
    await this.#options.driver.close()
    await this.#watching
    this.#ledger.close()
    await this.#options.state.close()
  }

  #live(id: DomainId, what: string): StoredDomain {
    const domain = this.#ledger.need(id)
    if (!holdsProcess(domain.state.kind))
      throw new Fault('conflict', `${what} ${domain.name}: it is ${domain.state.kind}, want running or paused`)
    return domain
  }
  #running(id: DomainId, what: string): StoredDomain {
    const domain = this.#ledger.need(id)
    if (domain.state.kind !== 'running')
      throw new Fault('conflict', `${what} ${domain.name}: it is ${domain.state.kind}, want running`)
    return domain
  }

  /** As a caller asks for it, checked before anything is begun. @returns the domain as it is then. */
  async #change(
    operation: keyof typeof TOOLSTACK_OPERATIONS,
    name: string,
    id: DomainId,
    input: object,
    options: CommandOptions,
  ): Promise<DomainRecord> {
    const request = { id, ...input }
    checkRequest(operation, { ...request, ...commandOf(options) })
    await this.#command(name, id, request as unknown as Json, options)
    return toRecord(this.#ledger.need(id))
  }

  async #command(name: string, id: DomainId, input: Json, options: CommandOptions): Promise<SagaRecord> {
    options.signal?.throwIfAborted()
    if (options.fence !== undefined) await this.#ledger.admit(id, toFence(options.fence))
    const moving = this.#ledger.get(id)
    if (moving?.migration && !OF_MOVING.has(name))
      throw new Fault('conflict', `${name.slice('domain.'.length)} ${moving.name}: it is on its way to another host, or from one`)
    if (moving?.arriving && !moving.migration && !WHILE_ARRIVING.has(name))
      throw new Fault('conflict', `${name.slice('domain.'.length)} ${moving.name}: its memory still comes from the other host`)
    if (name === 'domain.destroy') {
      for (const under of [this.#moves.sending, this.#moves.handingOver])
        under.get(id)?.abort(new Fault('aborted', 'the domain is being destroyed'))
      await this.#letGo(id)
    }
    const saga = name === 'domain.destroy' ? await this.#runOf(options.commandId) : sagaId(options.commandId)
    await this.#engine.submit({ id: saga, name, resource: id, input })
    this.#hold(id, saga, name)
    const settled = await this.#engine.wait(saga, { signal: options.signal })
    throwUnlessDone(settled)
    return settled
  }

  /**
   * The saga of a destruction. One that was undone for a reason that passes has not been done: given again, it is tried again, since an
   * owner that undoes a creation gives the same command until the domain is gone. Other commands fail for good, and their owner gives another.
   */
  async #runOf(commandId: string): Promise<SagaId> {
    for (let run = 1; ; run += 1) {
      const id = sagaId(run === 1 ? commandId : `${commandId}~${run}`)
      const known = await this.#sagas.get(id)
      if (known?.state.kind !== 'undone' || !retryable(faultFromJson(known.state.fault))) return id
    }
  }

  /** A domain that a stuck saga holds can still be destroyed: nothing of what could not be undone is wanted any more. */
  async #letGo(id: DomainId): Promise<void> {
    for (const { id: saga, state } of await this.#sagas.list({ unfinished: true, resource: id })) {
      if (state.kind === 'stuck') await this.#engine.settleStuck(saga, 'abandon')
    }
  }

  /**
   * Who owns a domain's state, and the one rule of following it: while a saga holds the domain, the saga writes what it does; what is seen
   * meanwhile is noted and looked at when the saga has ended. Only a shutdown waits for what the guest does, and a crash is nobody's doing.
   */
  #isOwned(id: DomainId): boolean {
    return [...(this.#held.get(id)?.values() ?? [])].some((name) => name !== 'domain.shutdown')
  }

  #hold(id: DomainId, saga: SagaId, name: string): void {
    const sagas = this.#held.get(id) ?? new Map<SagaId, string>()
    if (sagas.has(saga)) return
    this.#held.set(id, sagas.set(saga, name))
    void this.#engine
      .wait(saga, { signal: this.#closing.signal })
      .catch(() => {})
      .then(() => {
        sagas.delete(saga)
        if (sagas.size > 0 || this.#closing.signal.aborted) return
        this.#held.delete(id)
        if (this.#ledger.get(id)) {
          this.#settledAt.set(id, { at: this.#options.clock.now(), count: (this.#settledAt.get(id)?.count ?? 0) + 1 })
        } else this.#settledAt.delete(id)
        const reconstructed = this.#missed.get(id)
        if (reconstructed === undefined) return
        this.#missed.delete(id)
        return this.#lookAgain(id, { reconstructed })
      })
  }

  #leave(id: DomainId, reconstructed: boolean): void {
    this.#missed.set(id, reconstructed || (this.#missed.get(id) ?? false))
  }

  /** Compares what was thought with what is there. What a saga did while the driver was asking makes the answer an old one. */
  async #adopt(): Promise<void> {
    const { driver, log } = this.#options
    const domains = this.#ledger.list()
    if (domains.length === 0) return
    const settled = new Map(domains.map(({ id }) => [id, this.#settledAt.get(id)?.count]))
    const seen = await driver.adopt(domains)
    for (const { id } of domains) {
      const state = seen.get(id)
      // One that does not answer is told of by an event, once it does.
      if (!state || !this.#ledger.get(id)) continue
      if (this.#isOwned(id)) this.#leave(id, true)
      else if (this.#settledAt.get(id)?.count !== settled.get(id)) void this.#lookAgain(id, { reconstructed: true })
      else {
        await this.#follow(id, state, true).catch((error: unknown) =>
          log.error('toolstack.adopt_failed', { domain: id, error: toFault(error).message }),
        )
      }
    }
  }

  async #watch(): Promise<void> {
    const { driver, log, clock } = this.#options
    const { signal } = this.#closing
    let outstanding = 0
    /** Events of one domain one after the other; those of several share the journal's syncs. */
    const following = new Map<DomainId, Promise<void>>()
    const settled = (): Promise<unknown> => Promise.all(following.values())
    while (!signal.aborted) {
      try {
        for await (const event of driver.events({ signal })) {
          const { domain } = event
          const before = following.get(domain)
          // At once where nothing is before it: what holds the domain is looked at as the event comes.
          const done: Promise<void> = (before ? before.then(() => this.#onEvent(event)) : this.#onEvent(event))
            .catch((error: unknown) => log.error('toolstack.event_failed', { domain, error: toFault(error).message }))
            .then(() => {
              if (following.get(domain) === done) following.delete(domain)
            })
          following.set(domain, done)
          outstanding += 1
          void done.then(() => (outstanding -= 1))
          if (outstanding >= EVENTS_UNDER_WAY_MAX) await settled()
        }
        return await settled().then(() => {})
      } catch (error) {
        await settled()
        if (signal.aborted) return
        // The reader was too slow and events are lost: ask for the states themselves.
        log.warn('toolstack.events_lost', { error: toFault(error).message })
        await this.#adopt().catch(async (inner: unknown) => {
          log.error('toolstack.adopt_failed', { error: toFault(inner).message })
          await clock.sleep(LOOK_AGAIN, { signal }).catch(() => {})
        })
      }
    }
  }

  async #onEvent(event: DriverEvent): Promise<void> {
    const { domain: id, kind, state, at } = event
    if (!this.#ledger.get(id)) return
    if (kind === 'reset') {
      await this.#ledger.noteUnchanged(id, { cause: this.#intents.get(id) === 'reboot' ? 'requested' : 'guest' })
      return
    }
    // Somebody of ours ended it, and writes what that means.
    if (state.kind === 'gone' && state.cause === 'requested') return
    const isOld = at <= (this.#settledAt.get(id)?.at ?? -Infinity)
    if (this.#isOwned(id) && (isOld || state.kind !== 'crashed')) this.#leave(id, false)
    else if (isOld) void this.#lookAgain(id, { event: state })
    else await this.#follow(id, state, false)
  }

  /** Asks the driver how the domain is, until it answers, and records what follows from it. */
  async #lookAgain(id: DomainId, how: Look): Promise<void> {
    const { clock, log } = this.#options
    const { signal } = this.#closing
    while (!signal.aborted) {
      try {
        return await this.#lookAt(id, { ...how, signal })
      } catch (error) {
        if (signal.aborted) return
        log.error('toolstack.look_failed', { domain: id, error: toFault(error).message })
        if (!retryable(error)) return
        await clock.sleep(LOOK_AGAIN, { signal }).catch(() => {})
      }
    }
  }

  async #lookAt(id: DomainId, { event, reconstructed = false, signal }: Look & { readonly signal: AbortSignal }): Promise<void> {
    while (true) {
      const before = this.#settledAt.get(id)?.count
      const seen = await this.#options.driver.state(id, { signal })
      if (!this.#ledger.get(id)) return
      if (this.#isOwned(id)) return this.#leave(id, reconstructed)
      if (this.#settledAt.get(id)?.count === before)
        return await this.#follow(id, event?.kind === seen.kind ? event : seen, reconstructed)
    }
  }

  async #follow(id: DomainId, seen: DriverState, reconstructed: boolean): Promise<void> {
    const domain = this.#ledger.need(id)
    // Whatever its process does, it is not the domain that runs.
    if (domain.migration) return
    const requested = this.#intents.get(id) === 'shutdown' && (seen.kind === 'powered-off' || seen.kind === 'gone')
    const next: DomainState | null = requested
      ? { kind: 'stopped', cause: 'requested', detail: null }
      : stateFromDriver(domain.state.kind, seen)
    if (next) {
      const cause = 'cause' in next ? next.cause : reconstructed ? 'adopted' : 'guest'
      const isCrash = next.kind === 'crashed' && !this.#hostRebooted && (domain.settings?.onCrash ?? 'keep') !== 'keep'
      const changed = isCrash ? { ...domain, crashPending: this.#options.ids.next() } : undefined
      await this.#ledger.enter(id, next, { cause, detail: 'detail' in next ? next.detail : null, reconstructed }, changed)
      if (isCrash) this.#inBackground(this.#dealWithCrash(id))
    }
    // The process of a guest that is off is kept only until the transition is safe.
    const now = this.#ledger.get(id)?.state.kind
    if (seen.kind === 'powered-off' && now === 'stopped') await this.#options.driver.destroy(id)
    if (now !== undefined && now !== 'running') for (const wake of this.#waiters.get(id) ?? []) wake()
  }

  async #untilNotRunning(id: DomainId, signal: AbortSignal): Promise<void> {
    const running = () => this.#ledger.get(id)?.state.kind === 'running'
    if (!running()) return
    await new Promise<void>((resolve, reject) => {
      const waiters = this.#waiters.get(id) ?? new Set()
      this.#waiters.set(id, waiters)
      const end = (settle: () => void) => {
        waiters.delete(wake)
        if (waiters.size === 0) this.#waiters.delete(id)
        signal.removeEventListener('abort', abort)
        settle()
      }
      const wake = () => end(resolve)
      const abort = () => end(() => reject(toFault(signal.reason)))
      waiters.add(wake)
      signal.addEventListener('abort', abort, { once: true })
      if (signal.aborted) abort()
    })
  }
}

function throwUnlessDone(saga: SagaRecord): void {
  const { state } = saga
  if (state.kind === 'undone') throw faultFromJson(state.fault)
  if (state.kind === 'stuck') {
    throw new Fault('failed', `${saga.name} failed (${state.fault.message}) and could not be undone: ${state.undoFault.message}`)
  }
}
