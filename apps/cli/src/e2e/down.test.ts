/** `down` says by name what it stopped and what goes on, on every host. */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { test } from 'node:test'
import { machine, run, typevisor, until, type Child, type Life } from './child.ts'
import { temporaryFolder } from './harness.ts'

const isConnected = async (life: Life, name: string): Promise<boolean> =>
  (await life.client.call('host.list', {})).items.some((host) => host.name === name && host.connected)

async function agentOf(life: Life, name: string, dataDir: string): Promise<Child> {
  const { secret } = await life.client.call('host.token', { body: { name } })
  const words = ['agent', '--server', life.url, '--data', dataDir, '--name', name, '--driver', 'sim']
  const child = typevisor(words, { TYPEVISOR_HOST_TOKEN: secret })
  await until(`${name} is connected`, () => isConnected(life, name))
  return child
}
const create = (life: Life, name: string, host: string) =>
  life.client.call('instance.create', { body: { name, host }, query: { wait: 30 } })

test('down names the guests of every host that it stopped, and those that go on', async () => {
  await using cloud = await machine()
  const folders = [await temporaryFolder(), await temporaryFolder(), await temporaryFolder()] as const
  const env = { TYPEVISOR_DATA: cloud.dataDir }
  const life = await cloud.start('--driver', 'sim')
  await using _near = await agentOf(life, 'near', folders[0])
  await using away = await agentOf(life, 'away', folders[1])
  try {
    for (const [name, host] of [
      ['web', 'local'],
      ['db', 'near'],
      ['lost', 'away'],
    ] as const)
      await create(life, name, host)
    await life.client.call('instance.create', { body: { name: 'off', start: false }, query: { wait: 30 } })
    await away.kill('SIGKILL')
    await until('it is away', async () => !(await isConnected(life, 'away')))

    const refused = await run(['down', '--guests'], env)
    assert.equal(refused.code, 2, refused.said)
    assert.match(refused.said, /guests of 2 hosts are stopped: .*db \(near\).*Say --yes/)
    assert.equal((await life.client.call('instance.get', { params: { instance: 'db' } })).state.kind, 'running')

    const { code, said } = await run(['down', '--guests', '--yes', '--json'], env)
    assert.equal(code, 1, said)
    assert.match(said, /db \(near\) is off/)
    const told = JSON.parse(said.slice(said.indexOf('{'))) as {
      guests: { name: string }[]
      goOn: { name: string; why: string }[]
    }
    assert.deepEqual(told.guests.map((guest) => guest.name).toSorted(), ['db', 'web'])
    assert.deepEqual(
      told.goOn.map(({ name, why }) => [name, why]),
      [['lost', 'host away is not connected']],
    )
    assert.equal(await life.child.exited, 0, life.child.said())

    // In the record `db` is stopped, and another host's guest goes on when it is not asked for.
    const again = await cloud.start('--no-agent')
    await using _twin = await agentOf(again, 'near-2', folders[2])
    await create(again, 'last', 'near-2')
    const stopped = await run(['down'], env)
    assert.equal(stopped.code, 0, stopped.said)
    assert.match(
      stopped.said,
      /stopped; 2 guests go on: last \(near-2\), in memory while its agent runs, lost \(away\), in memory while its agent runs/,
    )
  } finally {
    for (const folder of folders) await rm(folder, { recursive: true, force: true })
  }
})
