/** Arbitrary bytes and mutated sessions: nothing crashes, hangs, grows beyond a bound or reaches another export. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { seededRng } from '@typevisor/sim'
import { memoryDevice } from './memory-device.ts'
import { exportOf, linkInMemory, slowDevice, sourceOf } from './testing.ts'
import {
  CLIENT_FLAGS,
  EXTENDED_REQUEST,
  EXTENDED_REQUEST_MAGIC,
  OPT,
  OPTION,
  OPTION_MAGIC,
  REQUEST,
  REQUEST_MAGIC,
} from './wire.ts'

const SIZE = 1024 * 1024
const SECRET = 0x5e

const bytesOf = (...parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts))
const option = (option: number, payload: Uint8Array = new Uint8Array(0)): Uint8Array =>
  bytesOf(OPTION.encode({ magic: OPTION_MAGIC, option, lengthBytes: payload.length }), payload)
const goTo = (name: string): Uint8Array => {
  const bytes = Buffer.from(name)
  const head = Buffer.alloc(4)
  head.writeUInt32BE(bytes.length)
  return bytesOf(head, bytes, new Uint8Array([0, 0]))
}
const flags = CLIENT_FLAGS.encode({ flags: 3 })

/** Serves two exports, of which a client that opens `open` must never see the other; feeds it `sent`; answers what came back. */
async function feed(sent: Uint8Array, seed: number): Promise<Buffer> {
  const secret = memoryDevice(SIZE)
  await secret.write(0, new Uint8Array(SIZE).fill(SECRET))
  const link = linkInMemory(sourceOf(exportOf('open', memoryDevice(SIZE)), exportOf('secret', secret)), seededRng(seed))
  link.client.channel.write(sent, () => {})
  // Everything is promises: a few turns of the event loop bring all of it to its end.
  for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve))
  link.client.channel.end()
  await link.connection.over
  const said = Buffer.concat(link.client.reader.drain())
  const content = new Uint8Array(SIZE)
  await secret.read(0, content)
  assert.ok(
    content.every((byte) => byte === SECRET),
    'the other export is as it was',
  )
  return said
}

const seen = (said: Buffer): boolean => said.includes(Buffer.alloc(64, SECRET))

test('arbitrary bytes end in refusals or in the end of the connection', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 400 }), fc.nat(), async (bytes, seed) => {
      const said = await feed(bytes, seed)
      assert.ok(said.length < 10_000)
    }),
    { numRuns: 300 },
  )
})

test('options of any number and length, with any payload, are answered within bounds', async () => {
  const anyOption = fc
    .tuple(
      fc.integer({ min: 0, max: 14 }),
      fc.oneof(fc.uint8Array({ maxLength: 60 }), fc.constant(goTo('open'))),
      fc.oneof(fc.constant(null), fc.nat(0xffffffff)),
    )
    .map(([number, payload, lie]) => {
      const bytes = option(number, payload)
      if (lie !== null) new DataView(bytes.buffer).setUint32(12, lie)
      return bytes
    })
  await fc.assert(
    fc.asyncProperty(fc.array(anyOption, { maxLength: 12 }), fc.nat(), async (options, seed) => {
      const said = await feed(bytesOf(flags, ...options), seed)
      assert.ok(said.length < 1_000_000)
    }),
    { numRuns: 300 },
  )
})

test('requests of any type, flags, offset and length never reach the other export', async () => {
  const request = (extended: boolean) =>
    fc
      .record({
        cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        offset: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
        lengthBytes: fc.nat(0xffffffff),
      })
      .chain((record) =>
        fc
          .tuple(
            fc.nat(9),
            fc.nat(40),
            fc.oneof(fc.nat(SIZE), fc.constant(Number(record.offset))),
            fc.oneof(fc.nat(5000), fc.constant(Number(record.lengthBytes))),
            fc.uint8Array({ maxLength: 50 }),
          )
          .map(([type, requestFlags, offset, lengthBytes, rest]) => {
            const common = { type, flags: requestFlags, cookie: record.cookie, offset: BigInt(offset) }
            const head = extended
              ? EXTENDED_REQUEST.encode({ magic: EXTENDED_REQUEST_MAGIC, ...common, lengthBytes: BigInt(lengthBytes) })
              : REQUEST.encode({ magic: REQUEST_MAGIC, ...common, lengthBytes })
            return bytesOf(
              head,
              type === 1
                ? new Uint8Array(lengthBytes < 6000 ? lengthBytes : 0)
                : rest.subarray(0, rest.length > 40 ? rest.length : 0),
            )
          }),
      )
  for (const extended of [false, true]) {
    await fc.assert(
      fc.asyncProperty(
        fc.array(request(extended), { maxLength: 10 }),
        fc.boolean(),
        fc.nat(),
        async (requests, structured, seed) => {
          const agree = extended ? [option(OPT.extendedHeaders)] : structured ? [option(OPT.structuredReply)] : []
          const said = await feed(bytesOf(flags, ...agree, option(OPT.go, goTo('open')), ...requests), seed)
          assert.ok(!seen(said))
          assert.ok(said.length < 64 * 1024 * 1024)
        },
      ),
      { numRuns: 200 },
    )
  }
})

test('a session with bytes changed anywhere stays within its export', async () => {
  const good = bytesOf(
    flags,
    option(OPT.structuredReply),
    option(OPT.go, goTo('open')),
    REQUEST.encode({ magic: REQUEST_MAGIC, flags: 0, type: 1, cookie: 1n, offset: 0n, lengthBytes: 512 }),
    new Uint8Array(512).fill(1),
    REQUEST.encode({ magic: REQUEST_MAGIC, flags: 0, type: 0, cookie: 2n, offset: 0n, lengthBytes: 4096 }),
    REQUEST.encode({ magic: REQUEST_MAGIC, flags: 0, type: 4, cookie: 3n, offset: 0n, lengthBytes: 4096 }),
    REQUEST.encode({ magic: REQUEST_MAGIC, flags: 0, type: 2, cookie: 4n, offset: 0n, lengthBytes: 0 }),
  )
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { maxLength: 6 }),
      fc.nat(),
      async (changes, seed) => {
        const bytes = good.slice()
        for (const [at, value] of changes) bytes[at] = value
        assert.ok(!seen(await feed(bytes, seed)))
      },
    ),
    { numRuns: 300 },
  )
})

test('replies that nobody takes are bounded: further requests are left in the kernel', async () => {
  const request = REQUEST.encode({ magic: REQUEST_MAGIC, flags: 0, type: 0, cookie: 1n, offset: 0n, lengthBytes: SIZE })
  const flood = bytesOf(flags, option(OPT.go, goTo('open')), ...Array.from({ length: 2000 }, () => request))
  for (const device of [memoryDevice(SIZE), slowDevice(memoryDevice(SIZE))]) {
    const link = linkInMemory(sourceOf(exportOf('open', device)), seededRng(1), { deaf: true })
    link.client.channel.write(flood, () => {})
    for (let turn = 0; turn < 100; turn += 1) await new Promise((resolve) => setImmediate(resolve))
    assert.ok(link.saidBytes() > SIZE)
    assert.ok(link.saidBytes() < 80 * SIZE, `${link.saidBytes()} bytes said for requests of 2 GB`)
    link.client.channel.end()
    await link.connection.over
  }
})
