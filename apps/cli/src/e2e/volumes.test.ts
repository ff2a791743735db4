/** Volumes with no platform: the command line on a folder, served and not. */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
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

test('wrong words are told with what is wanted', async () => {
  const wrong = async (words: string[], want: RegExp) => {
    const { code, said } = await run(words)
    assert.equal(code, 2)
    assert.match(said, want)
  }
  await wrong(['volume', 'crate', 'x'], /did you mean create/)
  await wrong(['volume', 'create', 'x', '--size', '1GiB'], /got no --dir/)
  await wrong(['volume', 'create', 'x', '--dir', '/tmp/x', '--size', 'much'], /size: got "much"/)
  await wrong(['nbd', 'serve', '--memory', '1GiB'], /--socket or --port/)
  await wrong(['nbd', 'serve', '--memory', '1GiB', '--port', '99999'], /--port: got "99999"/)
})
