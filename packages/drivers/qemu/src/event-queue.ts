/**
 * The driver's events on their way to their one reader. A reader that is too slow gets `busy` behind what it can still have, and nothing
 * after it: a gap must never go unnoticed. `beginAnew` ends that, when the states themselves are about to be asked for.
 */
import { Channel, Fault } from '@typevisor/base'
import type { CallOptions, DriverEvent } from '@typevisor/toolstack'

export class EventQueue {
  readonly #countMax: number
  #events: Channel<DriverEvent>
  #overflow: Fault | null = null

  constructor(countMax: number) {
    this.#countMax = countMax
    this.#events = new Channel(countMax)
  }

  push(event: DriverEvent): void {
    if (this.#overflow) return
    try {
      this.#events.push(event)
    } catch {
      this.#overflow = new Fault('busy', `${this.#countMax} events wait to be read; adopt again`)
      this.#events.close(this.#overflow)
    }
  }

  beginAnew(): void {
    this.#overflow = null
    if (this.#events.closed) this.#events = new Channel(this.#countMax)
  }

  close(): void {
    this.#events.close()
  }

  /** @throws Fault `busy` after an overflow; the signal's reason when aborted. */
  async *read({ signal }: CallOptions): AsyncGenerator<DriverEvent, void, undefined> {
    const channel = this.#events
    if (this.#overflow) throw this.#overflow
    if (!signal) return yield* channel
    const aborted = Promise.withResolvers<never>()
    aborted.promise.catch(() => {})
    const abort = (): void => aborted.reject(signal.reason)
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
    const iterator = channel[Symbol.asyncIterator]()
    try {
      while (true) {
        const next = await Promise.race([iterator.next(), aborted.promise])
        if (next.done) return
        yield next.value
      }
    } finally {
      signal.removeEventListener('abort', abort)
    }
  }
}
