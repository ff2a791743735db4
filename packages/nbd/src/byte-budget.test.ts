/** What all connections may hold together: who wants more than is left waits, small requests go on, and nothing waits for ever. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault, MIB } from '@typevisor/base'
import { seededRng } from '@typevisor/sim'
import { ByteBudget, ByteShare } from './byte-budget.ts'
import { memoryDevice } from './memory-device.ts'
import { exportOf, linkInMemory, openExport, slowDevice, sourceOf } from './testing.ts'
import { rawClient, request } from './testing/raw.ts'
import { CMD, OPT, REPLY_TYPE } from './wire.ts'

const turns = async (count = 20): Promise<void> => {
  for (let turn = 0; turn < count; turn += 1) await new Promise((resolve) => setImmediate(resolve))
}

test('a share is granted when there is room and nobody waits before it, and all is given back', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ who: fc.nat(5), bytes: fc.nat(64 * MIB), raises: fc.boolean() }), { maxLength: 60 }),
      (steps) => {
        const budget = new ByteBudget(64 * MIB)
        const shares = Array.from({ length: 6 }, () => new ByteShare(budget, () => {}))
        for (const { who, bytes, raises } of steps) {
          const share = shares[who] as ByteShare // there are six
          const [first] = budget.line
          const [before, used] = [share.claimedBytes, budget.usedBytes]
          if (!raises) share.lower(bytes)
          else if (share.claim(bytes)) {
            assert.ok(bytes <= before || first === undefined || first === share)
            assert.equal(share.claimedBytes, Math.max(bytes, before))
          } else assert.ok(used - before + bytes > budget.limitBytes || first !== undefined)
          assert.ok(budget.usedBytes <= budget.limitBytes)
          assert.equal(
            budget.usedBytes,
            shares.reduce((sum, { claimedBytes }) => sum + claimedBytes, 0),
          )
        }
        for (const share of shares) {
          share.leaveLine()
          share.lower(0)
        }
        assert.deepEqual([budget.usedBytes, budget.isWaitedFor], [0, false])
      },
    ),
  )
  assert.throws(
    () => new ByteBudget(MIB),
    (error) => error instanceof Fault && /want at least 67108864/.test(error.message),
  )
})

test('a payload that does not fit any more waits, small requests of others go on meanwhile, and then it is written', async () => {
  const budget = new ByteBudget(64 * MIB)
  const source = sourceOf(exportOf('disk', memoryDevice(64 * MIB)))
  const open = async () => {
    const client = rawClient(source, { budget })
    await client.greet()
    await client.open('disk', OPT.structuredReply)
    return client
  }
  const [first, second, third, fourth] = [await open(), await open(), await open(), await open()]
  const payload = new Uint8Array(32 * MIB).fill(3)
  const write = request({ type: CMD.write, lengthBytes: payload.length })
  for (const client of [first, second]) client.send(write, payload.subarray(0, 1000))
  third.send(write, payload)
  await turns()
  assert.ok(budget.usedBytes > 63 * MIB && budget.usedBytes <= 64 * MIB, `${budget.usedBytes} bytes`)
  assert.equal(budget.isWaitedFor, true)
  assert.equal(third.link.isPaused, true)
  fourth.send(request({ type: CMD.write, lengthBytes: 4096 }), payload.subarray(0, 4096))
  assert.equal((await fourth.chunk()).type, REPLY_TYPE.none)
  fourth.send(request({ type: CMD.read, lengthBytes: 65_536 }))
  assert.equal((await fourth.chunk()).payload.length, 65_536 + 8)

  first.send(payload.subarray(1000))
  assert.equal((await first.chunk()).type, REPLY_TYPE.none)
  assert.equal((await third.chunk()).type, REPLY_TYPE.none)
  second.send(payload.subarray(1000))
  assert.equal((await second.chunk()).type, REPLY_TYPE.none)
  for (const client of [first, second, third, fourth]) await client.leave()
  assert.deepEqual([budget.usedBytes, budget.isWaitedFor], [0, false])
})

test('who goes while it waits, or while it holds what others wait for, is in the way of nobody', async () => {
  const budget = new ByteBudget(64 * MIB)
  const source = sourceOf(exportOf('disk', memoryDevice(64 * MIB)))
  const write = request({ type: CMD.write, lengthBytes: 32 * MIB })
  const clients = []
  for (let index = 0; index < 5; index += 1) {
    const client = rawClient(source, { budget })
    await client.greet()
    await client.open('disk', OPT.structuredReply)
    client.send(write, new Uint8Array(100))
    await turns(3)
    clients.push(client)
  }
  assert.equal(budget.line.size, 3)
  const [first, second, third, fourth, fifth] = clients
  await third?.leave()
  await first?.leave()
  await turns()
  assert.equal(budget.line.size, 1, 'the fourth has begun')
  await second?.leave()
  await fourth?.leave()
  fifth?.send(new Uint8Array(32 * MIB - 100))
  assert.equal((await fifth?.chunk())?.type, REPLY_TYPE.none)
  await fifth?.leave()
  assert.deepEqual([budget.usedBytes, budget.isWaitedFor], [0, false])
})

test('many connections that all hold a part and want more come to their end, and never hold more than the bound', async () => {
  const size = 72 * MIB
  for (const device of [memoryDevice(size), slowDevice(memoryDevice(size))]) {
    const budget = new ByteBudget(64 * MIB)
    const source = sourceOf(exportOf('disk', device))
    let waits = 0
    const { line } = budget
    const add = line.add.bind(line)
    line.add = (share) => {
      waits += 1
      assert.ok(budget.usedBytes <= budget.limitBytes)
      return add(share)
    }
    {
      await Promise.all(
        Array.from({ length: 9 }, async (_, index) => {
          const client = await openExport(linkInMemory(source, seededRng(index), { budget }).client, { exportName: 'disk' })
          const content = new Uint8Array(8 * MIB).fill(index + 1)
          await Promise.all([
            client.write(index * 8 * MIB, content),
            ...Array.from({ length: 2 }, () => client.read(0, new Uint8Array(12 * MIB))),
          ])
          const got = new Uint8Array(content.length)
          await client.read(index * 8 * MIB, got)
          assert.ok(Buffer.from(got).equals(content))
          await client.close()
        }),
      )
    }
    await turns()
    assert.ok(waits > 0, 'there were those that waited')
    assert.deepEqual([budget.usedBytes, budget.isWaitedFor], [0, false])
  }
})

test('the memory of hundreds of payloads that never come is bounded', async () => {
  const budget = new ByteBudget(128 * MIB)
  const source = sourceOf(exportOf('disk', memoryDevice(64 * MIB)))
  const before = process.memoryUsage().arrayBuffers
  const clients = []
  for (let index = 0; index < 200; index += 1) {
    const client = rawClient(source, { budget })
    await client.greet()
    await client.open('disk', OPT.structuredReply)
    client.send(request({ type: CMD.write, lengthBytes: 32 * MIB }), new Uint8Array(10))
    clients.push(client)
  }
  await turns()
  const heldBytes = process.memoryUsage().arrayBuffers - before
  assert.ok(heldBytes < 128 * MIB + 200 * MIB, `${heldBytes} bytes are held for 200 connections`)
  assert.ok(budget.line.size > 190)
  for (const client of clients) await client.leave()
})
