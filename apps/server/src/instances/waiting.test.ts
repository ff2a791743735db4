/** An instance whose disk is full, through the API: it can be paused, and is then nobody's but whoever unpauses it. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault } from '@typevisor/base'
import type { DomainId } from '@typevisor/model'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until } from '../testing/cloud.ts'

after(stopTestPostgres)

test('an instance that waits for room is paused by who asks, stays so when there is room, and runs when it is let', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const host = await cloud.start('h1', await cloud.token('h1'))
  const query = { wait: 20 }
  const params = { instance: 'web-1' }
  const { instance } = await client.call('instance.create', { query, body: { name: 'web-1' } })
  const id = instance?.id as DomainId // it was just made
  const state = async () => (await client.call('instance.get', { params })).state
  host.hypervisor.guest.fillDisk(id)
  await until('it waits', async () => (await state()).cause === 'disk-full')
  const { operation } = await client.call('instance.pause', { params, query })
  assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
  const { kind, cause } = await state()
  assert.deepEqual([kind, cause], ['paused', 'requested'])
  await assert.rejects(
    client.call('instance.pause', { params, query }),
    (error) => error instanceof Fault && error.code === 'conflict',
  )
  host.hypervisor.guest.makeRoom(id)
  const told = async () => (await client.call('event.list', { query: { resource: id, search: 'instance.state' } })).items
  await until('it is told', async () => (await told())[0]?.data['from'] === 'paused')
  const [newest] = await told()
  assert.deepEqual([newest?.data['to'], newest?.data['cause']], ['paused', 'requested'])
  assert.equal((await state()).kind, 'paused')
  assert.equal((await client.call('instance.unpause', { params, query })).operation.state, 'done')
  assert.equal((await state()).kind, 'running')
})
