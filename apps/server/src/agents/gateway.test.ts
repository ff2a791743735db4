/** Agents at the gateway, over a real WebSocket. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { WebSocket } from 'ws'
import { messageSocket } from '@typevisor/agent'
import { serveAgent } from '@typevisor/api/agent-link'
import { AGENT_PATH, AGENT_PROTOCOL, type AgentPort } from '@typevisor/api/agent-wire'
import { Channel, Fault } from '@typevisor/base'
import type { DomainEvent } from '@typevisor/model'
import { memoryLog } from '@typevisor/sim'
import { nodeSecretCrypto as crypto } from '../secrets.ts'
import { stopTestPostgres, testClock, testDatabase, testIds as ids, testRng as rng, testServer } from '../testing.ts'
import { addAgentRoute, keepHost } from './gateway.ts'
import { hostHandlers } from './handlers.ts'
import { AgentRegistry } from './registry.ts'

after(stopTestPostgres)

const agentOf = (name: string): AgentPort => ({
  hello: {
    protocol: AGENT_PROTOCOL,
    name,
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
  },
  call: () => Promise.reject(new Fault('unsupported', 'not here')),
  events: (_after, { signal }) => {
    const none = new Channel<DomainEvent>(1)
    signal.addEventListener('abort', () => none.close(), { once: true })
    return none
  },
  acknowledge: async () => {},
  openStream: () => Promise.reject(new Fault('unsupported', 'not here')),
})

/** Resolves with what ended the agent's connection. */
async function join(url: string, agent: AgentPort, token: string): Promise<unknown> {
  const ws = new WebSocket(`${url.replace(/^http/, 'ws')}${AGENT_PATH}`, { headers: { authorization: `Bearer ${token}` } })
  const failed = new Promise<never>((_resolve, reject) => ws.once('error', reject))
  failed.catch(() => {})
  const socket = messageSocket(ws)
  await Promise.race([new Promise<void>((resolve) => ws.once('open', resolve)), failed])
  return serveAgent(agent, socket, memoryLog()).catch((error: unknown) => error)
}

async function until(what: string, holds: () => boolean): Promise<void> {
  for (let turns = 0; !holds(); turns += 1) {
    assert.ok(turns < 1000, what)
    await sleep(5)
  }
}

test('a new token ends the connection that the old one opened, and no other', async () => {
  await using database = await testDatabase()
  const agents = new AgentRegistry(testClock)
  const stop = new AbortController()
  const gateway = { database: database.executor, agents, crypto, ids, log: memoryLog(), signal: stop.signal }
  await using server = await testServer({
    handlers: hostHandlers({
      db: database.db,
      database: database.executor,
      agents,
      engine: { drop: () => {} },
      ids,
      rng,
      crypto,
    }),
    http: { extend: (app) => addAgentRoute(app, gateway) },
  })
  const tokenFor = async (name: string): Promise<string> => {
    const response = await fetch(`${server.url}/api/v1/hosts/token`, {
      method: 'POST',
      headers: { authorization: `Bearer ${server.local.token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ name }),
    })
    assert.equal(response.status, 201)
    return ((await response.json()) as { secret: string }).secret
  }
  const own = keepHost({ ...gateway, clock: testClock }, 'own', agentOf('own'), () => {})
  const old = await tokenFor('far')
  const first = join(server.url, agentOf('far'), old)
  await until('far and own are joined', () => agents.get('far') !== null && agents.get('own') !== null)
  const ownBefore = agents.get('own')

  const fresh = await tokenFor('far')
  assert.equal(agents.get('far'), null)
  const end = await first
  assert.ok(end instanceof Fault && end.code === 'unauthenticated', String(end))
  await assert.rejects(join(server.url, agentOf('far'), old), /401/)

  const second = join(server.url, agentOf('far'), fresh)
  await until('far is joined again', () => agents.get('far') !== null)
  await tokenFor('own')
  await sleep(20)
  assert.equal(agents.get('own'), ownBefore)
  assert.notEqual(agents.get('far'), null)
  stop.abort(new Fault('unavailable', 'the test ends'))
  await Promise.all([own, second])
})
