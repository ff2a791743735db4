/** The client on Node's sockets. */
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { Fault } from '@typevisor/base'
import { ByteReader } from './byte-reader.ts'
import { listExports, openExport, type ClientConnection, type NbdClient, type NbdClientOptions } from './client.ts'
import { clientTlsOptions, type NbdClientTls } from './node-tls.ts'
import { NBD_PORT, type NbdAddress } from './uri.ts'

export interface NbdConnectOptions extends NbdClientOptions, NbdClientTls {
  readonly address: NbdAddress
  readonly signal?: AbortSignal | undefined
}

/** Bytes that may have come and wait to be looked at. */
const AHEAD_BYTES_MAX = 64 * 1024 * 1024

export async function connectNbd(options: NbdConnectOptions): Promise<NbdClient> {
  const connection = await dial(options)
  return openExport(connection, options)
}

export async function listNbdExports(
  address: NbdAddress,
  options: Omit<NbdConnectOptions, 'address' | 'exportName' | 'contexts' | 'extendedHeaders'> = {},
): Promise<readonly { name: string; description: string }[]> {
  return listExports(await dial({ ...options, address }), options)
}

type DialOptions = NbdClientTls & Pick<NbdConnectOptions, 'address' | 'signal'>

async function dial({ address, signal, ...tls }: DialOptions): Promise<ClientConnection> {
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
        const secure = connectTls({ socket: plain, host: address.host ?? 'localhost', ...clientTlsOptions(tls) })
        secure.once('secureConnect', resolve)
        secure.once('error', (error) =>
          reject(new Fault('unauthenticated', `TLS with ${where}: ${error.message}`, { cause: error })),
        )
        socket = secure
        listen(secure)
      }),
  }
}
