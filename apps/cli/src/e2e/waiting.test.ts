/** Who waits for a long operation is told what for, and that it goes on without them. */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import { machine, run, typevisor, until, type Child, type Life, type Machine } from './child.ts'
import { temporaryFolder } from './harness.ts'

describe('a verb on a host that is away', () => {
  let cloud: Machine
  let life: Life
  let agent: Child
  let folder: string
  const env = () => ({ TYPEVISOR_DATA: cloud.dataDir })
  const isConnected = async () => (await life.client.call('host.list', {})).items.find((host) => host.name === 'rack')?.connected

  before(async () => {
    cloud = await machine()
    folder = await temporaryFolder()
    life = await cloud.start('--no-agent')
    const { secret } = await life.client.call('host.token', { body: { name: 'rack' } })
    const words = ['agent', '--server', life.url, '--data', folder, '--name', 'rack', '--driver', 'sim']
    agent = typevisor(words, { TYPEVISOR_HOST_TOKEN: secret })
    await until('the host is connected', isConnected)
    for (const name of ['web', 'db'])
      await life.client.call('instance.create', { body: { name, host: 'rack' }, query: { wait: 30 } })
    await agent.kill('SIGKILL')
    await until('the host is away', async () => (await isConnected()) === false)
  })
  after(async () => {
    await cloud[Symbol.asyncDispose]()
    await rm(folder, { recursive: true, force: true })
  })

  test('is told to wait for that host, with the operation and how to end it; the operation can be ended so', async () => {
    await using waiting = typevisor(['instance', 'pause', 'web'], env())
    const [, host, id = ''] = await waiting.says(
      /pause web waits for host (\S+), which is not connected.*: operation ([0-9a-f-]{36})\. `typevisor operation cancel/,
    )
    assert.equal(host, 'rack')
    const ended = await run(['operation', 'cancel', id], env())
    assert.equal(ended.code, 0, ended.said)
    assert.notEqual(await waiting.exited, 0)
    assert.equal(waiting.said().match(/waits for host/g)?.length, 1, 'said once')
  })

  test('goes on after Ctrl-C, which says so with its id', async () => {
    await using waiting = typevisor(['instance', 'pause', 'db', '--json'], env())
    const { id } = await until('the operation begins', async () =>
      (await life.client.call('operation.list', { query: { unfinished: 'true' } })).items.find(
        (operation) => operation.name === 'instance.pause' && operation.state === 'running',
      ),
    )
    process.kill(waiting.pid, 'SIGINT')
    assert.equal(await waiting.exited, 130)
    const told = JSON.parse(waiting.said()) as { notice: string; operation: string }
    assert.match(told.notice, new RegExp(`^pause db goes on: operation ${id}\\. `))
    assert.equal(told.operation, id)
    assert.equal((await life.client.call('operation.get', { params: { operation: id } })).state, 'running')
  })

  test('that loses the server says that the operation was begun, with its id', async () => {
    await using waiting = typevisor(['instance', 'save', 'web'], env())
    const { id } = await until('the operation begins', async () =>
      (await life.client.call('operation.list', { query: { unfinished: 'true' } })).items.find(
        (operation) => operation.name === 'instance.save' && operation.state === 'running',
      ),
    )
    await waiting.says(/waits for host rack/)
    await life.child.kill('SIGKILL')
    assert.equal(await waiting.exited, 6)
    assert.match(waiting.said(), new RegExp(`; operation ${id} was begun and goes on with the server`))
  })
})
