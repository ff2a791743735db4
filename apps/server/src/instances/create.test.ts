/** What cannot be made is refused before there is a row; what fails later says why and how to remove it. Real agent links, domains in memory. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault, gib, mib, type FaultCode } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, type TestCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const create = ({ client }: TestCloud, body: object) =>
  client.call('instance.create', { query: { wait: 20 }, body: { name: 'web', memoryBytes: mib(128), ...body } })

/** Refused with this code, naming this field in its words and details. */
async function refuses(cloud: TestCloud, body: object, code: FaultCode, path: string, words = /./): Promise<void> {
  await assert.rejects(create(cloud, body), (error: unknown) => {
    assert.ok(error instanceof Fault, String(error))
    assert.deepEqual([error.code, error.details[0]?.path], [code, path], error.message)
    assert.match(error.message, words)
    assert.ok(error.details[0]?.want && error.details[0].got)
    return true
  })
}

test('a creation that cannot succeed is refused at once by the field that is wrong, and leaves nothing', async () => {
  await using cloud = await testCloud()
  await cloud.start('h1', await cloud.token('h1'))
  const away = await cloud.start('away', await cloud.token('away'))
  await away.leave()
  const forward = { guestPort: 80, hostPort: 8080 }
  await create(cloud, { name: 'first', forwards: [forward] })

  await refuses(cloud, { image: 'nothing' }, 'not_found', 'body.image', /build nothing/)
  await refuses(cloud, { host: 'nobody' }, 'not_found', 'body.host')
  await refuses(cloud, { host: 'away' }, 'conflict', 'body.host', /not connected/)
  await refuses(cloud, { memoryBytes: mib(64) }, 'invalid', 'body.memoryBytes', /at least/)
  await refuses(cloud, { rootDiskBytes: mib(64) }, 'invalid', 'body.rootDiskBytes', /at least/)
  await refuses(cloud, { memoryBytes: gib(64) }, 'invalid', 'body.memoryBytes', /largest host/)
  await refuses(cloud, { memoryBytes: gib(16) }, 'exhausted', 'body.memoryBytes')
  await refuses(cloud, { forwards: [forward] }, 'conflict', 'body.forwards[0].hostPort', /forwarded to first/)
  const twice = [forward, { ...forward, hostPort: 81 }, { ...forward, hostPort: 81 }]
  await refuses(cloud, { forwards: twice }, 'invalid', 'body.forwards[2].hostPort')
  for (const key of ['nonsense', 'ssh-ed25519 AAAA', 'command="x" ssh-ed25519 AAAA', 'a\nb'])
    await refuses(cloud, { sshKeys: [key] }, 'invalid', 'body.sshKeys[0]', /OpenSSH/)
  await refuses(cloud, { name: 'first' }, 'conflict', 'body.name', /^(?!.*removes it)/)

  const { rows } = await cloud.server.database.executor.query('SELECT name FROM instance')
  assert.deepEqual(rows, [{ name: 'first' }])
  const operations = await cloud.client.call('operation.list', { query: {} })
  assert.equal(operations.total, 1)
  // Any port twice is another one each time; the same port by the other protocol is another port.
  const anyPort = { guestPort: 22, hostPort: 0 }
  const { operation } = await create(cloud, { forwards: [anyPort, anyPort, { ...forward, protocol: 'udp' }] })
  assert.equal(operation.state, 'done')
})

test('of many that are made at once as many are accepted as there is room for, and the others leave no row', async () => {
  await using cloud = await testCloud()
  await cloud.start('h1', await cloud.token('h1'))
  const answers = await Promise.allSettled(
    Array.from({ length: 8 }, (_none, at) => create(cloud, { name: `big-${at}`, memoryBytes: gib(4) })),
  )
  const accepted = answers.filter((answer) => answer.status === 'fulfilled')
  assert.equal(accepted.length, 4)
  assert.ok(accepted.every(({ value }) => value.operation.state === 'done'))
  assert.equal((await cloud.client.call('instance.list')).total, 4)
})

test('a creation that fails later says why in its row, and the conflict on its name says how to remove it', async () => {
  await using cloud = await testCloud()
  const host = await cloud.start('h1', await cloud.token('h1'))
  // The name is a domain's that the server knows nothing of.
  const spec = { vcpuCount: 1, memoryBytes: mib(128), image: 'micro', rootDiskBytes: gib(1), forwards: [], labels: {} }
  const cloudInit = { hostname: 'web', user: null, sshKeys: [], userData: null }
  const stranger = '0192f000-0000-7000-8000-00000000aaaa'
  await host.toolstack.define(stranger as never, { ...spec, cloudInit, name: 'web' } as never, { commandId: 'stranger' })
  const { operation, instance } = await create(cloud, {})
  assert.equal(operation.state, 'undone')
  assert.equal(instance?.state.kind, 'failed')
  assert.match(instance.state.detail ?? '', new RegExp(`domain ${stranger} has this name`))
  await refuses(cloud, {}, 'conflict', 'body.name', /has this name.*`typevisor instance destroy web --yes` removes it/)
})
