import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, millis } from '@typevisor/base'
import * as fc from 'fast-check'
import { fromBase64, toBase64 } from './base64.ts'
import { GuestAgent, guestAddresses } from './guest-agent.ts'
import type { HostSockets } from './ports.ts'
import { SocketDouble } from './socket-double.ts'
import { testClock } from './testing.ts'

interface Call {
  readonly execute: string
  readonly arguments: Record<string, unknown>
}

interface World {
  readonly agent: GuestAgent
  readonly calls: Call[]
  readonly connectCount: () => number
  listening: boolean
  /** Called when it is asked whether the guest has opened the port. */
  look: () => void
}

/** A guest agent that syncs as the real one does, and leaves the other commands to `answer`. */
function world(answer: (call: Call, socket: SocketDouble) => void): World {
  const calls: Call[] = []
  let connectCount = 0
  const sockets: HostSockets = {
    async connect() {
      connectCount += 1
      const socket = new SocketDouble()
      socket.onLine = (line) => {
        const isDelimited = line.startsWith('\u00ff')
        const call = JSON.parse(isDelimited ? line.slice(1) : line) as Call
        calls.push(call)
        if (call.execute === 'guest-sync-delimited') {
          assert.ok(isDelimited, 'a sync begins with 0xff')
          const body = new TextEncoder().encode(`x${JSON.stringify({ return: call.arguments['id'] })}\n`)
          body[0] = 0xff
          socket.send(body)
        } else answer(call, socket)
      }
      return socket
    },
    listen: () => Promise.reject(new Error('not used')),
  }
  const self: World = {
    agent: new GuestAgent({
      sockets,
      path: '/agent.sock',
      clock: testClock,
      isListening: async () => (self.look(), self.listening),
    }),
    calls,
    connectCount: () => connectCount,
    listening: true,
    look: () => {},
  }
  return self
}

const text = (content: Uint8Array): string => new TextDecoder().decode(content)

test('exec gives argv and stdin as they are, polls until the end and reads both outputs', async () => {
  let polls = 0
  const w = world((call, socket) => {
    if (call.execute === 'guest-exec') socket.send({ return: { pid: 7 } })
    else if ((polls += 1) < 3) socket.send({ return: { exited: false } })
    else
      socket.send({
        return: { exited: true, exitcode: 3, 'out-data': btoa('out'), 'err-data': btoa('err'), 'err-truncated': true },
      })
  })
  const result = await w.agent.exec({ argv: ['/bin/x', '$HOME; a'], stdin: new TextEncoder().encode('in'), timeoutMs: 5000 })
  assert.deepEqual(
    [result.exitCode, result.signal, text(result.stdout), text(result.stderr), result.truncated],
    [3, null, 'out', 'err', true],
  )
  assert.deepEqual(w.calls[1]?.arguments, { path: '/bin/x', arg: ['$HOME; a'], 'capture-output': true, 'input-data': btoa('in') })
})

test('a guest that has not opened the port is unavailable and gets nothing', async () => {
  const w = world(() => {})
  w.listening = false
  await assert.rejects(w.agent.execute('guest-ping'), { code: 'unavailable', message: /no agent runs/ })
  assert.equal(w.connectCount(), 0)
})

test('a command without an answer is a timeout, and the next one begins with a sync that drops the late answer', async () => {
  let late: SocketDouble | null = null
  const w = world((call, socket) => {
    if (call.execute === 'guest-slow') late = socket
    else socket.send({ return: call.execute })
  })
  await assert.rejects(w.agent.execute('guest-slow', {}, { limit: millis(50) }), {
    code: 'timeout',
    message: /guest agent guest-slow/,
  })
  ;(late as SocketDouble | null)?.send({ return: 'late' })
  assert.equal(await w.agent.execute('guest-ping'), 'guest-ping')
  assert.deepEqual(
    w.calls.map((call) => call.execute),
    ['guest-sync-delimited', 'guest-slow', 'guest-sync-delimited', 'guest-ping'],
  )
})

test('what an agent says of its own is failed, with its words, and the connection is kept', async () => {
  const w = world((_, socket) => socket.send({ error: { class: 'GenericError', desc: 'Failed to execute child process "x"' } }))
  await assert.rejects(w.agent.exec({ argv: ['x'], timeoutMs: 100 }), { code: 'failed', message: /Failed to execute/ })
  await assert.rejects(w.agent.execute('guest-ping'), { code: 'failed' })
  assert.equal(w.connectCount(), 1)
})

test('a program that is not there ends with 127, one that cannot be executed with 126, with the agent’s words', async () => {
  const words = ['No such file or directory', 'Permission denied', 'Exec format error']
  const w = world((_, socket) => {
    const desc = `Guest agent command failed, error was 'Failed to execute child process “x” (${words.shift()})'`
    socket.send({ error: { class: 'GenericError', desc } })
  })
  const codes = []
  for (let at = 0; at < 3; at += 1) {
    const { exitCode, stderr } = await w.agent.exec({ argv: ['x'], timeoutMs: 100 })
    codes.push(exitCode)
    assert.match(text(stderr), /^Failed to execute child process “x”/)
  }
  assert.deepEqual(codes, [127, 126, 126])
})

test('output as long as the agent keeps counts as cut, whatever its flag says', async () => {
  const content = toBase64(new Uint8Array(16 * 1024 * 1024))
  const w = world((call, socket) => {
    const status = { exited: true, exitcode: 0, 'out-data': content, 'out-truncated': false }
    socket.send({ return: call.execute === 'guest-exec' ? { pid: 7 } : status })
  })
  assert.equal((await w.agent.exec({ argv: ['yes'], timeoutMs: 10_000 })).truncated, true)
})

test('a program whose guest is no more ends at once, and nothing is killed in the guest that comes after it', async () => {
  const w = world((call, socket) => socket.send({ return: call.execute === 'guest-exec' ? { pid: 42 } : { exited: false } }))
  const life = new AbortController()
  setTimeout(() => life.abort(new Fault('failed', 'exec reboot: the guest was reset meanwhile')), 30)
  const start = performance.now()
  await assert.rejects(w.agent.exec({ argv: ['reboot'], timeoutMs: 60_000 }, undefined, life.signal), {
    code: 'failed',
    message: /was reset/,
  })
  assert.ok(performance.now() - start < 2000)
  await sleep(20)
  assert.ok(w.calls.every((call) => !JSON.stringify(call).includes('kill')))
})

test('a guest that goes while its agent is looked for ends the program at once', async () => {
  const life = new AbortController()
  const w = world((call, socket) => {
    if (!life.signal.aborted) socket.send({ return: call.execute === 'guest-exec' ? { pid: 42 } : { exited: false } })
  })
  let lookCount = 0
  w.look = () => {
    lookCount += 1
    if (lookCount === 3) life.abort(new Fault('failed', 'exec poweroff: the guest powered off meanwhile'))
  }
  const start = performance.now()
  await assert.rejects(w.agent.exec({ argv: ['poweroff'], timeoutMs: 5000 }, undefined, life.signal), { message: /powered off/ })
  assert.equal(lookCount, 3)
  assert.ok(performance.now() - start < 2000, `${performance.now() - start} ms`)
})

test('a program that does not end in its time is killed in the guest', async () => {
  const w = world((call, socket) => socket.send({ return: call.execute === 'guest-exec' ? { pid: 42 } : { exited: false } }))
  await assert.rejects(w.agent.exec({ argv: ['sleep', '9'], timeoutMs: 60 }), {
    code: 'timeout',
    message: /exec sleep: not ended in 60 ms/,
  })
  await sleep(20)
  assert.deepEqual(w.calls.at(-1)?.arguments, { path: 'kill', arg: ['-KILL', '42'] })
})

test('an agent that hangs while a program runs costs the program’s time and little more', async () => {
  const w = world((call, socket) => {
    if (call.execute === 'guest-exec') socket.send({ return: { pid: 42 } })
  })
  const start = performance.now()
  await assert.rejects(w.agent.exec({ argv: ['sleep', '9'], timeoutMs: 100 }), { code: 'timeout' })
  assert.ok(performance.now() - start < 1000)
  w.agent.close()
})

test('commands go one at a time; too many that wait are busy', async () => {
  let underWay = 0
  const w = world((_, socket) => {
    underWay += 1
    assert.equal(underWay, 1)
    setTimeout(() => {
      underWay -= 1
      socket.send({ return: {} })
    }, 2)
  })
  const all = Array.from({ length: 16 }, () => w.agent.execute('guest-ping'))
  await assert.rejects(w.agent.execute('guest-ping'), { code: 'busy' })
  await Promise.all(all)
})

test('an argv that is empty or has zero bytes, and a huge stdin, are refused', async () => {
  const w = world(() => {})
  await assert.rejects(w.agent.exec({ argv: [], timeoutMs: 1 }), { code: 'invalid' })
  await assert.rejects(w.agent.exec({ argv: ['a', 'b\0c'], timeoutMs: 1 }), { code: 'invalid' })
  await assert.rejects(w.agent.exec({ argv: ['a'], stdin: new Uint8Array(5 * 1024 * 1024), timeoutMs: 1 }), { code: 'invalid' })
  assert.deepEqual(w.calls, [])
})

test('whatever a guest answers, it is a result or a fault', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(fc.uint8Array({ maxLength: 60 }), fc.json(), fc.dictionary(fc.constantFrom('return', 'error'), fc.jsonValue())),
      async (noise) => {
        const w = world((_, socket) => {
          socket.send(typeof noise === 'string' ? `${noise}\n` : noise)
          socket.send('\n')
          socket.send({ return: { pid: 1, exited: true, 'out-data': '!' } })
        })
        try {
          await w.agent.exec({ argv: ['x'], timeoutMs: 100 })
        } catch (error) {
          assert.ok(error instanceof Fault, String(error))
        }
        w.agent.close()
      },
    ),
    { numRuns: 200 },
  )
})

test('addresses are read from what a guest claims, nonsense left out', () => {
  const answer = [
    {
      name: 'eth0',
      'hardware-address': '52:54:00:00:00:01',
      'ip-addresses': [{ 'ip-address': '10.0.2.15', 'ip-address-type': 'ipv4', prefix: 24 }, { 'ip-address': 7 }, null],
    },
    { name: 4 },
    'lo',
  ]
  assert.deepEqual(guestAddresses(answer), [
    { device: 'eth0', mac: '52:54:00:00:00:01', addresses: [{ family: 'ipv4', address: '10.0.2.15', prefixLength: 24 }] },
  ])
  fc.assert(fc.property(fc.anything(), (anything) => void guestAddresses(anything)))
})

test('base64 goes there and back', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 100_000, size: 'max' }), (content) =>
      assert.deepEqual(fromBase64(toBase64(content)), content),
    ),
    { numRuns: 20 },
  )
  assert.equal(fromBase64('*'), null)
})

/** A guest's file systems, as its agent has them. */
function freezing(freeze: (call: Call, socket: SocketDouble, answer: (content: object) => void) => void) {
  const state = { frozen: false }
  const w = world((call, socket) => {
    const answer = (content: object) => socket.send(content)
    if (call.execute === 'guest-fsfreeze-status') answer({ return: state.frozen ? 'frozen' : 'thawed' })
    else if (call.execute === 'guest-fsfreeze-thaw') {
      state.frozen = false
      answer({ return: 1 })
    } else freeze(call, socket, answer)
  })
  return Object.assign(w, { state })
}
const commandsOf = (calls: readonly Call[]): string[] =>
  calls.map(({ execute }) => execute).filter((execute) => execute !== 'guest-sync-delimited')

test('a guest that is frozen already is thawed before it is frozen anew', async () => {
  const w = freezing((_call, _socket, answer) => {
    w.state.frozen = true
    answer({ return: 2 })
  })
  w.state.frozen = true
  await w.agent.freeze(millis(1000))
  assert.equal(w.state.frozen, true)
  assert.deepEqual(commandsOf(w.calls), ['guest-fsfreeze-status', 'guest-fsfreeze-thaw', 'guest-fsfreeze-freeze'])
})

test('a freeze that comes after its limit, or froze nothing, is taken back', async () => {
  const late = freezing(() => {
    late.state.frozen = true // and nobody is told
  })
  await assert.rejects(late.agent.freeze(millis(20)), { code: 'timeout' })
  assert.equal(late.state.frozen, false)
  const none = freezing((_call, _socket, answer) => answer({ return: 0 }))
  await assert.rejects(none.agent.freeze(millis(1000)), { code: 'failed', message: /no file system was frozen/ })
  assert.equal(commandsOf(none.calls).at(-1), 'guest-fsfreeze-thaw')
})

test('thawing a guest without an agent fails at once, and does not insist', async () => {
  const w = freezing(() => {})
  w.listening = false
  await assert.rejects(w.agent.thaw(), { code: 'unavailable', message: /no agent runs/ })
  assert.deepEqual(w.calls, [])
})
