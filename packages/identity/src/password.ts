import type { Rng } from '@typevisor/base'

/** No 0 and o, 1 and l, so that it survives being read aloud. 32 letters: 5 bits each. */
const ALPHABET = 'abcdefghijkmnpqrstuvwxyz23456789'

/** Four groups of five, 100 bits: `k7m2p-...`. */
export function generatePassword(rng: Rng): string {
  const letters = Array.from({ length: 20 }, () => ALPHABET[rng.below(ALPHABET.length)])
  return [0, 5, 10, 15].map((start) => letters.slice(start, start + 5).join('')).join('-')
}
