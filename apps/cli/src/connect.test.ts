import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { connection } from './connect.ts'

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
