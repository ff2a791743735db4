/**
 * A hypervisor in memory: what outlives the driver, as QEMU processes outlive the agent. Its guests have no processor; they boot after a
 * delay, write to the serial console, answer a small agent, and do what a test makes them do (`guest`).
 */
import { epochMillis, Fault, joinBytes, type Clock, type EpochMillis } from '@typevisor/base'
import { waitsForRoom, type DomainCause, type DomainId, type DomainSettings } from '@typevisor/model'
import type { DriverDomain, DriverEvent, DriverState, MigrationStream, SaveFolder } from '@typevisor/toolstack'

export interface SimGuest {
  /** With the devices that it has now. */
  domain: DriverDomain
  /** Devices that it was asked to let go of while it could not. */
  readonly asked: Set<string>
  state: DriverState
  bootedAt: EpochMillis | null
  cpuTimeNs: number
  /** How often the machine was reset. */
  resetCount: number
  /** Kept memory: a counter that a save must keep. */
  memory: number
  /** Its files by path. */
  readonly files: Map<string, Uint8Array>
  /** Its file systems are frozen. */
  frozen: boolean
  /** There is no room for what it writes. */
  diskFull: boolean
  settings: DomainSettings
  /** It comes from another hypervisor: null when all of it has come. */
  incoming?: PromiseWithResolvers<void> | null
  /** It lacks memory, which comes from another hypervisor. */
  lacks?: PromiseWithResolvers<void>
  /** How far a migration by post-copy of it is. */
  sent?: 'disks' | 'state' | 'all'
  /** By which its state goes. */
  out?: MigrationStream
}

export interface SimSave {
  readonly domain: DomainId
  readonly machine: string
  readonly vcpuCount: number
  /** Names and addresses of its devices. */
  readonly devices: string
  readonly memory: number
  whole: boolean
}

const DISK_FULL: DriverState = { kind: 'paused', cause: 'disk-full' }
const CONSOLE_KEPT_BYTES = 1024 * 1024
export const SAVE_BYTES = 1024

export class SimHypervisor {
  readonly clock: Clock
  /** Virtual milliseconds from the first instruction to a booted userspace. */
  readonly bootMs: number
  readonly guests = new Map<DomainId, SimGuest>()
  readonly saves = new Map<string, SimSave>()
  /** What can still be saved. */
  freeBytes = Infinity
  /** Where the saves lie, as a toolstack wants it. */
  readonly saveFolder: SaveFolder = {
    pathOf: (id, save) => `/sim/${id}.${save}.save`,
    keepOnly: async (id, paths) => {
      for (const [at, { domain }] of this.saves) if (domain === id && !paths.includes(at)) this.saves.delete(at)
    },
    freeBytes: async () => this.freeBytes,
    read: (path) => this.#readSave(path),
    write: async (path, content) => {
      const whole = joinBytes(await Array.fromAsync(content))
      this.saves.set(path, JSON.parse(new TextDecoder().decode(whole)) as SimSave)
      return { sizeBytes: whole.length }
    },
  }
  readonly #consoles = new Map<DomainId, { start: number; content: Uint8Array }>()
  readonly #listeners = new Set<(event: DriverEvent) => void>()
  readonly #consoleReaders = new Map<DomainId, Set<(content: Uint8Array) => void>>()

  constructor(clock: Clock, options: { bootMs?: number } = {}) {
    this.clock = clock
    this.bootMs = options.bootMs ?? 0
  }

  async *#readSave(path: string): AsyncGenerator<Uint8Array, void, undefined> {
    const save = this.saves.get(path)
    if (!save) throw new Fault('not_found', `read ${path}: there is no such file`)
    yield new TextEncoder().encode(JSON.stringify(save).padEnd(SAVE_BYTES))
  }

  listen(listener: (event: DriverEvent) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  need(id: DomainId): SimGuest {
    const guest = this.guests.get(id)
    if (!guest) throw new Fault('conflict', `domain ${id}: it has no process`)
    return guest
  }

  enter(id: DomainId, state: DriverState): void {
    const guest = this.need(id)
    guest.state = state
    if (state.kind === 'gone') this.guests.delete(id)
    this.#tell({ at: this.clock.now(), domain: id, kind: 'state', state })
  }

  reset(id: DomainId): void {
    const guest = this.need(id)
    guest.resetCount += 1
    guest.memory = 0
    guest.frozen = false
    this.#tell({ at: this.clock.now(), domain: id, kind: 'reset', state: guest.state })
    this.boot(guest)
  }

  boot(guest: SimGuest): void {
    guest.bootedAt = epochMillis(this.clock.now() + this.bootMs)
    this.print(guest.domain.id, `sim: ${guest.domain.name} boots\r\nsim: ready\r\n`)
  }

  /** The device is the guest's no more. */
  unplug(guest: SimGuest, name: string): void {
    const { hardware } = guest.domain
    guest.asked.delete(name)
    guest.domain = {
      ...guest.domain,
      hardware: { ...hardware, devices: hardware.devices.filter((device) => device.name !== name) },
    }
  }

  /** It answers what it was asked meanwhile. */
  answer(guest: SimGuest): void {
    for (const name of guest.asked) this.unplug(guest, name)
  }

  booted(guest: SimGuest): boolean {
    return guest.bootedAt !== null && this.clock.now() >= guest.bootedAt
  }

  print(id: DomainId, text: string): void {
    const added = new TextEncoder().encode(text)
    const kept = this.#consoles.get(id) ?? { start: 0, content: new Uint8Array() }
    const joined = joinBytes([kept.content, added])
    const surplus = Math.max(0, joined.length - CONSOLE_KEPT_BYTES)
    this.#consoles.set(id, { start: kept.start + surplus, content: joined.subarray(surplus) })
    for (const reader of this.#consoleReaders.get(id) ?? []) reader(added)
  }

  console(id: DomainId): { start: number; content: Uint8Array } {
    return this.#consoles.get(id) ?? { start: 0, content: new Uint8Array() }
  }

  readConsoleLive(id: DomainId, reader: (content: Uint8Array) => void): () => void {
    const readers = this.#consoleReaders.get(id) ?? new Set()
    readers.add(reader)
    this.#consoleReaders.set(id, readers)
    return () => readers.delete(reader)
  }

  forget(id: DomainId): void {
    this.#consoles.delete(id)
    this.#consoleReaders.delete(id)
  }

  /** What a guest, or the world, does by itself. */
  readonly guest = {
    powerOff: (id: DomainId, cause: DomainCause = 'guest') => this.enter(id, { kind: 'powered-off', cause }),
    panic: (id: DomainId) => this.enter(id, { kind: 'crashed', cause: 'guest-panic', detail: 'sim: panic' }),
    /** It writes, and there is no room. */
    fillDisk: (id: DomainId) => {
      const guest = this.need(id)
      guest.diskFull = true
      if (guest.state.kind === 'running' && guest.domain.spec.diskFull !== 'error') this.enter(id, DISK_FULL)
    },
    makeRoom: (id: DomainId) => {
      const guest = this.need(id)
      guest.diskFull = false
      if (waitsForRoom(guest.state)) this.enter(id, { kind: 'running' })
    },
    ioError: (id: DomainId) => this.enter(id, { kind: 'paused', cause: 'io-error' }),
    reboot: (id: DomainId) => this.reset(id),
    /** Its process is killed from outside. */
    kill: (id: DomainId) => this.enter(id, { kind: 'gone', cause: 'process-failed', detail: 'sim: killed' }),
  }

  #tell(event: DriverEvent): void {
    for (const listener of this.#listeners) listener(event)
  }
}
