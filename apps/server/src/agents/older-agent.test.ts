/**
 * Today's server with an agent of the version before the snapshots, settings and devices: its messages as they were on the wire, with the
 * fields and methods that it did not have left out. What it can goes on; what it cannot is refused in words.
 */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { WebSocket } from 'ws'
import { AGENT_PATH } from '@typevisor/api/agent-wire'
import { Fault } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const HELLO = {
  protocol: 1,
  name: 'h1',
  version: '0.0.9',
  driver: 'qemu',
  driverVersion: '7.2.19',
  accelerator: 'tcg',
  acceleratorReason: '/dev/kvm is not there',
  cpuCount: 4,
  memoryBytes: 8 * 1024 ** 3,
  images: [
    {
      name: 'micro',
      title: 'micro',
      digest: `sha256:${'0'.repeat(64)}`,
      sizeBytes: 1,
      virtualBytes: 1,
      minimumMemoryBytes: 1,
      defaultUser: 'root',
      contents: {},
      builtAt: 1_700_000_000_000,
    },
  ],
  domains: [],
  sequence: 0,
}

interface Request {
  readonly type: string
  readonly id: number
  readonly method: string
  readonly params: Readonly<Record<string, unknown>>
}

/** Answers as it did; keeps what it was asked. */
async function olderAgent(url: string, token: string) {
  const socket = new WebSocket(new URL(AGENT_PATH, url.replace(/^http/, 'ws')), {
    headers: { authorization: `Bearer ${token}` },
  })
  const asked: Request[] = []
  let [sequence, domain]: [number, Record<string, unknown> | null] = [0, null]
  const say = (message: object): void => socket.send(JSON.stringify(message))
  const became = (state: object): object => {
    sequence += 1
    domain = { ...domain, state }
    return { domain, sequence }
  }
  const answers: Readonly<Record<string, (params: Request['params']) => object>> = {
    'domain.define': ({ id, spec }) => {
      const { name } = spec as { name: string }
      const hardware = { machine: 'pc-q35-7.2', cpuModel: 'Nehalem-v1', devices: [] }
      domain = { id, name, driver: 'qemu', spec, hardware, boot: { kind: 'disk' }, forwards: [], createdAt: 1 }
      return became({ kind: 'stopped', cause: 'requested', detail: null })
    },
    'domain.carry-out': ({ verb }) =>
      became(
        verb === 'start' || verb === 'unpause'
          ? { kind: 'running' }
          : verb === 'pause'
            ? { kind: 'paused', cause: 'requested' }
            : { kind: 'stopped', cause: 'requested', detail: null },
      ),
    'domain.list': () => ({ domains: domain ? [domain] : [], sequence }),
    'image.list': () => HELLO.images,
  }
  socket.on('message', (content: Buffer) => {
    const message = JSON.parse(content.toString()) as Request
    if (message.type !== 'request') return
    asked.push(message)
    const answer = answers[message.method]
    if (answer) say({ type: 'reply', id: message.id, result: answer(message.params) })
    else say({ type: 'fault', id: message.id, fault: { code: 'unsupported', message: `agent: no method ${message.method}` } })
  })
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  say({ type: 'hello', hello: HELLO })
  return { asked, leave: () => socket.terminate() }
}

test('an agent of a version before goes on with what it can, and what it cannot is refused in words', async () => {
  await using cloud = await testCloud()
  const { client, agents, server } = cloud
  const agent = await olderAgent(server.url, await cloud.token('h1'))
  try {
    await until('it is joined', () => agents.get('h1') !== null)
    const params = { instance: 'web' }
    const { operation, instance } = await client.call('instance.create', { query, body: { name: 'web' } })
    assert.deepEqual([operation.state, instance?.state.kind, instance?.snapshotCount], ['done', 'running', 0])
    const spec = agent.asked.find(({ method }) => method === 'domain.define')?.params['spec'] as Record<string, unknown>
    for (const added of ['autostart', 'autostartOrder', 'onCrash']) assert.ok(!(added in spec), `${added} as it is by itself`)
    for (const verb of ['pause', 'unpause', 'poweroff', 'start'] as const)
      assert.equal((await client.call(`instance.${verb}`, { params, query })).operation.state, 'done', verb)

    const refused = [
      await client.call('instance.set', { params, query, body: { onCrash: 'reboot' } }),
      await client.call('instance.rename', { params, query, body: { name: 'shop' } }),
      await client.call('instance.snapshot', { params, query, body: { name: 'monday' } }),
      await client.call('instance.attach', { params, query, body: { kind: 'disk', device: 'data', sizeBytes: 1024 ** 3 } }),
    ]
    for (const { operation: each, instance: left } of refused) {
      assert.deepEqual([each.state, each.fault?.code], ['undone', 'unsupported'], each.name)
      assert.deepEqual([left?.name, left?.state.kind, left?.operation], ['web', 'running', null], each.name)
    }
    const unsupported = (error: unknown): boolean => error instanceof Fault && error.code === 'unsupported'
    await assert.rejects(client.call('instance.devices', { params }), unsupported)
    await assert.rejects(client.call('instance.screenshot', { params }), unsupported)
    assert.equal((await client.call('host.get', { params: { host: 'h1' } })).volumeServer, null)
    const scraped = await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${server.local.token}` } })
    assert.match(await scraped.text(), /^typevisor_host_scrape_success\{host="h1"\} 0$/m)
    // For as long as it is connected nothing of this made the server let go of it.
    assert.equal((await client.call('instance.poweroff', { params, query })).operation.state, 'done')
  } finally {
    agent.leave()
  }
})
