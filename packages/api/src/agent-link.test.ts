import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import fc from 'fast-check'
import { Channel, Fault, millis, type FaultCode } from '@typevisor/base'
import type { DomainEvent, DomainId, HostEvent } from '@typevisor/model'
import { memoryLog, virtualClock } from '@typevisor/sim'
import { connectAgent, serveAgent, type MessageSocket } from './agent-link.ts'
import { AGENT_PROTOCOL, type AgentHello, type AgentPort, type AgentStream, type FromAgent, type ToAgent } from './agent-wire.ts'

type Message = string | Uint8Array

interface End extends MessageSocket {
  readonly sent: Message[]
  /** Of this end: as if so much waited to be sent. */
  waitingBytes: number
}

/** Two ends of one connection. What `send` takes is there at once, in order; a close at one end ends both. */
function pair(): { server: End; agent: End; cut: () => void } {
  const toServer = new Channel<Message>(100_000)
  const toAgent = new Channel<Message>(100_000)
  const close = () => {
    toServer.close()
    toAgent.close()
  }
  const end = (incoming: Channel<Message>, outgoing: Channel<Message>): End => {
    const sent: Message[] = []
    return {
      incoming,
      sent,
      waitingBytes: 0,
      send: (message) => {
        sent.push(message)
        outgoing.push(message)
      },
      close,
    }
  }
  return { server: end(toServer, toAgent), agent: end(toAgent, toServer), cut: close }
}

const HELLO: AgentHello = {
  protocol: AGENT_PROTOCOL,
  name: 'h1',
  version: '0',
  driver: 'sim',
  driverVersion: '1',
  accelerator: 'none',
  acceleratorReason: 'none',
  cpuCount: 1,
  memoryBytes: 1,
  images: [],
  domains: [],
  sequence: 0,
}
const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId

/** An agent whose every answer the test gives. */
function fakeAgent(changes: Partial<AgentPort> = {}): AgentPort {
  return {
    hello: HELLO,
    call: () => Promise.reject(new Fault('unsupported', 'not here')),
    events: (_after, { signal }) => {
      const none = new Channel<DomainEvent>(1)
      signal.addEventListener('abort', () => none.close(), { once: true })
      return none
    },
    acknowledge: async () => {},
    openStream: () => Promise.reject(new Fault('unsupported', 'not here')),
    ...changes,
  }
}

async function joined(agent: AgentPort) {
  const wire = pair()
  const log = memoryLog()
  const served = serveAgent(agent, wire.agent, log).then(
    () => null,
    (error: unknown) => error,
  )
  const remote = await connectAgent(wire.server, virtualClock())
  return { ...wire, remote, served, log }
}

const isFault = (code: FaultCode) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  return true
}

const turns = async (count = 20): Promise<void> => {
  for (let n = 0; n < count; n += 1) await turn()
}

function memoryStream(capacity = 4096) {
  const output = new Channel<Uint8Array>(capacity)
  const written: Uint8Array[] = []
  let closed = 0
  const stream: AgentStream = {
    readable: output,
    write: async (content) => void written.push(content.slice()),
    close: () => {
      closed += 1
      output.close()
    },
  }
  return { stream, output, written, closedCount: () => closed }
}

test('a call is answered with its result, its fault and its progress', async () => {
  const { remote, cut, served } = await joined(
    fakeAgent({
      call: (async (method: string, _params: unknown, options: { progress?: (fraction: number, message: string) => void }) => {
        if (method === 'image.build')
          throw new Fault('exhausted', 'no space', { details: [{ path: 'disk', want: 'space', got: 'none' }] })
        options.progress?.(0.5, 'half')
        return { domains: [], sequence: 7 }
      }) as AgentPort['call'],
    }),
  )
  const told: [number, string][] = []
  assert.deepEqual(await remote.call('domain.list', {}, { progress: (...each) => told.push(each) }), { domains: [], sequence: 7 })
  assert.deepEqual(told, [[0.5, 'half']])
  await assert.rejects(remote.call('image.build', { name: 'x', commandId: 'c', fence: 1 }), (error) => {
    isFault('exhausted')(error)
    assert.deepEqual((error as Fault).details, [{ path: 'disk', want: 'space', got: 'none' }])
    return true
  })
  cut()
  assert.equal(await served, null)
})

test('a caller that withdraws gets its reason at once, and the agent is told', async () => {
  const withdrawn = Promise.withResolvers<unknown>()
  const { remote, cut } = await joined(
    fakeAgent({
      call: ((_method: string, _params: unknown, { signal }: { signal: AbortSignal }) =>
        new Promise((_resolve, reject) =>
          signal.addEventListener('abort', () => {
            withdrawn.resolve(signal.reason)
            reject(signal.reason)
          }),
        )) as AgentPort['call'],
    }),
  )
  const stop = new AbortController()
  const call = remote.call('domain.list', {}, { signal: stop.signal })
  await turns()
  stop.abort(new Fault('timeout', 'too long'))
  await assert.rejects(call, isFault('timeout'))
  assert.equal(((await withdrawn.promise) as Fault).code, 'aborted')
  await assert.rejects(remote.call('domain.list', {}, { signal: stop.signal }), isFault('timeout'))
  cut()
})

test('when the connection ends every call and stream under way fails as unavailable, and the agent lets go of all', async () => {
  const { stream, closedCount } = memoryStream()
  const aborted: string[] = []
  const { remote, cut, served } = await joined(
    fakeAgent({
      call: ((method: string, _params: unknown, { signal }: { signal: AbortSignal }) =>
        new Promise(() => signal.addEventListener('abort', () => aborted.push(method)))) as AgentPort['call'],
      openStream: async () => stream,
    }),
  )
  const opened = await remote.openStream('console', ID)
  const call = remote.call('domain.list', {})
  call.catch(() => {})
  const reading = (async () => {
    for await (const content of opened.readable) assert.fail(`nothing was sent: ${content.length}`)
  })()
  reading.catch(() => {})
  await turns()
  cut()
  await assert.rejects(call, isFault('unavailable'))
  await assert.rejects(reading, isFault('unavailable'))
  await remote.closed
  await served
  await assert.rejects(remote.call('domain.list', {}), isFault('unavailable'))
  await assert.rejects(remote.openStream('console', ID), isFault('unavailable'))
  await assert.rejects(opened.write(new Uint8Array(1)), isFault('unavailable'))
  assert.deepEqual(aborted, ['domain.list'])
  assert.ok(closedCount() > 0)
})

test('a stream that is still being opened ends with the connection, with its signal, and with a signal that is aborted already', async () => {
  const signals: AbortSignal[] = []
  const { remote, cut, server } = await joined(
    fakeAgent({
      openStream: (_kind, _domain, options) => {
        if (options?.signal) signals.push(options.signal)
        return new Promise(() => {})
      },
    }),
  )
  const stop = new AbortController()
  const withdrawn = remote.openStream('console', ID, { signal: stop.signal })
  withdrawn.catch(() => {})
  await turns()
  stop.abort(new Fault('aborted', 'the browser went away'))
  await assert.rejects(withdrawn, /the browser went away/)
  await turns()
  assert.equal(signals[0]?.aborted, true, 'the agent need not go on opening it')
  const count = server.sent.length
  await assert.rejects(remote.openStream('console', ID, { signal: stop.signal }), /the browser went away/)
  assert.equal(server.sent.length, count, 'nothing is asked')
  const cutOff = remote.openStream('vnc', ID)
  cutOff.catch(() => {})
  await turns()
  cut()
  await assert.rejects(cutOff, isFault('unavailable'))
})

test('a stream closed while it is being opened is closed at the agent once it is open', async () => {
  const { stream, closedCount } = memoryStream()
  const opening = Promise.withResolvers<AgentStream>()
  const { remote, cut } = await joined(fakeAgent({ openStream: () => opening.promise }))
  const stop = new AbortController()
  const asked = remote.openStream('console', ID, { signal: stop.signal })
  asked.catch(() => {})
  await turns()
  stop.abort()
  await assert.rejects(asked)
  await turns()
  opening.resolve(stream)
  await turns()
  assert.ok(closedCount() > 0)
  cut()
})

test('bytes go through a stream both ways unchanged, whatever their sizes, and its end is the same at both ends', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.uint8Array({ maxLength: 3000 }), { maxLength: 30 }),
      fc.array(fc.uint8Array({ maxLength: 300 }), { maxLength: 10 }),
      async (out, back) => {
        const { stream, output, written } = memoryStream()
        const { remote, cut } = await joined(fakeAgent({ openStream: async () => stream }))
        const opened = await remote.openStream('console', ID, { fromOffset: 3 })
        for (const content of out) output.push(content)
        for (const content of back) await opened.write(content)
        await turns()
        output.close()
        const seen: Uint8Array[] = []
        for await (const content of opened.readable) seen.push(content)
        assert.deepEqual(Buffer.concat(seen), Buffer.concat(out))
        assert.deepEqual(Buffer.concat(written), Buffer.concat(back))
        cut()
      },
    ),
    { numRuns: 30 },
  )
})

test('a large piece goes in frames of a bounded size', async () => {
  const { stream, output, written } = memoryStream()
  const { remote, cut, agent, server } = await joined(fakeAgent({ openStream: async () => stream }))
  const opened = await remote.openStream('console', ID)
  const large = new Uint8Array(5 * 1024 * 1024 + 17).map((_, index) => index % 251)
  output.push(large)
  output.close()
  const seen: Uint8Array[] = []
  for await (const content of opened.readable) seen.push(content)
  assert.ok(Buffer.concat(seen).equals(large))
  const second = memoryStream()
  const again = await joined(fakeAgent({ openStream: async () => second.stream }))
  await (await again.remote.openStream('console', ID)).write(large)
  await turns()
  assert.ok(Buffer.concat(second.written).equals(large))
  const sizes = [...agent.sent, ...server.sent, ...again.server.sent].map((message) => message.length)
  assert.ok(Math.max(...sizes) <= 1024 * 1024 + 4)
  assert.equal(written.length, 0)
  cut()
  again.cut()
})

test('a reader that does not read is cut off as busy at a bound in bytes; other streams go on', async () => {
  const [lazy, well] = [memoryStream(), memoryStream()]
  const { remote, cut } = await joined(fakeAgent({ openStream: async (kind) => (kind === 'vnc' ? lazy.stream : well.stream) }))
  const idle = await remote.openStream('vnc', ID)
  const read = await remote.openStream('console', ID)
  for (let n = 0; n < 20; n += 1) lazy.output.push(new Uint8Array(1024 * 1024))
  await turns(60)
  assert.ok(lazy.closedCount() > 0, 'the agent stops sending it')
  await assert.rejects(async () => {
    for await (const content of idle.readable) void content
  }, isFault('busy'))
  well.output.push(new Uint8Array([1, 2, 3]))
  for await (const content of read.readable) {
    assert.deepEqual([...content], [1, 2, 3])
    break
  }
  cut()
})

test('a network that takes nothing more ends the stream as busy at the agent, and a write as busy at the server', async () => {
  const { stream, output } = memoryStream()
  const { remote, cut, agent, server } = await joined(fakeAgent({ openStream: async () => stream }))
  const opened = await remote.openStream('console', ID)
  server.waitingBytes = 64 * 1024 * 1024
  await assert.rejects(opened.write(new Uint8Array(1)), isFault('busy'))
  server.waitingBytes = 0
  agent.waitingBytes = 64 * 1024 * 1024
  output.push(new Uint8Array(1))
  await assert.rejects(async () => {
    for await (const content of opened.readable) void content
  }, isFault('busy'))
  cut()
})

test('what the guest does not take is held up to a bound, and then the stream ends', async () => {
  const { stream, closedCount } = memoryStream()
  const stuck: AgentStream = { ...stream, write: () => new Promise(() => {}) }
  const { remote, cut } = await joined(fakeAgent({ openStream: async () => stuck }))
  const opened = await remote.openStream('console', ID)
  for (let n = 0; n < 20; n += 1) await opened.write(new Uint8Array(1024 * 1024)).catch(() => {})
  await turns(60)
  assert.ok(closedCount() > 0)
  cut()
})

test('more requests than the bound are refused as busy, and room comes back', async () => {
  const waiting: (() => void)[] = []
  const { remote, cut } = await joined(
    fakeAgent({
      call: (() =>
        new Promise((resolve) => waiting.push(() => resolve({ domains: [], sequence: 0 } as never)))) as AgentPort['call'],
    }),
  )
  const calls = Array.from({ length: 1024 }, () => remote.call('domain.list', {}))
  await assert.rejects(remote.call('domain.list', {}), isFault('busy'))
  await turns()
  for (const answer of waiting.splice(0)) answer()
  await Promise.all(calls)
  const one = remote.call('domain.list', {})
  await turns()
  for (const answer of waiting.splice(0)) answer()
  await one
  cut()
})

test('more streams than the bound are refused as busy', async () => {
  const { remote, cut } = await joined(fakeAgent({ openStream: async () => memoryStream().stream }))
  const opened = await Promise.all(Array.from({ length: 256 }, () => remote.openStream('console', ID)))
  await assert.rejects(remote.openStream('console', ID), isFault('busy'))
  opened[0]?.close()
  await turns()
  ;(await remote.openStream('console', ID)).close()
  cut()
})

test('events begin after the one that the server has, in order, and end with its signal', async () => {
  const event = (sequence: number): DomainEvent => ({
    sequence,
    at: 0 as never,
    domain: ID,
    name: 'x',
    from: 'stopped',
    to: 'running',
    cause: 'requested',
    detail: null,
    reconstructed: false,
  })
  const acknowledged: number[] = []
  const { remote, cut } = await joined(
    fakeAgent({
      async *events(after, { signal }) {
        for (let sequence = after + 1; sequence <= 8; sequence += 1) yield event(sequence)
        await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
      },
      acknowledge: async (sequence) => void acknowledged.push(sequence),
    }),
  )
  const stop = new AbortController()
  const seen: number[] = []
  for await (const { sequence } of remote.events(5, { signal: stop.signal })) {
    seen.push(sequence)
    await remote.acknowledge(sequence)
    if (sequence === 8) stop.abort()
  }
  await turns()
  assert.deepEqual(
    [seen, acknowledged],
    [
      [6, 7, 8],
      [6, 7, 8],
    ],
  )
  cut()
})

test('events of the host are told to a server that takes them, and kept from one of before', async () => {
  const facts = { pid: 7, version: '0' }
  const ofHost: HostEvent = {
    sequence: 1,
    at: 0 as never,
    part: 'volume-server',
    from: 'serving',
    to: 'away',
    cause: 'hung',
    detail: null,
    reconstructed: false,
    facts,
  }
  const ofDomain = { sequence: 2, at: 0, domain: ID, name: 'x', from: null, to: 'stopped', cause: 'requested', detail: null }
  const agent = fakeAgent({
    async *events() {
      yield ofHost
      yield ofDomain as unknown as DomainEvent // all that is looked at
    },
  })
  const { remote, cut } = await joined(agent)
  for await (const event of remote.events(0, { signal: new AbortController().signal })) {
    assert.deepEqual(event, ofHost)
    break
  }
  cut()
  const ends = pair()
  const served = serveAgent(agent, ends.agent, memoryLog()).catch(() => {})
  ends.server.send(JSON.stringify({ type: 'welcome', after: 0 } satisfies ToAgent))
  const told: unknown[] = []
  for await (const message of ends.server.incoming) {
    const { type, event } = JSON.parse(String(message)) as { type: string; event?: { sequence: number } }
    if (type === 'event') told.push(event?.sequence)
    if (told.length > 0) break
  }
  assert.deepEqual(told, [2])
  ends.cut()
  await served
})

test('an agent that tells more events than are taken in is cut off: they come again with the next connection', async () => {
  const { agent, server } = pair()
  agent.send(JSON.stringify({ type: 'hello', hello: HELLO } satisfies FromAgent))
  const remote = await connectAgent(server, virtualClock())
  const event = {
    sequence: 1,
    at: 0,
    domain: ID,
    name: 'x',
    from: null,
    to: 'stopped',
    cause: 'requested',
    detail: null,
    reconstructed: false,
  }
  for (let sequence = 1; sequence <= 65_537; sequence += 1)
    agent.send(JSON.stringify({ type: 'event', event: { ...event, sequence } }))
  await remote.closed
  await assert.rejects(remote.call('domain.list', {}), isFault('busy'))
})

test('an agent of another protocol is refused with both numbers', async () => {
  const { agent, server } = pair()
  agent.send(JSON.stringify({ type: 'hello', hello: { ...HELLO, protocol: 99 } }))
  await assert.rejects(connectAgent(server, virtualClock()), /99.*want 1/)
})

test('an agent that goes away before it says hello is unavailable', async () => {
  const { server, cut } = pair()
  const connecting = connectAgent(server, virtualClock())
  connecting.catch(() => {})
  cut()
  await assert.rejects(connecting, isFault('unavailable'))
})

test('a server that refuses says why, and the agent ends with that reason', async () => {
  const { agent, server } = pair()
  server.send(
    JSON.stringify({ type: 'refused', fault: { code: 'forbidden', message: 'its token is of another' } } satisfies ToAgent),
  )
  await assert.rejects(serveAgent(fakeAgent(), agent, memoryLog()), /its token is of another/)
})

/** Messages that are nearly right: a good one with one thing wrong. */
const nearly = (good: readonly object[]): fc.Arbitrary<string> =>
  fc.tuple(fc.constantFrom(...good), fc.jsonValue(), fc.nat()).map(([message, value, at]) => {
    const keys = Object.keys(message)
    return JSON.stringify({ ...message, [keys[at % keys.length] as string]: value })
  })
const garbage = (good: readonly object[]): fc.Arbitrary<Message> =>
  fc.oneof(
    nearly(good),
    fc.string(),
    fc.json(),
    fc.uint8Array({ maxLength: 40 }),
    fc.constantFrom('null', '[]', '{}', '{"type":"__proto__"}', '{"type":"toString"}', '"', '{"type":"request"}'),
  )

const TO_AGENT_GOOD: readonly ToAgent[] = [
  { type: 'request', id: 1, method: 'domain.list', params: {} },
  { type: 'withdraw', id: 1 },
  { type: 'acknowledge', sequence: 1 },
  { type: 'stream.open', stream: 1, kind: 'console', domain: ID, fromOffset: 0 },
  { type: 'stream.close', stream: 1 },
  { type: 'welcome', after: 0 },
  { type: 'refused', fault: { code: 'forbidden', message: 'no' } },
]
const FROM_AGENT_GOOD: readonly FromAgent[] = [
  { type: 'hello', hello: HELLO },
  { type: 'reply', id: 1, result: null },
  { type: 'fault', id: 1, fault: { code: 'failed', message: 'x' } },
  { type: 'progress', id: 1, fraction: 0, message: '' },
  {
    type: 'event',
    event: {
      sequence: 1,
      at: 0 as never,
      domain: ID,
      name: 'x',
      from: null,
      to: 'stopped',
      cause: 'requested',
      detail: null,
      reconstructed: false,
    },
  },
  { type: 'images', images: [] },
  { type: 'stream.opened', stream: 1 },
  { type: 'stream.closed', stream: 1, fault: null },
]

test('a server that sends anything at all never hangs or breaks an agent: it is answered, ignored or cut off as invalid', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(garbage(TO_AGENT_GOOD), { maxLength: 12 }), async (messages) => {
      const { agent, server, cut } = pair()
      const { stream } = memoryStream()
      const served = serveAgent(
        fakeAgent({ call: (async () => ({})) as AgentPort['call'], openStream: async () => stream }),
        agent,
        memoryLog(),
      ).then(
        () => null,
        (error: unknown) => error,
      )
      for (const message of messages) server.send(message)
      await turns(4)
      cut()
      const error = await served
      if (error !== null) assert.ok(error instanceof Fault && error.code !== 'internal', String(error))
    }),
    { numRuns: 300 },
  )
})

test('an agent that sends anything at all never hangs or breaks a server: calls end, and the connection with a fault that is no defect', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(garbage(FROM_AGENT_GOOD), { maxLength: 12 }), async (messages) => {
      const { agent, server, cut } = pair()
      agent.send(JSON.stringify({ type: 'hello', hello: HELLO }))
      const remote = await connectAgent(server, virtualClock())
      const outcomes = Promise.allSettled([
        remote.call('domain.list', {}),
        remote.openStream('console', ID).then((stream) => stream.close()),
      ])
      for (const message of messages) agent.send(message)
      await turns(4)
      cut()
      for (const outcome of await outcomes) {
        if (outcome.status === 'rejected') assert.ok(outcome.reason instanceof Fault, String(outcome.reason))
      }
      await remote.closed
      const over: unknown = await remote.call('domain.list', {}).catch((error: unknown) => error)
      assert.ok(over instanceof Fault && over.code !== 'internal', String(over))
    }),
    { numRuns: 300 },
  )
})

test('a peer that does not say hello is cut after ten seconds', async () => {
  const { server, agent } = pair()
  const clock = virtualClock()
  const connecting = connectAgent(server, clock)
  let cut = false
  const ended = (async () => {
    for await (const _ of agent.incoming);
    cut = true
  })()
  const refused = assert.rejects(connecting, isFault('timeout'))
  await clock.advance(millis(9999))
  assert.equal(cut, false)
  await clock.advance(millis(1))
  await refused
  await ended
})
