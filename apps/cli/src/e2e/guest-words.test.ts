/** What is said to a guest and asked of it, word for word as docs/cli.md has it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { run } from './child.ts'
import { succeeds } from './documented.ts'
import { openPlatform } from './harness.ts'

test('keys alone, a text alone, a file there and back; what happened to it is found by its name', async () => {
  await using world = await openPlatform()
  const env = { TYPEVISOR_DATA: world.dataDir }
  const ok = succeeds(env)
  await ok('instance', 'create', 'web-1')
  await ok('instance', 'keys', 'web-1', 'ctrl-alt-delete', 'f2', 'ret')
  await ok('instance', 'keys', 'web-1', '--text', 'root')
  assert.match((await run(['instance', 'keys'], env)).said, /usage: typevisor instance keys INSTANCE \[KEYS \.\.\.\]/)
  await ok('instance', 'file-put', 'web-1', '/etc/motd', '--content', 'welcome')
  assert.equal(await ok('instance', 'file-get', 'web-1', '/etc/motd'), 'welcome')
  const events = await ok('event', 'list', '--resource', 'web-1')
  assert.match(events, /web-1/)
  const { id } = JSON.parse(await ok('instance', 'get', 'web-1', '--json')) as { id: string }
  assert.equal(await ok('event', 'list', '--resource', id), events)
})
