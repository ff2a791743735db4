/** One connection from its first byte to its end, whatever carries the bytes. */
import { Fault, toFault, type Log } from '@typevisor/base'
import type { ByteBudget } from './byte-budget.ts'
import { ByteReader } from './byte-reader.ts'
import { negotiate, type TlsPolicy } from './negotiation.ts'
import type { SegmentPool } from './output-buffer.ts'
import type { ByteChannel, ExportSource } from './ports.ts'
import { Transmission } from './transmission.ts'

export interface ConnectionOptions {
  readonly source: ExportSource
  readonly tls: TlsPolicy
  readonly pool: SegmentPool
  /** What all connections may hold together. */
  readonly budget: ByteBudget
  readonly log: Log
}

/** Bytes that a client may send ahead of the answer while it negotiates. */
const AHEAD_BYTES_MAX = 128 * 1024

export interface Connection {
  /** The next bytes. @returns whether it is done with them; else they must not change afterwards. */
  push(chunk: Uint8Array): boolean
  /** No more will come. */
  end(): void
  /** Resolves when the negotiation is over, however it ended. */
  readonly negotiated: Promise<void>
  /** Of one that holds some of what all connections share, where nothing but its client can end that: bytes moved so far. Else null. */
  readonly movedBytes: number | null
  /** Resolves when nothing of it is under way. */
  readonly over: Promise<void>
}

export function serveConnection(channel: ByteChannel, options: ConnectionOptions): Connection {
  const { source, tls, pool, budget, log } = options
  const reader = new ByteReader()
  let transmission: Transmission | null = null
  let hasEnded = false
  let paused = false
  const ended = Promise.withResolvers<void>()
  const negotiated = Promise.withResolvers<void>()

  const run = async (): Promise<void> => {
    const agreement = await negotiate({ reader, channel, source, tls }).finally(() => negotiated.resolve())
    if (!agreement) return
    const { release } = agreement.export
    try {
      transmission = new Transmission({
        channel,
        agreement,
        pool,
        budget,
        onDefect: (error) => log.error('nbd.request_failed', { export: agreement.export.name, error: toFault(error).message }),
      })
      for (const chunk of reader.drain()) transmission.push(chunk)
      if (paused && !transmission.isPaused) channel.resume()
      paused = false
      if (!hasEnded) await ended.promise
      agreement.export.leave?.()
      await transmission.end()
    } finally {
      release?.call(agreement.export)
    }
  }
  const over = run().catch((error: unknown) => {
    const fault = toFault(error)
    if (fault.code === 'internal') log.error('nbd.connection_failed', { error: fault.message })
    else if (!(error instanceof Fault) || error.code !== 'aborted') log.debug('nbd.connection_refused', { error: fault.message })
    channel.destroy()
  })
  return {
    push(chunk) {
      if (transmission) return transmission.push(chunk)
      reader.push(chunk)
      if (reader.waitingBytes > AHEAD_BYTES_MAX && !paused) {
        paused = true
        channel.pause()
      }
      return false
    },
    end() {
      hasEnded = true
      reader.end()
      ended.resolve()
    },
    negotiated: negotiated.promise,
    get movedBytes() {
      return transmission?.waitsForClient ? transmission.movedBytes : null
    },
    over,
  }
}
