/** /metrics of a whole control plane: a real database, and hosts at the other end of WebSockets. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { promtoolSays } from '@typevisor/agent/testing'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until, type TestCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const GIB = 1024 ** 3

const tokenOf = async (cloud: TestCloud, scope: string): Promise<string> =>
  (await cloud.client.call('token.create', { body: { name: `t-${scope.replaceAll(/[^a-z]+/g, '-')}x`, scopes: [scope] } })).secret

const asked = (cloud: TestCloud, token?: string): Promise<Response> =>
  fetch(`${cloud.server.url}/metrics`, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } })

async function scrape(cloud: TestCloud): Promise<(series: string) => number | undefined> {
  const response = await asked(cloud, cloud.server.local.token)
  const text = await response.text()
  assert.equal(response.status, 200, text)
  const values = new Map(
    text
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('#'))
      .map((line): [string, number] => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  )
  return (series) => values.get(series)
}

test('promtool finds nothing to say against what a cloud with hosts, guests and a store tells', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'), {
    volumeServer: () => ({
      state: 'serving',
      since: Date.now() as never, // a time as a clock gives it
      cause: 'started',
      detail: null,
      version: '0',
      pid: 1,
      startedAt: null,
      attachedCount: 2,
      space: {
        usedBytes: 3 * GIB,
        availableBytes: 5 * GIB,
        capacityBytes: 8 * GIB,
        warningPercent: null,
        limitedBy: 'store',
      },
    }),
  })
  await cloud.start('h2', await cloud.token('h2'))
  for (const name of ['web-1', 'web-2']) await client.call('instance.create', { query, body: { name, host: 'h1' } })
  await client.call('instance.create', { query, body: { name: 'off', host: 'h2', start: false } })
  await client.call('instance.pause', { params: { instance: 'web-2' }, query })
  const response = await asked(cloud, cloud.server.local.token)
  assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  assert.equal(await promtoolSays(await response.text()), '')

  // Counted from the stream of events, which comes by itself.
  await until('the third creation was told', async () => {
    const seen = await scrape(cloud)
    return seen('typevisor_events_total{kind="instance.created"}') === 3
  })
  const value = await scrape(cloud)
  const found = (series: readonly string[]) => Object.fromEntries(series.map((each) => [each, value(each)]))
  const expected = {
    'typevisor_instances{state="running"}': 1,
    'typevisor_instances{state="paused"}': 1,
    'typevisor_instances{state="stopped"}': 1,
    'typevisor_instances{state="crashed"}': 0,
    'typevisor_saga_queue{state="running"}': 0,
    typevisor_saga_oldest_age_seconds: 0,
    'typevisor_operations_total{operation="instance.create",outcome="done"}': 3,
    'typevisor_operations_total{operation="instance.pause",outcome="done"}': 1,
    'typevisor_http_request_duration_seconds_count{operation="instance.create",code="202"}': 3,
    'typevisor_http_request_duration_seconds_bucket{operation="instance.create",code="202",le="+Inf"}': 3,
    'typevisor_host_connected{host="h1"}': 1,
    'typevisor_host_scrape_success{host="h2"}': 1,
    'typevisor_host_cpus{host="h1"}': 1,
    'typevisor_volume_server_up{host="h1"}': 1,
    'typevisor_volume_server_up{host="h2"}': undefined,
    'typevisor_volume_store_used_bytes{host="h1"}': 3 * GIB,
    'typevisor_volume_store_capacity_bytes{host="h1"}': 8 * GIB,
    'typevisor_host_domains{host="h1",state="running"}': 1,
    'typevisor_host_domains{host="h2",state="stopped"}': 1,
    'typevisor_instance_disk_read_bytes_total{host="h1",instance_name="web-1",disk="root"}': 0,
    'typevisor_instance_cpu_seconds_total{host="h2",instance_name="off"}': undefined,
  }
  assert.deepEqual(found(Object.keys(expected)), expected)
  const seconds = value('typevisor_instance_cpu_seconds_total{host="h1",instance_name="web-1"}') ?? 0
  assert.ok(seconds > 0 && seconds < 1, `cpu time in seconds: ${seconds}`)
})

test('whoever has no token of the scope is kept out', async () => {
  await using cloud = await testCloud()
  assert.equal((await asked(cloud)).status, 401)
  assert.equal((await asked(cloud, 'tvt_nobody')).status, 401)
  assert.equal((await asked(cloud, await tokenOf(cloud, 'instance:write'))).status, 403)
  assert.equal((await asked(cloud, await tokenOf(cloud, 'metrics:read'))).status, 200)
  assert.equal((await asked(cloud, await tokenOf(cloud, '*:read'))).status, 200)
  const other = await fetch(`${cloud.server.url}/api/v1/instances`, {
    headers: { authorization: `Bearer ${await tokenOf(cloud, 'metrics:write')}` },
  })
  assert.equal(other.status, 403)
})

test('a host that cannot tell takes nothing from the others', async () => {
  await using cloud = await testCloud()
  const { client, agents } = cloud
  await cloud.start('h1', await cloud.token('h1'))
  const away = await cloud.start('h2', await cloud.token('h2'))
  await cloud.start('h3', await cloud.token('h3'))
  await client.call('instance.create', { query, body: { name: 'web-1', host: 'h1' } })
  await away.leave()
  const older = agents.get('h3')
  assert.ok(older)
  Object.assign(older, { call: () => Promise.reject(new Error('agent: no method host.statistics')) })
  const value = await scrape(cloud)
  assert.equal(value('typevisor_host_connected{host="h2"}'), 0)
  assert.equal(value('typevisor_host_scrape_success{host="h2"}'), undefined)
  assert.equal(value('typevisor_host_scrape_success{host="h3"}'), 0)
  assert.equal(value('typevisor_host_domains{host="h1",state="running"}'), 1)
})
