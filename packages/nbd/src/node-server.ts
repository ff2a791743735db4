/** The server on Node's sockets: Unix or TCP, with TLS where a certificate (or a table of keys) is given. */
import { access, chmod, constants, lstat, unlink } from 'node:fs/promises'
import { createServer, Socket, type AddressInfo } from 'node:net'
import { dirname, resolve } from 'node:path'
import { createSecureContext, TLSSocket } from 'node:tls'
import { Fault, type FaultCode, type Log } from '@typevisor/base'
import type { TlsPolicy } from './negotiation.ts'
import { SegmentPool } from './output-buffer.ts'
import type { ByteChannel, ExportSource } from './ports.ts'
import { serveConnection } from './server.ts'

export interface NbdTlsOptions {
  readonly policy: Exclude<TlsPolicy, 'off'>
  /** PEM. */
  readonly certificate?: string
  readonly key?: string
  /** PEM of whoever signs the certificates of clients: with it a client must have one. */
  readonly clientAuthority?: string
  /** Pre-shared keys by identity (RFC 4279, as nbdkit and QEMU use them). */
  readonly preSharedKeys?: ReadonlyMap<string, Uint8Array>
}

export interface NbdServerOptions {
  readonly listen: { readonly socketPath: string; readonly mode?: number } | { readonly host: string; readonly port: number }
  readonly source: ExportSource
  readonly tls?: NbdTlsOptions
  /** More connections at a time are refused. */
  readonly connectionCountMax?: number
  readonly log: Log
}

export interface NbdServer extends AsyncDisposable {
  /** `nbd+unix:///?socket=...` or `nbd://host:port`, to which `/NAME` of an export is added. */
  readonly address: string
  readonly port: number | null
  readonly connectionCount: number
  /** Ends connections: each one's requests under way come to their end first. */
  close(): Promise<void>
}

const CONNECTION_COUNT_MAX = 1024

/** @throws Fault `conflict` when the address is taken, `failed` when it cannot be listened on. */
export async function listenNbd(options: NbdServerOptions): Promise<NbdServer> {
  const { source, log, tls } = options
  const pool = new SegmentPool()
  const open = new Map<Socket, Promise<void>>()
  const secure = tls ? secureOptions(tls) : null

  const server = createServer({ noDelay: true, allowHalfOpen: false })
  server.maxConnections = options.connectionCountMax ?? CONNECTION_COUNT_MAX
  server.on('connection', (socket) => {
    const over = serveSocket(socket)
    open.set(socket, over)
    void over.finally(() => open.delete(socket))
  })

  const serveSocket = async (plain: Socket): Promise<void> => {
    let socket: Socket = plain
    const channel: ByteChannel = {
      write: (content, done) => void socket.write(content, () => done()),
      get queuedBytes() {
        return socket.writableLength
      },
      pause: () => void socket.pause(),
      resume: () => void socket.resume(),
      end: () => void socket.end(),
      destroy: () => void socket.destroy(),
      startTls: secure ? () => startTls() : null,
    }
    const connection = serveConnection(channel, { source, tls: tls?.policy ?? 'off', pool, log })
    const onData = (chunk: Uint8Array): void => connection.push(chunk)
    const listen = (to: Socket): void => {
      to.on('data', onData)
      to.on('error', () => {}) // `close` follows, and says all there is to say
      to.on('close', () => connection.end())
    }
    const startTls = (): void => {
      plain.off('data', onData)
      socket = new TLSSocket(plain, { isServer: true, ...secure })
      socket.on('error', (error) => log.debug('nbd.tls_failed', { error: error.message }))
      listen(socket)
    }
    listen(plain)
    await connection.over
    socket.destroySoon()
  }

  const address = await listening(server, options.listen)
  let closing: Promise<void> | null = null
  const close = (): Promise<void> =>
    (closing ??= (async () => {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      for (const socket of open.keys()) socket.destroySoon()
      await Promise.all(open.values())
      await closed
    })())
  return {
    ...address,
    get connectionCount() {
      return open.size
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

function secureOptions(tls: NbdTlsOptions): ConstructorParameters<typeof TLSSocket>[1] {
  const { preSharedKeys: keys } = tls
  const context = createSecureContext({
    ...(tls.certificate === undefined ? {} : { cert: tls.certificate }),
    ...(tls.key === undefined ? {} : { key: tls.key }),
    ...(tls.clientAuthority === undefined ? {} : { ca: tls.clientAuthority }),
    ...(keys ? { ciphers: 'PSK+HIGH:HIGH', maxVersion: 'TLSv1.2' } : {}),
  })
  return {
    secureContext: context,
    requestCert: tls.clientAuthority !== undefined,
    rejectUnauthorized: tls.clientAuthority !== undefined,
    ...(keys
      ? {
          pskCallback: (_socket: TLSSocket, identity: string) => {
            const key = keys.get(identity)
            return key ? Buffer.from(key) : null
          },
          pskIdentityHint: 'nbd',
        }
      : {}),
  } as ConstructorParameters<typeof TLSSocket>[1] // Node's types know pskCallback at servers only, the socket takes it too
}

async function listening(
  server: ReturnType<typeof createServer>,
  listen: NbdServerOptions['listen'],
): Promise<{ address: string; port: number | null }> {
  const isUnix = 'socketPath' in listen
  const where = isUnix ? listen.socketPath : `${listen.host}:${listen.port}`
  if (isUnix && (await lookAtSocket(listen.socketPath)) === 'stale') await unlink(listen.socketPath)
  await new Promise<void>((done, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => reject(listenFault(where, error)))
    server.listen(isUnix ? { path: listen.socketPath } : { host: listen.host, port: listen.port }, done)
  })
  if (isUnix) {
    await chmod(listen.socketPath, listen.mode ?? 0o600)
    return { address: `nbd+unix:///?socket=${listen.socketPath}`, port: null }
  }
  const { port } = server.address() as AddressInfo // it listens on TCP
  return { address: `nbd://${listen.host}:${port}`, port }
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
