/** Live migration between the agents of two hosts, each a process of its own with a folder and a volume server of its own: real guests on QEMU. */
import assert from 'node:assert/strict'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import type { Client } from '@typevisor/api/client'
import { endAll, guestsOf, machine, run, typevisor, until, type Child, type Life, type Machine } from './child.ts'
import { temporaryFolder } from './harness.ts'

interface Host {
  readonly name: string
  readonly dataDir: string
  readonly token: string
  agent: Child
}

const MEMORY = 192 * 1024 * 1024

async function exec(client: Client, instance: string, script: string): Promise<string> {
  const body = { argv: ['/bin/sh', '-c', script], timeoutMs: 20_000 }
  const { exitCode, stdoutBase64 } = await client.call('instance.exec', { params: { instance }, body })
  assert.equal(exitCode, 0, script)
  return Buffer.from(stdoutBase64, 'base64').toString().trim()
}

const untilAnswers = (client: Client, instance: string) =>
  until(`the guest of ${instance} answers`, () =>
    exec(client, instance, 'true').then(
      () => true,
      () => false,
    ),
  )

describe('between two agents', { timeout: 600_000 }, () => {
  let server: Machine
  let life: Life
  let hosts: Host[]
  const startAgent = (host: Omit<Host, 'agent'>): Child =>
    typevisor(['agent', '--server', life.url, '--name', host.name, '--data', host.dataDir], {
      TYPEVISOR_HOST_TOKEN: host.token,
    })
  const cli = (...words: string[]) => run(words, { TYPEVISOR_DATA: server.dataDir })

  before(async () => {
    server = await machine()
    life = await server.start('--no-agent')
    hosts = []
    for (const name of ['left', 'right']) {
      const dataDir = await temporaryFolder()
      const { secret: token } = await life.client.call('host.token', { body: { name } })
      hosts.push({ name, dataDir, token, agent: startAgent({ name, dataDir, token }) })
    }
    for (const { name } of hosts) {
      await until(`${name} is connected`, async () =>
        (await life.client.call('host.list', {})).items.some((host) => host.name === name && host.connected),
      )
      const params = { image: 'micro' }
      const { operation } = await life.client.call('image.build', { params, body: { host: name }, query: { wait: 60 } })
      assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    }
  })
  after(async () => {
    for (const { agent, dataDir } of hosts) {
      await agent.kill('SIGTERM')
      await endAll(dataDir, dataDir)
      await rm(dataDir, { recursive: true, force: true })
    }
    await server[Symbol.asyncDispose]()
  })

  test('a running guest goes there and back with its memory and its disk, answers its agent, and nothing is left behind', async () => {
    const [left, right] = hosts as [Host, Host]
    const { client } = life
    const body = { name: 'mover', image: 'micro', host: 'left', memoryBytes: MEMORY, forwards: [{ guestPort: 22 }] }
    const { instance } = await client.call('instance.create', { body, query: { wait: 60 } })
    assert.equal(instance?.state.kind, 'running')
    await untilAnswers(client, 'mover')
    const count = 'n=0; while :; do n=$((n+1)); echo $n >/run/count; sleep 0.05; done >/dev/null 2>&1 &'
    await exec(client, 'mover', `cat /proc/sys/kernel/random/boot_id >/root/kept; sync; ${count}`)
    await until('it counts', () =>
      exec(client, 'mover', 'cat /run/count').then(
        (text) => Number(text) > 5,
        () => false,
      ),
    )
    const boot = await exec(client, 'mover', 'cat /root/kept')
    for (const [from, to] of [
      [left, right],
      [right, left],
    ] as const) {
      const before = Number(await exec(client, 'mover', 'cat /run/count'))
      const { code, said } = await cli('instance', 'migrate', 'mover', '--to', to.name)
      assert.equal(code, 0, said)
      const row = await client.call('instance.get', { params: { instance: 'mover' } })
      assert.deepEqual([row.host, row.state.kind, row.operation], [to.name, 'running', null])
      assert.ok((row.forwards[0]?.hostPort ?? 0) > 0)
      await until('it counts there', async () => Number(await exec(client, 'mover', 'cat /run/count')) > before + 5)
      assert.equal(await exec(client, 'mover', 'cat /proc/sys/kernel/random/boot_id'), boot, 'it has not booted')
      assert.equal(await exec(client, 'mover', 'cat /root/kept'), boot)
      assert.equal(guestsOf(from.dataDir).size, 0)
      assert.ok(guestsOf(to.dataDir).has(row.id))
      for (const folder of ['volumes', 'domains']) assert.deepEqual(await readdir(join(from.dataDir, folder)), [])
    }
    const gone = await client.call('instance.destroy', { params: { instance: 'mover' }, query: { wait: 60 } })
    assert.equal(gone.operation.state, 'done')
    for (const { dataDir } of hosts) assert.equal(guestsOf(dataDir).size, 0)
  })
})
