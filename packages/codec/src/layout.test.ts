import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { layout, layoutTable } from './layout.ts'
import { arbitraryRecord } from './testing.ts'

const FIELDS = [
  ['a', 'u8'],
  ['b', 'u16'],
  ['c', 'u32'],
  ['d', 'i32'],
  ['e', 'u64', 'the e'],
  ['f', 3],
] as const
const BIG = layout(FIELDS)
const LITTLE = layout(FIELDS, { littleEndian: true })

test('what was encoded is decoded to the same, at any offset, in both orders of bytes', () => {
  for (const order of [BIG, LITTLE]) {
    fc.assert(
      fc.property(arbitraryRecord(order), fc.nat(16), (record, from) => {
        const bytes = new Uint8Array(order.sizeBytes + 20).fill(0xee)
        order.encode(record, bytes, from)
        assert.deepEqual(order.decode(bytes, from), record)
        assert.ok(bytes.subarray(0, from).every((byte) => byte === 0xee))
        assert.ok(bytes.subarray(from + order.sizeBytes).every((byte) => byte === 0xee))
      }),
    )
  }
})

test('the order of bytes is the one asked for', () => {
  const record = { a: 1, b: 0x0203, c: 0x04050607, d: -2, e: 0x0102030405060708n, f: new Uint8Array([9, 8, 7]) }
  assert.equal(Buffer.from(BIG.encode(record)).toString('hex'), '01020304050607fffffffe0102030405060708090807')
  assert.equal(Buffer.from(LITTLE.encode(record)).toString('hex'), '01030207060504feffffff0807060504030201090807')
  assert.deepEqual(BIG.at, { a: 0, b: 1, c: 3, d: 7, e: 11, f: 19 })
})

test('fewer bytes than a record are refused, never read past', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 30 }), fc.nat(40), (bytes, from) => {
      if (bytes.length - from >= BIG.sizeBytes) BIG.decode(bytes, from)
      else
        assert.throws(
          () => BIG.decode(bytes, from),
          (error) => error instanceof Fault && error.code === 'invalid',
        )
    }),
  )
})

test('a layout is its own documentation', () => {
  assert.match(layoutTable(LITTLE), /^\| 11 \| 8 \| `e` \| u64 \| the e \|$/m)
})
