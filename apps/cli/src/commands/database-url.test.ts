/** `DATABASE_URL`: the platform on a PostgreSQL that somebody else runs. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { Pool, type PoolConfig } from 'pg'
import { startTestPostgres, temporaryFolder } from '@typevisor/runtime-node/testing'
import { machine, typevisor } from '../e2e/child.ts'

const urlOf = ({ host, user, password }: { host: string; user: string; password: string }, database: string): string =>
  `postgres://${user}:${encodeURIComponent(password)}@/${database}?host=${encodeURIComponent(host)}`

test('start uses the PostgreSQL of DATABASE_URL and no other, and finds there what it left', async () => {
  await using postgres = await startTestPostgres()
  const { connection } = postgres
  const poolOf = (options: PoolConfig): Pool => {
    const pool = new Pool({ ...connection, max: 1, ...options })
    return pool.on('error', () => {}) // its idle connections end with the server
  }
  const admin = poolOf({})
  await admin.query('CREATE DATABASE mine')
  await admin.end()
  const env = { DATABASE_URL: urlOf(connection, 'mine') }
  const rows = poolOf({ database: 'mine' })
  await using ending = new AsyncDisposableStack()
  ending.defer(() => rows.end())
  await using place = await machine()
  const life = async () => {
    const child = typevisor(['start', '--port', '0', '--data', place.dataDir, '--driver', 'sim', '--empty'], env)
    await child.says(/portal: \S+\n/)
    return child
  }
  const command = async (...words: string[]): Promise<string> => {
    const child = typevisor(words, { TYPEVISOR_DATA: place.dataDir })
    assert.equal(await child.exited, 0, child.said())
    return child.said()
  }
  {
    await using first = await life()
    await command('instance', 'create', 'web-1')
    assert.deepEqual((await rows.query('SELECT name FROM instance')).rows, [{ name: 'web-1' }])
    assert.match(await command('doctor'), /database external/)
    assert.equal(existsSync(join(place.dataDir, 'postgresql')), false, 'no database of its own')
    await command('down')
    assert.equal(await first.exited, 0)
  }
  await using second = await life()
  assert.match(await command('instance', 'list'), /^web-1 /m)
  await command('down')
  assert.equal(await second.exited, 0)
})

test('a DATABASE_URL that nobody answers at is told, without its password', async () => {
  await using folder = await temporaryFolder()
  await using child = typevisor(['start', '--port', '0', '--data', folder.path, '--empty'], {
    DATABASE_URL: 'postgres://me:secret-word@127.0.0.1:1/mine',
  })
  assert.notEqual(await child.exited, 0)
  assert.match(child.said(), /^typevisor: .*127\.0\.0\.1:1/)
  assert.doesNotMatch(child.said(), /secret-word/)
})
