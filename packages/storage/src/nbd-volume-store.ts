/**
 * Volumes of a volume server: copy-on-write, served over NBD, with snapshots.
 *
 *   base file --qemu-img convert, once--> gold-<key> --snapshot--> gold-<key>@gold --clone, constant time--> <id>
 *
 * A gold master counts only when its snapshot is there, which is taken of what is whole and flushed: what a kill left before that is thrown
 * away by the next import. A base is told apart by its path and by the file that lies there, so one that was changed is another.
 *
 * Small read-only files (seeds) stay files, and so do the disks of before this store: `files` has both. An id is a volume of one of the two.
 */
import { bytes, Fault, millis, toFault, type BlockDevice, type Bytes, type Clock, type Log } from '@typevisor/base'
import { parseVolumeId, type VolumeId } from '@typevisor/model'
import { runChecked } from './command.ts'
import { Lines } from './lines.ts'
import { nbdVolumeLeases } from './nbd-volume-leases.ts'
import type { ServerCaller } from './node-volume-server.ts'
import type { CommandRunner, OpenVolume, SnapshotRef, VolumeInfo, VolumeLeases, VolumeSnapshots, VolumeStore } from './ports.ts'
import { checkBase, inspect, sizeFor } from './qcow2.ts'
import { BLOCK_BYTES } from './store/format.ts'
import type { VolumeDescription } from './store/store.ts'

/** Which bases the masters were made of, beside the store. */
export interface MasterRecords {
  /** Names the file that lies at a path, as it is now: 32 characters of 0-9 and a-f. null: there is none, or none that can be read. */
  keyOf(path: string): Promise<string | null>
  note(key: string, path: string): Promise<void>
  pathOf(key: string): Promise<string | null>
  list(): Promise<readonly string[]>
  remove(key: string): Promise<void>
}

export interface NbdVolumeOptions {
  /** Asks the volume server. */
  readonly call: ServerCaller
  /** Whose leases these are: a UUID in small letters. */
  readonly holder: string
  /** For small files, and for volumes that were made before. */
  readonly files: VolumeStore
  readonly masters: MasterRecords
  readonly runner: CommandRunner
  /** Where a volume is served while it is attached. */
  readonly socketPathOf: (volume: string) => string
  /** Connects to one of the server's exports; `openServed`. */
  readonly connect: (exportName: string) => Promise<BlockDevice & { close(): Promise<void> }>
  readonly clock: Clock
  readonly log: Log
}

/** A server sees the end of its client a moment after it. */
const LET_GO_LIMIT_MS = 5000
const LET_GO_PAUSE = millis(10)

type Holding = { readonly epoch?: number }
type Base = Parameters<VolumeStore['clone']>[1]
const GOLD = 'gold'
const masterOf = (key: string): string => `gold-${key}`
const MASTER = /^gold-([0-9a-f]{32})@gold$/

export function nbdVolumeStore(
  options: NbdVolumeOptions,
): VolumeStore & Required<Pick<VolumeStore, 'snapshots' | 'leases' | 'open'>> {
  return new NbdVolumeStore(options)
}

class NbdVolumeStore implements VolumeStore {
  readonly #options: NbdVolumeOptions
  readonly #call: ServerCaller
  readonly leases: VolumeLeases
  /** By volume, or by master. */
  readonly #lines = new Lines<string>()

  constructor(options: NbdVolumeOptions) {
    this.#options = options
    this.#call = options.call
    this.leases = nbdVolumeLeases(options.call, options.holder)
  }

  clone(...[id, base, virtualBytes, { signal } = {}]: Parameters<VolumeStore['clone']>): Promise<VolumeInfo> {
    return this.#inLine(id, async () => {
      signal?.throwIfAborted()
      checkBase(base)
      const there = await this.#find(id)
      if (there) return there
      const old = await this.#options.files.get(id)
      if (old?.source.kind === 'file' && old.source.format === 'qcow2') return old
      if (old) throw new Fault('conflict', `volume ${id} is there as a file, want a disk`)
      const key = await this.#options.masters.keyOf(base.path)
      if (key === null) throw new Fault('not_found', `clone volume ${id}: no base ${base.path}`)
      const master = await this.#lines.run(masterOf(key), () => this.#master(key, base, signal))
      const sizeBytes = sizeFor(id, virtualBytes, bytes(master.sizeBytes), BLOCK_BYTES)
      await this.#call('clone', { snapshot: master.name, name: id, sizeBytes })
      return await this.#need(id)
    })
  }

  put(id: VolumeId, content: Uint8Array): Promise<VolumeInfo> {
    return this.#inLine(id, async () => {
      if (await this.#find(id)) throw new Fault('conflict', `volume ${id} is there as a disk, want a file`)
      return this.#options.files.put(id, content)
    })
  }

  create(id: VolumeId, virtualBytes: Bytes): Promise<VolumeInfo> {
    return this.#inLine(id, async () => {
      const there = await this.#find(id)
      if (there) return there
      if (await this.#options.files.get(id)) throw new Fault('conflict', `volume ${id} is there as a file, want a disk`)
      await this.#call('create', { name: id, sizeBytes: sizeFor(id, virtualBytes, bytes(0), BLOCK_BYTES) })
      return await this.#need(id)
    })
  }

  grow(id: VolumeId, virtualBytes: Bytes): Promise<VolumeInfo> {
    return this.#inLine(id, async () => {
      const there = await this.#find(id)
      if (!there) return this.#options.files.grow(id, virtualBytes)
      const sizeBytes = sizeFor(id, virtualBytes, there.virtualBytes, BLOCK_BYTES)
      if (sizeBytes > there.virtualBytes) await this.#call('resize', { name: id, sizeBytes, ...(await this.#mine(id)) })
      return await this.#need(id)
    })
  }

  get(id: VolumeId): Promise<VolumeInfo | null> {
    return this.#inLine(id, async () => (await this.#find(id)) ?? (await this.#options.files.get(id)))
  }

  async open(id: VolumeId): Promise<OpenVolume> {
    const { files } = this.#options
    if (!(await this.#find(id))) {
      if (!(await files.get(id))) throw new Fault('not_found', `open volume ${id}: there is none of this id`)
      if (!files.open) throw new Fault('unsupported', `open volume ${id}: it is a file, which its guest alone reads`)
      return await files.open(id)
    }
    const device = await this.#options.connect(id)
    return Object.assign(device, {
      [Symbol.asyncDispose]: async () => {
        await device.close()
        await this.#untilLeft(id)
      },
    })
  }

  /** Whoever removes it, or gives it to a guest, would find it in use. */
  async #untilLeft(name: VolumeId): Promise<void> {
    const { clock } = this.#options
    const end = clock.monotonic() + LET_GO_LIMIT_MS
    while ((await this.#call('stats', { name })).connectionCount > 0 && clock.monotonic() < end) await clock.sleep(LET_GO_PAUSE)
  }

  remove(id: VolumeId): Promise<void> {
    return this.#inLine(id, async () => {
      await this.#removeFromStore(id, await this.#mine(id))
      await this.#options.files.remove(id)
    })
  }

  async list({ prefix = '' } = {}): Promise<readonly VolumeInfo[]> {
    const [described, files] = await Promise.all([this.#call('list', {}), this.#options.files.list({ prefix })])
    const mine = await Promise.all(
      described.flatMap((one) =>
        one.kind === 'volume' && one.name.startsWith(prefix) && isVolumeId(one.name) ? [this.#infoOf(one)] : [],
      ),
    )
    return [...mine, ...files].sort((a, b) => (a.id < b.id ? -1 : 1))
  }

  readonly snapshots: VolumeSnapshots = {
    take: ({ volume, snapshot }) =>
      this.#inLine(volume, async () => {
        if (await this.#describe(`${volume}@${snapshot}`)) return
        await this.#call('snapshot', { volume: await this.#inStore(volume, 'snapshot'), name: snapshot })
      }),
    revert: (to) =>
      this.#inLine(to.volume, async () => {
        const volume = await this.#inStore(to.volume, 'revert')
        const snapshot = await this.#snapshot(to)
        await this.#call('revert', { volume, snapshot, ...(await this.#mine(to.volume)) })
      }),
    clone: (id, from) =>
      this.#inLine(id, async () => {
        const there = await this.#find(id)
        if (there) return there
        if (await this.#options.files.get(id)) throw new Fault('conflict', `volume ${id} is there as a file, want a disk`)
        await this.#call('clone', { snapshot: await this.#snapshot(from), name: id })
        return await this.#need(id)
      }),
    remove: ({ volume, snapshot }) => this.#inLine(volume, () => this.#removeIfThere(`${volume}@${snapshot}`)),
    list: async (volume) => {
      const prefix = `${parseVolumeId(volume)}@`
      return (await this.#call('list', {})).flatMap(({ name }) => (name.startsWith(prefix) ? [name.slice(prefix.length)] : []))
    },
  }

  /** The master of a base, made where there is none. */
  async #master(key: string, base: Base, signal: AbortSignal | undefined): Promise<VolumeDescription> {
    const volume = masterOf(key)
    const { runner, masters, log, socketPathOf } = this.#options
    await masters.note(key, base.path)
    const there = await this.#describe(`${volume}@${GOLD}`)
    if (there) return there
    const found = await inspect(runner, base.path, base.format, signal)
    const elsewhere = found.basePath ?? found.dataPath
    // Read by whoever runs this, it would become a guest's.
    if (elsewhere !== null)
      throw new Fault('forbidden', `import ${base.path}: it leads to ${elsewhere}, want a file that stands by itself`)
    await this.#removeFromStore(volume)
    const sizeBytes = Math.ceil(found.virtualBytes / BLOCK_BYTES) * BLOCK_BYTES
    await this.#call('create', { name: volume, sizeBytes })
    const socketPath = socketPathOf(volume)
    try {
      await this.#call('attach', { volume, socketPath })
      const target = `driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=${socketPath.replaceAll(',', ',,')},file.export=${volume}`
      const from = ['-f', base.format, '--target-image-opts', '-n', '--target-is-zero'] as const
      await runChecked(runner, ['qemu-img', 'convert', '-q', ...from, '--', `file:${base.path}`, target], { signal })
      await this.#call('detach', { socketPath })
      const master = await this.#call('snapshot', { volume, name: GOLD })
      log.info('volumes.base_imported', { base: base.path, master: master.name })
      await this.#call('remove', { name: volume })
      await this.#sweep(key)
      return master
    } catch (error) {
      if (!(await this.#describe(`${volume}@${GOLD}`).catch(() => null))) await this.#removeFromStore(volume).catch(() => {})
      throw error
    }
  }

  /** Masters of bases that are not there any more: what was cloned of them stays. */
  async #sweep(kept: string): Promise<void> {
    const { masters, log } = this.#options
    for (const key of await masters.list()) {
      const path = await masters.pathOf(key)
      if (key === kept || path === null || (await masters.keyOf(path)) === key) continue
      await this.#lines
        .run(masterOf(key), async () => {
          await this.#removeFromStore(masterOf(key))
          await this.#removeIfThere(`${masterOf(key)}@${GOLD}`)
          await masters.remove(key)
          log.info('volumes.master_removed', { base: path })
        })
        .catch((error: unknown) => log.warn('volumes.master_not_removed', { base: path, error: toFault(error).message }))
    }
  }

  #inLine<T>(id: VolumeId, work: () => Promise<T>): Promise<T> {
    return this.#lines.run(parseVolumeId(id), work)
  }

  #describe(name: string): Promise<VolumeDescription | null> {
    return this.#call('get', { name })
  }

  async #find(id: VolumeId): Promise<VolumeInfo | null> {
    const found = await this.#describe(id)
    return found && (await this.#infoOf(found))
  }

  async #need(id: VolumeId): Promise<VolumeInfo> {
    const found = await this.#find(id)
    if (!found) throw new Fault('failed', `make volume ${id}: it is gone, another process removed it`)
    return found
  }

  async #infoOf({ name, sizeBytes, parent }: VolumeDescription): Promise<VolumeInfo> {
    let from = parent
    while (from !== null && !MASTER.test(from)) from = (await this.#describe(from))?.parent ?? null
    const key = from === null ? undefined : MASTER.exec(from)?.[1]
    return {
      id: parseVolumeId(name),
      virtualBytes: bytes(sizeBytes),
      allocatedBytes: null,
      source: { kind: 'nbd', socketPath: this.#options.socketPathOf(name), exportName: name },
      basePath: key === undefined ? null : await this.#options.masters.pathOf(key),
    }
  }

  /** @throws Fault `unsupported` for a volume that is a file, `not_found`. */
  async #inStore(id: VolumeId, what: string): Promise<string> {
    if (await this.#find(id)) return id
    if (await this.#options.files.get(id)) throw new Fault('unsupported', `${what} ${id}: it is a file, which has no snapshots`)
    throw new Fault('not_found', `${what} ${id}: there is no such volume`)
  }

  async #snapshot({ volume, snapshot }: SnapshotRef): Promise<string> {
    const name = `${parseVolumeId(volume)}@${snapshot}`
    if (!(await this.#describe(name))) throw new Fault('not_found', `snapshot ${name}: there is none`)
    return name
  }

  /** Whoever it was attached to is gone by now. */
  async #removeFromStore(volume: string, holding: Holding = {}): Promise<void> {
    await this.#call('detach', { socketPath: this.#options.socketPathOf(volume) })
    await this.#removeIfThere(volume, holding)
  }

  async #removeIfThere(name: string, holding: Holding = {}): Promise<void> {
    if (await this.#describe(name)) await this.#call('remove', { name, ...holding })
  }

  /** A lease of ours is in nobody's way here: its writer has gone, or a connection says that it has not. */
  async #mine(id: VolumeId): Promise<Holding> {
    const epoch = await this.leases.held(id)
    return epoch === null ? {} : { epoch }
  }
}

function isVolumeId(name: string): boolean {
  try {
    parseVolumeId(name)
    return true
  } catch {
    return false
  }
}
