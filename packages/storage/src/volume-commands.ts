/** What can be asked of a store, as data: the same for who has it open and for who asks its server over a control socket. */
import { Fault } from '@typevisor/base'
import type { NbdExport, ExportSource } from '@typevisor/nbd'
import type { Store, StoreCheck, StoreUsage, VolumeDescription } from './store/store.ts'
import { volumeDevice } from './store/volume-device.ts'

/** Arguments and answer of each. */
export interface VolumeCommands {
  list: { args: Record<string, never>; answer: VolumeDescription[] }
  usage: { args: Record<string, never>; answer: StoreUsage }
  create: { args: { name: string; sizeBytes: number }; answer: VolumeDescription }
  clone: { args: { snapshot: string; name: string }; answer: VolumeDescription }
  snapshot: { args: { volume: string; name: string }; answer: VolumeDescription }
  revert: { args: { volume: string; snapshot: string }; answer: VolumeDescription }
  rename: { args: { name: string; next: string }; answer: VolumeDescription }
  resize: { args: { name: string; sizeBytes: number }; answer: VolumeDescription }
  remove: { args: { name: string }; answer: null }
  /** Rests, so that it reads not more than so much in a second. */
  check: { args: { bytesPerSecondMax?: number }; answer: StoreCheck }
}
export type VolumeCommand = keyof VolumeCommands
export type CommandCaller = <C extends VolumeCommand>(
  command: C,
  args: VolumeCommands[C]['args'],
  onProgress?: OnProgress,
) => Promise<VolumeCommands[C]['answer']>
/** Of what takes long: from 0 to 1. */
export type OnProgress = (fraction: number) => void

/** A store with who uses what of it. */
export class ServedStore {
  readonly store: Store
  /** Connections by name of what they opened. */
  readonly #users = new Map<string, number>()

  /** Nobody else uses the store. */
  readonly #repairs: boolean

  constructor(store: Store, options: { repairs?: boolean } = {}) {
    this.store = store
    this.#repairs = options.repairs ?? false
  }

  readonly call: CommandCaller = async (command, args, onProgress = () => {}) => {
    const carryOut = this.#table[command] as (args: unknown, onProgress: OnProgress) => Promise<unknown>
    return (await carryOut(args, onProgress)) as never // the table has each command's own answer
  }

  readonly #table: {
    [C in VolumeCommand]: (args: VolumeCommands[C]['args'], onProgress: OnProgress) => Promise<VolumeCommands[C]['answer']>
  } = {
    list: async () => this.store.list(),
    usage: async () => this.store.usage(),
    create: ({ name, sizeBytes }) => this.store.createVolume(name, sizeBytes),
    clone: ({ snapshot, name }) => this.store.clone(snapshot, name),
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
    check: (options, onProgress) =>
      this.store.check({
        ...options,
        readsData: true,
        repairs: this.#repairs,
        onProgress: ({ nodeCount, dataCount, usedCount }) => onProgress(Math.min(1, (nodeCount + dataCount) / usedCount)),
      }),
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
        if (!found) return null
        this.#users.set(name, (this.#users.get(name) ?? 0) + 1)
        return { ...found, release: () => this.#users.set(name, (this.#users.get(name) ?? 1) - 1) }
      },
    }
  }

  #need(name: string): VolumeDescription {
    const found = this.store.get(name)
    if (!found) throw new Fault('not_found', `volume ${name}: there is none`)
    return found
  }

  #assertUnused(name: string, what: string): void {
    const count = this.#users.get(name) ?? 0
    if (count > 0)
      throw new Fault('conflict', `${what} ${name}: ${count === 1 ? 'a connection uses it' : `${count} connections use it`}`)
  }
}

const COMMANDS = [
  'list',
  'usage',
  'create',
  'clone',
  'snapshot',
  'revert',
  'rename',
  'resize',
  'remove',
  'check',
] as const satisfies VolumeCommand[]
const TEXT_ARGS: ReadonlySet<string> = new Set(['name', 'next', 'snapshot', 'volume'])
const NUMBER_ARGS: ReadonlySet<string> = new Set(['sizeBytes', 'bytesPerSecondMax'])

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
