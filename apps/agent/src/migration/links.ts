/**
 * Streams between two agents, for one migration: TLS 1.3 on a port that the system chose, with a certificate made for it.
 *
 *   source --TLS, certificate pinned--> target      {"token": ..., "channel": "memory"}\n -->      <-- ok\n | a refusal\n      then bytes
 *
 * The source knows the target by the certificate's fingerprint, the target the source by the token; both were told by whoever asked for the
 * migration, over a connection that it trusts. Before the fingerprint was looked at the token is not sent. A stranger on the port costs one
 * handshake and is cut: by a bound on how many are unknown at a time, and on how long.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto'
import { once } from 'node:events'
import { connect, createServer, type TLSSocket } from 'node:tls'
import type { AddressInfo } from 'node:net'
import { Fault, toFault, type Clock, type Json } from '@typevisor/base'
import type { MigrationLinks, MigrationStream } from '@typevisor/toolstack'
import { listenerCertificate } from './certificate.ts'

const LINE_BYTES_MAX = 1024
const GREETING_LIMIT_MS = 10_000
const STRANGERS_MAX = 16
const OK = 'ok'

export interface LinkOptions {
  /** Where this host is reached by others, and listens for them: an IP address. */
  readonly address: string
  readonly clock: Clock
}

/** The line that the other side begins with; what comes behind it is left to be read. */
async function firstLine(socket: TLSSocket): Promise<string> {
  let line = Buffer.alloc(0)
  while (true) {
    const chunk = socket.read() as Buffer | null
    if (chunk === null) {
      if (socket.readableEnded || socket.destroyed) throw new Fault('unavailable', 'the other side closed the connection')
      await Promise.race([once(socket, 'readable'), once(socket, 'close')])
      continue
    }
    line = Buffer.concat([line, chunk])
    const end = line.indexOf('\n')
    if (end >= 0) {
      if (end + 1 < line.length) socket.unshift(line.subarray(end + 1))
      return line.subarray(0, end).toString()
    }
    if (line.length > LINE_BYTES_MAX) throw new Fault('invalid', `the other side's first line: more than ${LINE_BYTES_MAX} bytes`)
  }
}

function streamOf(socket: TLSSocket): MigrationStream {
  const gone = new Fault('unavailable', 'the other host closed the connection')
  const closed = once(socket, 'close').catch(() => {})
  return {
    readable: {
      async *[Symbol.asyncIterator]() {
        try {
          // Its end is not the end of what is written.
          for await (const chunk of socket.iterator({ destroyOnReturn: false })) yield chunk as Uint8Array
        } catch {
          // Whatever ends the stream just ends it.
        }
      },
    },
    async write(content) {
      if (socket.destroyed || !socket.writable) throw gone
      if (socket.write(content)) return
      const drained = Promise.withResolvers<void>()
      socket.once('drain', drained.resolve)
      try {
        await Promise.race([drained.promise, closed])
      } finally {
        socket.off('drain', drained.resolve)
      }
      if (socket.destroyed) throw gone
    },
    async end() {
      if (socket.destroyed || !socket.writable) return
      const ended = Promise.withResolvers<void>()
      socket.end(ended.resolve)
      await Promise.race([ended.promise, closed])
    },
    close: () => void socket.destroy(),
  }
}

const isToken = (said: unknown, token: string): boolean => {
  const [a, b] = [Buffer.from(typeof said === 'string' ? said : ''), Buffer.from(token)]
  return a.length === b.length && timingSafeEqual(a, b)
}

/** By what a listener is known to those who were told of it. */
interface Kept {
  /** 0: the system chooses. */
  readonly port: number
  readonly certificate: string
  readonly key: string
  readonly fingerprint: string
  readonly token: string
}

async function newListener(clock: Clock): Promise<Kept> {
  const { certificate, key, fingerprint } = await listenerCertificate(clock.now())
  return { port: 0, certificate, key, fingerprint, token: randomBytes(32).toString('base64url') }
}

const keptOf = (kept: Json): Kept => kept as unknown as Kept // as one of before wrote it

export function agentLinks({ address, clock }: LinkOptions): MigrationLinks {
  return {
    async listen(take, before) {
      const kept = before === undefined ? await newListener(clock) : keptOf(before)
      const { certificate, key, fingerprint, token } = kept
      let strangerCount = 0
      const greet = async (socket: TLSSocket): Promise<void> => {
        const limit = setTimeout(() => socket.destroy(), GREETING_LIMIT_MS)
        try {
          const said = JSON.parse(await firstLine(socket)) as { token?: unknown; channel?: unknown } | null
          if (!isToken(said?.token, token) || typeof said?.channel !== 'string') {
            socket.end('the token is not in force\n')
            return
          }
          socket.write(`${OK}\n`)
          take(said.channel, streamOf(socket))
        } catch {
          socket.destroy()
        } finally {
          clearTimeout(limit)
        }
      }
      const server = createServer({
        cert: certificate,
        key,
        minVersion: 'TLSv1.3',
        handshakeTimeout: GREETING_LIMIT_MS,
        allowHalfOpen: true,
      })
      server.on('connection', (raw) => {
        strangerCount += 1
        if (strangerCount > STRANGERS_MAX) raw.destroy()
        raw.once('close', () => (strangerCount -= 1))
        raw.setNoDelay(true)
      })
      server.on('secureConnection', (socket) => {
        socket.on('error', () => {})
        void greet(socket)
      })
      server.on('tlsClientError', (_error, socket) => socket.destroy())
      server.listen(kept.port, address)
      await once(server, 'listening').catch((error: unknown) => {
        throw new Fault('conflict', `listen at ${address} port ${kept.port}: ${toFault(error).message}`, { cause: error })
      })
      server.unref()
      const { port } = server.address() as AddressInfo
      return {
        offer: { address, port, fingerprint, token },
        kept: { ...kept, port },
        close: async () => void server.close(),
      }
    },
    async connect(offer, channel, { signal } = {}) {
      signal?.throwIfAborted()
      const where = `host at ${offer.address} port ${offer.port}`
      const options = { rejectUnauthorized: false, minVersion: 'TLSv1.3', allowHalfOpen: true } as const
      const socket = connect(offer.port, offer.address, options)
      const cut = (): void => void socket.destroy()
      signal?.addEventListener('abort', cut, { once: true })
      const limit = setTimeout(cut, GREETING_LIMIT_MS)
      try {
        socket.setNoDelay(true)
        await once(socket, 'secureConnect')
        socket.on('error', () => {})
        const found = socket.getPeerX509Certificate()?.fingerprint256.replaceAll(':', '').toLowerCase()
        if (found !== offer.fingerprint)
          throw new Fault('forbidden', `${where}: got the certificate ${found ?? 'none'}, want ${offer.fingerprint}`)
        socket.write(`${JSON.stringify({ token: offer.token, channel })}\n`)
        const answer = await firstLine(socket)
        if (answer !== OK) throw new Fault('forbidden', `${where}: ${answer}`)
        return streamOf(socket)
      } catch (error) {
        socket.destroy()
        signal?.throwIfAborted()
        if (error instanceof Fault) throw error
        const reason = error instanceof Error ? error.message : String(error)
        throw new Fault('unavailable', `${where}: ${reason}`, { cause: error })
      } finally {
        clearTimeout(limit)
        signal?.removeEventListener('abort', cut)
      }
    },
  }
}
