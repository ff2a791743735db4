/** Where a core dump lies, told by who has it to who asks. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const params = { instance: 'web' }

test('the newest core dump is told with its instance: one that was asked for, and one of a policy for crashes', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const host = await cloud.start('h1', await cloud.token('h1'))
  const made = await client.call('instance.create', { query, body: { name: 'web' } })
  assert.equal(made.instance?.dump, null)
  const { instance } = await client.call('instance.dump', { params, query })
  const kept = host.toolstack.list()[0]
  assert.deepEqual(instance?.dump, kept?.dump)
  assert.deepEqual([instance?.dump?.format, instance?.dump?.sizeBytes], ['elf', 1024])
  await client.call('instance.set', { params, query, body: { onCrash: 'dump-poweroff' } })
  assert.ok(kept)
  host.hypervisor.guest.panic(kept.id)
  await until('it is off', async () => (await client.call('instance.get', { params })).state.kind === 'stopped')
  const { dump } = await client.call('instance.get', { params })
  assert.notEqual(dump?.path, instance?.dump?.path)
  assert.deepEqual(dump, host.toolstack.list()[0]?.dump)
  const { items } = await client.call('event.list', { query: { resource: kept.id } })
  assert.ok(items.some(({ data }) => String(data['detail']).includes(dump?.path ?? '?')))
})
