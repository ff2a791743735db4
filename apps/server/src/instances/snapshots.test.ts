/** Snapshots through the API, on a real database and a host at the other end of a WebSocket. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, mib, type FaultCode } from '@typevisor/base'
import type { DomainId, SnapshotId, SnapshotName } from '@typevisor/model'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const isFault = (code: FaultCode, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  assert.match(error.message, words)
  return true
}

test('a snapshot is listed, also while its host is away, goes back to what it holds, is cloned and deleted', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const token = await cloud.token('h1')
  const host = await cloud.start('h1', token)
  const forwards = [{ hostPort: 2222, guestPort: 22 }]
  await client.call('instance.create', { query, body: { name: 'web', memoryBytes: mib(128), forwards, labels: { tier: 'web' } } })
  const count = async (instance = 'web') => {
    const { stdoutBase64 } = await client.call('instance.exec', { params: { instance }, body: { argv: ['count'] } })
    return atob(stdoutBase64).trim()
  }
  assert.equal(await count(), '1')
  const params = { instance: 'web', snapshot: 'good' }
  const taken = await client.call('instance.snapshot', { params, query, body: { name: 'good', memory: true } })
  assert.deepEqual(
    [taken.operation.state, taken.operation.resourceName, taken.instance?.state.kind, taken.instance?.snapshotCount],
    ['done', 'web', 'running', 1],
  )
  await client.call('instance.snapshot', { params, query, body: { name: 'disks' } })
  assert.equal(await count(), '2')

  await host.leave()
  const { items, total } = await client.call('instance.snapshots', { params })
  assert.deepEqual(
    items.map(({ name, state, memoryBytes, quiesced }) => [name, state, memoryBytes, quiesced]),
    [
      ['good', 'running', 1024, true],
      ['disks', 'running', null, true],
    ],
  )
  assert.equal(total, 2)
  await cloud.start('h1', token)

  const reverted = await client.call('instance.revert', { params, query, body: {} })
  assert.deepEqual([reverted.operation.state, reverted.instance?.state.kind], ['done', 'running'])
  assert.equal(await count(), '2', 'it counts from the snapshot on')
  const off = await client.call('instance.revert', { params: { ...params, snapshot: 'disks' }, query, body: {} })
  assert.equal(off.instance?.state.kind, 'stopped')

  const cloned = await client.call('instance.clone', { params, query, body: { name: 'web-2' } })
  assert.deepEqual(
    [cloned.operation.name, cloned.operation.state, cloned.instance?.state.kind, cloned.instance?.host],
    ['instance.clone', 'done', 'running', 'h1'],
  )
  assert.deepEqual([cloned.instance?.labels, cloned.instance?.snapshotCount], [{ tier: 'web' }, 0])
  assert.notEqual(cloned.instance?.forwards[0]?.hostPort, 2222, 'the port of the first is taken')
  assert.equal(await count('web-2'), '1', 'it has booted')

  const deleted = await client.call('instance.snapshot-delete', { params, query })
  assert.equal(deleted.instance?.snapshotCount, 1)
  const events = await client.call('event.list', { query: { resource: reverted.instance?.id ?? '' } })
  const verbs = events.items
    .filter(({ kind }) => kind === 'instance.operation')
    .map(({ data }) => [data['verb'], data['snapshot']])
  assert.deepEqual(verbs.toReversed(), [
    ['snapshot', 'good'],
    ['snapshot', 'disks'],
    ['revert', 'good'],
    ['revert', 'disks'],
    ['snapshot-delete', 'good'],
  ])
  await client.call('instance.destroy', { params, query })
  assert.equal((await client.call('instance.get', { params: { instance: 'web-2' } })).state.kind, 'running')
})

test('what cannot be is refused at once, naming what is wrong', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'))
  await client.call('instance.create', { query, body: { name: 'web', memoryBytes: mib(128) } })
  const params = { instance: 'web', snapshot: 'one' }
  const snapshot = (name: string) => client.call('instance.snapshot', { params, query, body: { name } })
  await snapshot('one')
  await assert.rejects(snapshot('one'), (error) => {
    assert.ok(isFault('conflict', /has a snapshot one already/)(error) && error instanceof Fault)
    return error.details[0]?.path === 'body.name'
  })
  const none = { ...params, snapshot: 'none' }
  await assert.rejects(client.call('instance.revert', { params: none, body: {} }), isFault('not_found', /none of web/))
  await assert.rejects(client.call('instance.snapshot-delete', { params: none }), isFault('not_found', /none of web/))
  await assert.rejects(client.call('instance.clone', { params: none, body: { name: 'b' } }), isFault('not_found', /none of web/))
  await assert.rejects(client.call('instance.clone', { params, body: { name: 'web' } }), isFault('conflict', /web exists/))
  await client.call('instance.save', { params, query })
  await assert.rejects(snapshot('two'), isFault('conflict', /it is saved, want stopped or running or paused/))
})

test('a host whose volumes have no snapshots refuses, and holds nothing by it', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'), { hasSnapshots: false })
  await client.call('instance.create', { query, body: { name: 'web', memoryBytes: mib(128) } })
  const { operation, instance } = await client.call('instance.snapshot', {
    params: { instance: 'web' },
    query,
    body: { name: 'one' },
  })
  assert.deepEqual([operation.state, operation.fault?.code, instance?.operation], ['undone', 'unsupported', null])
  assert.equal((await client.call('instance.destroy', { params: { instance: 'web' }, query })).operation.state, 'done')
})

test('what a host has done while nobody listened is known when it comes back', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const token = await cloud.token('h1')
  const host = await cloud.start('h1', token)
  const { instance } = await client.call('instance.create', { query, body: { name: 'web', memoryBytes: mib(128) } })
  const id = instance?.id as DomainId
  const request = {
    snapshot: '0192f000-0000-7000-8000-00000000cccc' as SnapshotId,
    name: 'alone' as SnapshotName,
    memory: false,
    quiesce: 'no',
    timeoutMs: 1000,
  } as const
  await host.toolstack.snapshot(id, request, { commandId: 'alone' })
  assert.equal((await client.call('instance.get', { params: { instance: 'web' } })).snapshotCount, 0)
  await host.leave()
  await cloud.start('h1', token)
  await until(
    'the snapshot is known',
    async () => (await client.call('instance.snapshots', { params: { instance: 'web' } })).items[0]?.name === 'alone',
  )
})

test('a copy of one that runs is made with one command: nothing of the snapshot is left, and the source is held no longer than for that', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  const host = await cloud.start('h1', await cloud.token('h1'))
  const params = { instance: 'web' }
  await client.call('instance.create', { query, body: { name: 'web', forwards: [{ guestPort: 22, hostPort: 2222 }] } })
  const copied = await client.call('instance.copy', { params, query, body: { name: 'web-2', quiesce: 'must' } })
  assert.deepEqual(
    [copied.operation.name, copied.operation.state, copied.instance?.name, copied.instance?.state.kind],
    ['instance.copy', 'done', 'web-2', 'running'],
    JSON.stringify(copied.operation.fault),
  )
  const [one, other] = ['web', 'web-2'].map((name) => host.toolstack.list().find((domain) => domain.name === name))
  assert.deepEqual([one?.snapshots, one?.state.kind], [[], 'running'])
  const macs = [one, other].map((domain) =>
    domain?.hardware.devices.flatMap((device) => (device.kind === 'nic' ? [device.mac] : [])),
  )
  assert.notDeepEqual(macs[0], macs[1])
  assert.notEqual(other?.forwards[0]?.hostPort, 2222)
  const source = await client.call('instance.get', { params })
  assert.deepEqual([source.operation, source.snapshotCount], [null, 0])
  await client.call('instance.save', { params, query })
  await assert.rejects(client.call('instance.copy', { params, query, body: { name: 'web-4' } }), isFault('conflict', /saved/))
})

test('a copy that cannot be made leaves its source as it was, and free', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'), { hasSnapshots: false })
  const params = { instance: 'web' }
  await client.call('instance.create', { query, body: { name: 'web' } })
  const failed = await client.call('instance.copy', { params, query, body: { name: 'web-2' } })
  assert.deepEqual(
    [failed.operation.state, failed.operation.fault?.code, failed.instance?.state.kind],
    ['undone', 'unsupported', 'failed'],
  )
  const source = await client.call('instance.get', { params })
  assert.deepEqual([source.operation, source.snapshotCount, source.state.kind], [null, 0, 'running'])
})
