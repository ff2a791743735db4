/** Arbitrary records of a layout, for fuzzers. Development only: it needs fast-check. */
import fc from 'fast-check'
import type { Decoded, Field, FieldKind, Layout } from './layout.ts'

function valueOf(kind: FieldKind): fc.Arbitrary<unknown> {
  if (typeof kind === 'number') return fc.uint8Array({ minLength: kind, maxLength: kind })
  switch (kind) {
    case 'u8':
      return fc.nat(0xff)
    case 'u16':
      return fc.nat(0xffff)
    case 'u32':
      return fc.nat(0xffffffff)
    case 'i32':
      return fc.integer()
    case 'u64':
      return fc.bigInt({ min: 0n, max: 0xffffffffffffffffn })
  }
}

export const arbitraryRecord = <const F extends readonly Field[]>(of: Layout<F>): fc.Arbitrary<Decoded<F>> =>
  fc.record(Object.fromEntries(of.fields.map(([name, kind]) => [name, valueOf(kind)])), {
    noNullPrototype: true,
  }) as unknown as fc.Arbitrary<Decoded<F>>
