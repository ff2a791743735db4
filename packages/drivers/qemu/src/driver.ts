/** The QEMU driver behind the toolstack's port; see `index.ts` for the design. */
import { Fault, millis, toFault, type Bytes, type Clock, type IdSource, type Log, type Millis } from '@typevisor/base'
import {
  ARCHITECTURES,
  architectureOf,
  assertGuest,
  isDetachable,
  waitsForRoom,
  type Architecture,
  type Chord,
  type DomainDevice,
  type DomainId,
  type DomainName,
  type DomainSettings,
  type MigrationOffer,
  type MigrationStatistics,
  type PortForward,
} from '@typevisor/model'
import type {
  CallOptions,
  ConsoleOptions,
  CoreFormat,
  DetachOptions,
  DomainDriver,
  DriverCapabilities,
  DriverDomain,
  DriverEvent,
  DriverState,
  ExecRequest,
  GuestStream,
  SettingsOptions,
  SettingsOutcome,
  MigrateOptions,
  MigrationPeer,
  MigrationTarget,
  ReceiveOptions,
  SendRestOptions,
  TakenOver,
  TakeOverOptions,
} from '@typevisor/toolstack'
import { createAcceleratorProbe, type Acceleration } from './accelerator.ts'
import { adoptDomain, type Adopted } from './adoption.ts'
import { TARGETS } from './architecture.ts'
import { boundsOf, Cgroups } from './cgroups.ts'
import { readConsoleLog, trimConsoleLog } from './console.ts'
import { dumpMachine } from './dumping.ts'
import { EventQueue } from './event-queue.ts'
import { keepFirmware, putFirmwareBack } from './firmware.ts'
import { bringUpForwards, parseUserNet } from './forwards.ts'
import { guestCapabilities } from './guests.ts'
import { planDevice, planHardware } from './hardware.ts'
import { changeMedium, fronts, growDisk, plug, unplug, type PlugContext } from './hotplug.ts'
import type { StartKind } from './command-line.ts'
import { domainPaths, type DomainPaths } from './layout.ts'
import { endTpm, kill, launch, sweep, waitForExit, type LaunchContext, type Launched } from './launch.ts'
import { Locks } from './locks.ts'
import { lastWords, Machine, type MachineContext } from './machine.ts'
import { assertHugePages, pluggedNow } from './memory.ts'
import { isFetching, migrateMachine, NO_CAPABILITIES, sendRest, takeBackMachine } from './migrating.ts'
import type { ProcessIdentity, ProcessUser, QemuHost } from './ports.ts'
import { excerpt } from './read-json.ts'
import { beginReceiving, hasLoaded, migrationTarget, postCopyCapability } from './receiving.ts'
import { findRecord, type RunPhase } from './record.ts'
import { PAUSE_REQUESTED } from './run-state.ts'
import { checkSaveOf, migrationStatus, restoreInto, saveMachine, snapshotMachine } from './saving.ts'
import { wholeSave } from './save-file.ts'
import { assertPluggable, beginSettings, changeSettings, settingCapabilities } from './settings.ts'
import { statisticsOf } from './statistics.ts'
import { TCG_KEEPS_VCPUS, vcpuStatistics } from './vcpus.ts'

export interface QemuDriverOptions {
  /** Lives as long as the domains: console logs. */
  readonly dataDir: string
  /** Lives until the next boot of the host: sockets, records of processes. Short, for unix sockets; reachable by `user`. */
  readonly runDir: string
  readonly host: QemuHost
  readonly clock: Clock
  readonly ids: IdSource
  readonly log: Log
  /** Of the host's own architecture. */
  readonly qemuBinary?: string
  /** What guests are given that boot from the network: `boot.ipxe` by BIOS, `boot-x86_64.efi` or `boot-aarch64.efi` by UEFI. Absent: nothing. */
  readonly netbootFolder?: string
  /** Whom QEMU runs as; null or absent: the caller. */
  readonly user?: ProcessUser | null
  /** Where disks and their bases may lie; absent: anywhere. To be given wherever images of foreign make come in. */
  readonly diskFolders?: readonly string[]
  /**
   * Starts what carries the memory of a domain that comes by post-copy (`carryMemory`), in a process that outlives this one. Absent: it comes by
   * `MigrationTarget.connect`, and the end of this process is the guest's.
   */
  readonly carry?: (
    paths: Pick<DomainPaths, 'runFolder' | 'carrier' | 'migration'>,
    options: CallOptions,
  ) => Promise<MigrationOffer>
  /** `auto`: KVM when a probe guest really runs on it. */
  readonly accelerator?: 'auto' | 'tcg'
  readonly limits?: Partial<QemuDriverLimits>
}

export interface QemuDriverLimits {
  /** One monitor command. */
  readonly monitor: Millis
  /** From spawn to the monitor's first word. */
  readonly start: Millis
  /** A save or a restore as a whole. */
  readonly transfer: Millis
  /** Between two attempts of a guest that waits for room on its disk. */
  readonly roomInterval: Millis
  readonly consoleKeepBytes: number
  readonly consoleTrimInterval: Millis
  readonly eventCountMax: number
}

const LIMITS: QemuDriverLimits = {
  monitor: millis(5000),
  start: millis(15_000),
  transfer: millis(15 * 60_000),
  roomInterval: millis(5000),
  consoleKeepBytes: 4 * 1024 * 1024,
  consoleTrimInterval: millis(10_000),
  eventCountMax: 4096,
}

/** What this driver offers beyond the port. */
export interface QemuDriver extends DomainDriver {
  /** The host ports in use, with those that the host chose. */
  forwards(id: DomainId, options?: CallOptions): Promise<readonly PortForward[]>
}

const SCREEN_SIZE_MAX = 64 * 1024 * 1024
/** Milliseconds: what a guest's keyboard driver and a boot loader take for one press. */
const KEY_HOLD = 20
const KEY_PAUSE_MS = 10
const ADOPT_AGAIN = millis(1000)
const QUIT_LIMIT = millis(1500)
const QUIT_EXIT_LIMIT = millis(3000)

export function createQemuDriver(options: QemuDriverOptions): QemuDriver {
  return new Driver(options)
}

class Driver implements QemuDriver {
  readonly name = 'qemu'
  readonly #options: QemuDriverOptions
  readonly #host: QemuHost
  readonly #clock: Clock
  readonly #log: Log
  readonly #limits: QemuDriverLimits
  readonly #binary: string
  readonly #machines = new Map<DomainId, Machine>()
  /** What the caller has said of each domain: what a record is made of when it has to be made anew. */
  readonly #known = new Map<DomainId, DriverDomain>()
  /** Domains whose process did not answer when it was to be adopted. */
  readonly #unanswered = new Set<DomainId>()
  readonly #locks = new Locks<DomainId>()
  /** What is under way per domain, so that `destroy` need not wait for it. */
  readonly #underWay = new Map<DomainId, Set<AbortController>>()
  readonly #closing = new AbortController()
  readonly #probe: () => Promise<Acceleration>
  readonly #events: EventQueue
  readonly #cgroups: Cgroups
  /** Programs that were found on the host. */
  readonly #found = new Set<string>()

  constructor(options: QemuDriverOptions) {
    this.#options = options
    this.#host = options.host
    this.#clock = options.clock
    this.#log = options.log.with({ driver: 'qemu' })
    this.#limits = { ...LIMITS, ...options.limits }
    this.#binary = options.qemuBinary ?? 'qemu-system-x86_64'
    this.#events = new EventQueue(this.#limits.eventCountMax)
    this.#cgroups = new Cgroups(options.host.kernel)
    this.#probe = createAcceleratorProbe({
      host: options.host,
      binary: this.#binary,
      folder: options.dataDir,
      ids: options.ids,
      wanted: options.accelerator ?? 'auto',
      user: options.user ?? null,
    })
    // Only to fail early when the folder's path is too long for sockets.
    this.#paths('00000000-0000-7000-8000-000000000000' as DomainId)
    void this.#trimLoop()
  }

  async capabilities(): Promise<DriverCapabilities> {
    const acceleration = await this.#probe()
    const can = { can: true } as const
    const guests = await this.#guests()
    return {
      driver: this.name,
      version: acceleration.version,
      accelerator: acceleration.accelerator,
      acceleratorReason: acceleration.reason,
      architectures: ARCHITECTURES.filter((architecture) => guests[architecture].runs.can),
      guests,
      save: can,
      console: can,
      vnc: can,
      guestAgent: can,
      statistics: can,
      liveMigration: can,
      postCopy: await postCopyCapability(this.#host.kernel, this.#options.user ?? null),
      coreDump: can,
      keyboard: can,
      hotplug: can,
      settings: await settingCapabilities(this.#host, this.#cgroups),
      vcpuUnplug: acceleration.accelerator === 'kvm' ? can : { can: false, reason: TCG_KEEPS_VCPUS },
    }
  }

  async planHardware(...[id, spec, volumes]: Parameters<DomainDriver['planHardware']>): ReturnType<DomainDriver['planHardware']> {
    assertGuest(spec, { what: `plan ${spec.name}`, boot: null, guests: await this.#guests() })
    return planHardware(id, spec, volumes)
  }

  #guests(): ReturnType<typeof guestCapabilities> {
    const { netbootFolder = null } = this.#options
    return guestCapabilities({ host: this.#host, binaryOf: (of) => this.#binaryOf(of), found: this.#found, netbootFolder })
  }

  #binaryOf(architecture: Architecture): string {
    return architecture === 'x86_64' ? this.#binary : TARGETS[architecture].binary
  }

  async planDevice(...[domain, request, volume]: Parameters<DomainDriver['planDevice']>): ReturnType<DomainDriver['planDevice']> {
    return planDevice(domain, request, volume)
  }

  attach(domain: DriverDomain, device: DomainDevice, options: CallOptions = {}): Promise<void> {
    return this.#exclusive(domain.id, options, async (signal) => {
      await plug(this.#plug(await this.#need(domain.id, `attach ${device.name} to`), signal), domain, device)
      this.#known.set(domain.id, domain)
    })
  }

  detach(id: DomainId, name: string, { timeoutMs, force, ...options }: DetachOptions): Promise<void> {
    return this.#exclusive(id, options, async (signal) => {
      const machine = await this.#attach(id)
      if (machine) await unplug(this.#plug(machine, signal), name, { limit: millis(timeoutMs), force })
    })
  }

  attachedDevices(id: DomainId, options: CallOptions = {}): Promise<readonly string[]> {
    return this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'devices of')
      const there = await fronts(machine, signal)
      return machine.record.hardware.devices
        .filter((device) => isDetachable(device) && there.has(device.name))
        .map(({ name }) => name)
    })
  }

  changeMedium(domain: DriverDomain, name: string, options: CallOptions = {}): Promise<void> {
    return this.#exclusive(domain.id, options, async (signal) => {
      await changeMedium(this.#plug(await this.#need(domain.id, `change the medium of`), signal), domain, name)
      this.#known.set(domain.id, domain)
    })
  }

  resizeDisk(
    domain: DriverDomain,
    name: string,
    sizeBytes: Bytes,
    grow: () => Promise<void>,
    options: CallOptions = {},
  ): Promise<void> {
    return this.#exclusive(domain.id, options, async (signal) => {
      await growDisk(this.#plug(await this.#need(domain.id, 'resize'), signal), domain, name, sizeBytes, grow)
    })
  }

  create(domain: DriverDomain, options: CallOptions = {}): Promise<void> {
    this.#known.set(domain.id, domain)
    return this.#exclusive(domain.id, options, async (signal) => {
      if (await this.#attach(domain.id)) return
      await this.#start(domain, 'fresh', signal, async () => {})
    })
  }

  restore(domain: DriverDomain, path: string, options: CallOptions = {}): Promise<void> {
    this.#known.set(domain.id, domain)
    return this.#exclusive(domain.id, options, async (signal) => {
      if (await this.#attach(domain.id)) return
      await restoreInto({ ...this.#transfer(), domain, path, signal }, async (machine, feed) => {
        await this.#start(machine, 'incoming', signal, feed)
      })
    })
  }

  async unpause(id: DomainId, options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'unpause')
      const state = await machine.refresh({ signal })
      if (state.kind === 'running') return
      if (machine.record.phase.kind === 'incoming')
        throw new Fault('conflict', `unpause ${machine.record.name}: it comes from another host, and was not taken over`)
      if (state.kind !== 'paused') throw new Fault('conflict', `unpause ${machine.record.name}: it is ${state.kind}, want paused`)
      await machine.hold(false)
      const isAsleep = (await machine.runState({ signal })) === 'suspended'
      await machine.execute(isAsleep ? 'system_wakeup' : 'cont', {}, { signal })
      await machine.refresh({ signal })
    })
  }

  async pause(id: DomainId, options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'pause')
      let state = await machine.refresh({ signal })
      if (state.kind === 'running') {
        machine.expectPause()
        await machine.execute('stop', {}, { signal })
        state = await machine.refresh({ signal })
      } else if (state.kind !== 'paused') {
        throw new Fault('conflict', `pause ${machine.record.name}: it is ${state.kind}, want running`)
      }
      // Its disk was full before anybody asked, or became so meanwhile.
      if (!waitsForRoom(state)) return
      await machine.hold(true)
      await machine.refresh({ signal })
    })
  }

  async requestShutdown(id: DomainId, options: CallOptions = {}): Promise<void> {
    const machine = await this.#need(id, 'shut down', options)
    const state = await machine.refresh(options)
    if (state.kind === 'powered-off') return
    if (state.kind !== 'running')
      throw new Fault('conflict', `shut down ${machine.record.name}: it is ${state.kind}, want running`)
    machine.expectShutdown()
    await machine.execute('system_powerdown', {}, options)
  }

  async reset(id: DomainId, options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'reset')
      const state = await machine.refresh({ signal })
      if (state.kind === 'powered-off') throw new Fault('conflict', `reset ${machine.record.name}: it is powered off`)
      await machine.execute('system_reset', {}, { signal })
      // What it waited to write is no more.
      if (waitsForRoom(state)) await machine.execute('cont', {}, { signal })
    })
  }

  async destroy(id: DomainId, options: CallOptions = {}): Promise<void> {
    for (const other of this.#underWay.get(id) ?? []) other.abort(new Fault('aborted', 'the domain is being destroyed'))
    await this.#exclusive(id, options, async () => {
      const paths = this.#paths(id)
      const machine = await this.#attach(id).catch(() => null)
      const wasThere = machine !== null
      if (machine) await this.#end(machine)
      await sweep(this.#launchContext('tcg'), paths)
      await this.#dropGroup(id)
      if (!wasThere) this.#log.debug('qemu.destroy.nothing', { domain: id })
    })
  }

  async save(id: DomainId, path: string, options: CallOptions = {}): Promise<{ sizeBytes: number }> {
    return await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#attach(id)
      if (!machine) {
        // Asked a second time after the first came to its end: the file is there, the process is not.
        const sizeBytes = await wholeSave(this.#host.files, path, id, signal)
        if (sizeBytes !== null) return { sizeBytes }
        throw new Fault('conflict', `save ${id}: it is gone, and no whole save of it is at ${path}`)
      }
      return await this.#settling(machine, async () => {
        const sizeBytes = await saveMachine({ ...this.#transfer(), machine, path, signal })
        await this.#end(machine)
        return { sizeBytes }
      })
    })
  }

  async checkSave(domain: DriverDomain, path: string, { signal }: CallOptions = {}): Promise<void> {
    const either = signal ? AbortSignal.any([signal, this.#closing.signal]) : this.#closing.signal
    await checkSaveOf(this.#host, domain, path, either)
  }

  async snapshotMemory(id: DomainId, path: string, options: CallOptions = {}): Promise<{ sizeBytes: number }> {
    return await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'snapshot')
      return await this.#settling(machine, async () => ({
        sizeBytes: await snapshotMachine({ ...this.#transfer(), machine, path, signal }),
      }))
    })
  }

  async #settling<T>(machine: Machine, work: () => Promise<T>): Promise<T> {
    try {
      return await work()
    } catch (error) {
      // Neither saved nor taken back: let go of it, so that the next look at it settles what the record says.
      if (machine.record.phase.kind === 'saving' && !machine.hasEnded) {
        machine.release()
        this.#machines.delete(machine.id)
      }
      throw error
    }
  }

  keepFirmware(domain: DriverDomain, path: string, options: CallOptions = {}): Promise<boolean> {
    return this.#exclusive(domain.id, options, () => keepFirmware(this.#host.files, this.#paths(domain.id), path))
  }

  putFirmwareBack(
    domain: DriverDomain,
    path: string,
    { nvramOnly = false, ...options }: CallOptions & { readonly nvramOnly?: boolean } = {},
  ): Promise<void> {
    return this.#exclusive(domain.id, options, async () => {
      const there = await this.#attach(domain.id)
      if (there) throw new Fault('conflict', `put firmware of ${domain.name} back: it is ${there.state.kind}, want gone`)
      const user = this.#options.user ?? null
      await putFirmwareBack(this.#host.files, this.#paths(domain.id), path, { user, nvramOnly })
    })
  }

  receive(domain: DriverDomain, options: ReceiveOptions = {}): Promise<MigrationTarget> {
    this.#known.set(domain.id, domain)
    return this.#exclusive(domain.id, options, async (signal) => {
      const there = await this.#attach(domain.id)
      if (there && there.record.phase.kind !== 'incoming')
        throw new Fault('conflict', `receive ${domain.name}: it is here already, and ${there.state.kind}`)
      if (there) await this.#end(there)
      const carry = options.postCopy ? this.#options.carry : undefined
      const machine = await this.#start(
        domain,
        carry ? 'fetching' : 'incoming',
        signal,
        ({ monitor }) => beginReceiving(monitor, this.#paths(domain.id), domain.hardware, options, signal),
        { kind: 'incoming' },
      )
      const target = migrationTarget(this.#host, this.#clock, machine)
      if (!carry) return target
      try {
        return { ...target, memory: await carry(machine.paths, { signal }) }
      } catch (error) {
        await this.#end(machine)
        throw error
      }
    })
  }

  async takeOver(id: DomainId, options: TakeOverOptions = {}): Promise<TakenOver> {
    return await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'take over')
      let goneOnAt: number | null = null
      const { kind: phase } = machine.record.phase
      if (phase !== 'incoming') return { goneOnAt, isWhole: phase !== 'arriving' }
      if ((await hasLoaded(machine, signal)) !== true)
        throw new Fault('conflict', `take over ${machine.record.name}: not all of it has come`)
      // One that does not go on is seen by its state.
      if (options.goesOn)
        goneOnAt = await machine.execute('cont', {}, { signal }).then(
          () => this.#clock.monotonic(),
          () => null,
        )
      const isWhole = !isFetching((await migrationStatus((...call) => machine.execute(...call), signal)).status)
      if (isWhole) await machine.execute('migrate-set-capabilities', { capabilities: NO_CAPABILITIES }, { signal })
      await machine.setPhase({ kind: isWhole ? 'live' : 'arriving' })
      const { kind } = await machine.refresh({ signal })
      return { goneOnAt: kind === 'running' ? goneOnAt : null, isWhole }
    })
  }

  async receiving(id: DomainId, options: CallOptions = {}): Promise<MigrationTarget | null> {
    return await this.#exclusive(id, options, async () => {
      const machine = await this.#attach(id)
      const waits = machine && ['incoming', 'arriving'].includes(machine.record.phase.kind)
      return waits ? migrationTarget(this.#host, this.#clock, machine) : null
    })
  }

  async sendRest(id: DomainId, peer: Pick<MigrationPeer, 'open'>, options: SendRestOptions = {}): Promise<void> {
    // Not exclusive: it takes as long as the other host does, and is ended by what ends the domain.
    const machine = await this.#exclusive(id, options, () => this.#attach(id))
    const { signal = new AbortController().signal, onProgress } = options
    if (machine) await sendRest({ ...this.#transfer(), machine, peer, signal, onProgress })
  }

  async migrateTo(id: DomainId, peer: MigrationPeer, options: MigrateOptions = {}): Promise<MigrationStatistics> {
    return await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'migrate')
      return await migrateMachine({ ...this.#transfer(), machine, peer, options, signal })
    })
  }

  async takeBack(id: DomainId, wasRunning: boolean, options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async () => {
      const machine = await this.#attach(id)
      if (machine) await takeBackMachine({ clock: this.#clock }, machine, wasRunning)
    })
  }

  async freeze(id: DomainId, limitMs: number, options: CallOptions = {}): Promise<void> {
    const machine = await this.#needRunning(id, 'freeze', options)
    await machine.agent.freeze(millis(limitMs), options.signal)
  }

  async thaw(id: DomainId, options: CallOptions = {}): Promise<void> {
    const machine = await this.#needRunning(id, 'thaw', options)
    await machine.agent.thaw(options.signal)
  }

  applySettings(domain: DriverDomain, settings: DomainSettings, options: SettingsOptions): Promise<SettingsOutcome> {
    return this.#exclusive(domain.id, options, async (signal) => {
      const machine = await this.#need(domain.id, 'set')
      const { accelerator } = await this.#probe()
      assertPluggable(domain, settings, accelerator)
      await machine.refresh({ signal })
      return { notes: await changeSettings(this.#settings(machine, signal), domain, settings, options.timeoutMs) }
    })
  }

  #settings(machine: Machine, signal: AbortSignal) {
    return { host: this.#host, clock: this.#clock, cgroups: this.#cgroups, machine, signal }
  }

  /** On a host that lets nobody make control groups it goes without. */
  async #bound({ id, spec }: DriverDomain, pid: number, accelerator: 'tcg' | 'kvm'): Promise<void> {
    try {
      await this.#cgroups.bound(id, pid, boundsOf(spec, accelerator))
    } catch (error) {
      this.#log.info('qemu.not_bounded', { domain: id, reason: toFault(error).message })
    }
  }

  /** One that is left does no harm, and `adopt` sweeps it. */
  async #dropGroup(id: DomainId): Promise<void> {
    await this.#cgroups
      .remove(id)
      .catch((error: unknown) => this.#log.warn('qemu.cgroup.left', { domain: id, reason: toFault(error).message }))
  }

  async correctClock(id: DomainId, options: CallOptions = {}): Promise<void> {
    const machine = await this.#needRunning(id, 'set the clock of', options)
    await machine.agent.setTime(() => this.#clock.now(), options.signal)
  }

  async state(id: DomainId, options: CallOptions = {}): Promise<DriverState> {
    const machine = await this.#find(id, options)
    if (!machine) return await this.#goneState(id)
    try {
      return await machine.refresh(options)
    } catch (error) {
      // It may have ended between the two.
      if (error instanceof Fault && error.code === 'unavailable' && (await this.#hasEnded(machine))) return machine.state
      throw error
    }
  }

  async adopt(domains: readonly DriverDomain[], options: CallOptions = {}): Promise<ReadonlyMap<DomainId, DriverState>> {
    if (!this.#closing.signal.aborted) this.#events.beginAnew()
    const states = new Map<DomainId, DriverState>()
    await Promise.all(
      domains.map(async (domain) => {
        const { id, name } = domain
        this.#known.set(id, domain)
        try {
          states.set(id, await this.#lookAt(id, options))
        } catch (error) {
          options.signal?.throwIfAborted()
          // It is there and does not answer: neither gone nor known. Its state follows as an event once it answers.
          this.#log.warn('qemu.adopt.no_answer', { domain: id, name, reason: toFault(error).message })
          const machine = this.#machines.get(id)
          if (machine) machine.owe()
          else void this.#adoptLater(id)
        }
      }),
    )
    const swept = await this.#cgroups.sweep().catch((): DomainId[] => [])
    if (swept.length > 0) this.#log.info('qemu.cgroup.swept', { domains: swept.join(' ') })
    return states
  }

  #lookAt(id: DomainId, options: CallOptions): Promise<DriverState> {
    return this.#exclusive(id, options, async (signal) => {
      const machine = await this.#attach(id)
      return machine ? await machine.refresh({ signal }) : await this.#goneState(id)
    })
  }

  /** Asks again until it is known what became of the domain, and tells it. */
  async #adoptLater(id: DomainId): Promise<void> {
    const { signal } = this.#closing
    if (this.#unanswered.has(id)) return
    this.#unanswered.add(id)
    try {
      while (!signal.aborted && this.#known.has(id)) {
        await this.#clock.sleep(ADOPT_AGAIN, { signal })
        const state = await this.#lookAt(id, { signal }).catch(() => null)
        if (state) return this.#report({ at: this.#clock.now(), domain: id, kind: 'state', state })
      }
    } catch {
      // The driver was closed.
    } finally {
      this.#unanswered.delete(id)
    }
  }

  events(options: CallOptions = {}): AsyncIterable<DriverEvent> {
    return this.#events.read(options)
  }

  async statistics(id: DomainId, options: CallOptions = {}): ReturnType<DomainDriver['statistics']> {
    const machine = await this.#need(id, 'statistics of', options)
    const [blockStats, balloon, usage, memoryDevices, vcpus] = await Promise.all([
      machine.execute('query-blockstats', {}, options),
      machine.execute('query-balloon', {}, options).catch((error: unknown) => {
        if (error instanceof Fault && error.code === 'failed') return null
        throw error
      }),
      machine.usage(),
      machine.execute('query-memory-devices', {}, options),
      vcpuStatistics(this.#host, machine, options.signal),
    ])
    return statisticsOf({
      at: this.#clock.now(),
      hardware: machine.record.hardware,
      usage,
      blockStats,
      balloon,
      vcpus,
      pluggedBytes: pluggedNow(memoryDevices),
    })
  }

  async openConsole(id: DomainId, options: ConsoleOptions = {}): Promise<GuestStream> {
    return await (await this.#need(id, 'console of', options)).console.open(options.fromOffset)
  }

  async readConsole(id: DomainId, fromOffset: number, sizeMax: number): ReturnType<DomainDriver['readConsole']> {
    return await readConsoleLog(this.#host.files, this.#paths(id), fromOffset, sizeMax)
  }

  async openVnc(id: DomainId, options: CallOptions = {}): Promise<GuestStream> {
    const machine = await this.#need(id, 'VNC of', options)
    if (!machine.record.hardware.devices.some((device) => device.kind === 'video')) {
      throw new Fault('unsupported', `VNC of ${machine.record.name}: it has no video device`)
    }
    const socket = await this.#host.sockets.connect(machine.paths.vnc)
    return { readable: socket.readable, write: (content) => socket.write(content), close: () => socket.close() }
  }

  async exec(id: DomainId, request: ExecRequest, options: CallOptions = {}): ReturnType<DomainDriver['exec']> {
    const machine = await this.#needRunning(id, 'exec in', options)
    using life = machine.guestLife(`exec ${excerpt(request.argv[0] ?? '')}`)
    return await machine.agent.exec(request, options.signal, life.signal)
  }

  async addresses(id: DomainId, options: CallOptions = {}): ReturnType<DomainDriver['addresses']> {
    return await (await this.#needRunning(id, 'addresses of', options)).agent.addresses(options.signal)
  }

  async readGuestFile(
    id: DomainId,
    path: string,
    fromOffset: number,
    sizeMax: number,
    options: CallOptions = {},
  ): Promise<Uint8Array> {
    return await (
      await this.#needRunning(id, 'read a file of', options)
    ).agent.readFile(path, fromOffset, sizeMax, options.signal)
  }

  async writeGuestFile(
    id: DomainId,
    path: string,
    content: Uint8Array,
    options: CallOptions & { readonly append?: boolean } = {},
  ): Promise<void> {
    const { agent } = await this.#needRunning(id, 'write a file of', options)
    await agent.writeFile(path, content, options.append ?? false, options.signal)
  }

  async setGuestPassword(id: DomainId, user: string, password: string, options: CallOptions = {}): Promise<void> {
    await (await this.#needRunning(id, 'set a password in', options)).agent.setPassword(user, password, options.signal)
  }

  async screenshot(id: DomainId, options: CallOptions = {}): Promise<Uint8Array> {
    return await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#needScreen(id, 'picture of')
      const path = `${machine.paths.runFolder}/screen.png`
      try {
        await machine.execute('screendump', { filename: path, format: 'png' }, { signal })
        const content = await this.#host.files.read(path, 0, SCREEN_SIZE_MAX)
        if (!content || content.length === 0)
          throw new Fault('failed', `picture of ${machine.record.name}: QEMU has written none`)
        return content
      } finally {
        await this.#host.files.remove(path)
      }
    })
  }

  async sendKeys(id: DomainId, chords: readonly Chord[], options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#needScreen(id, 'keys for')
      const state = await machine.refresh({ signal })
      if (state.kind !== 'running')
        throw new Fault('conflict', `keys for ${machine.record.name}: it is ${state.kind}, want running`)
      for (const chord of chords) {
        const keys = chord.map((key) => ({ type: 'qcode', data: key }))
        // QEMU answers at once, and lets go of the keys by a clock of its own.
        await machine.execute('send-key', { keys, 'hold-time': KEY_HOLD }, { signal })
        await this.#clock.sleep(millis(KEY_HOLD + KEY_PAUSE_MS), { signal })
      }
    })
  }

  async dumpCore(
    id: DomainId,
    path: string,
    options: CallOptions & { readonly format?: CoreFormat } = {},
  ): Promise<{ sizeBytes: number }> {
    return await this.#exclusive(id, options, async (signal) => {
      const machine = await this.#need(id, 'dump')
      const user = this.#options.user ?? null
      const format = options.format ?? 'elf'
      return { sizeBytes: await dumpMachine({ host: this.#host, clock: this.#clock, user, machine, path, format, signal }) }
    })
  }

  async #needScreen(id: DomainId, verb: string): Promise<Machine> {
    const machine = await this.#need(id, verb)
    if (machine.record.hardware.devices.some((device) => device.kind === 'video')) return machine
    throw new Fault('unsupported', `${verb} ${machine.record.name}: it has no video device`)
  }

  async forwards(id: DomainId, options: CallOptions = {}): Promise<readonly PortForward[]> {
    return parseUserNet(await (await this.#need(id, 'forwards of', options)).human('info usernet', options))
  }

  async rename(id: DomainId, name: DomainName, options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async () => {
      const known = this.#known.get(id)
      if (known) this.#known.set(id, { ...known, name, spec: { ...known.spec, name } })
      // One that is gone has no record that anything is told from.
      await (await this.#attach(id))?.setName(name)
    })
  }

  async forget(id: DomainId, options: CallOptions = {}): Promise<void> {
    await this.#exclusive(id, options, async () => {
      const machine = await this.#attach(id)
      if (machine) throw new Fault('conflict', `forget ${machine.record.name}: it is ${machine.state.kind}, want gone`)
      const paths = this.#paths(id)
      await sweep(this.#launchContext('tcg'), paths)
      await this.#host.files.remove(paths.dataFolder)
      this.#known.delete(id)
    })
  }

  async close(): Promise<void> {
    if (this.#closing.signal.aborted) return
    this.#closing.abort(new Fault('aborted', 'the driver was closed'))
    for (const controllers of this.#underWay.values())
      for (const controller of controllers) controller.abort(this.#closing.signal.reason)
    const machines = [...this.#machines.values()]
    for (const machine of machines) machine.release()
    await Promise.all(machines.map((machine) => machine.settled()))
    this.#machines.clear()
    this.#events.close()
  }

  #paths(id: DomainId): DomainPaths {
    return domainPaths(this.#options, id)
  }

  #launchContext(accelerator: 'tcg' | 'kvm', architecture: Architecture = 'x86_64'): LaunchContext {
    return {
      host: this.#host,
      clock: this.#clock,
      qemuBinary: this.#binaryOf(architecture),
      user: this.#options.user ?? null,
      diskFolders: this.#options.diskFolders ?? null,
      netbootFolder: this.#options.netbootFolder ?? null,
      accelerator,
      monitorLimit: this.#limits.monitor,
      startLimit: this.#limits.start,
    }
  }

  #plug(machine: Machine, signal: AbortSignal): PlugContext {
    const { user = null, diskFolders = null } = this.#options
    return { host: this.#host, clock: this.#clock, machine, user, diskFolders, signal }
  }

  #transfer(): { host: QemuHost; clock: Clock; user: ProcessUser | null; limit: Millis } {
    return { host: this.#host, clock: this.#clock, user: this.#options.user ?? null, limit: this.#limits.transfer }
  }

  readonly #machineContext = (): MachineContext => ({
    host: this.#host,
    clock: this.#clock,
    log: this.#log,
    monitorLimit: this.#limits.monitor,
    roomInterval: this.#limits.roomInterval,
    exclusive: (id, work) => this.#exclusive(id, {}, work),
    report: (id, kind, state) => this.#report({ at: this.#clock.now(), domain: id, kind, state }),
    ended: (machine) => {
      if (this.#machines.get(machine.id) === machine) this.#machines.delete(machine.id)
      void this.#dropGroup(machine.id)
      if (machine.record.tpm !== undefined) void this.#exclusive(machine.id, {}, () => this.#endTpm(machine)).catch(() => {})
    },
  })

  #report(event: DriverEvent): void {
    if (!this.#closing.signal.aborted) this.#events.push(event)
  }

  async #exclusive<T>(id: DomainId, options: CallOptions, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    this.#closing.signal.throwIfAborted()
    const controller = new AbortController()
    const signal = options.signal ? AbortSignal.any([controller.signal, options.signal]) : controller.signal
    const controllers = this.#underWay.get(id) ?? new Set()
    this.#underWay.set(id, controllers)
    controllers.add(controller)
    try {
      return await this.#locks.run(id, signal, () => work(signal))
    } finally {
      controllers.delete(controller)
      if (controllers.size === 0) this.#underWay.delete(id)
    }
  }

  /** The live machine, found again when another driver object started it; null: there is none. */
  async #attach(id: DomainId): Promise<Machine | null> {
    this.#closing.signal.throwIfAborted()
    const known = this.#machines.get(id)
    if (known && !(await this.#hasEnded(known))) return known
    const context = { ...this.#launchContext('tcg'), log: this.#log, known: this.#known.get(id) ?? null }
    const adopted: Adopted = await adoptDomain(context, id, this.#paths(id))
    if (adopted.kind === 'gone') return null
    const machine = new Machine(this.#machineContext(), this.#paths(id), adopted.record, adopted.monitor)
    try {
      await adopted.settle(machine)
    } catch (error) {
      machine.release()
      throw error
    }
    this.#machines.set(id, machine)
    return machine
  }

  async #hasEnded(machine: Machine): Promise<boolean> {
    if (machine.hasEnded) return true
    const found = await this.#host.processes.identity(machine.process.pid)
    if (found?.startTimeTicks === machine.process.startTimeTicks) return false
    await machine.exited
    return true
  }

  async #goneState(id: DomainId): Promise<DriverState> {
    const paths = this.#paths(id)
    const found = await findRecord(this.#host.files, paths.record)
    if (found.kind === 'record' && found.record.state.kind === 'gone') return found.record.state
    return { kind: 'gone', cause: 'unknown', detail: await lastWords(this.#host, paths.stderr) }
  }

  /** For callers without the domain's lock: a start that is under way is waited for, not mistaken for a left-over. */
  async #find(id: DomainId, options: CallOptions): Promise<Machine | null> {
    const known = this.#machines.get(id)
    if (known && !(await this.#hasEnded(known))) return known
    return await this.#exclusive(id, options, () => this.#attach(id))
  }

  async #need(id: DomainId, verb: string, options?: CallOptions): Promise<Machine> {
    const machine = options ? await this.#find(id, options) : await this.#attach(id)
    if (!machine) throw new Fault('conflict', `${verb} ${id}: it is gone`)
    return machine
  }

  async #needRunning(id: DomainId, verb: string, options: CallOptions): Promise<Machine> {
    const machine = await this.#need(id, verb, options)
    const state = await machine.refresh(options)
    if (state.kind !== 'running') throw new Fault('conflict', `${verb} ${machine.record.name}: it is ${state.kind}, want running`)
    return machine
  }

  async #start(
    domain: DriverDomain,
    kind: StartKind,
    signal: AbortSignal,
    feed: (launched: Launched) => Promise<void>,
    phase: RunPhase = { kind: 'live' },
  ): Promise<Machine> {
    assertGuest({ ...domain.spec, boot: domain.boot }, { what: `start ${domain.name}`, boot: null, guests: await this.#guests() })
    const architecture = architectureOf(domain.spec)
    // Another architecture than the host's is emulated.
    const { accelerator } = architecture === 'x86_64' ? await this.#probe() : { accelerator: 'tcg' as const }
    const context = this.#launchContext(accelerator, architecture)
    const paths = this.#paths(domain.id)
    if (domain.spec.hugePages) await assertHugePages(this.#host.kernel, domain.spec)
    let machine: Machine | null = null
    // From its first page on, and while it makes itself ready: the kernel takes 10 ms for each group.
    const spawned = ({ pid }: ProcessIdentity): Promise<void> => this.#bound(domain, pid, accelerator)
    const launched = await launch(context, domain, paths, kind, signal, spawned).catch(async (error: unknown) => {
      await this.#dropGroup(domain.id)
      throw error
    })
    try {
      await bringUpForwards(this.#host.files, domain, paths, launched.monitor)
      await feed(launched)
      signal.throwIfAborted()
      machine = new Machine(this.#machineContext(), paths, launched.record, launched.monitor)
      await beginSettings(this.#settings(machine, signal), domain)
      await machine.setPhase(phase)
      this.#machines.set(domain.id, machine)
      this.#report({ at: this.#clock.now(), domain: domain.id, kind: 'state', state: PAUSE_REQUESTED })
      return machine
    } catch (error) {
      const fault = await this.#withLastWords(domain, paths, launched, error)
      machine?.expectEnd()
      machine?.release()
      launched.monitor.close()
      await kill(context, launched.record.process)
      await sweep(context, paths)
      await this.#dropGroup(domain.id)
      throw fault
    }
  }

  /** A monitor that closed means that QEMU died, for a reason that it wrote down. */
  async #withLastWords(domain: DriverDomain, paths: DomainPaths, launched: Launched, error: unknown): Promise<unknown> {
    if (!(error instanceof Fault) || error.code !== 'unavailable') return error
    await this.#clock.sleep(millis(100))
    if (
      (await this.#host.processes.identity(launched.record.process.pid))?.startTimeTicks ===
      launched.record.process.startTimeTicks
    )
      return error
    const words = (await lastWords(this.#host, paths.stderr).catch(() => null)) ?? 'without a word'
    return new Fault('failed', `start ${domain.name}: QEMU ended: ${words}`, { cause: error })
  }

  /** Politely first, so that QEMU writes its disk caches back; it may be hung, so not for long. */
  async #end(machine: Machine): Promise<void> {
    machine.expectEnd()
    const context = this.#launchContext('tcg')
    try {
      await machine.execute('quit', {}, { limit: QUIT_LIMIT })
      await waitForExit(context, machine.process, QUIT_EXIT_LIMIT)
    } catch {
      try {
        await kill(context, machine.process)
      } catch (error) {
        machine.expectEnd(false)
        throw error
      }
    }
    await machine.exited
    await machine.settled()
    await this.#endTpm(machine)
  }

  /** Of a machine that has ended, while no other has taken its place. */
  async #endTpm({ record, id, paths }: Machine): Promise<void> {
    if (record.tpm !== undefined && !this.#machines.has(id)) await endTpm({ host: this.#host, clock: this.#clock }, paths)
  }

  async #trimLoop(): Promise<void> {
    const { signal } = this.#closing
    while (!signal.aborted) {
      await this.#clock.sleep(this.#limits.consoleTrimInterval, { signal }).catch(() => {})
      for (const machine of signal.aborted ? [] : this.#machines.values()) {
        await trimConsoleLog(this.#host.files, machine.paths, this.#limits.consoleKeepBytes, this.#log).catch((error: unknown) =>
          this.#log.warn('qemu.console.not_trimmed', {
            domain: machine.id,
            reason: error instanceof Error ? error.message : String(error),
          }),
        )
      }
    }
  }
}
