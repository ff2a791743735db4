/**
 * A store in a folder: its file, its lock, and while it is served the socket by which others ask for things (`node-volume-server.ts`).
 *
 *   DIR/store          the store: a file, or a link to a block device
 *   DIR/store.new      one that is being made
 *   DIR/lock           held by whoever has it open
 *   DIR/control.sock   there while it is served, and data.sock for exports and imports
 */
import { existsSync, statSync } from 'node:fs'
import { rename, rm, symlink } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { Fault, type Clock, type Log, type Rng } from '@typevisor/base'
import { nodeCompressor } from './node-compressor.ts'
import { blockDeviceBytes, nodeChecksum, nodeStoreFile, type FileCalls } from './node-store-file.ts'
import { nodeVolumeCrypto } from './node-volume-crypto.ts'
import { answerVolumes, type AnsweringServer, type VolumeServerOptions } from './node-volume-server.ts'
import { spaceUsage } from './served/space.ts'
import { watchSpace } from './served/space-watch.ts'
import { sweep } from './store/transfers.ts'
import type { StoreFile } from './store/ports.ts'
import { Store, type StoreOptions } from './store/store.ts'
import { ServedStore } from './volume-commands.ts'

export interface VolumeFolderOptions {
  readonly dir: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** Locks for as long as the process lives, in a folder that is made where there is none. @throws Fault `conflict`, and why there can be none. */
  readonly lock: (path: string) => Disposable
  /** What of the kernel Node lacks; null where it cannot be called. */
  readonly calls?: FileCalls | null
  /** A folder without a store gets one. */
  readonly create: boolean
  /** Only looked at and mended: nothing else works on it meanwhile. */
  readonly checks?: boolean
}

export interface VolumeFolder extends AsyncDisposable {
  readonly served: ServedStore
  /** Begins to answer on the control socket. */
  answer(options: Pick<VolumeServerOptions, 'version' | 'stop'>): Promise<Pick<AnsweringServer, 'hello'>>
  close(): Promise<void>
}

const PORTS = { checksum: nodeChecksum, crypto: nodeVolumeCrypto(), compressor: nodeCompressor }
const storePath = (dir: string): string => join(dir, 'store')

/** @throws Fault `conflict` when another process has it open, `not_found` when there is none, `failed` for damage. */
export async function openVolumeFolder(options: VolumeFolderOptions): Promise<VolumeFolder> {
  const { dir, create, lock, calls = null, checks = false, ...parts } = options
  const path = storePath(dir)
  if (!create && !isThere(path)) throw new Fault('not_found', `${dir}: there are no volumes (no ${path})`)
  await using building = new AsyncDisposableStack()
  building.use(lock(join(dir, 'lock')))
  if (!existsSync(path)) await makeStore(path, calls, { ...parts, ...PORTS })
  const file = nodeStoreFile({ path, calls })
  const store = await Store.open({ ...parts, ...PORTS, file, collects: !checks, repairs: checks }).catch(
    async (error: unknown) => {
      await file.close()
      throw error
    },
  )
  building.defer(() => store.close())
  if (!checks) await sweep(store)
  const served = new ServedStore(store, { repairs: checks })
  const done = building.move()
  let closing: Promise<void> | null = null
  const close = (): Promise<void> => (closing ??= done.disposeAsync())
  return {
    served,
    async answer(about) {
      const { clock, log } = parts
      const watch = done.use(watchSpace({ usage: () => spaceUsage(store), clock, log: log.with({ dir }) }))
      return done.use(await answerVolumes({ ...about, dir, served, space: () => watch.last(), clock, log }))
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/** @throws Fault `forbidden` where that may not be asked. */
function isThere(path: string): boolean {
  try {
    return statSync(path, { throwIfNoEntry: false }) !== undefined
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Fault(code === 'EACCES' ? 'forbidden' : 'failed', message, { cause: error })
  }
}

/** Under its own name a store is whole or not there, whenever its maker is killed. */
async function makeStore(path: string, calls: FileCalls | null, parts: Omit<StoreOptions, 'file'>): Promise<void> {
  const making = `${path}.new`
  await rm(making, { force: true })
  try {
    await makeOn(nodeStoreFile({ path: making, calls, create: true }), parts)
    await rename(making, path)
  } catch (error) {
    await rm(making, { force: true })
    throw error
  }
}

/** Makes a store on a file, which is closed then. */
async function makeOn(file: StoreFile, parts: Omit<StoreOptions, 'file'>): Promise<void> {
  try {
    const store = await Store.create({ ...parts, file })
    await store.close()
  } catch (error) {
    await file.close()
    throw error
  }
}

/**
 * Makes a store on a block device, which a folder's `store` then points at. Nothing else may have it, and what is on it must be nothing.
 * @throws Fault `conflict` when the folder has a store or the device is in use or not empty, `invalid` when it is no block device.
 */
export async function initVolumeFolder(
  options: Omit<VolumeFolderOptions, 'create' | 'checks'> & { readonly device: string },
): Promise<{ sizeBytes: number }> {
  const { dir, device, lock, calls = null, ...parts } = options
  const sizeBytes = blockDeviceBytes(device)
  if (sizeBytes === null) throw new Fault('invalid', `--device: got ${JSON.stringify(device)}, want a block device`)
  using _lock = lock(join(dir, 'lock'))
  const path = storePath(dir)
  if (existsSync(path)) throw new Fault('conflict', `${dir}: it has a store already`)
  const file = nodeStoreFile({ path: device, calls })
  try {
    const start = new Uint8Array(Math.min(sizeBytes, BLANK_BYTES))
    await file.read(0, start)
    if (start.some((byte) => byte !== 0))
      throw new Fault('conflict', `${device}: there is something on it; wipefs and zeros over its first MiB would make it empty`)
  } catch (error) {
    await file.close()
    throw error
  }
  await makeOn(file, { ...parts, ...PORTS })
  await symlink(resolve(device), path)
  return { sizeBytes }
}

/** Where partition tables, file systems and volume managers leave their marks. */
const BLANK_BYTES = 1024 * 1024
