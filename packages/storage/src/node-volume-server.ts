/**
 * Whoever serves a folder of volumes, as others meet it: its control socket, and the sockets of its guests.
 *
 *   DIR/control.sock   one line of JSON asks, one answers; before that some may tell how far it is; for whoever runs the server (0600)
 *   DIR/data.sock      NBD, likewise: all there is, and what is being brought in or taken out
 *   a guest's socket   NBD, of one volume alone: made by `attach`, gone by `detach`; it has the owner that was asked for, mode 0600
 *
 * Sockets of guests are not remembered over the server's end: whoever asked for them asks the next one again.
 */
import { closeSync, constants, openSync } from 'node:fs'
import { chmod, chown, mkdtemp, rm, symlink } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { Fault, faultFromJson, toFault, type Clock, type EpochMillis, type Log } from '@typevisor/base'
import { ByteBudget, listenNbd, type ExportSource, type NbdServer } from '@typevisor/nbd'
import { Lines } from './lines.ts'
import type { SpaceLevel } from './served/space-watch.ts'
import {
  parseVolumeCommand,
  type CommandCaller,
  type OnProgress,
  type ServedStore,
  type VolumeCommands,
} from './volume-commands.ts'

export interface ServerHello {
  readonly version: string
  readonly pid: number
  readonly startedAt: EpochMillis
  /** Sockets of guests, and the connections that are open on them. */
  readonly attachmentCount: number
  readonly connectionCount: number
  /** null: not known yet, or it cannot be known. */
  readonly space: SpaceLevel | null
}

/** What can be asked of a server beside what can be asked of its store. */
export interface ServerCommands {
  hello: { args: Record<string, never>; answer: ServerHello }
  /** Serves a volume on a socket of its own. Idempotent. @throws Fault `not_found`, `conflict` when another volume is served there. */
  attach: { args: { volume: string; socketPath: string; uid?: number; gid?: number }; answer: null }
  /** Ends the socket and the connections on it, each behind its requests under way. Idempotent. */
  detach: { args: { socketPath: string }; answer: null }
  /** Ends the server: all is flushed and the store closed. @throws Fault `conflict` while something is attached, unless `force`. */
  stop: { args: { force?: boolean }; answer: null }
}
type AllCommands = VolumeCommands & ServerCommands
export type ServerCaller = <C extends keyof AllCommands>(
  command: C,
  args: AllCommands[C]['args'],
  onProgress?: OnProgress,
) => Promise<AllCommands[C]['answer']>

export interface VolumeServerOptions {
  readonly dir: string
  readonly served: ServedStore
  /** Of the program. */
  readonly version: string
  /** Asked to end: closes what answers here, among other things. */
  readonly stop: () => void
  /** How full the store is, without waiting. */
  readonly space: () => SpaceLevel | null
  readonly clock: Clock
  readonly log: Log
}

/** A guest's own, what moves it to another host, and whoever looks. */
const CONNECTION_COUNT_MAX = 16

export interface AnsweringServer extends AsyncDisposable {
  hello(): ServerHello
}

export async function answerVolumes(options: VolumeServerOptions): Promise<AnsweringServer> {
  const { dir, served, version, clock, log } = options
  await using stack = new AsyncDisposableStack()
  const budget = new ByteBudget()
  const sockets = stack.use(new GuestSockets(served, budget, log))
  const startedAt = clock.now()
  const hello = (): ServerHello => ({
    version,
    pid: process.pid,
    startedAt,
    ...sockets.counts,
    space: options.space(),
  })
  const table: { [C in keyof ServerCommands]: (args: ServerCommands[C]['args']) => Promise<ServerCommands[C]['answer']> } = {
    hello: async () => hello(),
    attach: (args) => sockets.attach(args),
    detach: ({ socketPath }) => sockets.detach(socketPath),
    async stop({ force = false }) {
      const { attachmentCount } = sockets.counts
      if (attachmentCount > 0 && !force)
        throw new Fault('conflict', `stop: ${attachmentCount} ${attachmentCount === 1 ? 'volume is' : 'volumes are'} attached`)
      // Behind the answer.
      setImmediate(options.stop)
      return null
    },
  }
  const answer: Answer = async (line, call, onProgress) => {
    const asked: unknown = JSON.parse(line)
    const command = parseServerCommand(asked)
    if (command) return (table[command.name] as (args: unknown) => Promise<unknown>)(command.args)
    const { command: name, args } = parseVolumeCommand(asked)
    return call(name, args, onProgress)
  }
  const data = socketAddress(dir, DATA_SOCKET)
  stack.defer(() => data.close())
  stack.use(await listenNbd({ listen: { socketPath: data.path }, source: served.exports({ withHidden: true }), budget, log }))
  stack.use(await listenControl(dir, served, answer))
  const parts = stack.move()
  return { hello, [Symbol.asyncDispose]: () => parts.disposeAsync() }
}

class GuestSockets implements AsyncDisposable {
  readonly #source: ExportSource
  readonly #budget: ByteBudget
  readonly #log: Log
  readonly #attached = new Map<string, { readonly volume: string; readonly server: NbdServer }>()
  /** By path. */
  readonly #lines = new Lines<string>()

  constructor(served: ServedStore, budget: ByteBudget, log: Log) {
    this.#source = served.exports()
    this.#budget = budget
    this.#log = log
  }

  get counts(): { attachmentCount: number; connectionCount: number } {
    const connectionCount = [...this.#attached.values()].reduce((sum, { server }) => sum + server.connectionCount, 0)
    return { attachmentCount: this.#attached.size, connectionCount }
  }

  attach({ volume, socketPath, uid, gid }: ServerCommands['attach']['args']): Promise<null> {
    return this.#lines.run(socketPath, async () => {
      const there = this.#attached.get(socketPath)?.volume ?? null
      if (there !== null && there !== volume)
        throw new Fault('conflict', `attach ${volume}: ${socketPath} is the socket of ${there}`)
      if (there === null) this.#attached.set(socketPath, { volume, server: await this.#listen(volume, socketPath, uid, gid) })
      return null
    })
  }

  detach(socketPath: string): Promise<null> {
    return this.#lines.run(socketPath, async () => {
      await this.#attached.get(socketPath)?.server.close()
      this.#attached.delete(socketPath)
      return null
    })
  }

  async #listen(volume: string, socketPath: string, uid: number | undefined, gid: number | undefined): Promise<NbdServer> {
    if (!(await this.#source.look(volume))) throw new Fault('not_found', `attach ${volume}: there is no such volume`)
    const server = await listenNbd({
      listen: { socketPath },
      source: only(volume, this.#source),
      connectionCountMax: CONNECTION_COUNT_MAX,
      budget: this.#budget,
      log: this.#log,
    })
    try {
      if (uid !== undefined && gid !== undefined) await chown(socketPath, uid, gid)
    } catch (error) {
      await server.close()
      throw new Fault('failed', `attach ${volume}: give ${socketPath} to user ${uid}: ${toFault(error).message}`, {
        cause: error,
      })
    }
    return server
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled([...this.#attached.keys()].map((path) => this.detach(path)))
  }
}

/** One export and no other; the rest of the store is not there for who connects. */
function only(volume: string, { open, look }: ExportSource): ExportSource {
  const mine =
    <T>(find: (name: string) => Promise<T | null>) =>
    async (name: string) =>
      name === volume ? find(name) : null
  return { list: async () => [{ name: volume }], open: mine(open), look: mine(look) }
}

type Answer = (line: string, call: CommandCaller, onProgress: OnProgress) => Promise<unknown>

async function listenControl(dir: string, served: ServedStore, answer: Answer): Promise<AsyncDisposable> {
  await rm(join(dir, CONTROL_SOCKET), { force: true }) // the lock says that nobody else answers there
  const open = new Set<Socket>()
  const server = createServer((socket) => {
    open.add(socket)
    socket.on('close', () => open.delete(socket))
    socket.on('error', () => {})
    const { call, leave } = served.caller()
    void (async () => {
      const say = (what: unknown): void => void socket.write(`${JSON.stringify(what)}\n`)
      for await (const line of createInterface({ input: socket })) {
        const onProgress = byPercent((fraction) => say({ progress: fraction }))
        say(await reply(() => answer(line, call, onProgress)))
      }
    })()
      .catch(() => socket.destroy())
      .finally(leave)
  })
  const address = socketAddress(dir, CONTROL_SOCKET)
  try {
    await listening(server, address.path)
    await chmod(address.path, 0o600)
  } catch (error) {
    address.close()
    throw new Fault('failed', `listen on ${dir}/control.sock: ${toFault(error).message}`, { cause: error })
  }
  return {
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of open) socket.destroySoon()
      await closed
      address.close()
    },
  }
}

/** From its first moment on it is nobody else's: who may connect is decided by its mode. */
async function listening(server: Server, path: string): Promise<void> {
  const before = process.umask(0o177)
  try {
    const listens = new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen({ path }, resolve) // the socket is made in this turn
    })
    process.umask(before)
    await listens
  } finally {
    process.umask(before)
  }
}

/** Tells of each percent once. */
function byPercent(tell: OnProgress): OnProgress {
  let told = 0
  return (fraction) => {
    const percent = Math.floor(fraction * 100)
    if (percent === told) return
    told = percent
    tell(fraction)
  }
}

async function reply(answer: () => Promise<unknown>): Promise<unknown> {
  try {
    return { answer: await answer() }
  } catch (error) {
    return { error: (error instanceof SyntaxError ? new Fault('invalid', `line: ${error.message}`) : toFault(error)).toJSON() }
  }
}

const ARGS: { readonly [C in keyof ServerCommands]: Readonly<Record<string, 'string' | 'number' | 'boolean'>> } = {
  hello: {},
  attach: { volume: 'string', socketPath: 'string', uid: 'number', gid: 'number' },
  detach: { socketPath: 'string' },
  stop: { force: 'boolean' },
}
const NEEDED: ReadonlySet<string> = new Set(['volume', 'socketPath'])

/** null: it is none of the server's own. @throws Fault `invalid`. */
function parseServerCommand(json: unknown): { name: keyof ServerCommands; args: unknown } | null {
  const { command, args } = (json ?? {}) as { command?: unknown; args?: unknown }
  if (typeof command !== 'string' || !Object.hasOwn(ARGS, command)) return null
  const name = command as keyof ServerCommands // it is a key of the table
  const given = (args ?? {}) as Record<string, unknown>
  for (const [key, want] of Object.entries(ARGS[name])) {
    const got = given[key]
    if (got === undefined ? NEEDED.has(key) : typeof got !== want)
      throw new Fault('invalid', `args.${key} of ${name}: got ${JSON.stringify(got)}, want a ${want}`)
  }
  return { name, args: given }
}

export interface VolumeServerConnection {
  /** One after the other, in the order of asking. @throws Fault `unavailable` when the server goes away before it has answered. */
  readonly call: ServerCaller
  /** Resolves when the server has gone or the connection was closed. */
  readonly closed: Promise<void>
  close(): void
}

/** Asks whoever serves the folder. null: nobody does. */
export async function askServer(dir: string): Promise<VolumeServerConnection | null> {
  const address = socketAddress(dir, CONTROL_SOCKET)
  if (!address.isThere) return null
  const socket = connect({ path: address.path })
  const isThere = await new Promise<boolean>((resolve) => {
    socket.once('connect', () => resolve(true))
    socket.once('error', () => resolve(false))
  })
  address.close()
  if (!isThere) return null
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()))
  socket.on('error', () => {}) // `closed` follows
  const reader = createInterface({ input: socket })
  // A socket that this end destroys does not end: who waits for an answer would wait on.
  socket.once('close', () => reader.close())
  const lines = reader[Symbol.asyncIterator]()
  return {
    closed,
    call: async (command, args, onProgress) => {
      socket.write(`${JSON.stringify({ command, args })}\n`)
      const gone = (cause?: unknown) => new Fault('unavailable', `the volume server of ${dir} went away`, { cause })
      for (;;) {
        const { value, done } = await lines.next().catch((error: unknown) => {
          throw gone(error) // killed with our line unread, its end resets the connection
        })
        if (done) throw gone()
        const reply = JSON.parse(value) as { answer?: unknown; error?: unknown; progress?: number }
        if (reply.error !== undefined) throw faultFromJson(reply.error)
        if (reply.progress === undefined) return reply.answer as never // it comes from the same table
        onProgress?.(reply.progress)
      }
    },
    close: () => socket.destroy(),
  }
}

const CONTROL_SOCKET = 'control.sock'
const DATA_SOCKET = 'data.sock'
/** `sun_path` of unix(7) holds 108 bytes with its final zero. */
const SOCKET_PATH_BYTES_MAX = 107

/** Where a socket of the folder is reached: by its path, or where that is too long for a socket by way of the folder's descriptor. */
function socketAddress(dir: string, name: string): { readonly path: string; readonly isThere: boolean; close(): void } {
  const path = join(dir, name)
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return { path, isThere: true, close() {} }
  try {
    const fd = openSync(dir, constants.O_RDONLY | constants.O_DIRECTORY)
    return { path: `/proc/self/fd/${fd}/${name}`, isThere: true, close: () => closeSync(fd) }
  } catch {
    return { path, isThere: false, close() {} }
  }
}

/** Where NBD clients, other programs too, find all that the folder's server has. */
export async function dataAddress(dir: string): Promise<{ readonly path: string } & AsyncDisposable> {
  const path = join(resolve(dir), DATA_SOCKET)
  if (Buffer.byteLength(path) <= SOCKET_PATH_BYTES_MAX) return { path, async [Symbol.asyncDispose]() {} }
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-'))
  await symlink(resolve(dir), join(folder, 'd'))
  return { path: join(folder, 'd', DATA_SOCKET), [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) }
}
