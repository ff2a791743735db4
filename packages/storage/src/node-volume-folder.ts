/**
 * A store in a folder: its file, its lock, and while it is served the socket by which others ask for things.
 *
 *   DIR/store          the store: a file, or a link to a block device
 *   DIR/lock           held by whoever has it open
 *   DIR/control.sock   there while it is served: one line of JSON asks, one answers
 *   DIR/data.sock      likewise: NBD, for exports and imports; it has what is being brought in too
 */
import { existsSync } from 'node:fs'
import { mkdir, rm, symlink } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { Fault, faultFromJson, toFault, type Clock, type Log, type Rng } from '@typevisor/base'
import { listenNbd } from '@typevisor/nbd'
import { blockDeviceBytes, nodeChecksum, nodeStoreFile, type FileCalls } from './node-store-file.ts'
import { nodeVolumeCrypto } from './node-volume-crypto.ts'
import { spaceUsage } from './served/space.ts'
import { watchSpace } from './served/space-watch.ts'
import { sweep } from './store/transfers.ts'
import { Store } from './store/store.ts'
import { parseVolumeCommand, ServedStore, type CommandCaller } from './volume-commands.ts'

export interface VolumeFolderOptions {
  readonly dir: string
  readonly clock: Clock
  readonly rng: Rng
  readonly log: Log
  /** Locks for as long as the process lives. @throws Fault `conflict`. */
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
  answer(): Promise<void>
  close(): Promise<void>
}

const storePath = (dir: string): string => join(dir, 'store')
const controlPath = (dir: string): string => join(dir, 'control.sock')
export const dataPath = (dir: string): string => join(dir, 'data.sock')

/** @throws Fault `conflict` when another process has it open, `not_found` when there is none, `failed` for damage. */
export async function openVolumeFolder(options: VolumeFolderOptions): Promise<VolumeFolder> {
  const { dir, create, lock, calls = null, checks = false, ...parts } = options
  const path = storePath(dir)
  if (!create && !existsSync(path)) throw new Fault('not_found', `${dir}: there are no volumes (no ${path})`)
  await using building = new AsyncDisposableStack()
  if (create) await mkdir(dir, { recursive: true, mode: 0o700 })
  building.use(lock(join(dir, 'lock')))
  const isNew = !existsSync(path)
  const file = nodeStoreFile({ path, calls, create: isNew })
  const made = { ...parts, file, checksum: nodeChecksum, crypto: nodeVolumeCrypto(), collects: !checks }
  const store = await (isNew ? Store.create : Store.open)(made).catch(async (error: unknown) => {
    await file.close()
    // A store that was never made whole is none: the next one makes it.
    if (isNew) await rm(path, { force: true })
    throw error
  })
  building.defer(() => store.close())
  if (!checks) await sweep(store)
  const served = new ServedStore(store, { repairs: checks })
  const done = building.move()
  let closing: Promise<void> | null = null
  const close = (): Promise<void> => (closing ??= done.disposeAsync())
  return {
    served,
    async answer() {
      done.use(watchSpace({ usage: () => spaceUsage(store), clock: parts.clock, log: parts.log.with({ dir }) }))
      const source = served.exports({ withHidden: true })
      done.use(await listenNbd({ listen: { socketPath: dataPath(dir) }, source, log: parts.log }))
      done.use(await answerOn(controlPath(dir), served))
    },
    close,
    [Symbol.asyncDispose]: close,
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
  await mkdir(dir, { recursive: true, mode: 0o700 })
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
  const store = await Store.create({ ...parts, file, checksum: nodeChecksum, crypto: nodeVolumeCrypto() })
  await store.close()
  await symlink(resolve(device), path)
  return { sizeBytes }
}

/** Where partition tables, file systems and volume managers leave their marks. */
const BLANK_BYTES = 1024 * 1024

async function answerOn(path: string, served: ServedStore): Promise<AsyncDisposable> {
  await rm(path, { force: true }) // the lock says that nobody else answers there
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('close', () => open.delete(socket))
    socket.on('error', () => {})
    const caller = served.caller()
    void (async () => {
      for await (const line of createInterface({ input: socket })) {
        const reply = await answerLine(line, caller.call)
        socket.write(`${JSON.stringify(reply)}\n`)
      }
    })()
      .catch(() => socket.destroy())
      .finally(() => caller.leave())
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(new Fault('failed', `listen on ${path}: ${error.message}`, { cause: error })))
    server.listen({ path }, resolve)
  })
  return {
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function answerLine(line: string, call: CommandCaller): Promise<unknown> {
  try {
    const { command, args } = parseVolumeCommand(JSON.parse(line))
    return { answer: await call(command, args) }
  } catch (error) {
    return { error: (error instanceof SyntaxError ? new Fault('invalid', `line: ${error.message}`) : toFault(error)).toJSON() }
  }
}

/** Asks whoever serves the folder. null: nobody does. */
export async function askServer(dir: string): Promise<{ call: CommandCaller; close(): void } | null> {
  const socket = connect({ path: controlPath(dir) })
  const isThere = await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
  })
  if (!isThere) return null
  const lines = createInterface({ input: socket })[Symbol.asyncIterator]()
  return {
    call: async (command, args) => {
      socket.write(`${JSON.stringify({ command, args })}\n`)
      const { value, done } = await lines.next()
      if (done) throw new Fault('unavailable', `the volume server of ${dir} went away`)
      const reply = JSON.parse(value) as { answer?: unknown; error?: unknown }
      if (reply.error !== undefined) throw faultFromJson(reply.error)
      return reply.answer as never // it comes from the same table
    },
    close: () => socket.destroy(),
  }
}
