/** A bucket of at most `burstMs` of tokens, kept as the one moment at which it will be full again. */

/** With less, timers of a millisecond could not keep it empty: a volume would stay below its limit. */
export const BURST_MS_MIN = 100

export class TokenBucket {
  #perMs = 0
  #burstMs = BURST_MS_MIN
  /** Milliseconds of the monotonic clock. */
  #fullAt = Number.NEGATIVE_INFINITY

  /** `perSecond` 0: no limit. What has been taken so far stays taken, at the new rate. */
  set(perSecond: number, burstMs: number, now: number): void {
    const owed = this.#perMs > 0 ? Math.max(0, this.#fullAt - now) * this.#perMs : 0
    this.#perMs = perSecond / 1000
    this.#burstMs = Math.max(BURST_MS_MIN, burstMs)
    this.#fullAt = perSecond > 0 ? now + owed / this.#perMs : Number.NEGATIVE_INFINITY
  }

  get isOn(): boolean {
    return this.#perMs > 0
  }

  /** Milliseconds until the next may be taken: it may when the bucket is not empty. 0 or less: now. */
  waitMs(now: number): number {
    return this.#fullAt - this.#burstMs - now
  }

  /** Takes `count`, perhaps more than there are: what comes next waits for it. */
  take(count: number, now: number): void {
    if (this.#perMs > 0) this.#fullAt = Math.max(this.#fullAt, now) + count / this.#perMs
  }
}
