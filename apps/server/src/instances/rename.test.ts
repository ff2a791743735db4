/** Renaming through the API, on a real database and a host at the other end of a WebSocket. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, type FaultCode } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const isFault = (code: FaultCode) => (error: unknown) => error instanceof Fault && error.code === code

test('an instance has another name at once, on its host too, and the old one is free', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const host = await cloud.start('h1', await cloud.token('h1'))
  const { instance } = await client.call('instance.create', { query, body: { name: 'web' } })
  const renamed = await client.call('instance.rename', { params: { instance: 'web' }, query, body: { name: 'shop' } })
  assert.deepEqual([renamed.operation.state, renamed.instance?.name, renamed.instance?.id], ['done', 'shop', instance?.id])
  assert.deepEqual(
    host.toolstack.list().map(({ name, spec, state }) => [name, spec.name, state.kind]),
    [['shop', 'shop', 'running']],
  )
  await assert.rejects(client.call('instance.get', { params: { instance: 'web' } }), isFault('not_found'))
  await client.call('instance.create', { query, body: { name: 'web' } })
  await assert.rejects(
    client.call('instance.rename', { params: { instance: 'web' }, query, body: { name: 'shop' } }),
    isFault('conflict'),
  )
  // To the name that it has: nothing is another.
  const same = await client.call('instance.rename', { params: { instance: 'shop' }, query, body: { name: 'shop' } })
  assert.equal(same.operation.state, 'done')
  const { items } = await client.call('event.list', { query: { resource: instance?.id ?? '' } })
  assert.ok(items.some(({ data }) => data['verb'] === 'rename' && data['to'] === 'shop' && data['outcome'] === 'done'))
})

test('what its host does not do is taken back: the name is the one of before', async () => {
  await using cloud = await testCloud()
  const { client, agents } = cloud
  await cloud.start('h1', await cloud.token('h1'))
  await client.call('instance.create', { query, body: { name: 'web' } })
  const agent = agents.get('h1')
  assert.ok(agent)
  const call = agent.call.bind(agent)
  const older: typeof call = (method, ...rest) =>
    method === 'domain.rename' ? Promise.reject(new Fault('unsupported', `agent: no method ${method}`)) : call(method, ...rest)
  Object.assign(agent, { call: older })
  const { operation } = await client.call('instance.rename', { params: { instance: 'web' }, query, body: { name: 'shop' } })
  assert.deepEqual([operation.state, operation.fault?.code], ['undone', 'unsupported'])
  assert.equal((await client.call('instance.get', { params: { instance: 'web' } })).state.kind, 'running')
})
