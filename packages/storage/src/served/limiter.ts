/**
 * What one volume may do in a second, over all its connections: operations and bytes, each a token bucket. Who has to wait stands in one row,
 * so that nobody overtakes.
 */
import { Fault, millis, type Clock } from '@typevisor/base'
import type { VolumeLimits } from '../store/limits.ts'
import { TokenBucket } from './token-bucket.ts'

interface Waiting {
  readonly owner: object
  readonly lengthBytes: number
  readonly since: number
  readonly go: () => void
  readonly giveUp: (reason: Fault) => void
}

export class Limiter {
  readonly #clock: Clock
  readonly #operations = new TokenBucket()
  readonly #bytes = new TokenBucket()
  #waiting: Waiting[] = []
  /** Ends the sleep of whoever lets the row go on. */
  #sleeping: AbortController | null = null
  isOn = false
  /** Operations that had to wait, and for how long together. */
  delayedCount = 0
  delayedMs = 0

  constructor(clock: Clock, limits: VolumeLimits) {
    this.#clock = clock
    this.set(limits)
  }

  /** From now on, also for those that wait already. */
  set({ iopsMax, bytesPerSecondMax, burstSeconds }: VolumeLimits): void {
    const now = this.#clock.monotonic()
    this.#operations.set(iopsMax, burstSeconds * 1000, now)
    this.#bytes.set(bytesPerSecondMax, burstSeconds * 1000, now)
    this.isOn = this.#operations.isOn || this.#bytes.isOn
    this.#sleeping?.abort()
  }

  /** Whether an operation need not wait. */
  mayPass(): boolean {
    return !this.isOn || (this.#waiting.length === 0 && this.#waitMs(this.#clock.monotonic()) <= 0)
  }

  /** Of an operation that passed. */
  charge(lengthBytes: number): void {
    if (!this.isOn) return
    const now = this.#clock.monotonic()
    this.#operations.take(1, now)
    this.#bytes.take(lengthBytes, now)
  }

  /** Resolves when an operation may begin, and has been charged. @throws Fault `aborted` when its owner was abandoned meanwhile. */
  async pass(owner: object, lengthBytes: number): Promise<void> {
    if (this.mayPass()) {
      this.charge(lengthBytes)
      return
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#waiting.push({ owner, lengthBytes, since: this.#clock.monotonic(), go: resolve, giveUp: reject })
    if (this.#waiting.length === 1) void this.#letGo()
    await promise
  }

  /** What an owner has in the row is not wanted any more. */
  abandon(owner: object, reason: Fault): void {
    const given = this.#waiting.filter((each) => each.owner === owner)
    if (given.length === 0) return
    this.#waiting = this.#waiting.filter((each) => each.owner !== owner)
    for (const { giveUp } of given) giveUp(reason)
    if (this.#waiting.length === 0) this.#sleeping?.abort()
  }

  #waitMs(now: number): number {
    return Math.max(this.#operations.waitMs(now), this.#bytes.waitMs(now))
  }

  /** One at a time, for as long as somebody waits. */
  async #letGo(): Promise<void> {
    if (this.#sleeping !== null) return
    for (let next = this.#waiting[0]; next; next = this.#waiting[0]) {
      const now = this.#clock.monotonic()
      const waitMs = this.isOn ? this.#waitMs(now) : 0
      if (waitMs > 0) {
        this.#sleeping = new AbortController()
        // Cut short by `set` and `abandon`: then it is looked at again.
        await this.#clock.sleep(millis(waitMs), { signal: this.#sleeping.signal }).catch(() => {})
        this.#sleeping = null
        continue
      }
      this.#waiting.shift()
      this.charge(next.lengthBytes)
      this.delayedCount += 1
      this.delayedMs += now - next.since
      next.go()
    }
  }
}
