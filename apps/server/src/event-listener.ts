/** NOTIFY as a wake-up: a connection of its own that listens, taken anew when it breaks. It carries nothing, and nobody relies on it. */
import type { Pool } from 'pg'
import { millis, type Clock, type Log } from '@typevisor/base'

export interface EventListenerOptions {
  readonly pool: Pool
  readonly clock: Clock
  readonly log: Log
  readonly signal: AbortSignal
  /** Also when it begins to listen: what came before was not heard. */
  readonly wake: () => void
}

/** Ends when `signal` aborts; never throws. */
export async function listenForEvents({ pool, clock, log, signal, wake }: EventListenerOptions): Promise<void> {
  while (!signal.aborted) {
    try {
      const client = await pool.connect()
      const ended = new Promise<void>((resolve) => {
        client.once('error', () => resolve())
        client.once('end', () => resolve())
        signal.addEventListener('abort', () => resolve(), { once: true })
        if (signal.aborted) resolve()
      })
      try {
        client.on('notification', wake)
        await client.query('LISTEN typevisor_event')
        wake()
        await ended
      } finally {
        client.release(true) // never back into the pool: it listens
      }
    } catch (error) {
      if (signal.aborted) return
      log.warn('outbox.listen-failed', { reason: error instanceof Error ? error.message : String(error) })
    }
    await clock.sleep(millis(1000), { signal: signal }).catch(() => {})
  }
}
