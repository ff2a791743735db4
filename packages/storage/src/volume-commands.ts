/** What can be asked of a store, as data: the same for who has it open and for who asks its server over a control socket. */
import { Fault } from '@typevisor/base'
import type { NbdExport, ExportSource } from '@typevisor/nbd'
import { leaseCommands, leasedNameOf, type LeaseCommands } from './served/lease-commands.ts'
import { secretOf } from './served/secret.ts'
import type { ServedCommands } from './served/served-commands.ts'
import { ServedVolume } from './served/served-volume.ts'
import { volumeUsage, type VolumeUsage } from './served/space.ts'
import { TRANSFER_NUMBER_ARGS, TRANSFER_TEXT_ARGS, transferTable, type TransferCommands } from './served/transfer-commands.ts'
import { volumeContexts } from './served/volume-contexts.ts'
import { COMPRESSION_KINDS, type CompressionKind, type Entry } from './store/catalog.ts'
import { Opening } from './store/lease.ts'
import { limitsOf, type Store, type StoreCheck, type VolumeDescription } from './store/store.ts'
import { isHidden } from './store/transfers.ts'
import { volumeDevice } from './store/volume-device.ts'

/** Arguments and answer of each. `secret`s are the content of key files, in base64. */
export interface VolumeCommands extends ServedCommands, LeaseCommands, TransferCommands {
  list: { args: Record<string, never>; answer: VolumeDescription[] }
  /** null: there is none of this name. */
  get: { args: { name: string }; answer: VolumeDescription | null }
  usage: { args: Record<string, never>; answer: VolumeUsage }
  create: {
    args: { name: string; sizeBytes: number; compression?: CompressionKind; secret?: string }
    answer: VolumeDescription
  }
  /** Of one that is unlocked already the key file is proved all the same. @throws Fault `unauthenticated` for a wrong one. */
  unlock: { args: { name: string; secret: string }; answer: { unlocked: string[] } }
  rekey: { args: { name: string; secret: string; nextSecret: string }; answer: VolumeDescription }
  /** Grown to `sizeBytes` where that is said, in the same step. */
  clone: { args: { snapshot: string; name: string; sizeBytes?: number }; answer: VolumeDescription }
  snapshot: { args: { volume: string; name: string }; answer: VolumeDescription }
  /** What changes a volume as a whole is for nobody while it is open, and while it is leased for its holder, who names its `epoch`. */
  revert: { args: { volume: string; snapshot: string; epoch?: number }; answer: VolumeDescription }
  rename: { args: { name: string; next: string; epoch?: number }; answer: VolumeDescription }
  resize: { args: { name: string; sizeBytes: number; epoch?: number }; answer: VolumeDescription }
  remove: { args: { name: string; epoch?: number }; answer: null }
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

/** Of a volume that must be left alone until it is over. */
interface Change {
  readonly what: string
  readonly over: Promise<void>
}

/** A store with who uses what of it. */
export class ServedStore {
  readonly store: Store
  readonly #volumes = new WeakMap<Entry, ServedVolume>()
  readonly #leases: ReturnType<typeof leaseCommands>
  readonly #changes = new WeakMap<Entry, Change>()

  /** Nobody else uses the store. */
  readonly #repairs: boolean

  constructor(store: Store, options: { repairs?: boolean } = {}) {
    this.store = store
    this.#repairs = options.repairs ?? false
    this.#leases = leaseCommands(store)
  }

  /** What was changed is safe from a power cut when it is answered. */
  readonly call: CommandCaller = async (command, args, onProgress = () => {}) => {
    assertVisible(args)
    const carryOut = this.#table[command] as (args: unknown, onProgress: OnProgress) => Promise<unknown>
    const answer = await carryOut(args, onProgress)
    if (COMMANDS[command] === 'changes') await this.store.flush()
    return answer as never // the table has each command's own answer
  }

  /** One who asks: what it began and did not finish is taken away when it leaves. */
  caller(): { call: CommandCaller; leave(): Promise<void> } {
    const begun = new Set<string>()
    const call: CommandCaller = async (command, args, onProgress) => {
      const answer = await this.call(command, args, onProgress)
      if (command === 'imageBegin' || command === 'exportBegin') begun.add((answer as { exportName: string }).exportName)
      return answer
    }
    return {
      call,
      // Most of it was finished: then there is nothing.
      leave: async () => void (await Promise.allSettled([...begun].map((exportName) => this.call('takeAway', { exportName })))),
    }
  }

  readonly #table: {
    [C in VolumeCommand]: (args: VolumeCommands[C]['args'], onProgress: OnProgress) => Promise<VolumeCommands[C]['answer']>
  } = {
    list: async () => this.store.list().filter(({ name }) => !isHidden(name)),
    get: async ({ name }) => this.store.get(name),
    usage: () => volumeUsage(this.store),
    create: ({ name, sizeBytes, compression, secret }) =>
      this.store.createVolume(name, sizeBytes, {
        ...(compression === undefined ? {} : { compression }),
        ...(secret === undefined ? {} : { secret: secretOf(secret) }),
      }),
    unlock: async ({ name, secret }) => {
      const { encryption } = this.#need(name)
      if (encryption === 'none') throw new Fault('conflict', `unlock ${name}: it is not encrypted`)
      const content = secretOf(secret)
      const unlocked = await this.store.unlock(content, [name])
      const isRight = encryption === 'locked' ? unlocked.length > 0 : await this.store.isKeyFileOf(name, content)
      if (!isRight) throw new Fault('unauthenticated', `unlock ${name}: it is not encrypted with this key file`)
      return { unlocked }
    },
    rekey: ({ name, secret, nextSecret }) => this.store.rekey(name, secretOf(secret), secretOf(nextSecret)),
    clone: ({ snapshot, name, sizeBytes }) => this.store.clone(snapshot, name, sizeBytes),
    snapshot: ({ volume, name }) => this.store.snapshot(volume, name),
    revert: async ({ volume, snapshot, epoch }) => {
      await this.#alone(volume, 'revert', epoch, () => this.store.revert(volume, snapshot))
      return this.#need(volume)
    },
    rename: async ({ name, next, epoch }) => {
      await this.#alone(name, 'rename', epoch, () => this.store.rename(name, next))
      return this.#need(next)
    },
    resize: async ({ name, sizeBytes, epoch }) => {
      // A client learns a disk's size when it opens it.
      await this.#alone(name, 'resize', epoch, () => this.store.resize(name, sizeBytes))
      return this.#need(name)
    },
    limit: async ({ name, ...limits }) => {
      await this.store.setLimits(name, limits)
      const entry = this.store.entry(name)
      this.#volumes.get(entry)?.limiter.set(limitsOf(entry))
      return this.#need(name)
    },
    stats: async ({ name }) => this.#volume(this.store.entry(name)).report(name),
    acquireLease: (args) => this.#during(args.name, 'lease', () => this.#leases.acquireLease(args)),
    offerLease: (args) => this.#leases.offerLease(args),
    handOverLease: (args) => this.#leases.handOverLease(args),
    releaseLease: (args) => this.#leases.releaseLease(args),
    check: async (options, onProgress) => {
      const { bytesPerSecondMax } = options
      if (bytesPerSecondMax !== undefined && !(bytesPerSecondMax >= 1))
        throw new Fault('invalid', `bytesPerSecondMax: got ${bytesPerSecondMax}, want at least 1`)
      return this.store.check({
        ...options,
        readsData: true,
        repairs: this.#repairs,
        onProgress: ({ nodeCount, dataCount, usedCount }) => onProgress(Math.min(1, (nodeCount + dataCount) / usedCount)),
      })
    },
    remove: async ({ name, epoch }) => {
      await this.#alone(name, 'delete', epoch, () => this.store.remove(name))
      return null
    },
    ...transferTable(this),
  }

  /**
   * Each volume is an export of its name; each snapshot a read-only one. `VOLUME:EPOCH` is the volume for the holder of its lease: while
   * somebody has one, the plain name is read-only. `withHidden`: also what is being brought in, to one at a time.
   */
  exports({ withHidden = false } = {}): ExportSource {
    const find = (exportName: string): { entry: Entry; opening: Opening } | null => {
      if (isHidden(exportName) && !withHidden) return null
      const leased = leasedNameOf(exportName)
      const entry = this.store.state.catalog.byName(leased?.name ?? exportName)
      return entry && { entry, opening: leased ? Opening.under(entry, leased.epoch) : Opening.plain(entry) }
    }
    const exportOf = (name: string, { entry, opening }: { entry: Entry; opening: Opening }): NbdExport => ({
      name,
      description: `${entry.kind} of ${entry.record.sizeBytes} bytes`,
      device: volumeDevice(this.store, entry.name, { opening }),
      canMultiConn: true,
      contexts: volumeContexts(this.store, entry),
    })
    return {
      list: async () => this.store.list().flatMap(({ name }) => (isHidden(name) ? [] : [{ name }])),
      look: async (name) => {
        const found = find(name)
        return found && exportOf(name, found)
      },
      open: async (name) => {
        const volumeName = leasedNameOf(name)?.name ?? name
        for (let change; (change = this.#changeOf(volumeName));) await change.over
        const found = find(name)
        if (!found) return null
        if (isHidden(name)) this.assertUnused(name, 'write')
        const plain = exportOf(name, found)
        return { ...plain, ...this.#volume(found.entry).open(plain.device, found.opening) }
      },
    }
  }

  /** Resolves when no connection uses it any more. */
  async left(name: string): Promise<void> {
    await this.#users(name)?.unused()
  }

  /** Carries out what nobody may have the volume open for, nor lease it: who asks meanwhile waits. @throws Fault `conflict`. */
  async #alone(name: string, what: string, epoch: number | undefined, work: () => Promise<void>): Promise<void> {
    this.assertUnused(name, what, epoch)
    await this.#during(name, what, work)
  }

  /** Behind what is under way of that kind. */
  async #during<T>(name: string, what: string, work: () => Promise<T>): Promise<T> {
    for (let change; (change = this.#changeOf(name));) await change.over
    const entry = this.store.entry(name)
    const over = Promise.withResolvers<void>()
    this.#changes.set(entry, { what, over: over.promise })
    try {
      return await work()
    } finally {
      this.#changes.delete(entry)
      over.resolve()
    }
  }

  #changeOf(name: string): Change | undefined {
    const entry = this.store.state.catalog.byName(name)
    return entry ? this.#changes.get(entry) : undefined
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

  /** `epoch`: of whoever asks, where it holds the lease. @throws Fault `conflict` while somebody has it open or leased, `stale_fence`. What is not there nobody uses. */
  assertUnused(name: string, what: string, epoch?: number): void {
    const change = this.#changeOf(name)
    if (change) throw new Fault('conflict', `${what} ${name}: ${change.what} of it is under way`)
    const lease = this.store.get(name)?.lease
    if (lease && epoch !== undefined && epoch !== lease.epoch)
      throw new Fault('stale_fence', `${what} ${name}: epoch ${epoch} is not in force, ${lease.epoch} is`)
    if (lease && lease.holder !== null && epoch === undefined)
      throw new Fault('conflict', `${what} ${name}: leased by ${lease.holder} in epoch ${lease.epoch}; want it released`)
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

/** All of them, and whether they change anything of the store. */
const COMMANDS: Readonly<Record<VolumeCommand, 'looks' | 'changes'>> = {
  list: 'looks',
  get: 'looks',
  usage: 'looks',
  create: 'changes',
  unlock: 'looks',
  rekey: 'changes',
  clone: 'changes',
  snapshot: 'changes',
  revert: 'changes',
  rename: 'changes',
  resize: 'changes',
  remove: 'changes',
  check: 'looks',
  limit: 'changes',
  stats: 'looks',
  acquireLease: 'changes',
  offerLease: 'changes',
  handOverLease: 'changes',
  releaseLease: 'changes',
  diff: 'looks',
  imports: 'looks',
  importBegin: 'changes',
  importMark: 'changes',
  importFinish: 'changes',
  importAbort: 'changes',
  imageBegin: 'changes',
  imageFinish: 'changes',
  exportBegin: 'changes',
  takeAway: 'changes',
}
const COMMAND_NAMES = Object.keys(COMMANDS) as VolumeCommand[]
const TEXT_ARGS: ReadonlySet<string> = new Set(['name', 'next', 'snapshot', 'volume', 'holder', ...TRANSFER_TEXT_ARGS])
const NUMBER_ARGS: ReadonlySet<string> = new Set([
  'sizeBytes',
  'iopsMax',
  'bytesPerSecondMax',
  'burstSeconds',
  'epoch',
  'nextEpoch',
  ...TRANSFER_NUMBER_ARGS,
])
const SECRET_ARGS: ReadonlySet<string> = new Set(['secret', 'nextSecret'])

const isText = (value: unknown): value is string => typeof value === 'string'

function isRight(key: string, value: unknown): boolean {
  if (TEXT_ARGS.has(key) || SECRET_ARGS.has(key)) return isText(value)
  if (NUMBER_ARGS.has(key)) return typeof value === 'number'
  return key === 'compression' && COMPRESSION_KINDS.some((kind) => kind === value)
}

/** Reads a command that came over a socket. @throws Fault `invalid`. */
export function parseVolumeCommand(json: unknown): { command: VolumeCommand; args: never } {
  const { command, args } = (json ?? {}) as { command?: unknown; args?: unknown }
  const known = COMMAND_NAMES.find((name) => name === command)
  if (!known) throw new Fault('invalid', `command: got ${JSON.stringify(command)}, want ${COMMAND_NAMES.join(', ')}`)
  if (typeof args !== 'object' || args === null)
    throw new Fault('invalid', `args of ${known}: got ${JSON.stringify(args)}, want an object`)
  for (const [key, value] of Object.entries(args)) {
    if (!isRight(key, value))
      throw new Fault('invalid', `args.${key} of ${known}: got ${SECRET_ARGS.has(key) ? typeof value : JSON.stringify(value)}`)
  }
  return { command: known, args: args as never } // the store itself refuses what is missing
}
