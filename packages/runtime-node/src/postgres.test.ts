import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { chmod, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { Fault } from '@typevisor/base'
import { memoryLog } from '@typevisor/sim'
import { Pool } from 'pg'
import { realClock } from './clock.ts'
import { faultOfPg, pgExecutor } from './pg-executor.ts'
import { signalProcess, waitForExit } from './pidfd.ts'
import { isRoot, userByName } from './privileges.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from './postgres.ts'

let folder = ''
before(async () => void (folder = await mkdtemp(join(tmpdir(), 'tv-postgres-'))))
after(() => rm(folder, { recursive: true, force: true }))

const start = (settings?: Record<string, string>): Promise<EmbeddedPostgres> =>
  startEmbeddedPostgres({
    dataDir: join(folder, 'data'),
    clock: realClock(),
    log: memoryLog(),
    ...(settings ? { settings } : {}),
  })

async function withSql<T>(postgres: EmbeddedPostgres, work: (sql: ReturnType<typeof pgExecutor>) => Promise<T>): Promise<T> {
  const pool = new Pool(postgres.connection)
  pool.on('error', () => {})
  try {
    return await work(pgExecutor(pool))
  } finally {
    await pool.end()
  }
}

const isFault = (code: string, text: RegExp) => (error: unknown) =>
  error instanceof Fault && error.code === code && text.test(error.message)

test('the first start makes a cluster, and the next finds what was committed', async () => {
  const first = await start()
  assert.equal(first.adopted, false)
  await withSql(first, async (sql) => {
    const { rows } =
      await sql.query(`select current_setting('server_version') as version, current_setting('listen_addresses') as listens,
      current_setting('server_encoding') as encoding, upper('äö') as upper`)
    assert.match(String(rows[0]!['version']), /^18/)
    assert.deepEqual([rows[0]!['listens'], rows[0]!['encoding'], rows[0]!['upper']], ['', 'UTF8', 'ÄÖ'])
    await sql.query('create table kept (n int)')
    await sql.query('insert into kept values (1)')
  })
  await assert.rejects(start(), isFault('conflict', new RegExp(`is in use by process ${process.pid}`)))
  await first.stop()
  await first.exited()
  const second = await start()
  assert.deepEqual(await withSql(second, async (sql) => (await sql.query('select n from kept')).rows), [{ n: 1 }])
  await second.stop()
})

test('nobody else can read the data, the password or the socket', async () => {
  const postgres = await start()
  for (const path of [
    join(folder, 'data'),
    join(folder, 'data', 'password'),
    join(folder, 'data', 'pgdata'),
    postgres.connection.host,
  ]) {
    assert.equal((await stat(path)).mode & 0o077, 0, path)
  }
  const stranger = new Pool({ ...postgres.connection, password: 'wrong' })
  await assert.rejects(stranger.query('select 1'), /password authentication failed/)
  await stranger.end()
  await postgres.stop()
})

test('a killed server leaves its database at work, and the next server adopts it', async () => {
  const module = fileURLToPath(new URL('./index.ts', import.meta.url))
  const program = join(folder, 'server.ts')
  await writeFile(
    program,
    `import { startEmbeddedPostgres, realClock, consoleLog } from ${JSON.stringify(module)}
     await startEmbeddedPostgres({ dataDir: ${JSON.stringify(join(folder, 'data'))}, clock: realClock(), log: consoleLog({ level: 'error' }) })
     process.kill(process.pid, 'SIGKILL')`,
  )
  const server = spawn(process.execPath, [program], { stdio: ['ignore', 'ignore', 'inherit'] })
  await new Promise((resolve) => server.once('close', resolve))
  assert.equal(server.signalCode, 'SIGKILL')
  const startedAt = performance.now()
  const next = await start()
  assert.equal(next.adopted, true)
  assert.ok(performance.now() - startedAt < 1000)
  assert.deepEqual(await withSql(next, async (sql) => (await sql.query('select n from kept')).rows), [{ n: 1 }])
  next.release()
  const withOtherSettings = await start({ max_connections: '20' })
  assert.equal(withOtherSettings.adopted, false)
  const connections = await withSql(withOtherSettings, async (sql) => (await sql.query('show max_connections')).rows)
  assert.deepEqual(connections, [{ max_connections: '20' }])
  await withOtherSettings.stop()
})

test('what was committed survives the SIGKILL of the database itself', async () => {
  const first = await start()
  await withSql(first, (sql) => sql.query('insert into kept values (2)'))
  signalProcess(first.postmaster, 'SIGKILL')
  await waitForExit(first.postmaster)
  first.release()
  const second = await start()
  assert.equal(second.adopted, false)
  assert.deepEqual(await withSql(second, async (sql) => (await sql.query('select n from kept order by n')).rows), [
    { n: 1 },
    { n: 2 },
  ])
  await second.stop()
})

test('a pid file whose number has gone to a stranger does not keep the database from starting', async () => {
  const pidFile = join(folder, 'data', 'pgdata', 'postmaster.pid')
  await writeFile(pidFile, `${process.ppid}\n${join(folder, 'data', 'pgdata')}\n1\n5432\n/tmp\n\n  1 1\nready   \n`)
  const postgres = await start()
  assert.equal(postgres.adopted, false)
  await postgres.stop()
})

test('an initdb that was killed half-way is begun anew', async () => {
  const dataDir = join(folder, 'half')
  const first = await startEmbeddedPostgres({ dataDir, clock: realClock(), log: memoryLog() })
  await first.stop()
  await rm(join(dataDir, 'pgdata', 'PG_VERSION'))
  await rm(join(dataDir, 'pgdata'), { recursive: true })
  await writeFile(join(dataDir, 'password'), 'of the one before\n')
  const second = await startEmbeddedPostgres({ dataDir, clock: realClock(), log: memoryLog() })
  await withSql(second, (sql) => sql.query('select 1'))
  await second.stop()
  assert.ok(!(await readdir(dataDir)).includes('pgdata.new'))
})

test('a start that fails says what PostgreSQL said', async () => {
  await assert.rejects(start({ shared_buffers: 'much' }), isFault('failed', /invalid value for parameter "shared_buffers"/))
})

test('a data directory with a long path is no obstacle, and a run directory that is too long is named', async () => {
  const dataDir = join(folder, 'x'.repeat(120))
  const postgres = await startEmbeddedPostgres({ dataDir, clock: realClock(), log: memoryLog() })
  await withSql(postgres, (sql) => sql.query('select 1'))
  await postgres.stop()
  const runDir = join(folder, 'y'.repeat(80))
  await assert.rejects(
    startEmbeddedPostgres({ dataDir, runDir, clock: realClock(), log: memoryLog() }),
    isFault('invalid', /too long/),
  )
})

test('an error of the connection is never taken for an answer of the database', () => {
  for (const code of ['EPIPE', 'ECONNRESET', 'EBUSY', undefined]) {
    assert.equal(faultOfPg(Object.assign(new Error('write'), { code, syscall: 'write' })).code, 'unavailable')
  }
  assert.equal(faultOfPg(Object.assign(new Error('no'), { code: '23505', severity: 'ERROR' })).code, 'conflict')
})

test('errors of the database are faults by their class', async () => {
  const postgres = await start()
  await withSql(postgres, async (sql) => {
    await sql.query('create table if not exists one (n int primary key)')
    await sql.query('truncate one')
    await sql.query('insert into one values ($1)', [1])
    await assert.rejects(sql.query('insert into one values (1)'), isFault('conflict', /one_pkey/))
    await assert.rejects(sql.query('selec'), isFault('internal', /syntax error/))
    await assert.rejects(
      sql.transaction(async (tx) => {
        await tx.query('insert into one values (2)')
        await tx.transaction((inner) => inner.query('insert into one values (1)'))
      }),
      isFault('conflict', /one_pkey/),
    )
    assert.equal((await sql.query('select * from one')).rowCount, 1)
  })
  await postgres.stop()
  await withSql(postgres, (sql) => assert.rejects(sql.query('select 1'), isFault('unavailable', /database/)))
})

test('root hands the cluster to the system user where there is one, and takes it back where there is none', async (t) => {
  const user = ['typevisor', 'postgres', 'daemon'].map((name) => userByName(name)).find((found) => found !== null)
  if (!isRoot() || !user) return t.skip('only root can change users')
  await chmod(folder, 0o755)
  const dataDir = join(folder, 'handed')
  const startAs = (systemUser: string) => startEmbeddedPostgres({ dataDir, systemUser, clock: realClock(), log: memoryLog() })
  const ownerOf = async (postgres: EmbeddedPostgres) => (await stat(`/proc/${postgres.postmaster.pid}`)).uid
  for (const [systemUser, uid] of [
    ['no-such-user', 0],
    [user.name, user.uid],
    ['no-such-user', 0],
  ] as const) {
    const postgres = await startAs(systemUser)
    assert.equal((await stat(join(dataDir, 'pgdata'))).uid, uid)
    assert.equal(await ownerOf(postgres), uid)
    await withSql(postgres, (sql) => sql.query('create table if not exists handed (n int)'))
    await postgres.stop()
  }
  assert.equal((await stat(join(dataDir, 'password'))).mode & 0o077, 0)
})
