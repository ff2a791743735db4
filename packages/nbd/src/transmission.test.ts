import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, type BlockDevice } from '@typevisor/base'
import { memoryDevice } from './memory-device.ts'
import { exportOf, slowDevice, sourceOf } from './testing.ts'
import { asking, rawClient, request, type RawRequest } from './testing/raw.ts'
import {
  CMD,
  CMD_FLAG,
  ERRNO,
  EXTENDED_REPLY,
  FLAG,
  INFO,
  INFO_EXPORT,
  OFFSET_DATA,
  OPT,
  PAYLOAD_BYTES_MAX,
  REP,
  REPLY_ERROR,
  REPLY_FLAG_DONE,
  REPLY_TYPE,
  STATUS_EXTENT,
  STATUS_HEADER,
} from './wire.ts'

const SIZE = 64 * 1024 * 1024

/** A client that has opened `disk` with structured replies. */
async function opened(device: BlockDevice, ...before: readonly number[]) {
  const client = rawClient(sourceOf(exportOf('disk', device)))
  await client.greet()
  await client.open('disk', OPT.structuredReply, ...before)
  return client
}

/** The error of a reply, 0 for none. */
const errorOf = ({ type, payload }: { type: number; payload: Buffer }): number =>
  type === REPLY_TYPE.error ? REPLY_ERROR.decode(payload).error : 0

test('a read with DF is one piece of data, where without it holes are told as holes', async () => {
  const memory = memoryDevice(SIZE)
  await memory.write(2 * 1024 * 1024, new Uint8Array(4096).fill(5))
  for (const device of [memory, slowDevice(memory)]) {
    const client = await opened(device)
    const range = { type: CMD.read, offset: 0, lengthBytes: 4 * 1024 * 1024 }
    client.send(request({ ...range, flags: CMD_FLAG.df }))
    const { type, flags, payload } = await client.chunk()
    assert.deepEqual([type, flags], [REPLY_TYPE.offsetData, REPLY_FLAG_DONE])
    const content = Buffer.alloc(range.lengthBytes)
    content.fill(5, 2 * 1024 * 1024, 2 * 1024 * 1024 + 4096)
    assert.ok(payload.subarray(OFFSET_DATA.sizeBytes).equals(content))
    client.send(request(range))
    const types = []
    for (let chunk = await client.chunk(); ; chunk = await client.chunk()) {
      types.push(chunk.type)
      if ((chunk.flags & REPLY_FLAG_DONE) !== 0) break
    }
    assert.ok(types.includes(REPLY_TYPE.offsetHole) && types.includes(REPLY_TYPE.offsetData), String(types))
    await client.leave()
  }
})

test('DF without structured replies is refused, and a read without it is data', async () => {
  const client = rawClient(sourceOf(exportOf('disk', memoryDevice(SIZE))))
  await client.greet()
  await client.open('disk')
  client.send(request({ type: CMD.read, flags: CMD_FLAG.df, lengthBytes: 512 }))
  assert.equal((await client.simpleReply()).error, ERRNO.EINVAL)
  client.send(request({ type: CMD.read, lengthBytes: 512 }))
  assert.equal((await client.simpleReply()).error, 0)
  await client.take(512)
  await client.leave()
})

test('CACHE, NO_HOLE, FAST_ZERO and FUA reach the device with their range, and what it cannot do is told', async () => {
  const asked: unknown[] = []
  const device: BlockDevice = {
    ...slowDevice(memoryDevice(SIZE)),
    cache: async (...args) => void asked.push(['cache', ...args]),
    zero: async (...args) => {
      asked.push(['zero', ...args])
      if (args[2]?.fast) throw new Fault('unsupported', 'not faster than writing')
    },
  }
  const client = await opened(device)
  const say = async (one: RawRequest): Promise<number> => {
    client.send(request(one))
    return errorOf(await client.chunk())
  }
  const range = { offset: 4096, lengthBytes: 8192 }
  assert.equal(await say({ type: CMD.cache, ...range }), 0)
  assert.equal(await say({ type: CMD.writeZeroes, ...range }), 0)
  assert.equal(await say({ type: CMD.writeZeroes, ...range, flags: CMD_FLAG.noHole | CMD_FLAG.fua }), 0)
  assert.equal(await say({ type: CMD.writeZeroes, ...range, flags: CMD_FLAG.fastZero }), ERRNO.ENOTSUP)
  assert.deepEqual(asked, [
    ['cache', 4096, 8192],
    ['zero', 4096, 8192, { fua: false, noHole: false, fast: false }],
    ['zero', 4096, 8192, { fua: true, noHole: true, fast: false }],
    ['zero', 4096, 8192, { fua: false, noHole: false, fast: true }],
  ])
  await client.leave()
})

test('the flags of an export say what can be asked of it', async () => {
  for (const readOnly of [false, true]) {
    const client = rawClient(sourceOf(exportOf('disk', { ...slowDevice(memoryDevice(SIZE)), readOnly })))
    await client.greet()
    await client.ask(OPT.structuredReply)
    const replies = await client.ask(OPT.info, Buffer.from([0, 0, 0, 4, ...Buffer.from('disk'), 0, 0]))
    const info = replies
      .filter(({ reply, payload }) => reply === REP.info && payload.readUInt16BE() === INFO.export)
      .map(({ payload }) => INFO_EXPORT.decode(payload))[0]
    const always = FLAG.hasFlags | FLAG.sendFlush | FLAG.sendCache | FLAG.sendDf | FLAG.canMultiConn
    const changes = FLAG.sendFua | FLAG.sendTrim | FLAG.sendWriteZeroes | FLAG.sendFastZero
    assert.equal(info?.flags, always | (readOnly ? FLAG.readOnly : changes))
    await client.leave()
  }
})

test('requests of no length, and reads and writes of more than 32 MiB, are refused and the next is served', async () => {
  for (const device of [memoryDevice(SIZE), slowDevice(memoryDevice(SIZE))]) {
    const client = await opened(device)
    for (const type of [CMD.read, CMD.write, CMD.trim, CMD.writeZeroes, CMD.cache]) {
      client.send(request({ type, offset: 512, lengthBytes: 0 }))
      assert.equal(errorOf(await client.chunk()), ERRNO.EINVAL, `command ${type}`)
    }
    const lengthBytes = PAYLOAD_BYTES_MAX + 1
    client.send(request({ type: CMD.read, lengthBytes }))
    assert.equal(errorOf(await client.chunk()), ERRNO.EINVAL)
    client.send(request({ type: CMD.write, lengthBytes }), new Uint8Array(lengthBytes).fill(1))
    const refused = await client.chunk()
    assert.equal(errorOf(refused), ERRNO.EINVAL)
    assert.match(String(refused.payload), /payload of command 1: got 33554433 bytes, want at most 33554432/)
    client.send(request({ type: CMD.write, lengthBytes: PAYLOAD_BYTES_MAX }), new Uint8Array(PAYLOAD_BYTES_MAX).fill(2))
    assert.equal(errorOf(await client.chunk()), 0)
    client.send(request({ type: CMD.read, flags: CMD_FLAG.df, lengthBytes: PAYLOAD_BYTES_MAX }))
    const { payload } = await client.chunk()
    assert.ok(payload.subarray(OFFSET_DATA.sizeBytes).equals(Buffer.alloc(PAYLOAD_BYTES_MAX, 2)))
    // What carries no payload may be longer.
    client.send(request({ type: CMD.writeZeroes, lengthBytes: SIZE }))
    assert.equal(errorOf(await client.chunk()), 0)
    await client.leave()
  }
})

test('a payload that a command has no use for is passed over, and its command is named', async () => {
  const client = rawClient(sourceOf(exportOf('disk', memoryDevice(SIZE))))
  await client.greet()
  await client.open('disk', OPT.extendedHeaders)
  client.send(request({ type: CMD.trim, flags: CMD_FLAG.payloadLength, lengthBytes: 512, cookie: 3 }, true), new Uint8Array(512))
  const { lengthBytes } = EXTENDED_REPLY.decode(await client.take(EXTENDED_REPLY.sizeBytes))
  assert.match(String(Buffer.from(await client.take(Number(lengthBytes)))), /payload of command 4: got 512 bytes, want none/)
  await client.leave()
})

test('an extent that 32 bits cannot tell is told in part, and nothing stands behind it', async () => {
  const device: BlockDevice = { ...slowDevice(memoryDevice(SIZE)), sizeBytes: 2 ** 33 }
  const long = 0xfffff200
  const context = {
    name: 'x:long',
    extents: async () => [
      { lengthBytes: long, status: 3 },
      { lengthBytes: 0xffffffff - long, status: 4 },
    ],
  }
  const client = rawClient(sourceOf({ ...exportOf('disk', device), contexts: [context] }))
  await client.greet()
  await client.ask(OPT.structuredReply)
  await client.ask(OPT.setMetaContext, asking('disk', ['x:long']))
  await client.open('disk')
  client.send(request({ type: CMD.blockStatus, lengthBytes: 0xffffffff }))
  const { payload } = await client.chunk()
  assert.equal(payload.length, STATUS_HEADER.sizeBytes + STATUS_EXTENT.sizeBytes)
  assert.deepEqual({ ...STATUS_EXTENT.decode(payload, STATUS_HEADER.sizeBytes) }, { lengthBytes: 0xfffff000, status: 3 })
  await client.leave()
})
