/** An instance that does not run moves between two hosts at the other end of WebSockets, through the API, on a real database. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, gib, type FaultCode } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const params = { instance: 'web' }
const isFault = (code: FaultCode) => (error: unknown) => error instanceof Fault && error.code === code

test('saved and stopped instances move, are there what they were, and nothing of them is left behind', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const [left, right] = [
    await cloud.start('left', await cloud.token('left')),
    await cloud.start('right', await cloud.token('right')),
  ]
  const body = { name: 'web', host: 'left', memoryBytes: gib(12) }
  const { instance } = await client.call('instance.create', { query, body })
  const id = instance?.id ?? ''
  const count = async () => {
    const { stdoutBase64 } = await client.call('instance.exec', { params, body: { argv: ['count'], timeoutMs: 1000 } })
    return Number(Buffer.from(stdoutBase64, 'base64').toString())
  }
  assert.equal(await count(), 1)
  await client.call('instance.save', { params, query })
  // What does not run wants no memory there: this one has most of it.
  const other = await client.call('instance.create', { query, body: { name: 'large', host: 'right', memoryBytes: gib(12) } })
  assert.equal(other.operation.state, 'done')
  const moved = await client.call('instance.migrate', { params, query, body: { host: 'right' } })
  assert.deepEqual(
    [moved.operation.state, moved.instance?.host, moved.instance?.state.kind],
    ['done', 'right', 'saved'],
    JSON.stringify(moved.operation.fault),
  )
  assert.deepEqual([left.toolstack.list(), left.hypervisor.saves.size], [[], 0])
  await assert.rejects(client.call('instance.restore', { params, query }), isFault('exhausted'))
  await client.call('instance.destroy', { params: { instance: 'large' }, query })
  const restored = await client.call('instance.restore', { params, query })
  assert.equal(restored.instance?.state.kind, 'running', JSON.stringify(restored.operation.fault))
  assert.equal(await count(), 2)
  await client.call('instance.poweroff', { params, query })
  const back = await client.call('instance.migrate', { params, query, body: { host: 'left' } })
  assert.deepEqual([back.operation.state, back.instance?.host, back.instance?.state.kind], ['done', 'left', 'stopped'])
  assert.deepEqual([right.toolstack.list(), right.hypervisor.saves.size], [[], 0])
  assert.equal((await client.call('instance.start', { params, query })).instance?.state.kind, 'running')
  const { items } = await client.call('event.list', { query: { resource: id } })
  const moves = items
    .filter(({ data }) => data['verb'] === 'migrate')
    .map(({ data }) => [data['from'], data['to'], data['outcome']])
  assert.deepEqual(moves, [
    ['right', 'left', 'done'],
    ['left', 'right', 'done'],
  ])
  left.hypervisor.guest.panic(left.toolstack.list()[0]?.id as never) // the only one
  while ((await client.call('instance.get', { params })).state.kind !== 'crashed') continue
  await assert.rejects(client.call('instance.migrate', { params, query, body: { host: 'right' } }), isFault('conflict'))
})

test('an agent of before refuses it, and it stays where it is', async () => {
  await using cloud = await testCloud()
  const { client, agents } = cloud
  for (const name of ['left', 'right']) await cloud.start(name, await cloud.token(name))
  await client.call('instance.create', { query, body: { name: 'web', host: 'left', start: false } })
  const agent = agents.get('right')
  assert.ok(agent)
  const call = agent.call.bind(agent)
  const older: typeof call = (method, ...rest) =>
    method === 'domain.receive-cold'
      ? Promise.reject(new Fault('unsupported', `agent: no method ${method}`))
      : call(method, ...rest)
  Object.assign(agent, { call: older })
  const { operation, instance } = await client.call('instance.migrate', { params, query, body: { host: 'right' } })
  assert.deepEqual([operation.state, operation.fault?.code, instance?.host], ['undone', 'unsupported', 'left'])
})
