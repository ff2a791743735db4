/** Hosts that are gone, for good or not: what is given up stays given up, whatever comes back. Real agent links, domains in memory. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, mib, type FaultCode } from '@typevisor/base'
import type { AgentPort } from '@typevisor/api/agent-wire'
import type { DomainId } from '@typevisor/model'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until, type TestCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const fails = (code: FaultCode, work: Promise<unknown>, words = /./) =>
  assert.rejects(work, (error: unknown) => error instanceof Fault && error.code === code && words.test(error.message))

const create = async ({ client }: TestCloud, name: string, host: string): Promise<DomainId> => {
  const { instance, operation } = await client.call('instance.create', {
    query: { wait: 20 },
    body: { name, host, memoryBytes: mib(128) },
  })
  assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
  return instance?.id as DomainId
}
const names = async ({ client }: TestCloud) => (await client.call('instance.list')).items.map(({ name }) => name)
const destroy = ({ client }: TestCloud, instance: string, force: 'true' | 'false') =>
  client.call('instance.destroy', { params: { instance }, query: { wait: 20, force } })

test('an instance whose host is away is destroyed by force at once, and ended on the host when it comes back', async () => {
  await using cloud = await testCloud()
  const token = await cloud.token('far')
  const before = await cloud.start('far', token)
  const id = await create(cloud, 'web', 'far')
  const other = await create(cloud, 'kept', 'far')
  await before.leave()

  // What waits for the host says so, and is let go of.
  const waiting = await cloud.client.call('instance.pause', { params: { instance: 'web' } })
  assert.equal(waiting.operation.waitsFor, 'host far, which is not connected')
  assert.equal(waiting.operation.resourceName, 'web')
  await fails('busy', destroy(cloud, 'web', 'false'))
  const { operation, instance } = await destroy(cloud, 'web', 'true')
  assert.deepEqual([operation.state, instance], ['done', null])
  assert.deepEqual(await names(cloud), ['kept'])
  const paused = await cloud.client.call('operation.get', { params: { operation: waiting.operation.id }, query: { wait: 5 } })
  assert.deepEqual([paused.state, paused.fault?.code, paused.waitsFor], ['undone', 'aborted', null])

  const back = await cloud.start('far', token)
  assert.ok(back.toolstack.get(id) !== null, 'the host still has it')
  await until('it is ended on the host', () => back.toolstack.get(id) === null)
  assert.equal(back.toolstack.get(other)?.state.kind, 'running')
  assert.deepEqual(await names(cloud), ['kept'])
  await until('its clean-up is done', async () => {
    const { items } = await cloud.client.call('operation.list', { query: { search: 'clean-up web' } })
    return items.length === 1 && items[0]?.state === 'done'
  })
})

test('an instance on a connected host is destroyed there by force, whatever holds it', async () => {
  await using cloud = await testCloud()
  const host = await cloud.start('near', await cloud.token('near'))
  const id = await create(cloud, 'web', 'near')
  const { operation } = await destroy(cloud, 'web', 'true')
  assert.equal(operation.state, 'done')
  assert.equal(host.toolstack.get(id), null)
})

test('what a connected host refuses to destroy by force is gone from the list at once, and ended there afterwards', async () => {
  await using cloud = await testCloud()
  const host = await cloud.start('near', await cloud.token('near'))
  const id = await create(cloud, 'web', 'near')
  const agent = cloud.agents.get('near')
  assert.ok(agent)
  let refusals = 0
  const refusing: AgentPort = {
    get hello() {
      return agent.hello
    },
    call: (method, params, options) => {
      if (method !== 'domain.carry-out' || (refusals += 1) > 1) return agent.call(method, params, options)
      return Promise.reject(new Fault('failed', 'not now'))
    },
    events: (after, options) => agent.events(after, options),
    acknowledge: (sequence) => agent.acknowledge(sequence),
    openStream: (kind, domain, options) => agent.openStream(kind, domain, options),
  }
  cloud.agents.attach('near', refusing, { takenIn: async () => {} })
  const { operation } = await destroy(cloud, 'web', 'true')
  assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
  assert.deepEqual(await names(cloud), [])
  await until('it is ended on the host', () => host.toolstack.get(id) === null)
  cloud.agents.detach('near', refusing)
})

test('a host is removed when it is away and empty, or by force with what is on it; its token ends', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const remove = (host: string, force: 'true' | 'false' = 'false') =>
    client.call('host.delete', { params: { host }, query: { force } })
  await fails('not_found', remove('nobody'))
  const token = await cloud.token('far')
  const before = await cloud.start('far', token)
  await fails('conflict', remove('far', 'true'), /connected/)
  const id = await create(cloud, 'web', 'far')
  await before.leave()
  await fails('conflict', remove('far'), /web/)
  const waiting = await client.call('instance.pause', { params: { instance: 'web' } })
  await remove('far', 'true')
  assert.deepEqual(await names(cloud), [])
  assert.deepEqual((await client.call('host.list')).items, [])
  const ended = await client.call('operation.get', { params: { operation: waiting.operation.id }, query: { wait: 5 } })
  assert.equal(ended.state, 'undone')

  const refused = await cloud.start('far', token, { joins: false })
  assert.match(await refused.refused, /401/)
  assert.equal(cloud.agents.get('far'), null)
  await refused.leave()

  // Under a new token the name is a host again; what it kept of before is ended.
  const again = await cloud.start('far', await cloud.token('far'))
  await until('what was given up is ended on the host', () => again.toolstack.get(id) === null)
  assert.deepEqual(await names(cloud), [])
})

test('a host without instances is removed without force, and with it what was known of its images', async () => {
  await using cloud = await testCloud()
  const host = await cloud.start('far', await cloud.token('far'))
  await host.leave()
  await cloud.client.call('host.delete', { params: { host: 'far' } })
  assert.deepEqual((await cloud.client.call('image.list')).items, [])
  const [entry] = (await cloud.client.call('audit.list', { query: { search: 'host.delete' } })).items
  assert.deepEqual([entry?.resourceName, entry?.outcome], ['far', 'ok'])
})
