/** Volumes with no platform: the command line on a folder, served and not. */
import assert from 'node:assert/strict'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { connectNbd, type NbdClient } from '@typevisor/nbd'
import { run, typevisor } from './child.ts'
import { temporaryFolder } from './harness.ts'

const json = (said: string): unknown => JSON.parse(said.trim().split('\n').at(-1) ?? '')

test('volumes and snapshots are made on a folder, through its server while it is served, and are there afterwards', async () => {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  try {
    assert.equal((await run(['volume', 'list', ...at])).code, 3, 'there is none yet')
    assert.equal((await run(['volume', 'create', 'web', '--size', '1GiB', ...at])).code, 0)
    {
      await using child = typevisor(['nbd', 'serve', ...at, '--socket', join(dir, 'nbd.sock')])
      await child.says(/serving nbd\+unix:\/\/\/\?socket=/)
      assert.equal((await run(['snapshot', 'create', 'web', 'monday', ...at])).code, 0)
      assert.equal((await run(['volume', 'clone', 'web@monday', 'copy', ...at])).code, 0)
      const second = await run(['nbd', 'serve', ...at, '--socket', join(dir, 'other.sock')])
      assert.equal(second.code, 4)
      assert.match(second.said, /in use by process/)
      process.kill(child.pid, 'SIGKILL')
      await child.exited
    }
    const listed = json((await run(['volume', 'list', '--json', ...at])).said) as {
      items: { name: string; parent: string | null }[]
    }
    assert.deepEqual(
      listed.items.map(({ name, parent }) => [name, parent]),
      [
        ['web', 'web@monday'],
        ['web@monday', null],
        ['copy', 'web@monday'],
      ],
    )
    assert.equal((await run(['snapshot', 'delete', 'web@monday', ...at])).code, 0)
    assert.equal((await run(['volume', 'delete', 'nothing', ...at])).code, 3)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('a byte that rots is named by check, and never served', async () => {
  const dir = await temporaryFolder()
  const at = ['--dir', dir]
  try {
    assert.equal((await run(['volume', 'create', 'web', '--size', '16MiB', ...at])).code, 0)
    const words = Buffer.from('a block that nobody else has. ').toString()
    const socketPath = join(dir, 'nbd.sock')
    const serve = async (work: (client: NbdClient) => Promise<void>): Promise<void> => {
      await using child = typevisor(['nbd', 'serve', ...at, '--socket', socketPath])
      await child.says(/serving/)
      await using client = await connectNbd({ address: { socketPath }, exportName: 'web' })
      await work(client)
    }
    await serve(async (client) => {
      await client.write(8 * 4096, Buffer.alloc(4096, words))
      await client.write(9 * 4096, Buffer.alloc(4096, 'another'))
      await client.flush()
    })
    assert.deepEqual([(await run(['volume', 'check', ...at])).code, (await run(['volume', 'check', ...at])).code], [0, 0])
    const path = join(dir, 'store')
    const store = await readFile(path)
    const place = store.indexOf(Buffer.alloc(4096, words))
    assert.ok(place > 0)
    store.writeUInt8(store.readUInt8(place + 100) ^ 1, place + 100)
    await writeFile(path, store)
    const { code, said } = await run(['volume', 'check', ...at])
    assert.equal(code, 2)
    assert.match(said, /web at 32768: block \d+ has checksum/)
    await serve(async (client) => {
      const content = new Uint8Array(4096)
      await assert.rejects(client.read(8 * 4096, content), (error) => error instanceof Fault && error.code === 'failed')
      await client.read(9 * 4096, content)
      assert.ok(Buffer.from(content).equals(Buffer.alloc(4096, 'another')))
      // What is written anew is whole again.
      await client.write(8 * 4096, content)
    })
    assert.equal((await run(['volume', 'check', ...at])).code, 0)
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
})

test('wrong words are told with what is wanted', async () => {
  const wrong = async (words: string[], want: RegExp) => {
    const { code, said } = await run(words)
    assert.equal(code, 2)
    assert.match(said, want)
  }
  await wrong(['volume', 'crate', 'x'], /did you mean create/)
  await wrong(['volume', 'create', 'x', '--size', '1GiB'], /got no --dir/)
  const dir = await temporaryFolder()
  await wrong(['volume', 'create', 'x', '--dir', dir, '--size', 'much'], /size: got "much"/)
  await rm(dir, { recursive: true, force: true })
  await wrong(['nbd', 'serve', '--memory', '1GiB'], /--socket or --port/)
  await wrong(['nbd', 'serve', '--memory', '1GiB', '--port', '99999'], /--port: got "99999"/)
})
