/**
 * Today's agent with a server of the version before the snapshots, settings and devices: what that server sent, as it was on the wire, with the
 * fields that it did not have left out.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocketServer, type WebSocket } from 'ws'
import { gib, mib } from '@typevisor/base'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { openHost } from './host.ts'
import { keepJoined } from './uplink.ts'

const clock = realClock()
const rng = realRng()
const ids = uuidv7Ids(clock, rng)
const log = consoleLog({ level: 'error' })

type Message = Readonly<Record<string, unknown>> & { readonly type: string }

test('an agent serves a server of a version before: commands without the newer fields, events of domains alone', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tv-older-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rm(dataDir, { recursive: true, force: true }))
  const host = await openHost({ name: 'h1', dataDir, driver: 'sim', version: '1', clock, rng, ids, log })
  stack.defer(() => host.close())
  const server = new WebSocketServer({ port: 0, host: '127.0.0.1' })
  stack.defer(() => void server.close())
  await once(server, 'listening')
  const leaving = new AbortController()
  const { port } = server.address() as AddressInfo // listening on TCP
  const options = { agent: host.agent, serverUrl: `http://127.0.0.1:${port}`, token: 'x', clock, log, signal: leaving.signal }
  const connected = once(server, 'connection')
  const joined = keepJoined(options)
  stack.defer(async () => {
    leaving.abort()
    await joined
  })
  const [socket] = (await connected) as [WebSocket]
  const said: Message[] = []
  socket.on('message', (content: Buffer, isBinary) => {
    if (!isBinary) said.push(JSON.parse(content.toString()) as Message)
  })
  const heard = async (what: string, is: (message: Message) => boolean): Promise<Message> => {
    for (const end = performance.now() + 10_000; ; await sleep(5)) {
      const found = said.find(is)
      if (found) return found
      assert.ok(performance.now() < end, `${what} never came: ${JSON.stringify(said)}`)
    }
  }
  let count = 0
  const ask = async (method: string, params: object): Promise<Message> => {
    count += 1
    const id = count
    socket.send(JSON.stringify({ type: 'request', id, method, params }))
    return heard(method, (message) => message['id'] === id && message.type !== 'progress')
  }

  const { hello } = (await heard('hello', ({ type }) => type === 'hello')) as unknown as { hello: Record<string, unknown> }
  for (const field of ['protocol', 'name', 'version', 'driver', 'driverVersion', 'accelerator', 'acceleratorReason', 'cpuCount'])
    assert.ok(field in hello, `${field} of the hello`)
  assert.equal(hello['protocol'], 1)
  socket.send(JSON.stringify({ type: 'welcome', after: 0 }))

  const id = ids.next()
  const spec = {
    name: 'web',
    vcpuCount: 1,
    memoryBytes: mib(128),
    image: 'sim',
    rootDiskBytes: gib(1),
    cloudInit: { hostname: 'web', user: null, sshKeys: [], userData: null },
    forwards: [],
    labels: {},
  }
  const [image] = hello['images'] as { name: string }[]
  const defined = await ask('domain.define', { commandId: 'c1', fence: 1, id, spec: { ...spec, image: image?.name } })
  assert.equal(defined.type, 'reply', JSON.stringify(defined))
  const states: unknown[] = []
  for (const [index, verb] of ['start', 'pause', 'unpause', 'save', 'restore', 'poweroff'].entries()) {
    const answer = await ask('domain.carry-out', { commandId: `c${index + 2}`, fence: 2, id, verb })
    assert.equal(answer.type, 'reply', JSON.stringify(answer))
    const { domain, sequence } = answer['result'] as { domain: { state: { kind: string } }; sequence: number }
    assert.ok(sequence > 0)
    states.push(domain.state.kind)
  }
  assert.deepEqual(states, ['running', 'paused', 'running', 'saved', 'running', 'stopped'])
  const stale = await ask('domain.carry-out', { commandId: 'late', fence: 1, id, verb: 'start' })
  assert.equal((stale['fault'] as { code: string }).code, 'stale_fence')

  const isLast = (event: unknown): boolean => {
    const { from, to } = event as { from: string | null; to: string | null }
    return from !== null && to === 'stopped'
  }
  await heard('the last event', ({ type, event }) => type === 'event' && isLast(event))
  const events = said.filter(({ type }) => type === 'event').map(({ event }) => event as Record<string, unknown>)
  for (const event of events) assert.ok(event['domain'] === id && typeof event['name'] === 'string', JSON.stringify(event))
  socket.send(JSON.stringify({ type: 'acknowledge', sequence: events.at(-1)?.['sequence'] }))
  // What a later server may ask of this agent, as it is asked of older ones now.
  const unknown = await ask('domain.of-the-future', { id })
  assert.equal((unknown['fault'] as { code: string }).code, 'unsupported')
  const gone = await ask('domain.carry-out', { commandId: 'end', fence: 3, id, verb: 'destroy' })
  assert.equal((gone['result'] as { domain: unknown }).domain, null)
})
