import { setTimeout as sleepFor } from 'node:timers/promises'
import { epochMillis, type Clock } from '@typevisor/base'

/** Timers of Node hold 31 bits of milliseconds; longer ones would fire at once. */
const TIMER_MS_MAX = 2 ** 31 - 1

export function realClock(): Clock {
  return {
    now: () => epochMillis(Date.now()),
    monotonic: () => performance.now(),
    async sleep(duration, { signal } = {}) {
      const until = performance.now() + duration
      do {
        signal?.throwIfAborted()
        const left = Math.max(until - performance.now(), 0)
        try {
          await sleepFor(Math.min(left, TIMER_MS_MAX), undefined, signal ? { signal } : {})
        } catch (error) {
          // Node rejects with its own AbortError; the port promises the signal's reason.
          throw signal?.aborted ? signal.reason : error
        }
      } while (until - performance.now() >= 1)
    },
  }
}
