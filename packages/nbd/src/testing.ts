/** A server and a client joined in memory, for tests: bytes come in pieces of any size. */
import type { BlockDevice, Rng } from '@typevisor/base'
import { memoryLog, type MemoryLog } from '@typevisor/sim'
import { ByteBudget } from './byte-budget.ts'
import { ByteReader } from './byte-reader.ts'
import type { ClientConnection } from './client.ts'
import { SegmentPool } from './output-buffer.ts'
import type { ByteChannel, ExportSource, NbdExport } from './ports.ts'
import { serveConnection, type Connection } from './server.ts'

export { openExport } from './client.ts'
export { makeCertificates } from './testing/certificates.ts'
export { anyRequests, changedSession, feed, opening } from './testing/fuzz.ts'

export const sourceOf = (...exports: readonly NbdExport[]): ExportSource => {
  const find = async (name: string) => exports.find((one) => one.name === name) ?? null
  return { list: async () => exports.map(({ name }) => ({ name })), open: find, look: find }
}

export const exportOf = (name: string, device: BlockDevice): NbdExport => ({ name, device, canMultiConn: true })

/** The same device without its immediate half, each answer a turn later. */
export function slowDevice(device: BlockDevice): BlockDevice {
  const later = async <T>(work: () => Promise<T>): Promise<T> => {
    await null
    return work()
  }
  return {
    sizeBytes: device.sizeBytes,
    readOnly: device.readOnly,
    blockBytesMin: device.blockBytesMin,
    blockBytesPreferred: device.blockBytesPreferred,
    read: (...args) => later(() => device.read(...args)),
    write: (...args) => later(() => device.write(...args)),
    flush: () => later(() => device.flush()),
    trim: (...args) => later(() => device.trim(...args)),
    zero: (...args) => later(() => device.zero(...args)),
    cache: (...args) => later(() => device.cache(...args)),
    extents: (...args) => later(() => device.extents(...args)),
  }
}

export interface MemoryLink {
  readonly client: ClientConnection
  readonly connection: Connection
  /** Everything that the server has said so far. */
  saidBytes(): number
  readonly isDestroyed: boolean
  /** What the server logged of this connection. */
  readonly log: MemoryLog
  /** The server takes no more bytes for now. */
  readonly isPaused: boolean
}

/** Starts serving. What either side says arrives later, cut into pieces as `rng` has it. `deaf`: the client takes nothing off its socket. */
export function linkInMemory(source: ExportSource, rng: Rng, options: { deaf?: boolean; budget?: ByteBudget } = {}): MemoryLink {
  const reader = new ByteReader()
  let said = 0
  let destroyed = false
  let paused = false
  const incoming: Uint8Array[] = []
  const server: ByteChannel = {
    write: (content, done) => {
      said += content.length
      if (options.deaf) return
      const copy = content.slice()
      void (async () => {
        await null
        for (const piece of pieces(copy, rng)) reader.push(piece)
        done()
      })()
    },
    queuedBytes: 0,
    pause: () => {
      paused = true
    },
    resume: () => {
      paused = false
      pump()
    },
    end: () => reader.end(),
    destroy: () => {
      destroyed = true
      reader.end()
    },
    startTls: null,
  }
  const { budget = new ByteBudget() } = options
  const log = memoryLog()
  const connection = serveConnection(server, { source, tls: 'off', pool: new SegmentPool(), budget, log })
  const pump = (): void => {
    while (!paused && incoming.length > 0) connection.push(incoming.shift() as Uint8Array) // its length was looked at
  }
  return {
    client: {
      reader,
      channel: {
        write: (content, done) => {
          const copy = content.slice()
          void (async () => {
            await null
            incoming.push(...pieces(copy, rng))
            pump()
            done()
          })()
        },
        end: () => connection.end(),
        destroy: () => connection.end(),
      },
    },
    connection,
    log,
    saidBytes: () => said,
    get isDestroyed() {
      return destroyed
    },
    get isPaused() {
      return paused
    },
  }
}

function* pieces(content: Uint8Array, rng: Rng): Iterable<Uint8Array> {
  for (let at = 0; at < content.length;) {
    const countBytes = rng.below(3) === 0 ? 1 + rng.below(40) : 1 + rng.below(content.length)
    yield content.slice(at, at + countBytes)
    at += countBytes
  }
}
