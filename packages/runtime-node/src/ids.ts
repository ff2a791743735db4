import type { Clock, IdSource, Rng } from '@typevisor/base'

/**
 * UUIDv7 (RFC 9562 section 5.7): 48 bits of milliseconds, 12 bits that count within a millisecond (section 6.2, method 1), 62 random
 * bits. Ids of one source always grow, also when the clock goes back or more than 4096 are asked for in a millisecond.
 *
 *   tttttttt-tttt-7ccc-vrrr-rrrrrrrrrrrr
 */
export function uuidv7Ids(clock: Clock, rng: Rng): IdSource {
  let millis = 0
  let count = 0
  return {
    next() {
      const now = clock.now()
      if (now > millis) {
        millis = now
        // Starts in the lower half, so that there is room to count up.
        count = rng.below(0x800)
      } else if (++count > 0xfff) {
        millis += 1
        count = 0
      }
      const time = millis.toString(16).padStart(12, '0')
      const random = rng.bytes(8)
      // `bytes(8)` has eight bytes; the two highest bits are the variant 0b10.
      random[0] = 0x80 | (random[0]! & 0x3f)
      const tail = Array.from(random, (byte) => byte.toString(16).padStart(2, '0')).join('')
      return `${time.slice(0, 8)}-${time.slice(8)}-7${count.toString(16).padStart(3, '0')}-${tail.slice(0, 4)}-${tail.slice(4)}`
    },
  }
}
