/** An agent's own /metrics, over sim domains. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault, gib, mib } from '@typevisor/base'
import { SIM_IMAGE } from '@typevisor/image'
import type { DomainId, DomainName, DomainSpec } from '@typevisor/model'
import { consoleLog, realClock, realRng, uuidv7Ids } from '@typevisor/runtime-node'
import { openHost } from '../host.ts'
import { serveMetrics } from './listener.ts'
import { promtoolSays } from './promtool.ts'

const clock = realClock()
const rng = realRng()
const ids = uuidv7Ids(clock, rng)
const log = consoleLog({ level: 'error' })

const specOf = (name: string): DomainSpec => ({
  name: name as DomainName,
  vcpuCount: 2,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
})

/** `fetch` chooses the Host header itself. */
const statusFor = (url: string, host: string): Promise<number> =>
  new Promise((resolve, reject) => {
    request(url, { headers: { host } }, (response) => {
      response.resume()
      resolve(response.statusCode ?? 0)
    })
      .on('error', reject)
      .end()
  })

test('an agent tells its guests to this machine alone', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tv-metrics-'))
  await using stack = new AsyncDisposableStack()
  stack.defer(() => rm(dataDir, { recursive: true, force: true }))
  const host = await openHost({ name: 'rack-1', dataDir, driver: 'sim', version: '1.2.3', clock, rng, ids, log })
  stack.defer(() => host.close())
  const metrics = await serveMetrics({ agent: host.agent, port: 0, log })
  stack.defer(() => metrics.close())
  for (const name of ['web-1', 'web-2']) {
    const id = ids.next() as DomainId
    await host.toolstack.define(id, specOf(name), { commandId: ids.next() })
    if (name === 'web-1') await host.toolstack.carryOut('start', id, { commandId: ids.next() })
  }
  const response = await fetch(metrics.url)
  assert.equal(response.headers.get('content-type'), 'text/plain; version=0.0.4; charset=utf-8')
  const text = await response.text()
  assert.equal(await promtoolSays(text), '')
  assert.match(text, /^typevisor_build_info\{version="1\.2\.3"\} 1$/m)
  assert.match(text, /^typevisor_host_domains\{host="rack-1",state="running"\} 1$/m)
  assert.match(text, /^typevisor_host_domains\{host="rack-1",state="stopped"\} 1$/m)
  assert.match(text, /^typevisor_instance_cpu_seconds_total\{host="rack-1",instance_name="web-1"\} \d/m)
  assert.doesNotMatch(text, /^typevisor_instance_cpu_seconds_total\{.*web-2/m)
  assert.match(text, /^typevisor_instance_vcpus\{host="rack-1",instance_name="web-2"\} \d$/m)

  assert.equal(await statusFor(metrics.url, 'evil.example'), 403)
  assert.equal(await statusFor(metrics.url.replace('/metrics', '/'), 'localhost'), 404)
  const { port } = new URL(metrics.url)
  await assert.rejects(
    serveMetrics({ agent: host.agent, port: Number(port), log }),
    (error: unknown) => error instanceof Fault && error.code === 'conflict' && /--metrics-port/.test(error.message),
  )
})
