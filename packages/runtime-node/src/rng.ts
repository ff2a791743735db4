import { randomBytes, randomInt } from 'node:crypto'
import type { Rng } from '@typevisor/base'

/** The operating system's random numbers: good for keys. `bound` is at most 2^48 - 1. */
export function realRng(): Rng {
  return {
    below: (bound) => (bound === 1 ? 0 : randomInt(bound)),
    bytes: (count) => new Uint8Array(randomBytes(count)),
  }
}
