import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { hasPvhEntry, unpackKernel } from './kernel.ts'
import { decodeLz4Legacy } from './lz4.ts'

const text = (value: string): Uint8Array => new TextEncoder().encode(value)
const u32 = (value: number): number[] => [value & 255, (value >> 8) & 255, (value >> 16) & 255, (value >>> 24) & 255]
const frame = (...block: number[]): Uint8Array => Uint8Array.of(...u32(0x184c2102), ...u32(block.length), ...block)

/** A bzImage in miniature: one setup sector, then the payload. */
function bzImage(payload: Uint8Array): Uint8Array {
  const file = new Uint8Array(1024 + payload.length)
  const view = new DataView(file.buffer)
  file[0x1f1] = 1
  view.setUint16(0x1fe, 0xaa55, true)
  view.setUint32(0x202, 0x53726448, true)
  view.setUint16(0x206, 0x20f, true)
  view.setUint32(0x24c, payload.length, true)
  file.set(payload, 1024)
  return file
}

/** An ELF64 file that is one PT_NOTE with the PVH entry. */
function pvhElf(): Uint8Array {
  const elf = new Uint8Array(144)
  const view = new DataView(elf.buffer)
  elf.set([0x7f, 0x45, 0x4c, 0x46, 2, 1])
  view.setBigUint64(32, 64n, true)
  view.setUint16(54, 56, true)
  view.setUint16(56, 1, true)
  view.setUint32(64, 4, true)
  view.setBigUint64(72, 120n, true)
  view.setBigUint64(96, 24n, true)
  elf.set([...u32(4), ...u32(8), ...u32(18), ...text('Xen\0')], 120)
  return elf
}

test('literals and overlapping matches are unpacked', () => {
  // 'ab' literal, then 8 bytes from 2 back, then 'c'
  assert.deepEqual(decodeLz4Legacy(frame(0x24, 97, 98, 2, 0, 0x10, 99), 11), text('abababababc'))
})
test('lengths over 15 run on in further bytes', () => {
  assert.deepEqual(decodeLz4Legacy(frame(0xf0, 5, ...text('x'.repeat(20))), 20), text('x'.repeat(20)))
})
test('a match before the start is refused', () => {
  assert.throws(() => decodeLz4Legacy(frame(0x14, 97, 2, 0, 0x10, 99), 10), Fault)
})
test('any bytes either unpack or are a Fault', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(300), (block, sizeBytes) => {
      try {
        assert.equal(decodeLz4Legacy(frame(...block), sizeBytes).length, sizeBytes)
      } catch (error) {
        assert.ok(error instanceof Fault, String(error))
      }
    }),
    { numRuns: 2000 },
  )
})
test('a kernel with a PVH note becomes its ELF file', () => {
  const elf = pvhElf()
  assert.ok(hasPvhEntry(elf))
  const packed = frame(0xf0, elf.length - 15, ...elf)
  const kernel = unpackKernel(bzImage(Uint8Array.of(...packed, ...u32(elf.length))))
  assert.equal(kernel.kind, 'elf')
  assert.deepEqual(kernel.content, elf)
})
test('a kernel that cannot be unpacked stays as it is, with the reason', () => {
  const file = bzImage(text('\xfd7zXZ and so on, long enough'))
  const kernel = unpackKernel(file)
  assert.ok(kernel.kind === 'bzimage' && kernel.content === file)
  assert.match(kernel.reason, /want lz4, gzip or zstd/)
})
test('what is no kernel is refused, and arbitrary bytes never read out of range', () => {
  assert.throws(() => unpackKernel(text('no kernel')), /want a Linux bzImage/)
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), (file) => void hasPvhEntry(file)))
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 16, maxLength: 200 }), (payload) => {
      try {
        unpackKernel(bzImage(payload))
      } catch (error) {
        assert.ok(error instanceof Fault, String(error))
      }
    }),
  )
})
