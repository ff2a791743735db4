/** Over real sockets, Unix and TCP. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { promisify } from 'node:util'
import { Fault, MIB } from '@typevisor/base'
import { ByteBudget } from './byte-budget.ts'
import { memoryDevice } from './memory-device.ts'
import { connectNbd, listNbdExports } from './node-client.ts'
import { exportOf, sourceOf } from './testing.ts'
import { addressOf, gone, serve } from './testing/served.ts'
import { CLIENT_FLAGS, CMD, encodeString, OPT, OPTION, OPTION_MAGIC, REQUEST, REQUEST_MAGIC } from './wire.ts'

const run = promisify(execFile)
let dir: string
before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'tv-nbd-'))
})
after(() => rm(dir, { recursive: true, force: true }))

test('over a Unix socket and over TCP what is read is what was written, in every form of replies', async () => {
  for (const socketPath of [join(dir, 'a.sock'), null]) {
    await using server = await serve(socketPath === null ? {} : { listen: { socketPath } })
    const address = socketPath === null ? addressOf(server) : { socketPath }
    assert.deepEqual(
      (await listNbdExports(address)).map(({ name }) => name),
      ['disk'],
    )
    for (const form of [{ structuredReplies: false }, {}, { extendedHeaders: true }]) {
      await using client = await connectNbd({ address, exportName: 'disk', ...form })
      const content = randomBytes(3 * MIB)
      await Promise.all([client.write(12_345, content), client.write(6 * MIB, content.subarray(0, MIB))])
      const parts = Array.from({ length: 50 }, (_, index) => ({ at: index * 60_000, got: new Uint8Array(60_000) }))
      await Promise.all(parts.map(({ at, got }) => client.read(12_345 + at, got)))
      for (const { at, got } of parts) assert.ok(Buffer.from(got).equals(content.subarray(at, at + 60_000)))
    }
  }
})

test('an address that is taken is refused, a socket that a killed server left is not', async () => {
  await using first = await serve()
  await assert.rejects(serve({ listen: addressOf(first) }), (error) => error instanceof Fault && error.code === 'conflict')
  const socketPath = join(dir, 'left.sock')
  await run('/usr/bin/python3', ['-c', `import socket; s = socket.socket(socket.AF_UNIX); s.bind(${JSON.stringify(socketPath)})`])
  {
    await using second = await serve({ listen: { socketPath } })
    assert.equal(second.port, null)
    await assert.rejects(serve({ listen: { socketPath } }), (error) => error instanceof Fault && error.code === 'conflict')
  }
  await writeFile(join(dir, 'file'), '')
  await assert.rejects(
    serve({ listen: { socketPath: join(dir, 'file') } }),
    (error) => error instanceof Fault && error.code === 'conflict',
  )
})

test('a client that goes in the middle of everything leaves the server and the others as they were', async () => {
  await using server = await serve()
  await using other = await connectNbd({ address: addressOf(server), exportName: 'disk' })
  for (let round = 0; round < 20; round += 1) {
    const socket = connect(addressOf(server))
    socket.on('error', () => {})
    socket.write(randomBytes(100))
    await new Promise((resolve) => setTimeout(resolve, round))
    socket.destroy()
    const client = await connectNbd({ address: addressOf(server), exportName: 'disk' })
    const left = client.read(0, new Uint8Array(4 * MIB)).catch((error: unknown) => error)
    await client.close()
    await left
  }
  await other.write(0, new Uint8Array(100).fill(1))
  const deadline = Date.now() + 5000
  while (server.connectionCount > 1 && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10))
  assert.equal(server.connectionCount, 1)
})

test('more connections than the limit are ended before a word; when one goes, the next is let in', async () => {
  await using server = await serve({ connectionCountMax: 2 })
  const open = () => connectNbd({ address: addressOf(server), exportName: 'disk' })
  const [first, second] = [await open(), await open()]
  const third = connect(addressOf(server))
  third.on('error', () => {})
  const said: Buffer[] = []
  third.on('data', (chunk: Buffer) => said.push(chunk))
  await gone(third)
  assert.deepEqual([said.length, server.connectionCount], [0, 2])
  await first.close()
  let another = null
  while (another === null) another = await open().catch(() => null)
  await another.read(0, new Uint8Array(512))
  for (const client of [another, second]) await client.close()
})

test('a client that never chooses an export is ended in time, one that has chosen is not', { timeout: 30_000 }, async () => {
  await using server = await serve({ handshakeMillisMax: 250 })
  await using chosen = await connectNbd({ address: addressOf(server), exportName: 'disk' })
  const silent = connect(addressOf(server))
  const chatty = connect(addressOf(server))
  const listing = OPTION.encode({ magic: OPTION_MAGIC, option: OPT.list, lengthBytes: 0 })
  chatty.write(CLIENT_FLAGS.encode({ flags: 3 }))
  const chats = setInterval(() => chatty.write(listing), 20)
  for (const socket of [silent, chatty]) socket.on('error', () => {}).resume()
  await Promise.all([gone(silent), gone(chatty)])
  clearInterval(chats)
  await chosen.read(0, new Uint8Array(512))
})

test(
  'a client that holds what others wait for and does not move is ended; while nobody waits it may take its time',
  { timeout: 30_000 },
  async () => {
    await using server = await serve({
      source: sourceOf(exportOf('disk', memoryDevice(64 * MIB))),
      budget: new ByteBudget(64 * MIB),
      stallMillisMax: 200,
    })
    const stalled = async () => {
      const socket = connect(addressOf(server))
      const go = Buffer.concat([encodeString('disk'), Buffer.from([0, 0])])
      const write = { magic: REQUEST_MAGIC, flags: 0, type: CMD.write, cookie: 1n, offset: 0n, lengthBytes: 32 * MIB }
      socket.write(CLIENT_FLAGS.encode({ flags: 3 }))
      socket.write(Buffer.concat([OPTION.encode({ magic: OPTION_MAGIC, option: OPT.go, lengthBytes: go.length }), go]))
      socket.write(Buffer.concat([REQUEST.encode(write), new Uint8Array(1000)]))
      socket.on('error', () => {}).resume()
      return socket
    }
    const holders = [await stalled(), await stalled()]
    const closed = holders.map((socket) => gone(socket))
    await using client = await connectNbd({ address: addressOf(server), exportName: 'disk' })
    // Several looks: nobody waits.
    for (const end = performance.now() + 1000; performance.now() < end;) await client.read(0, new Uint8Array(4096))
    assert.equal(server.connectionCount, 3)
    await client.write(0, randomBytes(20 * MIB))
    await Promise.race(closed)
    assert.ok(server.connectionCount < 3)
    for (const socket of holders) socket.destroy()
  },
)
