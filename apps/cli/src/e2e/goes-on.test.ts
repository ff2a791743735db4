/**
 * The platform goes, the guest stays: Ctrl-C at `npm start`, a signal to the process that set everything up, and `down`. Each says so, the
 * guest's QEMU is the same process afterwards, and the next platform finds it.
 */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createClient, type Client } from '@typevisor/api/client'
import { connection } from '../connect.ts'
import { endAll, guestsOf, run, typevisor, type Child } from './child.ts'
import { temporaryFolder } from './harness.ts'

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url))
const NPM_START = ['setsid', 'npm', '--prefix', ROOT, 'start', '--']
const BOOTSTRAP = [process.execPath, join(ROOT, 'tools/bootstrap.mjs'), 'apps/cli/src/main.ts', 'start']
const GOES_ON =
  /\nstopping \.\.\.\nstopped; 1 guest goes on without it\. The next start finds it; while it runs `typevisor down --guests` stops it too\n/

describe('a guest under QEMU', async () => {
  const dataDir = await temporaryFolder()
  const env = { TYPEVISOR_DATA: dataDir }
  const lives: Child[] = []
  let guest = 0
  after(async () => {
    for (const life of lives) await life.kill('SIGKILL')
    await endAll(dataDir)
    await rm(dataDir, { recursive: true, force: true })
  })

  const start = async (command: readonly string[]): Promise<{ child: Child; client: Client; url: URL }> => {
    const child = typevisor(['--port', '0', '--data', dataDir, '--empty'], env, command)
    lives.push(child)
    await child.says(/Ctrl-C stops it; guests go on without it/)
    const url = /portal: (\S+)\n/.exec(child.said())?.[1] ?? ''
    return { child, url: new URL(url), client: createClient({ baseUrl: url, token: connection(env).token }) }
  }
  const guests = () => [...guestsOf(join(dataDir, 'agent')).values()]
  const isKnown = async (client: Client): Promise<void> => {
    const { items } = await client.call('instance.list', {})
    assert.deepEqual(
      items.map(({ name, state }) => [name, state.kind]),
      [['stays', 'running']],
    )
  }

  test('Ctrl-C at `npm start` stops the platform, says that the guest goes on, and it does', async () => {
    const { child, client } = await start(NPM_START)
    const built = await client.call('image.build', { params: { image: 'micro' }, body: {}, query: { wait: 60 } })
    assert.equal(built.operation.state, 'done', JSON.stringify(built.operation.fault))
    await client.call('instance.create', { body: { name: 'stays', memoryBytes: 160 * 1024 * 1024 }, query: { wait: 60 } })
    await isKnown(client)
    const [pid, ...more] = guests()
    assert.ok(pid !== undefined && more.length === 0)
    guest = pid
    // As a terminal does it: to each process of the group.
    process.kill(-child.pid, 'SIGINT')
    await child.exited
    assert.match(child.said(), GOES_ON)
    assert.deepEqual(guests(), [guest])
  })

  test('a signal to the process that set everything up is passed on', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const { child, client } = await start(BOOTSTRAP)
      await isKnown(client)
      process.kill(child.pid, signal)
      assert.equal(await child.exited, 0, child.said())
      assert.match(child.said(), GOES_ON)
      assert.deepEqual(guests(), [guest])
    }
  })

  test('`down` says by name what goes on, and it does; `down --guests` ends it', async () => {
    const { child, client } = await start(BOOTSTRAP)
    await isKnown(client)
    const down = await run(['down'], env)
    assert.equal(down.code, 0, down.said)
    assert.match(down.said, /1 guest goes on: stays/)
    assert.equal(await child.exited, 0)
    assert.deepEqual(guests(), [guest])

    const again = await start(BOOTSTRAP)
    await isKnown(again.client)
    const all = await run(['down', '--guests', '--yes'], env)
    assert.equal(all.code, 0, all.said)
    assert.equal(await again.child.exited, 0)
    assert.deepEqual(guests(), [])
  })
})
