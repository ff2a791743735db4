/** Who has a guest's memory dumped is told where it is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { succeeds } from './documented.ts'
import { openPlatform } from './harness.ts'

test('a dump says where it lies, how large it is and in which format, and so does its instance', async () => {
  await using world = await openPlatform()
  const run = succeeds({ TYPEVISOR_DATA: world.dataDir })
  await run('instance', 'create', 'web-1')
  assert.match(await run('instance', 'get', 'web-1'), /^dump +-$/m)
  const said = await run('instance', 'dump', 'web-1')
  const [, path] = /^web-1: running; its memory: (\/\S+) on local \(elf, 1 KiB\)$/m.exec(said) ?? []
  assert.ok(path !== undefined, said)
  const got = await run('instance', 'get', 'web-1')
  assert.match(got, /^dump$/m)
  for (const words of [`path +${path}`, 'format +elf', 'size +1 KiB', 'taken +2\\d{3}-'])
    assert.match(got, new RegExp(`^ +${words}`, 'm'))
})
