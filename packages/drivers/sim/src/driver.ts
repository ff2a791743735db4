import { Channel, Fault, joinBytes, millis, toFault, type Bytes, type Clock, type Rng } from '@typevisor/base'
import {
  assertGuest,
  firmwareOf,
  HOTPLUG_PORT_COUNT_MAX,
  isDetachable,
  isToRun,
  waitsForRoom,
  type Chord,
  type DeviceRequest,
  type DomainDevice,
  DRIVER_SETTING_NAMES,
  changedDriverSettings,
  memoryBytesOf,
  vcpuCountOf,
  type DomainId,
  type DomainName,
  type DomainSettings,
  type DomainSpec,
  type DomainStatistics,
  type ExecResult,
  type GuestAddress,
  type MigrationStatistics,
  type PortForward,
  type VolumeId,
} from '@typevisor/model'
import { assertSettable, freePort, macFor, planUsb, serialOfName, volumeOf } from '@typevisor/toolstack'
import type {
  CallOptions,
  ConsoleOptions,
  ConsoleSlice,
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
import { SAVE_BYTES, SimHypervisor, type SimGuest, type SimSave } from './hypervisor.ts'
import { streamPair } from './stream-pair.ts'

/** Called before each operation takes effect: throws the Fault to inject, or returns. */
export type SimFaults = (operation: keyof DomainDriver, id: DomainId | null) => void

export interface SimDriverOptions {
  readonly hypervisor: SimHypervisor
  readonly clock: Clock
  /** Draws each operation's delay in [0, delayMsMax]. */
  readonly rng?: Rng
  readonly delayMsMax?: number
  readonly faults?: SimFaults
  /** What can be set; absent: everything. */
  readonly settings?: DriverCapabilities['settings']
  /** Events that may wait to be read. */
  readonly eventCountMax?: number
}

const EVENT_QUEUE = 65_536
const USB_PORT_COUNT = 8
const CAN = { can: true } as const
const CAN_SET = Object.fromEntries(DRIVER_SETTING_NAMES.map((name) => [name, CAN])) as DriverCapabilities['settings'] // of all names
const NO_TIME = { readTimeNs: 0, writeTimeNs: 0, flushTimeNs: 0 }
const ENCODER = new TextEncoder()
/** What a domain lacks that came by post-copy. */
const REST = 'rest'
const REJOIN_EVERY = millis(500)
const NOTHING_LEFT = { memoryBytes: 0, memoryRemainingBytes: 0, diskBytes: 0, diskRemainingBytes: 0, dirtyBytesPerSecond: null }
const stateLine = ({ memory, bootedAt, frozen, resetCount }: SimGuest, isFetched = false): string =>
  `${JSON.stringify({ memory, bootedAt, frozen, resetCount, ...(isFetched ? { isFetched } : {}) })}\n`

export function createSimDriver(options: SimDriverOptions): DomainDriver {
  return new SimDriver(options)
}

const saveOf = ({ domain, memory, settings }: SimGuest): SimSave => ({
  domain: domain.id,
  machine: domain.hardware.machine,
  devices: devicesOf(domain),
  vcpuCount: vcpuCountOf(domain.spec, settings),
  memory,
  whole: true,
})
const macOf = (id: DomainId, index: number): string => {
  const tail = (Number.parseInt(id.slice(-6), 16) + index) & 0xff_ffff
  return `52:54:00:${tail
    .toString(16)
    .padStart(6, '0')
    .replace(/(..)(?=.)/g, '$1:')}`
}
/** Where the host chooses, it chooses these. */
const withPorts = (forwards: readonly PortForward[], first: number): PortForward[] =>
  forwards.map((forward, index) => (forward.hostPort === 0 ? { ...forward, hostPort: first + index } : forward))
const devicesOf = ({ hardware }: DriverDomain): string =>
  hardware.devices.map(({ name, address }) => `${name}@${address}`).join(' ')

const FIRMWARE_FILE = 'firmware'
const NO_CODE = { can: false, reason: 'domains in memory run no code of another architecture' } as const
const NO_TPM = { can: false, reason: 'domains in memory have no TPM' } as const
const NO_NETWORK = { can: false, reason: 'domains in memory have no network to boot from' } as const
const NO_SECURE_BOOT = { can: false, reason: 'domains in memory check no signatures' } as const
const FIRMWARE = { bios: CAN, uefi: CAN, 'uefi-secure': NO_SECURE_BOOT }
const GUESTS: NonNullable<DriverCapabilities['guests']> = {
  x86_64: { runs: CAN, firmware: FIRMWARE, tpm: NO_TPM, networkBoot: NO_NETWORK },
  aarch64: { runs: NO_CODE, firmware: FIRMWARE, tpm: NO_TPM, networkBoot: NO_NETWORK },
  riscv64: { runs: NO_CODE, firmware: FIRMWARE, tpm: NO_TPM, networkBoot: NO_NETWORK },
}

class SimDriver implements DomainDriver {
  readonly name = 'sim'
  readonly #hypervisor: SimHypervisor
  readonly #options: SimDriverOptions
  #events: Channel<DriverEvent>
  readonly #unlisten: () => void

  constructor(options: SimDriverOptions) {
    this.#options = options
    this.#hypervisor = options.hypervisor
    this.#events = this.#queue()
    this.#unlisten = this.#hypervisor.listen((event) => {
      try {
        this.#events.push(event)
      } catch (error) {
        this.#events.close(error)
      }
    })
  }

  async capabilities(): Promise<DriverCapabilities> {
    return {
      driver: 'sim',
      version: 'sim 1',
      accelerator: 'none',
      acceleratorReason: 'domains in memory have no processor',
      architectures: ['none'],
      guests: GUESTS,
      save: CAN,
      console: CAN,
      vnc: { can: false, reason: 'domains in memory have no screen' },
      guestAgent: CAN,
      statistics: CAN,
      liveMigration: CAN,
      postCopy: CAN,
      coreDump: { can: true },
      keyboard: { can: true },
      hotplug: CAN,
      settings: this.#options.settings ?? CAN_SET,
      vcpuUnplug: CAN,
    }
  }

  async planHardware(id: DomainId, spec: DomainSpec, volumes: readonly { name: string; volume: VolumeId; readOnly: boolean }[]) {
    assertGuest(spec, { what: `plan ${spec.name}`, boot: null, guests: GUESTS })
    const disks = volumes.map((disk, index): DomainDevice => ({
      kind: 'disk',
      ...disk,
      address: `${(4 + index).toString(16)}.0`,
      serial: `${id.slice(-12)}-${disk.name}`.slice(0, 20),
    }))
    const ports = Array.from({ length: spec.hotplugPortCount ?? 0 }, (_, index): DomainDevice => ({
      kind: 'port',
      name: `port${index}`,
      address: `1${(index >> 3).toString(16)}.${index & 7}`,
    }))
    if (ports.length > HOTPLUG_PORT_COUNT_MAX)
      throw new Fault('invalid', `hotplugPortCount: got ${ports.length}, want at most ${HOTPLUG_PORT_COUNT_MAX}`)
    const usb: DomainDevice[] = spec.usb === true ? [{ kind: 'usb-controller', name: 'usb', address: '2.0' }] : []
    const nic: DomainDevice = {
      kind: 'nic',
      name: 'net0',
      mac: macOf(id, 0),
      address: '3.0',
      forwards: withPorts(spec.forwards, 50_000),
    }
    return { machine: 'sim-1', cpuModel: 'sim-v1', devices: [...ports, nic, ...usb, ...disks] }
  }

  async planDevice(
    { id, hardware }: DriverDomain,
    request: DeviceRequest,
    volume: VolumeId | null,
  ): Promise<readonly DomainDevice[]> {
    if (request.kind === 'usb') return planUsb(hardware, request, volume, USB_PORT_COUNT)
    const { kind, name } = request
    const serial = serialOfName(name)
    const port = freePort(hardware, name)
    const at = { name, address: '0.0', port }
    if (kind === 'nic') {
      const mac = macFor(hardware, request.mac, (index) => macOf(id, index))
      const first = 51_000 + 16 * Number(port.slice('port'.length))
      return [{ kind, ...at, mac, forwards: withPorts(request.forwards ?? [], first) }]
    }
    if (kind === 'cd') return [{ kind, ...at, serial, medium: request.medium ?? null, volume }]
    return [{ kind, ...at, serial, volume: volume ?? (`${id}.${name}` as VolumeId), readOnly: request.readOnly ?? false }]
  }

  async attach(domain: DriverDomain, device: DomainDevice, options?: CallOptions): Promise<void> {
    await this.#enter('attach', domain.id, options)
    const guest = this.#hypervisor.need(domain.id)
    if (guest.domain.hardware.devices.some(({ name }) => name === device.name)) return
    const { hardware } = guest.domain
    guest.domain = {
      ...guest.domain,
      hardware: { ...hardware, devices: [...hardware.devices, device] },
      volumes: domain.volumes,
    }
  }

  async detach(id: DomainId, name: string, { timeoutMs, force, ...options }: DetachOptions): Promise<void> {
    await this.#enter('detach', id, options)
    const guest = this.#hypervisor.guests.get(id)
    const device = guest?.domain.hardware.devices.find((each) => each.name === name)
    if (!guest || !device) return
    const isAnswering = guest.state.kind === 'running' && this.#hypervisor.booted(guest)
    if (!isAnswering && !force && device.kind !== 'usb') {
      guest.asked.add(name)
      await this.#options.clock.sleep(millis(timeoutMs), { signal: options.signal })
      if (guest.domain.hardware.devices.includes(device))
        throw new Fault('timeout', `detach ${name} of ${guest.domain.name}: the guest did not let go of it in ${timeoutMs} ms`)
    }
    this.#hypervisor.unplug(guest, name)
  }

  async attachedDevices(id: DomainId, options?: CallOptions): Promise<readonly string[]> {
    await this.#enter('attachedDevices', id, options)
    return this.#hypervisor
      .need(id)
      .domain.hardware.devices.filter(isDetachable)
      .map(({ name }) => name)
  }

  async changeMedium(domain: DriverDomain, name: string, options?: CallOptions): Promise<void> {
    await this.#enter('changeMedium', domain.id, options)
    const guest = this.#hypervisor.need(domain.id)
    const drive = domain.hardware.devices.find((device) => device.name === name)
    const { hardware } = guest.domain
    if (drive)
      guest.domain = {
        ...guest.domain,
        hardware: { ...hardware, devices: hardware.devices.map((device) => (device.name === name ? drive : device)) },
        volumes: domain.volumes,
      }
  }

  async resizeDisk(
    domain: DriverDomain,
    _name: string,
    _sizeBytes: Bytes,
    grow: () => Promise<void>,
    options?: CallOptions,
  ): Promise<void> {
    await this.#enter('resizeDisk', domain.id, options)
    this.#hypervisor.need(domain.id)
    await grow()
  }

  async create(domain: DriverDomain, options?: CallOptions): Promise<void> {
    await this.#enter('create', domain.id, options)
    if (this.#hypervisor.guests.has(domain.id)) return
    this.#add(domain, 0)
  }

  async unpause(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('unpause', id, options)
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind === 'running') return
    if (guest.incoming !== undefined)
      throw new Fault('conflict', `unpause ${guest.domain.name}: it comes from another host, and was not taken over`)
    if (guest.state.kind !== 'paused') throw new Fault('conflict', `unpause ${guest.domain.name}: it is ${guest.state.kind}`)
    this.#goOn(guest)
  }

  #goOn(guest: SimGuest): void {
    const { id } = guest.domain
    this.#hypervisor.enter(id, { kind: 'running' })
    if (guest.bootedAt === null) this.#hypervisor.boot(guest)
    this.#hypervisor.answer(guest)
    // It writes again what it could not.
    if (guest.diskFull) this.#hypervisor.guest.fillDisk(id)
  }

  async pause(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('pause', id, options)
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind === 'paused' && !waitsForRoom(guest.state)) return
    if (!isToRun(guest.state)) throw new Fault('conflict', `pause ${guest.domain.name}: it is ${guest.state.kind}`)
    this.#hypervisor.enter(id, { kind: 'paused', cause: 'requested' })
  }

  async requestShutdown(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('requestShutdown', id, options)
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind !== 'running') throw new Fault('conflict', `shutdown ${guest.domain.name}: it is ${guest.state.kind}`)
    // A guest that has not booted does not hear the button, as with real ones.
    if (this.#hypervisor.booted(guest)) this.#hypervisor.guest.powerOff(id)
  }

  async reset(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('reset', id, options)
    this.#hypervisor.reset(id)
  }

  async destroy(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('destroy', id, options)
    if (this.#hypervisor.guests.has(id)) this.#hypervisor.enter(id, { kind: 'gone', cause: 'requested', detail: null })
  }

  async save(id: DomainId, path: string, options?: CallOptions): Promise<{ sizeBytes: number }> {
    await this.#enter('save', id, options)
    const kept = this.#hypervisor.saves.get(path)
    if (!this.#hypervisor.guests.has(id) && kept?.whole && kept.domain === id) return { sizeBytes: SAVE_BYTES }
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind !== 'running' && guest.state.kind !== 'paused')
      throw new Fault('conflict', `save ${guest.domain.name}: it is ${guest.state.kind}`)
    this.#hypervisor.saves.set(path, saveOf(guest))
    this.#hypervisor.enter(id, { kind: 'gone', cause: 'requested', detail: null })
    return { sizeBytes: SAVE_BYTES }
  }

  async restore(domain: DriverDomain, path: string, options?: CallOptions): Promise<void> {
    await this.#enter('restore', domain.id, options)
    if (this.#hypervisor.guests.has(domain.id)) return
    const save = this.#saveOf(domain, path)
    const { vcpuCount: _count, ...settings } = domain.settings ?? {}
    const saved = { ...domain, settings: { ...settings, vcpuCount: save.vcpuCount } }
    this.#add(saved, save.memory).bootedAt = this.#hypervisor.clock.now()
  }

  async checkSave(domain: DriverDomain, path: string, options?: CallOptions): Promise<void> {
    await this.#enter('checkSave', domain.id, options)
    this.#saveOf(domain, path)
  }

  async snapshotMemory(id: DomainId, path: string, options?: CallOptions): Promise<{ sizeBytes: number }> {
    await this.#enter('snapshotMemory', id, options)
    const guest = this.#hypervisor.need(id)
    const { kind } = guest.state
    if (kind !== 'running' && kind !== 'paused') throw new Fault('conflict', `snapshot ${guest.domain.name}: it is ${kind}`)
    this.#hypervisor.saves.set(path, saveOf(guest))
    if (isToRun(guest.state)) this.#hypervisor.enter(id, { kind: 'paused', cause: 'requested' })
    return { sizeBytes: SAVE_BYTES }
  }

  async keepFirmware(domain: DriverDomain, path: string, options?: CallOptions): Promise<boolean> {
    await this.#enter('keepFirmware', domain.id, options)
    if (firmwareOf(domain.spec) === 'bios') return false
    const kept = { domain: domain.id, machine: FIRMWARE_FILE, vcpuCount: 0, devices: '', memory: 0, whole: true }
    this.#hypervisor.saves.set(path, kept)
    return true
  }

  async putFirmwareBack(domain: DriverDomain, path: string, options?: CallOptions): Promise<void> {
    await this.#enter('putFirmwareBack', domain.id, options)
    if (this.#hypervisor.guests.has(domain.id))
      throw new Fault('conflict', `put firmware of ${domain.name} back: it is there, want gone`)
    if (this.#hypervisor.saves.get(path)?.machine !== FIRMWARE_FILE)
      throw new Fault('not_found', `put firmware of ${domain.name} back: no file ${path}`)
  }

  async receive(domain: DriverDomain, options?: ReceiveOptions): Promise<MigrationTarget> {
    await this.#enter('receive', domain.id, options)
    const there = this.#hypervisor.guests.get(domain.id)
    if (there && there.incoming === undefined) throw new Fault('conflict', `receive ${domain.name}: it is here already`)
    there?.incoming?.reject(new Fault('failed', `receive ${domain.name}: it begins anew`))
    const guest = this.#add(domain, 0)
    const whole = Promise.withResolvers<void>()
    whole.promise.catch(() => {})
    guest.incoming = whole
    return this.#target(guest)
  }

  async receiving(id: DomainId, options?: CallOptions): Promise<MigrationTarget | null> {
    await this.#enter('receiving', id, options)
    const guest = this.#hypervisor.guests.get(id)
    return guest && (guest.incoming !== undefined || guest.lacks) ? this.#target(guest) : null
  }

  #target(guest: SimGuest): MigrationTarget {
    const { name } = guest.domain
    /** A line is the state of the guest, a second one behind it what it lacks. */
    const take = async (parts: AsyncIterable<Uint8Array>): Promise<void> => {
      let text = ''
      for await (const part of parts) {
        text += new TextDecoder().decode(part)
        const [state, rest] = text.split('\n')
        if (rest === undefined) continue
        if (guest.incoming) {
          const { isFetched, ...content } = JSON.parse(state ?? '') as { isFetched?: boolean }
          Object.assign(guest, content)
          if (isFetched) guest.lacks = Promise.withResolvers()
          guest.incoming.resolve()
          guest.incoming = null
        }
        if (rest === REST) {
          guest.lacks?.resolve()
          delete guest.lacks
        }
      }
      guest.incoming?.reject(new Fault('failed', `receive ${name}: the stream was broken`))
    }
    const { incoming } = guest
    return {
      connect: async (channel) => {
        if (channel !== 'memory') throw new Fault('not_found', `receive ${name}: got channel ${channel}, want memory`)
        const [near, far] = streamPair()
        void take(far.readable).catch((error: unknown) => guest.incoming?.reject(error))
        return near
      },
      disksDone: async () => {},
      loaded: async () => await incoming?.promise,
      arrived: async () => await guest.lacks?.promise,
    }
  }

  async takeOver(id: DomainId, options?: TakeOverOptions): Promise<TakenOver> {
    await this.#enter('takeOver', id, options)
    const guest = this.#hypervisor.need(id)
    if (guest.incoming) throw new Fault('conflict', `take over ${guest.domain.name}: not all of it has come`)
    delete guest.incoming
    const isWhole = guest.lacks === undefined
    if (!options?.goesOn || guest.state.kind !== 'paused') return { goneOnAt: null, isWhole }
    this.#goOn(guest)
    return { goneOnAt: this.#options.clock.monotonic(), isWhole }
  }

  async migrateTo(id: DomainId, peer: MigrationPeer, options: MigrateOptions = {}): Promise<MigrationStatistics> {
    await this.#enter('migrateTo', id, options)
    const guest = this.#hypervisor.need(id)
    const { state } = guest
    if (state.kind !== 'running' && state.kind !== 'paused')
      throw new Fault('conflict', `migrate ${guest.domain.name}: it is ${state.kind}`)
    const stream = await peer.open('memory', { signal: options.signal })
    try {
      // It stands still, of which nobody is told: its state is the other side's by and by.
      if (state.kind === 'running') guest.state = { kind: 'paused', cause: 'requested' }
      await peer.disksDone({ signal: options.signal })
      await this.#enter('migrateTo', id, options)
      const content = ENCODER.encode(stateLine(guest))
      if (options.postCopy) {
        guest.sent = 'disks'
        guest.out = stream
      } else {
        await stream.write(content)
        await stream.end()
      }
      options.onProgress?.({
        phase: 'switchover',
        memoryBytes: content.length,
        memoryRemainingBytes: 0,
        diskBytes: 0,
        diskRemainingBytes: 0,
        dirtyBytesPerSecond: 0,
      })
      return { totalMs: 0, downtimeMs: 0, memoryBytes: content.length, diskBytes: 0 }
    } catch (error) {
      if (this.#hypervisor.guests.get(id) === guest && guest.state.kind === 'paused') guest.state = state
      stream.close()
      throw error
    }
  }

  async takeBack(id: DomainId, wasRunning: boolean, options?: CallOptions): Promise<void> {
    await this.#enter('takeBack', id, options)
    const guest = this.#hypervisor.guests.get(id)
    guest?.out?.close()
    if (guest) delete guest.sent
    if (wasRunning && guest?.state.kind === 'paused') guest.state = { kind: 'running' }
  }

  async sendRest(id: DomainId, peer: Pick<MigrationPeer, 'open'>, options: SendRestOptions = {}): Promise<void> {
    const { signal, onProgress } = options
    while (true) {
      await this.#enter('sendRest', id, options)
      const guest = this.#hypervisor.guests.get(id)
      if (guest?.sent === undefined || guest.sent === 'all') return
      try {
        const stream = guest.sent === 'disks' && guest.out ? guest.out : await peer.open('memory', { signal })
        await stream.write(ENCODER.encode(stateLine(guest, true)))
        guest.sent = 'state'
        onProgress?.({ ...NOTHING_LEFT, phase: 'fetched' })
        await this.#enter('sendRest', id, options)
        await stream.write(ENCODER.encode(`${REST}\n`))
        await stream.end()
        guest.sent = 'all'
        return
      } catch (error) {
        signal?.throwIfAborted()
        if (guest.sent === 'disks') throw new Fault('failed', `migrate ${guest.domain.name}: ${toFault(error).message}`)
        await this.#options.clock.sleep(REJOIN_EVERY, { signal })
      }
    }
  }

  async freeze(id: DomainId, _limitMs: number, options?: CallOptions): Promise<void> {
    await this.#enter('freeze', id, options)
    this.#answering(id).frozen = true
  }

  async thaw(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('thaw', id, options)
    this.#answering(id).frozen = false
  }

  async applySettings(domain: DriverDomain, settings: DomainSettings, options: SettingsOptions): Promise<SettingsOutcome> {
    await this.#enter('applySettings', domain.id, options)
    const guest = this.#hypervisor.need(domain.id)
    const can = this.#options.settings ?? CAN_SET
    const changed = changedDriverSettings(domain.settings ?? {}, settings)
    assertSettable(domain.name, changed, settings, can)
    if (changed.includes('vcpuCount') && guest.state.kind !== 'running')
      throw new Fault('conflict', `set ${domain.name}: it is ${guest.state.kind}`)
    guest.settings = settings
    const isAsleep = guest.state.kind === 'paused' && changed.includes('memoryBytes')
    return { notes: isAsleep ? ['it is paused: the guest takes it up when it goes on'] : [] }
  }

  async correctClock(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('correctClock', id, options)
    this.#answering(id)
  }

  async state(id: DomainId, options?: CallOptions): Promise<DriverState> {
    await this.#enter('state', id, options)
    return this.#hypervisor.guests.get(id)?.state ?? { kind: 'gone', cause: 'unknown', detail: null }
  }

  async adopt(domains: readonly DriverDomain[], options?: CallOptions): Promise<ReadonlyMap<DomainId, DriverState>> {
    await this.#enter('adopt', null, options)
    // Those of a queue that was full are lost; from here on there is no gap.
    if (this.#events.closed) this.#events = this.#queue()
    // Who sent it is cut off.
    for (const { id } of domains) if (this.#hypervisor.guests.get(id)?.incoming) this.#hypervisor.guests.delete(id)
    return new Map(
      domains.map(({ id }) => [id, this.#hypervisor.guests.get(id)?.state ?? { kind: 'gone', cause: 'unknown', detail: null }]),
    )
  }

  async *events(options?: CallOptions): AsyncGenerator<DriverEvent, void, undefined> {
    const events = this.#events
    const stop = () => events.close()
    options?.signal?.addEventListener('abort', stop, { once: true })
    yield* events
  }

  async forwards(id: DomainId): Promise<readonly PortForward[]> {
    const { devices } = this.#hypervisor.need(id).domain.hardware
    return devices.flatMap((device) => (device.kind === 'nic' ? device.forwards : []))
  }

  async statistics(id: DomainId, options?: CallOptions): Promise<DomainStatistics> {
    await this.#enter('statistics', id, options)
    const guest = this.#hypervisor.need(id)
    guest.cpuTimeNs += 1_000_000
    return {
      at: this.#hypervisor.clock.now(),
      cpuTimeNs: guest.cpuTimeNs,
      residentBytes: guest.domain.spec.memoryBytes,
      balloonBytes: guest.settings.memoryTargetBytes ?? memoryBytesOf(guest.domain.spec, guest.settings),
      vcpus: Array.from({ length: vcpuCountOf(guest.domain.spec, guest.settings) }, (_, index) => ({
        index,
        cpuTimeNs: index === 0 ? guest.cpuTimeNs : 0,
        waitTimeNs: 0,
      })),
      disks: guest.domain.hardware.devices
        .filter((device) => volumeOf(device) !== null)
        .map(({ name }) => ({ name, readBytes: 0, writeBytes: 0, readCount: 0, writeCount: 0, flushCount: 0, ...NO_TIME })),
      nics: guest.domain.hardware.devices
        .filter((device) => device.kind === 'nic')
        .map(({ name }) => ({ name, receiveBytes: null, transmitBytes: null })),
    }
  }

  async openConsole(id: DomainId, options?: ConsoleOptions): Promise<GuestStream> {
    await this.#enter('openConsole', id, options)
    const guest = this.#hypervisor.need(id)
    const output = new Channel<Uint8Array>(4096)
    if (options?.fromOffset !== undefined) {
      const { content } = await this.readConsole(id, options.fromOffset, Number.MAX_SAFE_INTEGER)
      if (content.length > 0) output.push(content)
    }
    const close = this.#hypervisor.readConsoleLive(id, (content) => output.push(content))
    return {
      readable: output,
      write: async (content) => {
        // The guest's terminal echoes, as a real one does.
        const text = new TextDecoder().decode(content)
        this.#hypervisor.print(guest.domain.id, text.replaceAll('\r', '\r\n'))
      },
      close: () => {
        close()
        output.close()
      },
    }
  }

  async readConsole(id: DomainId, fromOffset: number, sizeMax: number): Promise<ConsoleSlice> {
    const { start, content } = this.#hypervisor.console(id)
    const end = start + content.length
    const startOffset = Math.min(Math.max(fromOffset, start), end)
    const slice = content.slice(startOffset - start, startOffset - start + sizeMax)
    return { startOffset, endOffset: startOffset + slice.length, content: slice }
  }

  async openVnc(): Promise<GuestStream> {
    throw new Fault('unsupported', 'vnc: domains in memory have no screen')
  }

  async exec(id: DomainId, request: ExecRequest, options?: CallOptions): Promise<ExecResult> {
    await this.#enter('exec', id, options)
    const guest = this.#answering(id)
    if (guest.frozen) throw new Fault('failed', `exec in ${guest.domain.name}: its file systems are frozen`)
    const [command, ...rest] = request.argv
    const reply = (exitCode: number, stdout = '', stderr = ''): ExecResult => ({
      exitCode,
      signal: null,
      stdout: ENCODER.encode(stdout),
      stderr: ENCODER.encode(stderr),
      truncated: false,
    })
    switch (command?.split('/').at(-1)) {
      case 'echo':
        return reply(0, `${rest.join(' ')}\n`)
      case 'true':
        return reply(0)
      case 'false':
        return reply(1)
      case 'cat':
        return reply(0, new TextDecoder().decode(request.stdin ?? new Uint8Array()))
      case 'count':
        guest.memory += 1
        return reply(0, `${guest.memory}\n`)
      case 'nproc':
        return reply(0, `${vcpuCountOf(guest.domain.spec, guest.settings)}\n`)
      case 'memory':
        return reply(0, `${memoryBytesOf(guest.domain.spec, guest.settings) / 1024}\n`)
      case 'passwd':
        return reply(126, '', `${command}: cannot be executed\n`)
      default:
        return reply(127, '', `${command}: the guest has no such command\n`)
    }
  }

  async addresses(id: DomainId, options?: CallOptions): Promise<readonly GuestAddress[]> {
    await this.#enter('addresses', id, options)
    const guest = this.#answering(id)
    const nic = guest.domain.hardware.devices.find((device) => device.kind === 'nic')
    return [{ device: 'eth0', mac: nic?.mac ?? null, addresses: [{ family: 'ipv4', address: '10.0.2.15', prefixLength: 24 }] }]
  }

  async readGuestFile(
    id: DomainId,
    path: string,
    fromOffset: number,
    sizeMax: number,
    options?: CallOptions,
  ): Promise<Uint8Array> {
    await this.#enter('readGuestFile', id, options)
    const content = this.#answering(id).files.get(path)
    if (!content) throw new Fault('failed', `read ${path}: the guest has no such file`)
    return content.slice(fromOffset, fromOffset + sizeMax)
  }

  async writeGuestFile(
    id: DomainId,
    path: string,
    content: Uint8Array,
    options?: CallOptions & { readonly append?: boolean },
  ): Promise<void> {
    await this.#enter('writeGuestFile', id, options)
    const { files } = this.#answering(id)
    const before = options?.append ? (files.get(path) ?? new Uint8Array()) : new Uint8Array()
    files.set(path, joinBytes([before, content]))
  }

  async setGuestPassword(id: DomainId, user: string, _password: string, options?: CallOptions): Promise<void> {
    await this.#enter('setGuestPassword', id, options)
    this.#answering(id)
    if (user !== 'root') throw new Fault('failed', `password of ${user}: the guest has no such account`)
  }

  async screenshot(): Promise<Uint8Array> {
    throw new Fault('unsupported', 'screenshot: domains in memory have no screen')
  }

  /** The guest tells on its console what was pressed. */
  async sendKeys(id: DomainId, chords: readonly Chord[], options?: CallOptions): Promise<void> {
    await this.#enter('sendKeys', id, options)
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind !== 'running') throw new Fault('conflict', `keys for ${guest.domain.name}: it is ${guest.state.kind}`)
    for (const chord of chords) this.#hypervisor.print(id, `sim: key ${chord.join('-')}\r\n`)
  }

  async dumpCore(
    id: DomainId,
    path: string,
    options?: CallOptions & { readonly format?: CoreFormat },
  ): Promise<{ sizeBytes: number }> {
    await this.#enter('dumpCore', id, options)
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind === 'powered-off') throw new Fault('conflict', `dump ${guest.domain.name}: it is powered off`)
    this.#hypervisor.saves.set(path, {
      domain: id,
      machine: 'core',
      devices: '',
      memory: guest.memory,
      vcpuCount: 0,
      whole: true,
    })
    return { sizeBytes: SAVE_BYTES }
  }

  async rename(id: DomainId, name: DomainName, options?: CallOptions): Promise<void> {
    await this.#enter('rename', id, options)
    const guest = this.#hypervisor.guests.get(id)
    if (guest) guest.domain = { ...guest.domain, name, spec: { ...guest.domain.spec, name } }
  }

  async forget(id: DomainId, options?: CallOptions): Promise<void> {
    await this.#enter('forget', id, options)
    if (this.#hypervisor.guests.has(id)) throw new Fault('conflict', `forget ${id}: it is there`)
    this.#hypervisor.forget(id)
  }

  async close(): Promise<void> {
    this.#unlisten()
    this.#events.close()
  }

  #saveOf(domain: DriverDomain, path: string): SimSave {
    const save = this.#hypervisor.saves.get(path)
    if (!save) throw new Fault('not_found', `restore ${domain.name}: there is no ${path}`)
    if (!save.whole || save.domain !== domain.id || save.machine !== domain.hardware.machine)
      throw new Fault('failed', `restore ${domain.name}: ${path} is no save of this domain`)
    if (save.devices !== devicesOf(domain))
      throw new Fault('failed', `restore ${domain.name}: ${path} has devices ${save.devices}, want ${devicesOf(domain)}`)
    return save
  }

  #queue(): Channel<DriverEvent> {
    return new Channel(this.#options.eventCountMax ?? EVENT_QUEUE)
  }

  #add(domain: DriverDomain, memory: number): SimGuest {
    const guest: SimGuest = {
      domain,
      asked: new Set(),
      state: { kind: 'paused', cause: 'requested' },
      bootedAt: null,
      cpuTimeNs: 0,
      resetCount: 0,
      memory,
      frozen: false,
      files: new Map(),
      diskFull: false,
      settings: domain.settings ?? {},
    }
    this.#hypervisor.guests.set(domain.id, guest)
    return guest
  }

  #answering(id: DomainId): SimGuest {
    const guest = this.#hypervisor.need(id)
    if (guest.state.kind !== 'running' || !this.#hypervisor.booted(guest)) {
      throw new Fault('unavailable', `domain ${guest.domain.name}: no agent answers in the guest`)
    }
    return guest
  }

  async #enter(operation: keyof DomainDriver, id: DomainId | null, options?: CallOptions): Promise<void> {
    options?.signal?.throwIfAborted()
    const { rng, delayMsMax = 0, clock, faults } = this.#options
    if (rng && delayMsMax > 0) await clock.sleep(millis(rng.below(delayMsMax + 1)), { signal: options?.signal })
    faults?.(operation, id)
  }
}
