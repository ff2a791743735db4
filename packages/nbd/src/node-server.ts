/** The server on Node's sockets: Unix or TCP, with TLS where a certificate (or a table of keys) is given. */
import { access, chmod, constants, lstat, unlink } from 'node:fs/promises'
import { createServer, Socket, type AddressInfo } from 'node:net'
import { dirname, resolve } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import { Fault, type FaultCode, type Log } from '@typevisor/base'
import { ByteBudget } from './byte-budget.ts'
import { serverTlsOptions, type NbdTlsOptions } from './node-tls.ts'
import { SegmentPool } from './output-buffer.ts'
import type { ByteChannel, ExportSource } from './ports.ts'
import { serveConnection, type Connection } from './server.ts'
import { formatNbdUri, type NbdAddress } from './uri.ts'

export interface NbdServerOptions {
  readonly listen: { readonly socketPath: string; readonly mode?: number } | { readonly host: string; readonly port: number }
  readonly source: ExportSource
  readonly tls?: NbdTlsOptions
  /** More connections at a time are refused. */
  readonly connectionCountMax?: number
  /** What all its connections may hold together; one of its own (512 MiB) where none is given. Servers may share one. */
  readonly budget?: ByteBudget
  /** A client that has not chosen an export by then is ended. Default 30,000. */
  readonly handshakeMillisMax?: number
  /** While others wait for the budget: a client that holds some of it and moves less than 1 MiB in so long is ended. Default 30,000. */
  readonly stallMillisMax?: number
  readonly log: Log
}

export interface NbdServer extends AsyncDisposable {
  /** The URI of the export without a name. */
  readonly address: string
  readonly port: number | null
  /** The URI of an export; of TLS where that is required. */
  uri(exportName: string): string
  readonly connectionCount: number
  /** Ends connections: each one's requests under way come to their end first. */
  close(): Promise<void>
}

const CONNECTION_COUNT_MAX = 1024
/** What one read of a socket brings at most (libuv). */
const READ_BYTES_MAX = 64 * 1024
/**
 * As long as reads come back full, libuv goes on with the same socket, up to 32 times: a client that keeps up would have the loop for
 * milliseconds, while commands, other guests and ends of flushes wait. After so many it waits for its next turn.
 */
const FULL_READS_A_TURN = 2
const HANDSHAKE_MILLIS_MAX = 30_000
const STALL_MILLIS_MAX = 30_000
const MOVED_BYTES_MIN = 1024 * 1024

/** @throws Fault `conflict` when the address is taken, `failed` when it cannot be listened on. */
export async function listenNbd(options: NbdServerOptions): Promise<NbdServer> {
  const { source, log, tls } = options
  const pool = new SegmentPool()
  const { budget = new ByteBudget(), handshakeMillisMax = HANDSHAKE_MILLIS_MAX, stallMillisMax = STALL_MILLIS_MAX } = options
  const open = new Map<Socket, Promise<void>>()
  const connections = new Map<Socket, Connection>()
  const secure = tls ? serverTlsOptions(tls) : null

  const server = createServer({ noDelay: true, allowHalfOpen: false })
  server.maxConnections = options.connectionCountMax ?? CONNECTION_COUNT_MAX
  server.on('drop', () => log.warn('nbd.too_many_connections', { countMax: server.maxConnections }))
  server.on('connection', (socket) => {
    const over = serveSocket(socket)
    open.set(socket, over)
    void over.finally(() => {
      open.delete(socket)
      connections.delete(socket)
    })
  })

  const serveSocket = async (plain: Socket): Promise<void> => {
    let socket: Socket = plain
    let [isPaused, isYielding, fullReadCount] = [false, false, 0]
    const channel: ByteChannel = {
      write: (content, done) => void socket.write(content, () => done()),
      get queuedBytes() {
        return socket.writableLength
      },
      pause() {
        isPaused = true
        socket.pause()
      },
      resume() {
        isPaused = false
        if (!isYielding) socket.resume()
      },
      end: () => void socket.end(),
      destroy: () => void socket.destroy(),
      startTls: secure ? () => startTls() : null,
    }
    const connection = serveConnection(channel, { source, tls: tls?.policy ?? 'off', pool, budget, log })
    connections.set(plain, connection)
    const late = setTimeout(() => plain.destroy(), handshakeMillisMax)
    void connection.negotiated.then(() => clearTimeout(late))
    const yieldTurn = (): void => {
      isYielding = true
      socket.pause()
      setImmediate(() => {
        isYielding = false
        if (!isPaused) socket.resume()
      })
    }
    const onData = (chunk: Uint8Array): void => {
      const isFull = chunk.length === READ_BYTES_MAX
      if (connection.push(chunk)) free(chunk)
      fullReadCount = isFull ? fullReadCount + 1 : 0
      if (fullReadCount < FULL_READS_A_TURN) return
      fullReadCount = 0
      yieldTurn()
    }
    const listen = (to: Socket): void => {
      to.on('data', onData)
      to.on('error', () => {}) // `close` follows, and says all there is to say
      to.on('close', () => connection.end())
    }
    const startTls = (): void => {
      plain.off('data', onData)
      // A server for this connection alone: a socket by itself would take any certificate of a client.
      const one = createTlsServer(secure ?? {}, (secured) => {
        socket = secured
        listen(secured)
      })
      one.on('tlsClientError', (error) => {
        log.debug('nbd.tls_failed', { error: error.message })
        plain.destroy()
      })
      one.emit('connection', plain)
    }
    listen(plain)
    await connection.over
    socket.destroySoon()
  }

  const address = await listening(server, options.listen)
  const watch = endStalled(connections, { budget, everyMillis: stallMillisMax, log })
  const uri = (exportName: string): string => formatNbdUri(address, { exportName, tls: tls?.policy === 'required' })
  let closing: Promise<void> | null = null
  const close = (): Promise<void> =>
    (closing ??= (async () => {
      watch[Symbol.dispose]()
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of open.keys()) socket.destroySoon()
      await Promise.all(open.values())
      await closed
    })())
  return {
    address: uri(''),
    port: address.port ?? null,
    uri,
    get connectionCount() {
      return open.size
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

/**
 * Node reads into a new buffer each time. Left to the collector, that is hundreds of MiB a second outside of its heap, for which it goes over
 * the whole heap several times a second, for 10 ms and more.
 */
function free(chunk: Uint8Array): void {
  const { buffer } = chunk
  if (buffer instanceof ArrayBuffer && buffer.byteLength === chunk.byteLength) buffer.transfer(0)
}

/** Looks again and again for clients that hold what others wait for. */
function endStalled(
  connections: ReadonlyMap<Socket, Connection>,
  { budget, everyMillis, log }: { budget: ByteBudget; everyMillis: number; log: Log },
): Disposable {
  let seen = new Map<Socket, number>()
  const look = (): void => {
    const before = seen
    seen = new Map()
    if (!budget.isWaitedFor) return
    for (const [socket, { movedBytes }] of connections) {
      if (movedBytes === null) continue
      seen.set(socket, movedBytes)
      if (movedBytes - (before.get(socket) ?? -Infinity) >= MOVED_BYTES_MIN) continue
      log.warn('nbd.client_stalled', { remote: socket.remoteAddress ?? null })
      socket.destroy()
    }
  }
  const timer = setInterval(look, everyMillis)
  timer.unref()
  return { [Symbol.dispose]: () => clearInterval(timer) }
}

async function listening(server: ReturnType<typeof createServer>, listen: NbdServerOptions['listen']): Promise<NbdAddress> {
  const isUnix = 'socketPath' in listen
  const where = isUnix ? listen.socketPath : `${listen.host}:${listen.port}`
  if (isUnix && (await lookAtSocket(listen.socketPath)) === 'stale') await unlink(listen.socketPath)
  await new Promise<void>((done, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(listenFault(where, error)))
    server.listen(isUnix ? { path: listen.socketPath } : { host: listen.host, port: listen.port }, done)
  })
  if (isUnix) {
    await chmod(listen.socketPath, listen.mode ?? 0o600)
    return { socketPath: listen.socketPath }
  }
  const { port } = server.address() as AddressInfo // it listens on TCP
  return { host: listen.host, port }
}

const LISTEN_CODES: Readonly<Record<string, FaultCode>> = {
  EADDRINUSE: 'conflict',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
  EROFS: 'forbidden',
  ENOENT: 'not_found',
  ENOTFOUND: 'not_found',
  EADDRNOTAVAIL: 'invalid',
  ENOTDIR: 'invalid',
}

const listenFault = (where: string, error: NodeJS.ErrnoException): Fault =>
  new Fault(LISTEN_CODES[error.code ?? ''] ?? 'failed', `listen on ${where}: ${error.message}`, { cause: error })

/**
 * That `listenNbd` would probably succeed; nothing is left of asking.
 * @throws Fault as `listenNbd`.
 */
export async function assertListenable(listen: NbdServerOptions['listen']): Promise<void> {
  if ('socketPath' in listen) {
    await lookAtSocket(listen.socketPath)
    await access(dirname(resolve(listen.socketPath)), constants.W_OK).catch((error: NodeJS.ErrnoException) => {
      throw listenFault(listen.socketPath, error)
    })
    return
  }
  // A port that the system will choose is free.
  const probe = createServer()
  await new Promise<void>((done, reject) => {
    probe.once('error', (error: NodeJS.ErrnoException) => reject(listenFault(`${listen.host}:${listen.port}`, error)))
    probe.listen({ host: listen.host, port: listen.port }, done)
  })
  await new Promise((done) => probe.close(done))
}

/** `sun_path` of unix(7) holds 108 bytes with its final zero. */
const SOCKET_PATH_BYTES_MAX = 107

/** `stale`: a killed server left it behind, and nobody answers on it. @throws Fault `invalid` for a path that can be none, `conflict`. */
async function lookAtSocket(path: string): Promise<'stale' | 'free'> {
  const byteCount = Buffer.byteLength(path)
  if (byteCount === 0 || byteCount > SOCKET_PATH_BYTES_MAX)
    throw new Fault('invalid', `listen on ${path}: got a path of ${byteCount} bytes, want 1 to ${SOCKET_PATH_BYTES_MAX}`)
  const found = await lstat(path).catch(() => null)
  if (!found) return 'free'
  if (!found.isSocket()) throw new Fault('conflict', `listen on ${path}: there is something else, want a socket or nothing`)
  const answers = await new Promise<boolean>((done) => {
    const probe = new Socket()
    probe.once('connect', () => done(true))
    probe.once('error', () => done(false))
    probe.connect(path)
    probe.once('connect', () => probe.destroy())
  })
  if (answers) throw new Fault('conflict', `listen on ${path}: another server answers there`)
  return 'stale'
}
