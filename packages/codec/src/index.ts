/**
 * Binary formats as tables. A layout names the fields of a record in their order; its sizes, offsets, types, documentation and fuzzers all
 * come from that one table.
 *
 *   layout([['magic', 'u32'], ['cookie', 'u64']])  -->  sizeBytes 12, at { magic: 0, cookie: 4 }, decode, encode
 *
 * Cold code decodes and encodes. Hot code takes the offsets (`at`) and reads for itself: a generic decode costs some hundred nanoseconds a
 * record, a read at a known offset two or three.
 *
 * Invariants: `decode(encode(x))` is x; fewer bytes than the layout's size are refused, never read past.
 * What it is not: no variable length, no nesting; a format puts layouts one after the other itself.
 */
export { layout, layoutTable, type Decoded, type Field, type FieldKind, type Layout } from './layout.ts'
