/** Watches how full a store is, and says in the log when it fills: once for each threshold that is reached, and once when there is space again. */
import { Fault, formatBytes, millis, toFault, type Clock, type Log } from '@typevisor/base'
import type { SpaceUsage } from './space.ts'

/** Percent of what the store could have, or the file system below it, whichever is less. */
export const WARNING_PERCENTS = [80, 90, 95] as const
/** It has to fall by so much below a threshold before that is over: one that goes up and down at it is told of once. */
const CLEAR_BELOW_PERCENT = 2
const LOOK_EVERY_MS = 5000

/** The highest threshold that is reached. */
export const warningOf = (usedPercent: number): number | null => WARNING_PERCENTS.findLast((each) => usedPercent >= each) ?? null

export class FillLevel {
  #warned = 0

  /** The threshold that was told of last and is not over; null: none. */
  get warnedPercent(): number | null {
    return this.#warned === 0 ? null : this.#warned
  }

  /** @returns the threshold that is to be told of now; `clear` when the last one is over; null: nothing is new. */
  look(usedPercent: number): number | 'clear' | null {
    const reached = warningOf(usedPercent) ?? 0
    if (reached > this.#warned) {
      this.#warned = reached
      return reached
    }
    if (this.#warned === 0 || usedPercent > this.#warned - CLEAR_BELOW_PERCENT) return null
    this.#warned = reached
    return reached === 0 ? 'clear' : null
  }
}

/** How full the store was when it was last looked at. */
export interface SpaceLevel extends Pick<
  SpaceUsage,
  'usedBytes' | 'availableBytes' | 'capacityBytes' | 'usedPercent' | 'limitedBy'
> {
  /** The threshold that was told of last and is not over; null: none. */
  readonly warningPercent: number | null
}

export interface SpaceWatch extends AsyncDisposable {
  /** null: it has not been looked at yet, or cannot be. */
  last(): SpaceLevel | null
}

/** Looks every few seconds until it is disposed of. */
export function watchSpace(options: { usage: () => Promise<SpaceUsage>; clock: Clock; log: Log }): SpaceWatch {
  const { usage, clock, log } = options
  const level = new FillLevel()
  const ending = new AbortController()
  let last: SpaceLevel | null = null
  const look = async (): Promise<void> => {
    const { usedPercent, usedBytes, capacityBytes, availableBytes, limitedBy } = await usage()
    const change = level.look(usedPercent)
    last = { usedBytes, availableBytes, capacityBytes, usedPercent, limitedBy, warningPercent: level.warnedPercent }
    if (change === null) return
    const fields = { used: formatBytes(usedBytes), capacity: formatBytes(capacityBytes), availableBytes, limitedBy }
    if (change === 'clear') log.info('store.has_space_again', fields)
    else log.warn('store.fills', { ...fields, percent: change })
  }
  const watching = (async () => {
    const { signal } = ending
    let failed = false
    while (!signal.aborted) {
      try {
        await look()
        failed = false
      } catch (error) {
        if (!failed) log.error('store.space_unknown', { error: toFault(error).message })
        failed = true
        last = null
      }
      await clock.sleep(millis(LOOK_EVERY_MS), { signal }).catch(() => {})
    }
  })()
  return {
    last: () => last,
    async [Symbol.asyncDispose]() {
      ending.abort(new Fault('aborted', 'the store is not served any more'))
      await watching
    },
  }
}
