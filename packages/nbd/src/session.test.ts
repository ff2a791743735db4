/** Our client and our server, joined in memory, against a model of the disk. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault, type BlockDevice } from '@typevisor/base'
import { seededRng } from '@typevisor/sim'
import { openExport } from './client.ts'
import { memoryDevice } from './memory-device.ts'
import { exportOf, linkInMemory, slowDevice, sourceOf } from './testing.ts'

const SIZE = 3 * 1024 * 1024 + 512

const operation = fc.oneof(
  fc.record({
    kind: fc.constant('write' as const),
    at: fc.nat(SIZE - 1),
    size: fc.integer({ min: 1, max: 200_000 }),
    fill: fc.nat(255),
  }),
  fc.record({
    kind: fc.constant('read' as const),
    at: fc.nat(SIZE - 1),
    size: fc.integer({ min: 1, max: 200_000 }),
    fill: fc.constant(0),
  }),
  fc.record({
    kind: fc.constant('zero' as const),
    at: fc.nat(SIZE - 1),
    size: fc.integer({ min: 1, max: SIZE }),
    fill: fc.constant(0),
  }),
  fc.record({
    kind: fc.constant('trim' as const),
    at: fc.nat(SIZE - 1),
    size: fc.integer({ min: 1, max: SIZE }),
    fill: fc.constant(0),
  }),
  fc.record({ kind: fc.constant('flush' as const), at: fc.constant(0), size: fc.constant(0), fill: fc.constant(0) }),
)

test('what is read is what was written, whatever the form of replies, the pieces the bytes come in, and the device behind', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(operation, { maxLength: 30 }),
      fc.nat(),
      fc.constantFrom({ structuredReplies: false }, {}, { extendedHeaders: true }),
      fc.boolean(),
      async (operations, seed, form, isSlow) => {
        const model = new Uint8Array(SIZE)
        const memory = memoryDevice(SIZE)
        const device: BlockDevice = isSlow ? slowDevice(memory) : memory
        const link = linkInMemory(sourceOf(exportOf('disk', device)), seededRng(seed))
        const client = await openExport(link.client, { exportName: 'disk', ...form })
        assert.equal(client.contexts.length, form.structuredReplies === false ? 0 : 1)
        assert.equal(client.sizeBytes, SIZE)
        for (const { kind, at, size, fill } of operations) {
          const lengthBytes = Math.min(size, SIZE - at)
          if (kind === 'write') {
            const content = new Uint8Array(lengthBytes).fill(fill)
            model.set(content, at)
            await client.write(at, content, { fua: fill % 2 === 0 })
          } else if (kind === 'read') {
            const content = new Uint8Array(lengthBytes)
            await client.read(at, content)
            assert.ok(Buffer.from(content).equals(model.subarray(at, at + lengthBytes)))
          } else if (kind === 'flush') await client.flush()
          else {
            model.fill(0, at, at + lengthBytes)
            await (kind === 'zero' ? client.zero(at, lengthBytes) : client.trim(at, lengthBytes))
          }
        }
        const whole = new Uint8Array(SIZE)
        await client.read(0, whole)
        assert.ok(Buffer.from(whole).equals(model))
        let at = 0
        while (at < SIZE) {
          for (const extent of await client.extents(at, SIZE - at, 100)) {
            if (extent.zero) assert.ok(model.subarray(at, at + extent.lengthBytes).every((byte) => byte === 0))
            at += extent.lengthBytes
          }
        }
        assert.equal(at, SIZE)
        await client.close()
        await link.connection.over
      },
    ),
    { numRuns: 60 },
  )
})

test('hundreds of requests at once are all answered, each with its own bytes', async () => {
  for (const device of [memoryDevice(SIZE), slowDevice(memoryDevice(SIZE))]) {
    const link = linkInMemory(sourceOf(exportOf('', device)), seededRng(7))
    const client = await openExport(link.client, { exportName: '' })
    await Promise.all(
      Array.from({ length: 700 }, (_, index) => client.write(index * 4096, new Uint8Array(4096).fill(index % 251))),
    )
    await Promise.all(
      Array.from({ length: 700 }, async (_, index) => {
        const content = new Uint8Array(4096)
        await client.read(index * 4096, content)
        assert.ok(content.every((byte) => byte === index % 251))
      }),
    )
    await client.close()
    await link.connection.over
  }
})

test("a device's fault is the protocol's error, and the connection goes on", async () => {
  const memory = memoryDevice(SIZE)
  const { now: _now, ...rest } = slowDevice(memory)
  const faults = ['exhausted', 'invalid', 'forbidden', 'unsupported', 'unavailable', 'failed'] as const
  let turn = 0
  const device: BlockDevice = {
    ...rest,
    write: async () => {
      throw new Fault(faults[turn++] ?? 'failed', 'in words')
    },
  }
  const link = linkInMemory(sourceOf(exportOf('d', device)), seededRng(1))
  const client = await openExport(link.client, { exportName: 'd' })
  for (const code of faults)
    await assert.rejects(
      client.write(0, new Uint8Array(10)),
      (error) => error instanceof Fault && error.code === code && /in words/.test(error.message),
    )
  await client.read(0, new Uint8Array(10))
  await client.close()
})

test('requests outside the disk, on a read-only one, or of odd sizes are refused, and the connection is kept', async () => {
  const memory = memoryDevice(SIZE)
  const { now: _now, ...rest } = slowDevice(memory)
  const device: BlockDevice = { ...rest, readOnly: true, blockBytesMin: 512 }
  const link = linkInMemory(sourceOf(exportOf('d', device)), seededRng(1))
  const client = await openExport(link.client, { exportName: 'd' })
  const refused = (work: Promise<unknown>, code: string) =>
    assert.rejects(work, (error) => error instanceof Fault && error.code === code)
  await refused(client.read(SIZE - 512, new Uint8Array(1024)), 'invalid')
  await refused(client.read(2 ** 52, new Uint8Array(512)), 'invalid')
  await refused(client.read(1, new Uint8Array(512)), 'invalid')
  await refused(client.read(0, new Uint8Array(100)), 'invalid')
  await refused(client.write(0, new Uint8Array(512)), 'forbidden')
  await refused(openExport(linkInMemory(sourceOf(exportOf('d', device)), seededRng(2)).client, { exportName: 'e' }), 'not_found')
  await client.read(512, new Uint8Array(512))
  await client.close()
})
