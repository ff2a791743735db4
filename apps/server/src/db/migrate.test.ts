import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { stopTestPostgres, testDatabase } from '../testing.ts'
import { migrate, type Migration } from './migrate.ts'
import { MIGRATIONS } from './migrations/index.ts'

after(stopTestPostgres)

const first: Migration = { id: 1, name: 'first', sql: 'CREATE TABLE one (id integer)' }
const second: Migration = { id: 2, name: 'second', sql: 'CREATE TABLE two (id integer); INSERT INTO two VALUES (1)' }
const broken: Migration = { id: 3, name: 'broken', sql: 'CREATE TABLE three (id integer); SELECT nonsense' }
const conflicts = (work: Promise<unknown>, pattern: RegExp): Promise<void> =>
  assert.rejects(work, (error) => error instanceof Fault && error.code === 'conflict' && pattern.test(error.message))

test('an empty database gets every migration once, and a second start finds nothing to do', async () => {
  await using database = await testDatabase({ empty: true })
  assert.deepEqual(
    await migrate(database.executor, MIGRATIONS),
    MIGRATIONS.map((migration) => migration.name),
  )
  assert.deepEqual(await migrate(database.executor, MIGRATIONS), [])
})

test('servers that start at the same time migrate once', async () => {
  await using database = await testDatabase({ empty: true })
  const answers = await Promise.all(Array.from({ length: 5 }, () => migrate(database.executor, [first, second])))
  assert.equal(answers.flat().length, 2)
})

test('a migration that fails leaves the database as it was, and names itself', async () => {
  await using database = await testDatabase({ empty: true })
  await migrate(database.executor, [first])
  await assert.rejects(migrate(database.executor, [first, second, broken]), /migration 3 \(broken\): .*nonsense/)
  const { rows } = await database.executor.query(
    `SELECT to_regclass('two') AS two, to_regclass('three') AS three, to_regclass('one') AS one`,
  )
  assert.deepEqual(rows, [{ two: null, three: null, one: 'one' }])
  assert.deepEqual(await migrate(database.executor, [first, second]), ['second'])
})

test('a database of a newer version and a migration that was edited are refused', async () => {
  await using database = await testDatabase({ empty: true })
  await migrate(database.executor, [first, second])
  await conflicts(migrate(database.executor, [first]), /newer version/)
  await conflicts(migrate(database.executor, [first, { ...second, sql: `${second.sql};` }]), /another text/)
  await assert.rejects(migrate(database.executor, [second, first]), /want 1/)
})

test('a 64-bit number that JavaScript cannot hold is an error, not a rounded value', async () => {
  await using database = await testDatabase({ empty: true })
  const { rows } = await database.executor.query('SELECT 9007199254740991::bigint AS n')
  assert.deepEqual(rows, [{ n: 9_007_199_254_740_991 }])
  await assert.rejects(database.executor.query('SELECT 9007199254740993::bigint AS n'))
})

test('a connection that is lost in the middle of a transaction fails that transaction and nothing else', async () => {
  await using database = await testDatabase({ empty: true })
  await assert.rejects(
    database.executor.transaction(async (tx) => {
      const { rows } = await tx.query('SELECT pg_backend_pid() AS pid')
      await database.executor.query('SELECT pg_terminate_backend($1)', [rows[0]?.['pid']])
      await new Promise((resolve) => setTimeout(resolve, 50))
      await tx.query('SELECT 1')
    }),
    (error) => error instanceof Fault && error.code === 'unavailable',
  )
  assert.deepEqual((await database.executor.query('SELECT 1 AS one')).rows, [{ one: 1 }])
})
