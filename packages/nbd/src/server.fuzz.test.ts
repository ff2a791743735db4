/** Arbitrary bytes and mutated sessions: nothing crashes, hangs, grows beyond a bound or reaches another export. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { joinBytes, MIB } from '@typevisor/base'
import { seededRng } from '@typevisor/sim'
import { ByteBudget } from './byte-budget.ts'
import { memoryDevice } from './memory-device.ts'
import { exportOf, linkInMemory, slowDevice, sourceOf } from './testing.ts'
import { anyRequests, changedSession, feed, opening } from './testing/fuzz.ts'
import { clientFlags, option, request, wanting } from './testing/raw.ts'
import { CMD } from './wire.ts'

const SIZE = 1024 * 1024
const SECRET = 0x5e

/** Serves two exports, of which a client that opens `open` must never see the other; feeds it `sent`; answers what came back. */
async function feedTwo(sent: Uint8Array, seed: number): Promise<Buffer> {
  const secret = memoryDevice(SIZE)
  await secret.write(0, new Uint8Array(SIZE).fill(SECRET))
  const said = await feed(sourceOf(exportOf('open', memoryDevice(SIZE)), exportOf('secret', secret)), sent, seed)
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
      const said = await feedTwo(bytes, seed)
      assert.ok(said.length < 10_000)
    }),
    { numRuns: 300 },
  )
})

test('options of any number and length, with any payload, are answered within bounds', async () => {
  const anyOption = fc
    .tuple(
      fc.integer({ min: 0, max: 14 }),
      fc.oneof(fc.uint8Array({ maxLength: 60 }), fc.constant(wanting('open'))),
      fc.oneof(fc.constant(null), fc.nat(0xffffffff)),
    )
    .map(([number, payload, lie]) => {
      const bytes = option(number, payload)
      if (lie !== null) new DataView(bytes.buffer).setUint32(12, lie)
      return bytes
    })
  await fc.assert(
    fc.asyncProperty(fc.array(anyOption, { maxLength: 12 }), fc.nat(), async (options, seed) => {
      const said = await feedTwo(joinBytes([clientFlags(), ...options]), seed)
      assert.ok(said.length < 1_000_000)
    }),
    { numRuns: 300 },
  )
})

test('requests of any type, flags, offset and length never reach the other export', async () => {
  for (const form of ['simple', 'structured', 'extended'] as const) {
    await fc.assert(
      fc.asyncProperty(anyRequests(form === 'extended', SIZE), fc.nat(), async (requests, seed) => {
        const said = await feedTwo(joinBytes([opening('open', form), requests]), seed)
        assert.ok(!seen(said))
        assert.ok(said.length < 64 * 1024 * 1024)
      }),
      { numRuns: 150 },
    )
  }
})

test('a session with bytes changed anywhere stays within its export', async () => {
  for (const form of ['structured', 'extended'] as const)
    await fc.assert(
      fc.asyncProperty(changedSession('open', form), fc.nat(), async (bytes, seed) => {
        assert.ok(!seen(await feedTwo(bytes, seed)))
      }),
      { numRuns: 200 },
    )
})

test('sessions of any bytes, many at once, allocate within their bound and give all of it back', async () => {
  const budget = new ByteBudget(64 * MIB)
  const source = sourceOf(exportOf('open', slowDevice(memoryDevice(SIZE))))
  const before = process.memoryUsage().arrayBuffers
  let mostBytes = 0
  // Wrong lengths are what makes a server allocate: payloads of up to 32 MiB are promised, and do not come.
  const promised = fc.integer({ min: 1, max: 40 * MIB }).map((lengthBytes) => request({ type: CMD.write, lengthBytes }))
  const session = fc.oneof(
    changedSession('open', 'structured'),
    promised.map((one) => joinBytes([opening('open', 'structured'), one])),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(session, { minLength: 20, maxLength: 40 }), fc.nat(), async (sessions, seed) => {
      const links = sessions.map((bytes, index) => {
        const link = linkInMemory(source, seededRng(seed + index), { budget })
        link.client.channel.write(bytes, () => {})
        return link
      })
      for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve))
      mostBytes = Math.max(mostBytes, process.memoryUsage().arrayBuffers - before)
      assert.ok(budget.usedBytes <= budget.limitBytes)
      for (const { client } of links) client.channel.end()
      await Promise.all(links.map(({ connection }) => connection.over))
      assert.deepEqual([budget.usedBytes, budget.isWaitedFor], [0, false])
    }),
    { numRuns: 20 },
  )
  // What runs before the collector comes by counts too: of payloads alone it would be 400 MiB a run.
  assert.ok(mostBytes < 1024 * MIB, `${mostBytes} bytes`)
})

test('replies that nobody takes are bounded: further requests are left in the kernel', async () => {
  const read = request({ type: CMD.read, lengthBytes: SIZE })
  const flood = joinBytes([opening('open', 'simple'), ...Array.from({ length: 2000 }, () => read)])
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
