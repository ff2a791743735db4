import { epochMillis, type Clock } from '@typevisor/base'

/** Gives way where a store gives way, and never wakes what waits for time: no store ticks, so none has to be closed. */
export const stillClock: Clock = {
  now: () => epochMillis(0),
  monotonic: () => 0,
  sleep: (duration, options) =>
    duration === 0
      ? Promise.resolve()
      : new Promise((_resolve, reject) => options?.signal?.addEventListener('abort', () => reject(options.signal?.reason))),
}
