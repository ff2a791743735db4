/** The client on Node's sockets, and NBD's URIs (NetworkBlockDevice/nbd, doc/uri.md). */
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { Fault } from '@typevisor/base'
import { ByteReader } from './byte-reader.ts'
import { listExports, openExport, type ClientConnection, type NbdClient, type NbdClientOptions } from './client.ts'

export interface NbdAddress {
  readonly socketPath?: string
  readonly host?: string
  readonly port?: number
}

export interface NbdConnectOptions extends NbdClientOptions {
  readonly address: NbdAddress
  readonly authority?: string
  /** Name that the server's certificate must have. */
  readonly serverName?: string
  readonly signal?: AbortSignal | undefined
}

const NBD_PORT = 10809
/** Bytes that may have come and wait to be looked at. */
const AHEAD_BYTES_MAX = 64 * 1024 * 1024

/** @throws Fault `invalid` for what is no URI of NBD. */
export function parseNbdUri(uri: string): { address: NbdAddress; exportName: string; tls: boolean } {
  const bad = (why: string) => new Fault('invalid', `NBD URI: got ${JSON.stringify(uri)}, want ${why}`)
  let url: URL
  try {
    url = new URL(uri)
  } catch {
    throw bad('nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH')
  }
  const tls = url.protocol === 'nbds:' || url.protocol === 'nbds+unix:'
  const exportName = decodeURIComponent(url.pathname.replace(/^\//, ''))
  if (url.protocol === 'nbd+unix:' || url.protocol === 'nbds+unix:') {
    const socketPath = url.searchParams.get('socket')
    if (!socketPath) throw bad('?socket=PATH')
    return { address: { socketPath }, exportName, tls }
  }
  if (url.protocol !== 'nbd:' && url.protocol !== 'nbds:') throw bad('nbd, nbds, nbd+unix or nbds+unix')
  if (url.hostname === '') throw bad('a host')
  return {
    address: { host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port === '' ? NBD_PORT : Number(url.port) },
    exportName,
    tls,
  }
}

export async function connectNbd(options: NbdConnectOptions): Promise<NbdClient> {
  const connection = await dial(options)
  return openExport(connection, options)
}

export async function listNbdExports(address: NbdAddress): Promise<readonly { name: string; description: string }[]> {
  return listExports(await dial({ address }))
}

async function dial({
  address,
  authority,
  serverName,
  signal,
}: Pick<NbdConnectOptions, 'address' | 'authority' | 'serverName' | 'signal'>): Promise<ClientConnection> {
  signal?.throwIfAborted()
  const where = address.socketPath ?? `${address.host ?? '127.0.0.1'}:${address.port ?? NBD_PORT}`
  const plain =
    address.socketPath === undefined
      ? connect({ host: address.host ?? '127.0.0.1', port: address.port ?? NBD_PORT, noDelay: true })
      : connect({ path: address.socketPath })
  await new Promise<void>((resolve, reject) => {
    plain.once('connect', resolve)
    plain.once('error', (error) => reject(new Fault('unavailable', `connect to ${where}: ${error.message}`, { cause: error })))
    signal?.addEventListener(
      'abort',
      () => {
        plain.destroy()
        reject(signal.reason as Error)
      },
      { once: true },
    )
  })
  let socket: Socket = plain
  const reader = new ByteReader()
  const onData = (chunk: Uint8Array): void => {
    reader.push(chunk)
    if (reader.waitingBytes < AHEAD_BYTES_MAX) return
    socket.pause()
    setImmediate(() => socket.resume())
  }
  const listen = (to: Socket): void => {
    to.on('data', onData)
    to.on('error', () => {})
    to.on('close', () => reader.end())
  }
  listen(plain)
  return {
    reader,
    channel: {
      write: (content, done) => void socket.write(content, () => done()),
      end: () => void socket.end(),
      destroy: () => void socket.destroy(),
    },
    startTls: () =>
      new Promise((resolve, reject) => {
        plain.off('data', onData)
        const secure = connectTls({
          socket: plain,
          ...(authority === undefined ? {} : { ca: authority }),
          ...(serverName === undefined ? {} : { servername: serverName }),
        })
        secure.once('secureConnect', resolve)
        secure.once('error', (error) =>
          reject(new Fault('unauthenticated', `TLS with ${where}: ${error.message}`, { cause: error })),
        )
        socket = secure
        listen(secure)
      }),
  }
}
