/** Settings of instances through the API, on a real database and a host at the other end of a WebSocket. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { Body } from '@typevisor/api'
import { Fault, mib, type FaultCode } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

type SetBody = NonNullable<Body<'instance.set'>>
const query = { wait: 20 }
const params = { instance: 'web' }
const isFault = (code: FaultCode, path: string, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.deepEqual([error.code, error.details[0]?.path], [code, path], error.message)
  assert.match(error.message, words)
  return true
}
const GROWS = { vcpuCountMax: 4, memoryBytesMax: mib(512), memoryBytes: mib(128) }

test('what is set is known, also while its host is away, and kept over stop and start', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const token = await cloud.token('h1')
  const host = await cloud.start('h1', token)
  const { instance } = await client.call('instance.create', { query, body: { name: 'web', ...GROWS, onCrash: 'reboot' } })
  assert.deepEqual([instance?.vcpuCountMax, instance?.memoryBytesMax, instance?.hugePages], [4, mib(512), false])
  const set = await client.call('instance.set', {
    params,
    query,
    body: {
      vcpuCount: 3,
      memoryBytes: mib(256),
      memoryTargetBytes: mib(192),
      affinityHard: ['0-1,3', '2'],
      cpuWeight: 300,
      autostart: true,
    },
  })
  assert.deepEqual([set.operation.state, set.operation.name], ['done', 'instance.set'])
  const limits = [{ disk: 'root', bytesPerSecond: 1_000_000 }]
  await client.call('instance.set', { params, query, body: { diskLimits: limits, reset: ['cpuWeight'] } })
  await client.call('instance.poweroff', { params, query })
  await client.call('instance.start', { params, query })
  const { vcpus, balloonBytes } = await client.call('instance.statistics', { params })
  assert.deepEqual([vcpus.length, balloonBytes], [3, mib(192)])
  await host.leave()
  const { vcpuCount, memoryBytes, settings } = await client.call('instance.get', { params })
  assert.deepEqual([vcpuCount, memoryBytes], [3, mib(256)])
  assert.deepEqual(settings, {
    memoryTargetBytes: mib(192),
    cpuWeight: null,
    cpuCapPercent: null,
    affinityHard: ['0-1,3', '2'],
    affinitySoft: null,
    diskLimits: limits,
    autostart: true,
    autostartOrder: 100,
    onCrash: 'reboot',
    notes: [],
  })
  const { items } = await client.call('event.list', { query: { resource: instance?.id ?? '' } })
  const told = items.filter(({ data }) => data['verb'] === 'set').map(({ data }) => data['settings'])
  assert.deepEqual(told, [
    'cpuWeight, diskLimits',
    'vcpuCount, memoryBytes, memoryTargetBytes, cpuWeight, affinityHard, autostart',
  ])
})

test('what cannot be is refused at once, naming the field', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'))
  const create = (body: object) =>
    client.call('instance.create', { query, body: { name: 'web', memoryBytes: mib(128), ...body } })
  await assert.rejects(
    create({ vcpuCount: 2, vcpuCountMax: 1 }),
    isFault('invalid', 'body.vcpuCountMax', /at least vcpuCount, 2/),
  )
  await assert.rejects(create({ memoryBytesMax: mib(64) }), isFault('invalid', 'body.memoryBytesMax', /at least memoryBytes/))
  await create(GROWS)
  const set = (body: SetBody) => client.call('instance.set', { params, query, body })
  assert.equal((await set({})).operation.state, 'done', 'nothing is nothing')
  await assert.rejects(set({ vcpuCount: 5 }), isFault('invalid', 'body.vcpuCount', /want 1 to 4/))
  await assert.rejects(set({ memoryBytes: mib(64) }), isFault('invalid', 'body.memoryBytes', /134217728 to 536870912/))
  await assert.rejects(set({ memoryBytes: mib(129) }), isFault('invalid', 'body.memoryBytes', /multiple of 2097152/))
  await assert.rejects(
    set({ memoryTargetBytes: mib(256) }),
    isFault('invalid', 'body.memoryTargetBytes', /of the memory that it has/),
  )
  await assert.rejects(set({ cpuWeight: 0 }), isFault('invalid', 'body.cpuWeight', /./))
  await assert.rejects(set({ affinityHard: ['3-1'] }), isFault('invalid', 'body.affinityHard[0]', /want CPUs as 0-3,8/))
  const { operation } = await set({ diskLimits: [{ disk: 'tape', bytesPerSecond: 1 }] })
  assert.deepEqual([operation.state, operation.fault?.code], ['undone', 'invalid'])
  assert.match(operation.fault?.message ?? '', /tape, want a disk of it: root, seed/)
  await client.call('instance.save', { params, query })
  await assert.rejects(set({ cpuWeight: 50 }), (error: Error) =>
    /it is saved, want stopped or running or paused/.test(error.message),
  )
})

test('more memory is set aside on the host when it is asked for, and given back when it is not taken', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'))
  const { items } = await client.call('host.list', {})
  const all = items[0]?.memoryBytes ?? 0
  const body = { name: 'web', memoryBytes: mib(128), memoryBytesMax: all + mib(1024) }
  await client.call('instance.create', { query, body })
  const set = (memoryBytes: number, more = {}) => client.call('instance.set', { params, query, body: { memoryBytes, ...more } })
  await assert.rejects(set(all + mib(2)), (error) => error instanceof Fault && error.code === 'exhausted')
  // The host refuses it: the disk is not there.
  const { operation, instance } = await set(mib(256), { diskLimits: [{ disk: 'tape', bytesPerSecond: 1 }] })
  assert.deepEqual([operation.state, instance?.memoryBytes, instance?.operation], ['undone', mib(128), null])
  assert.equal((await set(mib(256))).instance?.memoryBytes, mib(256))
  await client.call('instance.create', { query, body: { name: 'other', memoryBytes: mib(128) } })
  await assert.rejects(set(all - mib(64)), (error) => error instanceof Fault && error.code === 'exhausted')
})
