import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConsoleSession, type ConsolePorts, type ConsoleStatus, type SocketHandlers } from './console-session.ts'

const encode = (text: string) => new TextEncoder().encode(text)
const decode = (content: Uint8Array) => new TextDecoder().decode(content)
const settle = async () => {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve()
}

/** A guest's output with a bounded memory, and connections that the test opens and cuts. */
function makeHost() {
  const host = {
    output: '',
    keptFrom: 0,
    live: true,
    failing: null as string | null,
    shown: '',
    notes: [] as string[],
    statuses: [] as ConsoleStatus[],
    typed: [] as string[],
    connections: [] as { from: number; handlers: SocketHandlers }[],
    waits: [] as number[],
    goOn: [] as (() => void)[],
  }
  const ports: ConsolePorts = {
    async readLog(from, limit) {
      if (host.failing !== null) throw new Error(host.failing)
      const startOffset = Math.max(from, host.keptFrom)
      const content = encode(host.output.slice(startOffset, startOffset + limit))
      return { startOffset, endOffset: startOffset + content.length, content }
    },
    connect(from, handlers) {
      host.connections.push({ from, handlers })
      return { send: (content) => host.typed.push(decode(content)), close: () => undefined }
    },
    show: (content) => (host.shown += decode(content)),
    note: (text) => host.notes.push(text),
    status: (status) => host.statuses.push(status),
    live: () => host.live,
    wait: (ms, signal) =>
      new Promise((resolve, reject) => {
        host.waits.push(ms)
        host.goOn.push(resolve)
        signal.addEventListener('abort', () => reject(new Error('aborted')))
      }),
    random: () => 0.5,
  }
  const last = () => {
    const connection = host.connections.at(-1)
    assert.ok(connection)
    return connection
  }
  const deliver = (from: number) => last().handlers.onBytes(encode(host.output.slice(from)))
  return { host, ports, last, deliver }
}

test('the first connection begins where the kept output begins', async () => {
  const { host, ports, last, deliver } = makeHost()
  host.output = 'xxxxBooting'
  host.keptFrom = 4
  const session = new ConsoleSession(ports)
  void session.run()
  await settle()
  assert.equal(last().from, 4)
  last().handlers.onOpen()
  deliver(4)
  assert.equal(host.shown, 'Booting')
  assert.equal(session.offset, 11)
  assert.deepEqual(host.notes, [], 'what was dropped before this page came is no loss')
})

test('a connection cut at any byte goes on at the next one: nothing lost, nothing twice', async () => {
  for (let cut = 0; cut <= 10; cut += 1) {
    const { host, ports, last, deliver } = makeHost()
    host.output = '0123456789'
    const session = new ConsoleSession(ports)
    void session.run()
    await settle()
    last().handlers.onOpen()
    last().handlers.onBytes(encode(host.output.slice(0, cut)))
    last().handlers.onClose('gone')
    await settle()
    host.goOn.shift()?.()
    await settle()
    assert.equal(last().from, cut)
    last().handlers.onOpen()
    deliver(cut)
    assert.equal(host.shown, '0123456789', `cut after ${cut}`)
    session.close()
  }
})

test('bytes that the host no longer keeps are said to be missing', async () => {
  const { host, ports, last } = makeHost()
  host.output = 'abcdefghij'
  const session = new ConsoleSession(ports)
  void session.run()
  await settle()
  last().handlers.onOpen()
  last().handlers.onBytes(encode('abc'))
  last().handlers.onClose('gone')
  await settle()
  host.keptFrom = 8
  host.goOn.shift()?.()
  await settle()
  assert.equal(last().from, 8)
  assert.equal(host.notes.length, 1)
  assert.match(host.notes[0] ?? '', /^5 bytes/)
})

test('the output of a machine that is off is shown to its end, then the console rests', async () => {
  const { host, ports } = makeHost()
  host.output = 'a'.repeat(1_048_576) + 'Power down'
  host.live = false
  const session = new ConsoleSession(ports)
  await session.run()
  assert.equal(host.shown.length, 1_048_586)
  assert.equal(host.statuses.at(-1)?.kind, 'ended')
  assert.equal(host.connections.length, 0)
})

test('the last words of a machine that goes off while watched are not lost', async () => {
  const { host, ports, last } = makeHost()
  host.output = 'abc'
  const session = new ConsoleSession(ports)
  const ended = session.run()
  await settle()
  last().handlers.onOpen()
  last().handlers.onBytes(encode('abc'))
  host.output = 'abc Power down'
  host.live = false
  last().handlers.onClose('the machine went off')
  await ended
  assert.equal(host.shown, 'abc Power down')
})

test('waits grow while the host does not answer, and begin anew after a good connection', async () => {
  const { host, ports, last } = makeHost()
  host.failing = 'no answer'
  const session = new ConsoleSession(ports)
  void session.run()
  for (let round = 0; round < 3; round += 1) {
    await settle()
    host.goOn.shift()?.()
  }
  assert.deepEqual(host.waits, [500, 1000, 2000])
  host.failing = null
  await settle()
  last().handlers.onOpen()
  last().handlers.onClose('gone')
  await settle()
  assert.equal(host.waits.at(-1), 500)
  session.close()
})

test('a wait is cut short by a retry', async () => {
  const { host, ports } = makeHost()
  host.failing = 'no answer'
  const session = new ConsoleSession(ports)
  void session.run()
  await settle()
  host.failing = null
  session.retry()
  await settle()
  assert.equal(host.connections.length, 1)
  session.close()
})

test('keys typed into a lost connection are not sent into a later guest', async () => {
  const { host, ports, last } = makeHost()
  const session = new ConsoleSession(ports)
  void session.run()
  await settle()
  session.type(encode('early'))
  last().handlers.onOpen()
  session.type(encode('ls\r'))
  assert.deepEqual(host.typed, ['early', 'ls\r'])
  last().handlers.onClose('gone')
  await settle()
  assert.equal(host.statuses.at(-1)?.kind, 'waiting')
  session.type(encode('rm\r'))
  host.goOn.shift()?.()
  await settle()
  last().handlers.onOpen()
  assert.deepEqual(host.typed, ['early', 'ls\r'])
  session.close()
})

test('a closed console asks for nothing more', async () => {
  const { host, ports, last } = makeHost()
  const session = new ConsoleSession(ports)
  const ended = session.run()
  await settle()
  last().handlers.onOpen()
  session.close()
  await ended
  assert.equal(host.connections.length, 1)
})
