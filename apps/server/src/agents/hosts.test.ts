/** The view of a host: its volume server as its agent sees it, and what happened to it as events. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import type { VolumeServerStatus } from '@typevisor/api/agent-wire'
import { epochMillis, Fault } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until } from '../testing/cloud.ts'

after(stopTestPostgres)

const SERVING: VolumeServerStatus = {
  state: 'serving',
  since: epochMillis(2),
  cause: 'started',
  detail: null,
  version: '7',
  pid: 42,
  startedAt: epochMillis(1),
  attachedCount: 3,
  space: { usedBytes: 90, availableBytes: 10, capacityBytes: 100, warningPercent: 90, limitedBy: 'host' },
}

test('a host shows its volume server, that it is away when it is, and nothing of it where there is none or nobody to ask', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  let status = SERVING
  const host = await cloud.start('h1', await cloud.token('h1'), { volumeServer: () => status })
  await cloud.start('h2', await cloud.token('h2'))
  const shown = async (name: string) => (await client.call('host.get', { params: { host: name } })).volumeServer
  const { pid: _pid, ...wanted } = SERVING
  assert.deepEqual(await shown('h1'), wanted)
  assert.deepEqual(
    (await client.call('host.list')).items.map(({ name, volumeServer }) => [name, volumeServer]),
    [
      ['h1', wanted],
      ['h2', null],
    ],
  )
  status = { ...SERVING, state: 'away', cause: 'hung', detail: 'killed', attachedCount: 0, space: null }
  const away = await shown('h1')
  assert.deepEqual([away?.state, away?.cause, away?.detail, away?.version, away?.space], ['away', 'hung', 'killed', '7', null])
  await host.leave()
  assert.equal(await shown('h1'), null)
  await assert.rejects(shown('h3'), (error) => error instanceof Fault && error.code === 'not_found')
})

test('a host that does not say how its volume server is keeps no list waiting', async () => {
  await using cloud = await testCloud()
  const silent = () => new Promise<never>(() => {}) as unknown as VolumeServerStatus // an answer that never comes
  await cloud.start('h1', await cloud.token('h1'), { volumeServer: silent })
  assert.equal((await cloud.client.call('host.list')).items[0]?.volumeServer, null)
})

test('what happened to a part of a host is an event of it, also what it noted while nobody listened', async () => {
  await using cloud = await testCloud()
  const token = await cloud.token('h1')
  const about = async () => {
    const { items } = await cloud.client.call('event.list', { query: { resource: 'h1' } })
    return items.toReversed().filter(({ kind }) => kind !== 'host.connected')
  }
  const first = await cloud.start('h1', token)
  const facts = { pid: 42, version: '7' }
  await first.toolstack.notePart({
    part: 'volume-server',
    to: 'serving',
    cause: 'started',
    detail: null,
    reconstructed: false,
    facts,
  })
  await until('it is told', async () => (await about()).length === 1)
  await first.leave()
  const alone = await cloud.start('h1', 'no token', { joins: false })
  await alone.toolstack.notePart({
    part: 'volume-server',
    to: 'away',
    cause: 'hung',
    detail: 'killed',
    reconstructed: false,
    facts,
  })
  await alone.toolstack.notePart({
    part: 'space',
    to: 'over 90 %',
    cause: 'host',
    detail: null,
    reconstructed: false,
    facts: { usedBytes: 9 },
  })
  await alone.leave()
  assert.equal((await about()).length, 1)
  await cloud.start('h1', token)
  await until('all is told', async () => (await about()).length === 3)
  assert.deepEqual(
    (await about()).map(({ kind, name, data }) => [kind, name, data['from'], data['to'], data['cause'], data['pid']]),
    [
      ['host.volume-server', 'h1', null, 'serving', 'started', 42],
      ['host.volume-server', 'h1', 'serving', 'away', 'hung', 42],
      ['host.space', 'h1', null, 'over 90 %', 'host', undefined],
    ],
  )
})
