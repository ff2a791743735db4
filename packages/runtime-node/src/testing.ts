/** For tests of other packages: a PostgreSQL of their own, and folders that go away. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { realClock } from './clock.ts'
import { consoleLog } from './log.ts'
import { startEmbeddedPostgres, type EmbeddedPostgres } from './postgres.ts'

export interface TemporaryFolder extends AsyncDisposable {
  readonly path: string
}

export async function temporaryFolder(name = 'typevisor'): Promise<TemporaryFolder> {
  const path = await mkdtemp(join(tmpdir(), `${name}-`))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }) }
}

export interface TestPostgres extends AsyncDisposable {
  readonly connection: EmbeddedPostgres['connection']
  readonly postmaster: EmbeddedPostgres['postmaster']
}

/**
 * A database that nobody used before, in about 0.8 s. Nothing is synced: it forgets in a power cut, which no test waits for. Pass
 * `durable` to measure, or to kill it.
 */
export async function startTestPostgres(
  options: { durable?: boolean; settings?: Readonly<Record<string, string>> } = {},
): Promise<TestPostgres> {
  const folder = await temporaryFolder('typevisor-postgres')
  const unsynced = { fsync: 'off', synchronous_commit: 'off', full_page_writes: 'off' }
  try {
    const postgres = await startEmbeddedPostgres({
      dataDir: join(folder.path, 'data'),
      clock: realClock(),
      log: consoleLog({ level: 'error' }),
      settings: { ...(options.durable === true ? {} : unsynced), ...options.settings },
    })
    const { connection, postmaster } = postgres
    return {
      connection,
      postmaster,
      async [Symbol.asyncDispose]() {
        await postgres.stop()
        await folder[Symbol.asyncDispose]()
        await rm(connection.host, { recursive: true, force: true })
      },
    }
  } catch (error) {
    await folder[Symbol.asyncDispose]()
    throw error
  }
}
