/** Heads of images, of which anything may come. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { assertAlone, IMAGE_FORMATS, IMAGE_HEAD_BYTES, parseImageFormat, probeImage } from './disk-image.ts'

const bytes = fc.uint8Array({ maxLength: IMAGE_HEAD_BYTES })
/** What begins as an image does. */
const near = fc
  .tuple(fc.constantFrom('QFI\xfb', 'KDMV', 'COWD', '# Disk Descriptor', 'vhdxfile', 'conectix', ''), bytes)
  .map(([magic, rest]) => Buffer.concat([Buffer.from(magic, 'latin1'), rest]).subarray(0, IMAGE_HEAD_BYTES))

test('whatever a file begins and ends with, it is of some format, and taken or refused', () => {
  fc.assert(
    fc.property(near, bytes, fc.boolean(), (first, last, withBacking) => {
      const format = probeImage(first, last)
      assert.ok(IMAGE_FORMATS.includes(format))
      for (const each of IMAGE_FORMATS)
        try {
          assertAlone(each, first, withBacking)
        } catch (error) {
          assert.ok(error instanceof Fault && (error.code === 'forbidden' || error.code === 'invalid'))
        }
    }),
  )
})

test('a qcow2 head is refused for each way to another file, and for nothing else', () => {
  const head = (version: number, backing: bigint, incompatible: bigint): Uint8Array => {
    const content = Buffer.alloc(IMAGE_HEAD_BYTES)
    content.write('QFI\xfb', 'latin1')
    content.writeUInt32BE(version, 4)
    content.writeBigUInt64BE(backing, 8)
    content.writeBigUInt64BE(incompatible, 72)
    return content
  }
  const refusedWith = (content: Uint8Array, withBacking: boolean): string | null => {
    try {
      assertAlone('qcow2', content, withBacking)
      return null
    } catch (error) {
      return (error as Fault).code
    }
  }
  assert.equal(refusedWith(head(3, 0n, 0n), false), null)
  assert.equal(refusedWith(head(3, 0n, 1n | 8n), false), null)
  assert.equal(refusedWith(head(3, 0n, 4n), true), 'forbidden')
  assert.equal(refusedWith(head(3, 200n, 0n), false), 'forbidden')
  assert.equal(refusedWith(head(3, 200n, 0n), true), null)
  // Version 2 has no features: what lies there is something else.
  assert.equal(refusedWith(head(2, 0n, 4n), false), null)
  assert.equal(refusedWith(head(1, 0n, 0n), false), 'invalid')
})

test('formats have the names that people use', () => {
  assert.equal(parseImageFormat('vhd'), 'vpc')
  assert.throws(() => parseImageFormat('qcow'), /want qcow2, raw/)
})
