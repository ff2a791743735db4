/**
 * Forward-only migrations. All that are missing are applied in one transaction under an advisory lock, so that several servers may
 * start at once and a SIGKILL in the middle leaves the schema as it was.
 *
 *   schema_migration (id, name, checksum)   what this database has seen
 *
 * Refused, with nothing done: an applied migration whose text has changed since, and a database that a newer version has migrated.
 */
import { createHash } from 'node:crypto'
import { Fault } from '@typevisor/base'
import type { SqlExecutor } from '@typevisor/saga'

export interface Migration {
  /** 1, 2, 3 ... without gaps. */
  readonly id: number
  readonly name: string
  readonly sql: string
}

/** Any number that nobody else locks by: "TVMIGR" in ASCII. */
const LOCK_KEY = '93037186929490'

export const checksumOf = (migration: Migration): string => createHash('sha256').update(migration.sql).digest('hex')

/**
 * Brings the database up to the last of `migrations`; answers the names applied.
 * @throws Fault `conflict` when the database and the list disagree, `failed` naming the migration that failed.
 */
export async function migrate(database: SqlExecutor, migrations: readonly Migration[]): Promise<readonly string[]> {
  migrations.forEach((migration, index) => {
    if (migration.id !== index + 1)
      throw new Fault('internal', `migration ${migration.name}: id ${migration.id}, want ${index + 1}`)
  })
  return database.transaction(async (tx) => {
    await tx.query('SET LOCAL statement_timeout = 0') // a large table may take its time
    await tx.query(`SELECT pg_advisory_xact_lock(${LOCK_KEY})`)
    await tx.query(
      'CREATE TABLE IF NOT EXISTS schema_migration (id integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())',
    )
    const { rows } = await tx.query('SELECT id, name, checksum FROM schema_migration ORDER BY id')
    for (const row of rows) {
      const known = migrations[Number(row['id']) - 1]
      if (!known) {
        throw new Fault(
          'conflict',
          `database: it has migration ${row['id']} (${row['name']}) of a newer version; this one knows ${migrations.length}`,
        )
      }
      if (known.name !== row['name'] || checksumOf(known) !== row['checksum']) {
        throw new Fault(
          'conflict',
          `database: migration ${known.id} was applied as ${row['name']} with another text than ${known.name} has here`,
        )
      }
    }
    const missing = migrations.slice(rows.length)
    for (const migration of missing) {
      try {
        await tx.query(migration.sql)
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        throw new Fault('failed', `migration ${migration.id} (${migration.name}): ${reason}`, { cause: error })
      }
      await tx.query('INSERT INTO schema_migration (id, name, checksum) VALUES ($1, $2, $3)', [
        migration.id,
        migration.name,
        checksumOf(migration),
      ])
    }
    return missing.map((migration) => migration.name)
  })
}
