/**
 * Tells a volume server that hangs while it starts from one that is slow: it cannot be asked yet, and a journal that is read again after a
 * power cut takes its time. So it is looked at from outside. Whatever it does takes processor time, or waits for the disk and goes on; when all
 * it does is wait, a timer of its own wakes it (`process.ts`). One that has done nothing at all for so long hangs.
 *
 * What stood still may have been this process: of the time between two looks no more than `LOOK_LIMIT_MS` counts.
 */
import type { Clock } from '@typevisor/base'

const LOOK_LIMIT_MS = 1000

export interface StartWatchOptions {
  /** A number that changes when it does something. null: it is not there any more. */
  readonly activity: () => number | null
  readonly clock: Clock
  readonly silenceMsMax: number
}

export class StartWatch {
  readonly #options: StartWatchOptions
  #last: number | null = null
  #lookedAt: number
  #silentMs = 0

  constructor(options: StartWatchOptions) {
    this.#options = options
    this.#lookedAt = options.clock.monotonic()
  }

  /** To be asked again and again. */
  look(): 'lives' | 'hangs' | 'gone' {
    const { activity, clock, silenceMsMax } = this.#options
    const now = clock.monotonic()
    const passedMs = Math.min(LOOK_LIMIT_MS, now - this.#lookedAt)
    this.#lookedAt = now
    const found = activity()
    if (found === null) return 'gone'
    this.#silentMs = found === this.#last ? this.#silentMs + passedMs : 0
    this.#last = found
    return this.#silentMs >= silenceMsMax ? 'hangs' : 'lives'
  }
}
