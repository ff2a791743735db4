import { assert, type Rng } from '@typevisor/base'

export interface SeededRng extends Rng {
  /** A fraction in [0, 1). */
  fraction(): number
  /** True with the given probability. */
  chance(probability: number): boolean
  pick<T>(items: readonly T[]): T
  /** An independent source: what one part draws does not move what another sees. */
  fork(name: string): SeededRng
}

/**
 * Numbers that a seed decides: xoshiro128** 1.1 (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2021), its
 * state filled by splitmix32. For simulations only, never for keys.
 */
export function seededRng(seed: number | string): SeededRng {
  let filler = typeof seed === 'number' ? seed >>> 0 : hash(seed)
  const fill = (): number => {
    filler = (filler + 0x9e3779b9) >>> 0
    let z = filler
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return (z ^ (z >>> 16)) >>> 0
  }
  let [a, b, c, d] = [fill(), fill(), fill(), fill() | 1]
  const next = (): number => {
    const x = Math.imul(b, 5)
    const result = Math.imul((x << 7) | (x >>> 25), 9) >>> 0
    const t = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= t
    d = (d << 11) | (d >>> 21)
    return result
  }
  // 53 bits, as many as a double holds.
  const fraction = (): number => ((next() >>> 5) * 0x4000000 + (next() >>> 6)) / 2 ** 53
  const below = (bound: number): number => {
    assert(Number.isSafeInteger(bound) && bound > 0, `random number below ${bound}`)
    return Math.floor(fraction() * bound)
  }
  return {
    below,
    fraction,
    bytes: (count) => Uint8Array.from({ length: count }, () => next() & 0xff),
    chance: (probability) => fraction() < probability,
    pick<T>(items: readonly T[]): T {
      assert(items.length > 0, 'pick from nothing')
      // The index is below the length.
      return items[below(items.length)] as T
    },
    fork: (name) => seededRng(`${seed}/${name}`),
  }
}

/** FNV-1a, 32 bit. */
function hash(text: string): number {
  let value = 0x811c9dc5
  for (let index = 0; index < text.length; index += 1) value = Math.imul(value ^ text.charCodeAt(index), 0x01000193)
  return value >>> 0
}
