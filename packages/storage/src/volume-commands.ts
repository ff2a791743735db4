/** What can be asked of a store, as data: the same for who has it open and for who asks its server over a control socket. */
import { Fault } from '@typevisor/base'
import type { NbdExport, ExportSource } from '@typevisor/nbd'
import type { ServedCommands } from './served/served-commands.ts'
import { ServedVolume } from './served/served-volume.ts'
import { volumeUsage, type VolumeUsage } from './served/space.ts'
import type { Entry } from './store/catalog.ts'
import { limitsOf, type Store, type StoreCheck, type VolumeDescription } from './store/store.ts'
import { volumeDevice } from './store/volume-device.ts'

/** Arguments and answer of each. */
export interface VolumeCommands extends ServedCommands {
  list: { args: Record<string, never>; answer: VolumeDescription[] }
  /** null: there is none of this name. */
  get: { args: { name: string }; answer: VolumeDescription | null }
  usage: { args: Record<string, never>; answer: VolumeUsage }
  create: { args: { name: string; sizeBytes: number }; answer: VolumeDescription }
  /** Grown to `sizeBytes` where that is said, in the same step. */
  clone: { args: { snapshot: string; name: string; sizeBytes?: number }; answer: VolumeDescription }
  snapshot: { args: { volume: string; name: string }; answer: VolumeDescription }
  revert: { args: { volume: string; snapshot: string }; answer: VolumeDescription }
  rename: { args: { name: string; next: string }; answer: VolumeDescription }
  resize: { args: { name: string; sizeBytes: number }; answer: VolumeDescription }
  remove: { args: { name: string }; answer: null }
  check: { args: Record<string, never>; answer: StoreCheck }
}
export type VolumeCommand = keyof VolumeCommands
export type CommandCaller = <C extends VolumeCommand>(
  command: C,
  args: VolumeCommands[C]['args'],
) => Promise<VolumeCommands[C]['answer']>

/** A store with who uses what of it. */
export class ServedStore {
  readonly store: Store
  readonly #volumes = new WeakMap<Entry, ServedVolume>()

  /** Nobody else uses the store. */
  readonly #repairs: boolean

  constructor(store: Store, options: { repairs?: boolean } = {}) {
    this.store = store
    this.#repairs = options.repairs ?? false
  }

  /** What was changed is safe from a power cut when it is answered. */
  readonly call: CommandCaller = async (command, args) => {
    const carryOut = this.#table[command] as (args: unknown) => Promise<unknown>
    const answer = await carryOut(args)
    if (!LOOKS.has(command)) await this.store.flush()
    return answer as never // the table has each command's own answer
  }

  readonly #table: { [C in VolumeCommand]: (args: VolumeCommands[C]['args']) => Promise<VolumeCommands[C]['answer']> } = {
    list: async () => this.store.list(),
    get: async ({ name }) => this.store.get(name),
    usage: () => volumeUsage(this.store),
    create: ({ name, sizeBytes }) => this.store.createVolume(name, sizeBytes),
    clone: ({ snapshot, name, sizeBytes }) => this.store.clone(snapshot, name, sizeBytes),
    snapshot: ({ volume, name }) => this.store.snapshot(volume, name),
    revert: async ({ volume, snapshot }) => {
      this.#assertUnused(volume, 'revert')
      await this.store.revert(volume, snapshot)
      return this.#need(volume)
    },
    rename: async ({ name, next }) => {
      this.#assertUnused(name, 'rename')
      await this.store.rename(name, next)
      return this.#need(next)
    },
    resize: async ({ name, sizeBytes }) => {
      // A client learns a disk's size when it opens it.
      this.#assertUnused(name, 'resize')
      await this.store.resize(name, sizeBytes)
      return this.#need(name)
    },
    limit: async ({ name, ...limits }) => {
      await this.store.setLimits(name, limits)
      const entry = this.store.entry(name)
      this.#volumes.get(entry)?.limiter.set(limitsOf(entry))
      return this.#need(name)
    },
    stats: async ({ name }) => this.#volume(this.store.entry(name)).report(name),
    check: () => this.store.check({ readsData: true, repairs: this.#repairs }),
    remove: async ({ name }) => {
      this.#assertUnused(name, 'delete')
      await this.store.remove(name)
      return null
    },
  }

  /** Each volume is an export of its name; each snapshot a read-only one. */
  exports(): ExportSource {
    const look = async (name: string): Promise<NbdExport | null> => {
      const found = this.store.get(name)
      return (
        found && {
          name,
          description: `${found.kind} of ${found.sizeBytes} bytes`,
          device: volumeDevice(this.store, name),
          canMultiConn: true,
        }
      )
    }
    return {
      list: async () => this.store.list().map(({ name }) => ({ name })),
      look,
      open: async (name) => {
        const found = await look(name)
        return found && { ...found, ...this.#volume(this.store.entry(name)).open(found.device) }
      },
    }
  }

  #volume(entry: Entry): ServedVolume {
    const known = this.#volumes.get(entry) ?? new ServedVolume(this.store.state.parts.clock, limitsOf(entry))
    this.#volumes.set(entry, known)
    return known
  }

  #need(name: string): VolumeDescription {
    const found = this.store.get(name)
    if (!found) throw new Fault('not_found', `volume ${name}: there is none`)
    return found
  }

  #assertUnused(name: string, what: string): void {
    const count = this.#volumes.get(this.store.entry(name))?.connectionCount ?? 0
    if (count > 0)
      throw new Fault('conflict', `${what} ${name}: ${count === 1 ? 'a connection uses it' : `${count} connections use it`}`)
  }
}

const COMMANDS = [
  'list',
  'get',
  'usage',
  'create',
  'clone',
  'snapshot',
  'revert',
  'rename',
  'resize',
  'remove',
  'check',
  'limit',
  'stats',
] as const satisfies VolumeCommand[]
/** These change nothing. */
const LOOKS: ReadonlySet<VolumeCommand> = new Set(['list', 'get', 'usage', 'check', 'stats'])
const TEXT_ARGS: ReadonlySet<string> = new Set(['name', 'next', 'snapshot', 'volume'])
const NUMBER_ARGS: ReadonlySet<string> = new Set(['sizeBytes', 'iopsMax', 'bytesPerSecondMax', 'burstSeconds'])

/** Reads a command that came over a socket. @throws Fault `invalid`. */
export function parseVolumeCommand(json: unknown): { command: VolumeCommand; args: never } {
  const { command, args } = (json ?? {}) as { command?: unknown; args?: unknown }
  const known = COMMANDS.find((name) => name === command)
  if (!known) throw new Fault('invalid', `command: got ${JSON.stringify(command)}, want ${COMMANDS.join(', ')}`)
  if (typeof args !== 'object' || args === null)
    throw new Fault('invalid', `args of ${known}: got ${JSON.stringify(args)}, want an object`)
  for (const [key, value] of Object.entries(args)) {
    const wrong = TEXT_ARGS.has(key) ? typeof value !== 'string' : NUMBER_ARGS.has(key) ? typeof value !== 'number' : true
    if (wrong) throw new Fault('invalid', `args.${key} of ${known}: got ${JSON.stringify(value)}`)
  }
  return { command: known, args: args as never } // the store itself refuses what is missing
}
