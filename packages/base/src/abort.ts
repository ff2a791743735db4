import { Fault } from './fault.ts'
import type { Clock } from './ports.ts'
import type { Millis } from './units.ts'

export interface Deadline {
  readonly limit: Millis
  readonly clock: Clock
  /** Names what was waited for: `QMP stop`. */
  readonly what: string
  readonly signal?: AbortSignal | undefined
}

/** Runs `work` under a time limit. @throws Fault `timeout` naming `what` when it runs out; the signal that `work` gets is aborted then. */
export async function withDeadline<T>(deadline: Deadline, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const { limit, clock, what, signal } = deadline
  signal?.throwIfAborted()
  const expired = new AbortController()
  const settled = new AbortController()
  const inner = signal ? AbortSignal.any([expired.signal, signal]) : expired.signal
  const timer = clock.sleep(limit, { signal: settled.signal }).then(
    () => {
      const fault = new Fault('timeout', `${what}: no answer in ${limit} ms`)
      expired.abort(fault)
      throw fault
    },
    () => new Promise<never>(() => {}),
  )
  try {
    return await Promise.race([work(inner), timer])
  } finally {
    settled.abort()
  }
}
