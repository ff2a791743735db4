/**
 * A store in a folder: its file, its lock, and while it is served the socket by which others ask for things.
 *
 *   DIR/store          the store
 *   DIR/lock           held by whoever has it open
 *   DIR/control.sock   there while it is served: one line of JSON asks, one answers
 *   DIR/data.sock      likewise: NBD, for exports and imports; it has what is being brought in too
 */
import { existsSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Fault, faultFromJson, toFault, type Clock, type Log, type Rng } from '@typevisor/base'
import { listenNbd } from '@typevisor/nbd'
import { nodeChecksum, nodeStoreFile } from './node-store-file.ts'
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
  const { dir, create, lock, checks = false, ...parts } = options
  const path = storePath(dir)
  if (!create && !existsSync(path)) throw new Fault('not_found', `${dir}: there are no volumes (no ${path})`)
  await using building = new AsyncDisposableStack()
  if (create) await mkdir(dir, { recursive: true, mode: 0o700 })
  building.use(lock(join(dir, 'lock')))
  const isNew = !existsSync(path)
  const file = nodeStoreFile({ path, create: isNew })
  const store = await (isNew ? Store.create : Store.open)({ ...parts, file, checksum: nodeChecksum, collects: !checks }).catch(
    async (error: unknown) => {
      await file.close()
      // A store that was never made whole is none: the next one makes it.
      if (isNew) await rm(path, { force: true })
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
    answer: async () => {
      const source = served.exports({ withHidden: true })
      done.use(await listenNbd({ listen: { socketPath: dataPath(dir) }, source, log: options.log }))
      done.use(await answerOn(controlPath(dir), served))
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

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
