import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { connection, tellShell } from './connect.ts'

test('the kept token goes to the server that made it and to no other', () => {
  const folder = mkdtempSync(join(tmpdir(), 'typevisor-connect-'))
  writeFileSync(
    join(folder, 'credentials.json'),
    JSON.stringify({ url: 'http://127.0.0.1:1', token: 'kept', certificate: 'pem' }),
  )
  const env = { TYPEVISOR_DATA: folder }
  assert.deepEqual(connection(env), { url: 'http://127.0.0.1:1', token: 'kept', certificate: 'pem' })
  assert.equal(connection({ ...env, TYPEVISOR_URL: 'http://127.0.0.1:1/' }).token, 'kept')
  const elsewhere = { ...env, TYPEVISOR_URL: 'http://127.0.0.1:2' }
  assert.throws(
    () => connection(elsewhere),
    (error) => error instanceof Fault && error.code === 'invalid' && /TYPEVISOR_TOKEN/.test(error.message),
  )
  assert.deepEqual(connection({ ...elsewhere, TYPEVISOR_TOKEN: 'mine' }), { url: 'http://127.0.0.1:2', token: 'mine' })
  rmSync(folder, { recursive: true })
})

test('a platform on another data directory says what the shell must be told, and one that is found anyway says nothing', () => {
  const env = { TYPEVISOR_DATA: '/srv/tv' }
  assert.equal(tellShell('/srv/tv/', env), null)
  assert.equal(tellShell('/srv/other', env), 'export TYPEVISOR_DATA=/srv/other')
  const quoted = tellShell("/srv/it's $HOME", env)
  assert.equal(quoted, String.raw`export TYPEVISOR_DATA='/srv/it'\''s $HOME'`)
  assert.equal(execFileSync('sh', ['-c', `${quoted}; printf %s "$TYPEVISOR_DATA"`], { encoding: 'utf8' }), "/srv/it's $HOME")
})
