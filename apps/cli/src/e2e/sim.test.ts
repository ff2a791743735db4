import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { Fault, type FaultCode } from '@typevisor/base'
import type { PlatformEvent } from '@typevisor/api/client'
import { openPlatform, type TestPlatform } from './harness.ts'

const isFault = (code: FaultCode, path?: string) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  if (path !== undefined)
    assert.ok(
      error.details.some((detail) => detail.path.includes(path)),
      `${JSON.stringify(error.details)} names ${path}`,
    )
  return true
}

describe('the platform over domains in memory', () => {
  let world: TestPlatform
  before(async () => {
    world = await openPlatform()
  })
  after(() => world[Symbol.asyncDispose]())

  const create = (name: string, body: object = {}) =>
    world.client.call('instance.create', { query: { wait: 20 }, body: { name, ...body } })
  const verb = (
    name:
      | 'instance.pause'
      | 'instance.save'
      | 'instance.destroy'
      | 'instance.shutdown'
      | 'instance.start'
      | 'instance.unpause'
      | 'instance.restore'
      | 'instance.reboot'
      | 'instance.poweroff',
    instance: string,
  ) => world.client.call(name, { params: { instance }, query: { wait: 20 } })

  test('an instance is created, runs, and is found by name and by id', async () => {
    const { operation, instance } = await create('first')
    assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    assert.equal(instance?.state.kind, 'running')
    assert.equal(instance.operation, null)
    const byName = await world.client.call('instance.get', { params: { instance: 'first' } })
    const byId = await world.client.call('instance.get', { params: { instance: instance.id } })
    assert.deepEqual(byName, byId)
    assert.equal(byName.host, 'local')
    assert.equal(byName.hostConnected, true)
  })

  test('each verb leads where the table says', async () => {
    await create('verbs')
    const steps = [
      ['instance.pause', 'paused'],
      ['instance.unpause', 'running'],
      ['instance.save', 'saved'],
      ['instance.restore', 'running'],
      ['instance.reboot', 'running'],
      ['instance.shutdown', 'stopped'],
      ['instance.start', 'running'],
      ['instance.poweroff', 'stopped'],
    ] as const
    for (const [name, kind] of steps) {
      const { operation, instance } = await verb(name, 'verbs')
      assert.equal(operation.state, 'done', `${name}: ${JSON.stringify(operation.fault)}`)
      assert.equal(instance?.state.kind, kind, name)
    }
    const { instance } = await verb('instance.destroy', 'verbs')
    assert.equal(instance, null)
    await assert.rejects(world.client.call('instance.get', { params: { instance: 'verbs' } }), isFault('not_found'))
  })

  test('a verb from a state in which the table does not allow it is a conflict that names both', async () => {
    await create('wrong')
    await assert.rejects(
      verb('instance.start', 'wrong'),
      (error) => isFault('conflict')(error) && /running.*stopped/.test((error as Fault).message),
    )
  })

  test('a name that is taken is a conflict, and free again after destroy', async () => {
    await create('taken')
    await assert.rejects(create('taken'), isFault('conflict', 'name'))
    await verb('instance.destroy', 'taken')
    assert.equal((await create('taken')).instance?.state.kind, 'running')
  })

  test('an image that no host has is refused before there is a row, naming the field', async () => {
    await assert.rejects(create('no-image', { image: 'nothing' }), isFault('not_found', 'image'))
    await assert.rejects(world.client.call('instance.get', { params: { instance: 'no-image' } }), isFault('not_found'))
  })

  test('an instance larger than the host is refused as exhausted', async () => {
    const { operation } = await create('huge', { memoryBytes: 16 * 1024 ** 4 })
    const second = await create('huge-2', { memoryBytes: 16 * 1024 ** 4 })
    const rest = await Promise.allSettled([3, 4, 5].map((n) => create(`huge-${n}`, { memoryBytes: 16 * 1024 ** 4 })))
    assert.equal(operation.state, 'done')
    assert.equal(second.operation.state, 'done')
    assert.ok(rest.some((each) => each.status === 'rejected' && isFault('exhausted', 'memoryBytes')(each.reason)))
    for (const { name } of (await world.client.call('instance.list', { query: { search: 'huge' } })).items)
      await verb('instance.destroy', name)
  })

  test('exec, addresses, statistics and the console log reach the guest', async () => {
    await create('reach')
    const reply = await world.client.call('instance.exec', {
      params: { instance: 'reach' },
      body: { argv: ['/bin/echo', 'hello'] },
    })
    assert.deepEqual([reply.exitCode, Buffer.from(reply.stdoutBase64, 'base64').toString()], [0, 'hello\n'])
    const { items } = await world.client.call('instance.addresses', { params: { instance: 'reach' } })
    assert.equal(items[0]?.addresses[0]?.address, '10.0.2.15')
    assert.ok(((await world.client.call('instance.statistics', { params: { instance: 'reach' } })).cpuTimeNs ?? 0) > 0)
    const log = await world.client.call('instance.log', { params: { instance: 'reach' } })
    assert.match(Buffer.from(log.contentBase64, 'base64').toString(), /sim: ready/)
  })

  test('the list is searched, sorted and paged by the server', async () => {
    for (const n of [1, 2, 3, 4, 5]) await create(`page-${n}`, { labels: { tier: n % 2 === 0 ? 'even' : 'odd' }, start: false })
    const first = await world.client.call('instance.list', { query: { search: 'page', limit: 2, sort: 'name', order: 'desc' } })
    assert.deepEqual([first.items.map((item) => item.name), first.total], [['page-5', 'page-4'], 5])
    const second = await world.client.call('instance.list', {
      query: { search: 'page', limit: 2, sort: 'name', order: 'desc', cursor: first.nextCursor ?? '' },
    })
    assert.deepEqual(
      second.items.map((item) => item.name),
      ['page-3', 'page-2'],
    )
    const odd = await world.client.call('instance.list', { query: { search: 'tier=odd' } })
    assert.deepEqual(
      odd.items.map((item) => item.name),
      ['page-1', 'page-3', 'page-5'],
    )
    assert.ok(
      (await world.client.call('instance.list', { query: { state: 'stopped' } })).items.every(
        (item) => item.state.kind === 'stopped',
      ),
    )
  })

  test('every change comes as an event, in order', async () => {
    const seen: PlatformEvent[] = []
    const stop = new AbortController()
    const opened = Promise.withResolvers<void>()
    const reading = (async () => {
      for await (const event of world.client.events({
        signal: stop.signal,
        onState: (state) => state.kind === 'open' && opened.resolve(),
      })) {
        seen.push(event)
        if (event.name === 'told' && event.kind === 'instance.destroyed') return
      }
    })()
    try {
      await opened.promise
      await create('told')
      await verb('instance.pause', 'told')
      await verb('instance.destroy', 'told')
      await reading
    } finally {
      stop.abort()
    }
    const states = seen
      .filter((event) => event.name === 'told' && event.kind === 'instance.state')
      .map((event) => event.data['to'])
    assert.deepEqual(states, ['creating', 'stopped', 'running', 'paused', null])
  })

  test('operations are listed and one can be asked for', async () => {
    const { operation } = await create('listed')
    const { items } = await world.client.call('operation.list', { query: { limit: 5 } })
    assert.ok(items.some((item) => item.id === operation.id))
    assert.equal((await world.client.call('operation.get', { params: { operation: operation.id } })).state, 'done')
    await assert.rejects(
      world.client.call('operation.get', { params: { operation: '00000000-0000-7000-8000-000000000000' } }),
      isFault('not_found'),
    )
  })
})
