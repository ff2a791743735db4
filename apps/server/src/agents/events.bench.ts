/**
 * Transitions of domains, from the hypervisor through the agent's journal and a reader into PostgreSQL, durable at both ends. Budget: 10,000 a
 * second, while they come and when a host that was away catches up.
 *
 * Back of the envelope: a sync of the journal is shared by whatever waits for it, and a transaction of 1,024 events is four statements, of
 * which the insertion costs about 20 us a row: 50,000 a second if nothing else cost anything.
 *
 * `npm run bench -- toolstack`
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bytes, gib, mib } from '@typevisor/base'
import { createAgentService } from '@typevisor/agent'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import { memoryImageStore } from '@typevisor/image/testing'
import { parseDomainId, parseDomainName, type DomainId } from '@typevisor/model'
import { consoleLog, nodeDisk, realClock, realRng, startEmbeddedPostgres, uuidv7Ids } from '@typevisor/runtime-node'
import { stateFile, type SqlExecutor } from '@typevisor/saga'
import { memoryVolumeStore } from '@typevisor/storage'
import { openToolstack } from '@typevisor/toolstack'
import { openDatabase } from '../db/database.ts'
import { migrate } from '../db/migrate.ts'
import { MIGRATIONS } from '../db/migrations/index.ts'
import { attachHost } from './host-sync.ts'

const EVENT_COUNT = 40_000
const DOMAIN_COUNT = 200
const BUDGET = 10_000
const HOST = 'bench'
const clock = realClock()
const ids = uuidv7Ids(clock, realRng())
const log = consoleLog({ level: 'error' })

let overCount = 0
function note(what: string, count: number, tookMs: number): void {
  const rate = (count * 1000) / tookMs
  const ok = rate >= BUDGET
  if (!ok) overCount += 1
  const measured = `${Math.round(rate).toLocaleString('en')} a second (${count.toLocaleString('en')} in ${Math.round(tookMs)} ms)`
  process.stdout.write(`${ok ? 'ok  ' : 'OVER'} ${what}: ${measured} (budget ${BUDGET.toLocaleString('en')} a second)\n`)
}

const insertInstance = (database: SqlExecutor, id: string, name: string): Promise<unknown> =>
  database.query(
    `INSERT INTO instance (id, name, image, host, spec, vcpu_count, memory_bytes, root_disk_bytes, state_kind, state_cause, state_since,
       created_at, created_by)
     VALUES ($1, $2, 'sim', $3, '{}', 1, 1, 1, 'stopped', 'requested', now(), now(), 'bench')`,
    [id, name, HOST],
  )

const folder = await mkdtemp(join(tmpdir(), 'tv-bench-'))
const postgres = await startEmbeddedPostgres({ dataDir: join(folder, 'pg'), runDir: folder, clock, log })
const { executor: database, close } = openDatabase({ connection: postgres.connection })
await migrate(database, MIGRATIONS)
const hypervisor = new SimHypervisor(clock)
const images = memoryImageStore([SIM_IMAGE.name])
const toolstack = await openToolstack({
  driver: createSimDriver({ hypervisor, clock, eventCountMax: 2 * EVENT_COUNT }),
  volumes: memoryVolumeStore(),
  images: { get: async (name) => (name === SIM_IMAGE.name ? SIM_IMAGE : null) },
  state: stateFile({ disk: nodeDisk(folder), name: 'agent.journal', clock, log }),
  saves: hypervisor.saveFolder,
  clock,
  ids,
  log,
  owner: HOST,
})
try {
  const agent = await createAgentService({
    name: HOST,
    version: '1',
    toolstack,
    images,
    cpuCount: 1,
    memoryBytes: bytes(2 ** 40),
    clock,
    log,
  })
  const domains: DomainId[] = []
  for (let index = 0; index < DOMAIN_COUNT; index += 1) {
    const id = parseDomainId(ids.next())
    const name = parseDomainName(`guest-${index}`)
    const cloudInit = { hostname: name, user: null, sshKeys: [], userData: null }
    const sizes = { vcpuCount: 1, memoryBytes: mib(128), rootDiskBytes: gib(1) }
    const spec = { name, ...sizes, image: SIM_IMAGE.name, cloudInit, forwards: [], labels: {} }
    await toolstack.define(id, spec, { commandId: ids.next() })
    await toolstack.carryOut('start', id, { commandId: ids.next() })
    await insertInstance(database, id, name)
    domains.push(id)
  }
  /** Every guest stops for its disk and goes on, in turn. */
  const provoke = (): void => {
    for (let count = 0; count < EVENT_COUNT; count += 1) {
      const id = domains[count % DOMAIN_COUNT] as DomainId
      const isFirst = Math.floor(count / DOMAIN_COUNT) % 2 === 0
      hypervisor.enter(id, isFirst ? { kind: 'paused', cause: 'io-error' } : { kind: 'running' })
    }
  }
  const journaled = async (last: number): Promise<void> => {
    while (toolstack.lastSequence() < last) await new Promise((resolve) => setTimeout(resolve, 1))
  }
  const taken = async (): Promise<number> =>
    Number((await database.query('SELECT event_sequence FROM host WHERE name = $1', [HOST])).rows[0]?.['event_sequence'] ?? 0)

  const before = toolstack.lastSequence()
  let begin = performance.now()
  provoke()
  await journaled(before + EVENT_COUNT)
  note('into the journal, while nobody reads', EVENT_COUNT, performance.now() - begin)

  begin = performance.now()
  const stop = new AbortController()
  const sync = await attachHost({ database, ids, log }, { name: HOST, agent, own: true }, stop.signal)
  await sync.takenIn(before + EVENT_COUNT)
  note('a host that was away catches up', EVENT_COUNT, performance.now() - begin)

  begin = performance.now()
  provoke()
  await journaled(before + 2 * EVENT_COUNT)
  await sync.takenIn(before + 2 * EVENT_COUNT)
  note('from the hypervisor into PostgreSQL', EVENT_COUNT, performance.now() - begin)
  if ((await taken()) !== before + 2 * EVENT_COUNT) throw new Error('not all was taken in')
  const { rows } = await database.query(`SELECT count(*) AS count FROM event WHERE kind = 'instance.state'`)
  if (Number(rows[0]?.['count']) < 2 * EVENT_COUNT) throw new Error(`events are missing: ${JSON.stringify(rows)}`)
  stop.abort()
  await sync.done.catch(() => {})
} finally {
  await toolstack.close()
  await close()
  await postgres.stop()
  await rm(folder, { recursive: true })
}
process.exitCode = overCount > 0 ? 1 : 0
