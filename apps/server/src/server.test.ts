/** The whole control plane on a database of its own, as `typevisor start` builds it. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { createClient } from '@typevisor/api/client'
import { memoryLog } from '@typevisor/sim'
import { startServer, type ServerOptions } from './server.ts'
import { stopTestPostgres, testClock, testDatabase, testIds, testRng, type TestDatabase } from './testing.ts'

after(stopTestPostgres)

const urlOf = ({ connection: { user, password, host, port, database } }: TestDatabase): string =>
  `postgres://${user}:${encodeURIComponent(String(password))}@/${database}?host=${encodeURIComponent(String(host))}&port=${port ?? 5432}`

/** Starts servers on one database, each in a data directory of its own unless told otherwise. */
async function setUp() {
  const stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase({ empty: true }))
  const folder = await mkdtemp(join(tmpdir(), 'tv-server-'))
  stack.defer(() => rm(folder, { recursive: true, force: true }))
  const start = (name: string, options: Partial<ServerOptions> = {}) =>
    startServer({
      dataDir: join(folder, name),
      port: 0,
      databaseUrl: urlOf(database),
      portalPath: null,
      version: '0.0.0-test',
      clock: testClock,
      rng: testRng,
      ids: testIds,
      log: memoryLog(),
      ...options,
    })
  return { start, database, [Symbol.asyncDispose]: () => stack.disposeAsync() }
}

const signIn = (url: string, account: string, password: string): Promise<number> =>
  fetch(`${url}/api/v1/session`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ account, password }),
  }).then(({ status }) => status)

test('the first password is made anew at each start until somebody has signed in, so that a failed start loses nothing', async () => {
  await using world = await setUp()
  const taken = createServer().listen(0, '127.0.0.1')
  await new Promise((resolve) => taken.once('listening', resolve))
  await assert.rejects(
    world.start('one', { port: (taken.address() as AddressInfo).port }),
    (error) => error instanceof Fault && error.code === 'conflict',
  )
  taken.close()
  let unread: string
  {
    await using server = await world.start('one')
    assert.ok(server.firstAccount)
    unread = server.firstAccount.password
  }
  {
    await using server = await world.start('one')
    assert.ok(server.firstAccount)
    const { name, password } = server.firstAccount
    assert.equal(await signIn(server.url, name, unread), 401)
    assert.equal(await signIn(server.url, name, password), 201)
  }
  await using server = await world.start('one')
  assert.equal(server.firstAccount, null)
})

test('a password that somebody has set is left alone, also before the first sign-in', async () => {
  await using world = await setUp()
  {
    await using server = await world.start('one')
    const local = createClient({ baseUrl: server.url, token: server.localToken })
    await local.call('account.password', { params: { account: 'admin' }, body: { password: 'of my own making' } })
  }
  await using server = await world.start('one')
  assert.equal(server.firstAccount, null)
  assert.equal(await signIn(server.url, 'admin', 'of my own making'), 201)
})

test('a second server on the same database is refused in words, and let in when the first has closed', async () => {
  await using world = await setUp()
  {
    await using first = await world.start('one')
    await assert.rejects(
      world.start('two'),
      (error) => error instanceof Fault && error.code === 'conflict' && /another typevisor server/.test(error.message),
    )
    assert.equal((await fetch(`${first.url}/api/v1/health`)).status, 200)
  }
  await using second = await world.start('two')
  assert.equal((await fetch(`${second.url}/api/v1/health`)).status, 200)
})

test('a server whose lock broke takes it again, and keeps others out', async () => {
  await using world = await setUp()
  await using first = await world.start('one')
  const holders = async (): Promise<number[]> =>
    (
      await world.database.executor.query(`SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted AND datname = current_database() AND application_name = 'typevisor-lock'`)
    ).rows.map((row) => Number(row['pid']))
  const [before] = await holders()
  assert.ok(before)
  await world.database.executor.query('SELECT pg_terminate_backend($1)', [before])
  const until = Date.now() + 10_000
  let now: number | undefined
  while (now === undefined || now === before) {
    assert.ok(Date.now() < until, 'the lock is taken again')
    await new Promise((resolve) => setTimeout(resolve, 50))
    now = (await holders())[0]
  }
  await assert.rejects(world.start('two'), (error) => error instanceof Fault && error.code === 'conflict')
  assert.equal((await fetch(`${first.url}/api/v1/health`)).status, 200)
})
