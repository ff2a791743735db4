import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, millis } from '@typevisor/base'
import * as fc from 'fast-check'
import { QmpClient, type QmpEvent } from './qmp.ts'
import { SocketDouble } from './socket-double.ts'
import { testClock } from './testing.ts'

const GREETING = { QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: '' }, capabilities: [] } }

interface Call {
  readonly execute: string
  readonly id: number
}

/** A QEMU that greets, takes qmp_capabilities and gives the other commands to `answer`. */
async function open(
  answer: (call: Call, socket: SocketDouble) => void = () => {},
  limit = 100,
): Promise<{ client: QmpClient; socket: SocketDouble }> {
  const socket = new SocketDouble()
  socket.onLine = (line) => {
    const call = JSON.parse(line) as Call
    if (call.execute === 'qmp_capabilities') socket.send({ return: {}, id: call.id })
    else answer(call, socket)
  }
  socket.send(GREETING)
  return { client: await QmpClient.open(socket, { clock: testClock, limit: millis(limit), eventCountMax: 8 }), socket }
}

test('the greeting tells the version, and commands are answered by id in any order', async () => {
  const calls: Call[] = []
  const { client, socket } = await open((call) => calls.push(call))
  assert.equal(client.version, '7.2.22')
  const [a, b] = [client.execute('query-a'), client.execute('query-b')]
  await sleep(1)
  for (const call of calls.toReversed()) socket.send({ return: call.execute, id: call.id })
  assert.deepEqual(await Promise.all([a, b]), ['query-a', 'query-b'])
})

test('an error of QEMU is a fault with its words', async () => {
  const { client } = await open((call, socket) => socket.send({ error: { class: 'GenericError', desc: 'no way' }, id: call.id }))
  await assert.rejects(client.execute('stop'), { code: 'failed', message: 'QMP stop: no way' })
  const unknown = await open((call, socket) => socket.send({ error: { class: 'CommandNotFound', desc: 'what?' }, id: call.id }))
  await assert.rejects(unknown.client.execute('fly'), { code: 'unsupported' })
})

test('a command without an answer is a timeout with its name; the late answer is dropped and the next command works', async () => {
  const calls: Call[] = []
  const { client, socket } = await open((call) => {
    calls.push(call)
    if (call.execute === 'query-b') socket.send({ return: 'b', id: call.id })
  })
  await assert.rejects(client.execute('stop'), { code: 'timeout', message: 'QMP stop: no answer in 100 ms' })
  socket.send({ return: 'late', id: calls[0]?.id })
  assert.equal(await client.execute('query-b'), 'b')
  assert.equal(client.skippedCount, 1)
})

test('no greeting is a timeout, and the socket is closed', async () => {
  const socket = new SocketDouble()
  await assert.rejects(QmpClient.open(socket, { clock: testClock, limit: millis(30) }), {
    code: 'timeout',
    message: /QMP greeting/,
  })
  assert.equal(socket.closed, true)
})

test('what waits when the connection ends is unavailable, and so is what is asked after', async () => {
  const { client, socket } = await open()
  const waiting = client.execute('stop')
  socket.close()
  await assert.rejects(waiting, { code: 'unavailable', message: /QMP stop: QEMU closed the monitor/ })
  await assert.rejects(client.execute('cont'), { code: 'unavailable' })
  await client.closed
})

test('an abort withdraws the one command', async () => {
  const { client } = await open()
  await assert.rejects(client.execute('stop', {}, { signal: AbortSignal.abort(new Fault('aborted', 'withdrawn')) }), {
    code: 'aborted',
  })
  const controller = new AbortController()
  const waiting = client.execute('stop', {}, { signal: controller.signal })
  controller.abort(new Fault('aborted', 'withdrawn'))
  await assert.rejects(waiting, { code: 'aborted' })
  assert.equal(client.isOpen, true)
})

test('events come in order; more than fit end the connection, so that no gap goes unnoticed', async () => {
  const { client, socket } = await open()
  for (let count = 0; count < 9; count += 1) socket.send({ event: 'STOP', data: { count } })
  await client.closed
  const seen: QmpEvent[] = []
  for await (const event of client.events) seen.push(event)
  assert.deepEqual(
    seen.map((event) => event.content['count']),
    [0, 1, 2, 3, 4, 5, 6, 7],
  )
  await assert.rejects(client.execute('stop'), { code: 'unavailable', message: /events wait/ })
})

test('too many commands at once are busy', async () => {
  const { client } = await open()
  const waiting = Array.from({ length: 64 }, () => client.execute('stop').catch((error: unknown) => error))
  await assert.rejects(client.execute('stop'), { code: 'busy' })
  client.close()
  await Promise.all(waiting)
})

test('whatever comes in, in whatever pieces, the client goes on and answers the next command', async () => {
  const hostile = fc.oneof(
    fc.uint8Array({ maxLength: 200 }),
    fc
      .json()
      .filter((text) => !text.includes('"id"'))
      .map((text) => new TextEncoder().encode(`${text}\n`)),
    fc
      .record(
        {
          event: fc.anything(),
          data: fc.anything(),
          // Never the id of the command below: a peer that answers with the right id is QEMU.
          id: fc.oneof(fc.integer({ min: 1000 }), fc.integer({ max: 0 }), fc.string()),
          return: fc.anything(),
          error: fc.anything(),
          QMP: fc.anything(),
        },
        { requiredKeys: [] },
      )
      .map((message) => {
        try {
          return new TextEncoder().encode(
            `${JSON.stringify(message, (_, value: unknown) => (typeof value === 'bigint' ? null : value))}\n`,
          )
        } catch {
          return new Uint8Array([0x7b, 0x0a])
        }
      }),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(hostile, { maxLength: 8 }), async (pieces) => {
      const { client, socket } = await open((call) => socket.send({ return: 'well', id: call.id }), 1000)
      for (const piece of pieces) socket.send(piece)
      socket.send('\n')
      assert.equal(await client.execute('query-status'), 'well')
      client.close()
      await client.closed
    }),
    { numRuns: 300 },
  )
})
