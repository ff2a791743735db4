/** What can be asked of a store, as data: the same for who has it open and for who asks its server over a control socket. */
import { Fault } from '@typevisor/base'
import type { NbdExport, ExportSource } from '@typevisor/nbd'
import type { ServedCommands } from './served/served-commands.ts'
import { ServedVolume } from './served/served-volume.ts'
import { volumeUsage, type VolumeUsage } from './served/space.ts'
import {
  TRANSFER_COMMANDS,
  TRANSFER_NUMBER_ARGS,
  TRANSFER_TEXT_ARGS,
  transferTable,
  type TransferCommands,
} from './served/transfer-commands.ts'
import { volumeContexts } from './served/volume-contexts.ts'
import type { Entry } from './store/catalog.ts'
import { limitsOf, type Store, type StoreCheck, type VolumeDescription } from './store/store.ts'
import { isHidden } from './store/transfers.ts'
import { volumeDevice } from './store/volume-device.ts'

/** Arguments and answer of each. */
export interface VolumeCommands extends ServedCommands, TransferCommands {
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
    assertVisible(args)
    const carryOut = this.#table[command] as (args: unknown) => Promise<unknown>
    const answer = await carryOut(args)
    if (!LOOKS.has(command)) await this.store.flush()
    return answer as never // the table has each command's own answer
  }

  /** One who asks: what it began and did not finish is taken away when it leaves. */
  caller(): { call: CommandCaller; leave(): Promise<void> } {
    const begun = new Set<string>()
    const call: CommandCaller = async (command, args) => {
      const answer = await this.call(command, args)
      if (command === 'imageBegin' || command === 'exportBegin') begun.add((answer as { exportName: string }).exportName)
      return answer
    }
    return {
      call,
      // Most of it was finished: then there is nothing.
      leave: async () => void (await Promise.allSettled([...begun].map((exportName) => this.call('takeAway', { exportName })))),
    }
  }

  readonly #table: { [C in VolumeCommand]: (args: VolumeCommands[C]['args']) => Promise<VolumeCommands[C]['answer']> } = {
    list: async () => this.store.list().filter(({ name }) => !isHidden(name)),
    get: async ({ name }) => this.store.get(name),
    usage: () => volumeUsage(this.store),
    create: ({ name, sizeBytes }) => this.store.createVolume(name, sizeBytes),
    clone: ({ snapshot, name, sizeBytes }) => this.store.clone(snapshot, name, sizeBytes),
    snapshot: ({ volume, name }) => this.store.snapshot(volume, name),
    revert: async ({ volume, snapshot }) => {
      this.assertUnused(volume, 'revert')
      await this.store.revert(volume, snapshot)
      return this.#need(volume)
    },
    rename: async ({ name, next }) => {
      this.assertUnused(name, 'rename')
      await this.store.rename(name, next)
      return this.#need(next)
    },
    resize: async ({ name, sizeBytes }) => {
      // A client learns a disk's size when it opens it.
      this.assertUnused(name, 'resize')
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
      this.assertUnused(name, 'delete')
      await this.store.remove(name)
      return null
    },
    ...transferTable(this),
  }

  /** Each volume is an export of its name; each snapshot a read-only one. `withHidden`: also what is being brought in, to one at a time. */
  exports({ withHidden = false } = {}): ExportSource {
    const look = async (name: string): Promise<NbdExport | null> => {
      const found = isHidden(name) && !withHidden ? null : this.store.get(name)
      return (
        found && {
          name,
          description: `${found.kind} of ${found.sizeBytes} bytes`,
          device: volumeDevice(this.store, name),
          canMultiConn: true,
          contexts: volumeContexts(this.store, this.store.entry(name)),
        }
      )
    }
    return {
      list: async () => this.store.list().flatMap(({ name }) => (isHidden(name) ? [] : [{ name }])),
      look,
      open: async (name) => {
        const found = await look(name)
        if (isHidden(name)) this.assertUnused(name, 'write')
        return found && { ...found, ...this.#volume(this.store.entry(name)).open(found.device) }
      },
    }
  }

  /** Resolves when no connection uses it any more. */
  async left(name: string): Promise<void> {
    await this.#users(name)?.unused()
  }

  #users(name: string): ServedVolume | undefined {
    const entry = this.store.state.catalog.byName(name)
    return entry ? this.#volumes.get(entry) : undefined
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

  /** @throws Fault `conflict`. */
  assertUnused(name: string, what: string): void {
    const count = this.#users(name)?.connectionCount ?? 0
    if (count > 0)
      throw new Fault('conflict', `${what} ${name}: ${count === 1 ? 'a connection uses it' : `${count} connections use it`}`)
  }
}

/** What is being brought in is nobody's but the commands' that bring it in. */
function assertVisible(args: object): void {
  for (const [key, value] of Object.entries(args))
    if (key !== 'exportName' && typeof value === 'string' && isHidden(value))
      throw new Fault('not_found', `${key} ${JSON.stringify(value)}: there is none`)
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
  ...TRANSFER_COMMANDS,
] as const satisfies VolumeCommand[]
/** These change nothing. */
const LOOKS: ReadonlySet<VolumeCommand> = new Set(['list', 'get', 'usage', 'check', 'stats', 'diff', 'imports'])
const TEXT_ARGS: ReadonlySet<string> = new Set(['name', 'next', 'snapshot', 'volume', ...TRANSFER_TEXT_ARGS])
const NUMBER_ARGS: ReadonlySet<string> = new Set([
  'sizeBytes',
  'iopsMax',
  'bytesPerSecondMax',
  'burstSeconds',
  ...TRANSFER_NUMBER_ARGS,
])

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
