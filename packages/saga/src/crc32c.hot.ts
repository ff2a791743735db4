/**
 * CRC-32C (Castagnoli, RFC 3720 appendix B.4), reflected, slicing by 8: eight table look-ups for eight bytes.
 * `crc32c('123456789')` is 0xe3069283.
 */
const POLYNOMIAL = 0x82f63b78

const TABLES = ((): Uint32Array => {
  const tables = new Uint32Array(8 * 256)
  for (let byte = 0; byte < 256; byte += 1) {
    let crc = byte
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1
    tables[byte] = crc
  }
  for (let index = 256; index < tables.length; index += 1) {
    const previous = tables[index - 256] as number
    tables[index] = (previous >>> 8) ^ (tables[previous & 0xff] as number)
  }
  return tables
})()

// Reads inside the tables and the range cannot be undefined: indexes are masked to the tables' size or below `end`.
/** The checksum of `content[start, end)`, going on from `seed` (the checksum of what came before). */
export function crc32c(content: Uint8Array, start = 0, end = content.length, seed = 0): number {
  const t = TABLES
  const b = content
  let crc = ~seed
  let at = start
  for (; at + 8 <= end; at += 8) {
    const low = crc ^ (b[at]! | (b[at + 1]! << 8) | (b[at + 2]! << 16) | (b[at + 3]! << 24))
    crc =
      t[1792 + (low & 0xff)]! ^
      t[1536 + ((low >>> 8) & 0xff)]! ^
      t[1280 + ((low >>> 16) & 0xff)]! ^
      t[1024 + (low >>> 24)]! ^
      t[768 + b[at + 4]!]! ^
      t[512 + b[at + 5]!]! ^
      t[256 + b[at + 6]!]! ^
      t[b[at + 7]!]!
  }
  for (; at < end; at += 1) crc = (crc >>> 8) ^ t[(crc ^ b[at]!) & 0xff]!
  return ~crc >>> 0
}
