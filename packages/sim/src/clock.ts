import { AssertionFault, epochMillis, type Clock, type Millis } from '@typevisor/base'

export interface VirtualClock extends Clock {
  /** How many sleep now. */
  readonly sleeperCount: number
  /** Lets time pass: everyone whose time comes is woken in order, and runs as far as it can before the next is woken. */
  advance(durationMs: number): Promise<void>
  /**
   * Runs `work` to its end. Whenever everything waits, time jumps to the next sleeper, so an hour of retries takes milliseconds.
   * @throws AssertionFault when everything waits and nobody sleeps: a deadlock.
   */
  run<T>(work: () => Promise<T>): Promise<T>
  /** Moves wall time alone, as an operator or NTP does; the monotonic clock stays. */
  jumpWallTime(durationMs: number): void
}

interface Sleeper {
  readonly wakeAt: number
  readonly order: number
  readonly wake: () => void
}

/** Turns of the event loop without a sleeper to wake before the parts are taken to be deadlocked; past the first ones each waits 1 ms. */
const QUICK_TURNS = 200
const TURNS_MAX = 10_000

/**
 * Virtual time over real promises. Between two wakings the event loop is turned a few times, so that whatever can run has run:
 * microtasks and immediates, but not real files or sockets, which have no place in a simulated run.
 */
export function virtualClock(options: { startAt?: number } = {}): VirtualClock {
  const wallStart = options.startAt ?? Date.UTC(2026, 0, 1)
  let wallOffset = 0
  let elapsed = 0
  let orderNext = 0
  const sleepers = new Set<Sleeper>()

  const first = (): Sleeper | undefined => {
    let found: Sleeper | undefined
    for (const sleeper of sleepers) {
      if (!found || sleeper.wakeAt < found.wakeAt || (sleeper.wakeAt === found.wakeAt && sleeper.order < found.order))
        found = sleeper
    }
    return found
  }
  const wake = (sleeper: Sleeper): void => {
    sleepers.delete(sleeper)
    elapsed = Math.max(elapsed, sleeper.wakeAt)
    sleeper.wake()
  }
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 3; turn += 1) await turnLoop()
  }

  return {
    get sleeperCount() {
      return sleepers.size
    },
    now: () => epochMillis(Math.floor(wallStart + wallOffset + elapsed)),
    monotonic: () => elapsed,
    sleep(duration: Millis, { signal } = {}) {
      return new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(signal.reason)
        const abort = (): void => {
          sleepers.delete(sleeper)
          reject(signal?.reason)
        }
        const sleeper: Sleeper = {
          wakeAt: elapsed + Math.max(duration, 0),
          order: orderNext++,
          wake: () => {
            signal?.removeEventListener('abort', abort)
            resolve()
          },
        }
        sleepers.add(sleeper)
        signal?.addEventListener('abort', abort, { once: true })
      })
    },
    async advance(durationMs) {
      const until = elapsed + durationMs
      await settle()
      for (let next = first(); next && next.wakeAt <= until; next = first()) {
        wake(next)
        await settle()
      }
      elapsed = until
    },
    async run<T>(work: () => Promise<T>): Promise<T> {
      let over = false
      const result = work().finally(() => (over = true))
      result.catch(() => {})
      let idleTurns = 0
      while (!over) {
        await settle()
        if (over) break
        const next = first()
        if (next) {
          idleTurns = 0
          wake(next)
          continue
        }
        idleTurns += 1
        if (idleTurns > TURNS_MAX) throw new AssertionFault('virtual time: everything waits and nobody sleeps')
        if (idleTurns > QUICK_TURNS) await new Promise((resolve) => setTimeout(resolve, 1))
      }
      return result
    },
    jumpWallTime(durationMs) {
      wallOffset += durationMs
    },
  }
}

const turnLoop = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
