/** What a host says, taken in: rows follow their host over another journal and back, and no transition lies waiting for the next. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises'
import { bytes, Channel, gib, mib } from '@typevisor/base'
import { createAgentService } from '@typevisor/agent'
import { AGENT_PROTOCOL, type AgentPort } from '@typevisor/api/agent-wire'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { memoryImageStore } from '@typevisor/image/testing'
import type { DomainEvent, DomainId, DomainName, DomainSpec, ImageName } from '@typevisor/model'
import { stateFile, type SqlExecutor } from '@typevisor/saga'
import { memoryLog, simDisk } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { openToolstack } from '@typevisor/toolstack'
import { failedEffect } from '../instances/effects.ts'
import { stopTestPostgres, testClock as clock, testDatabase, testIds as ids, testRng as rng } from '../testing.ts'
import { attachHost } from './host-sync.ts'

after(stopTestPostgres)

const HOST = 'h1'
const IDS = ['0192f000-0000-7000-8000-00000000aaaa', '0192f000-0000-7000-8000-00000000bbbb'] as const
const [ID, UNDONE] = IDS as unknown as readonly [DomainId, DomainId]
const specOf = (name: string): DomainSpec => ({
  name: name as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: 'micro' as ImageName,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
})

/** What is on an agent's disk, its guests among it. */
function folder() {
  return {
    disk: simDisk({ rng }),
    hypervisor: new SimHypervisor(clock),
    volumes: memoryVolumeStore(),
    images: memoryImageStore(),
  }
}

async function openHost({ disk, hypervisor, volumes, images }: ReturnType<typeof folder>) {
  const log = memoryLog()
  const toolstack = await openToolstack({
    driver: createSimDriver({ hypervisor, clock }),
    volumes,
    images,
    state: stateFile({ disk, name: 'agent.journal', clock, log }),
    saves: hypervisor.saveFolder,
    clock,
    ids: { next: () => randomUUID() },
    log,
    owner: 'agent',
  })
  const agent = await createAgentService({
    name: HOST,
    version: '0',
    toolstack,
    images,
    cpuCount: 1,
    memoryBytes: bytes(1024 ** 4),
    clock,
    log,
  })
  return { toolstack, agent }
}

/** The host's start on this folder: joined, everything taken in, and away again. */
async function start(
  database: SqlExecutor,
  from: ReturnType<typeof folder>,
  work?: (host: Awaited<ReturnType<typeof openHost>>) => Promise<unknown>,
) {
  const host = await openHost(from)
  const stop = new AbortController()
  const { done } = await attachHost(
    { database, ids, log: memoryLog() },
    { name: HOST, agent: host.agent, own: true },
    stop.signal,
  )
  await work?.(host)
  const takenIn = async () =>
    Number((await database.query('SELECT event_sequence FROM host')).rows[0]?.['event_sequence']) >= host.toolstack.lastSequence()
  while (!(await takenIn())) await sleep(2)
  stop.abort()
  await done
  await host.toolstack.close()
}

const stateOf = async (database: SqlExecutor, id: DomainId) => {
  const { rows } = await database.query('SELECT state_kind, state_cause FROM instance WHERE id = $1', [id])
  return [rows[0]?.['state_kind'], rows[0]?.['state_cause']]
}

async function insert(database: SqlExecutor, id: DomainId, name: string): Promise<void> {
  await database.query('INSERT INTO host (name, created_at) VALUES ($1, now()) ON CONFLICT DO NOTHING', [HOST])
  await database.query(
    `INSERT INTO instance (id, name, image, host, spec, vcpu_count, memory_bytes, root_disk_bytes, state_kind, state_cause, state_since, created_at, created_by)
     VALUES ($1, $2, 'micro', $3, $4, 1, 1, 1, 'creating', 'requested', now(), now(), 'test')`,
    [id, name, HOST, JSON.stringify(specOf(name))],
  )
}

test('a row that its host does not list is lost, and follows the host again when it lists it', async () => {
  await using handle = await testDatabase()
  const database = handle.executor
  const usual = folder()
  await start(database, usual, async ({ toolstack }) => {
    await insert(database, ID, 'kept')
    await toolstack.define(ID, specOf('kept'), { commandId: 'define' })
    await toolstack.carryOut('start', ID, { commandId: 'start' })
  })
  assert.deepEqual((await stateOf(database, ID))[0], 'running')

  await start(database, folder())
  assert.deepEqual(await stateOf(database, ID), ['failed', 'lost'])

  await start(database, usual)
  assert.deepEqual((await stateOf(database, ID))[0], 'running')
  await start(database, usual, ({ toolstack }) => toolstack.carryOut('pause', ID, { commandId: 'pause' }))
  assert.deepEqual((await stateOf(database, ID))[0], 'paused')

  const { rows } = await database.query(`SELECT content FROM event WHERE kind = 'instance.state' ORDER BY id`)
  const told = rows.map((row) => row['content'] as { from: string | null; to: string | null })
  assert.ok(told.some(({ from, to }) => from === 'running' && to === 'failed'))
  assert.ok(told.some(({ from, to }) => from === 'failed' && to === 'running'))
})

test('a host set up anew that has counted further than the one before is known for new, and all that it did is told', async () => {
  await using handle = await testDatabase()
  const database = handle.executor
  await insert(database, ID, 'kept')
  await start(database, folder(), async ({ toolstack }) => {
    await toolstack.define(ID, specOf('kept'), { commandId: 'define' })
  })
  await insert(database, UNDONE, 'anew')
  const anew = folder()
  // Before it joins; that it counts further than the old one must not hide that it counts anew.
  const { toolstack } = await openHost(anew)
  await toolstack.define(UNDONE, specOf('anew'), { commandId: 'define' })
  for (const verb of ['start', 'pause', 'unpause', 'poweroff'] as const)
    await toolstack.carryOut(verb, UNDONE, { commandId: `${verb}-1` })
  await toolstack.close()
  await start(database, anew)
  const { rows } = await database.query(`SELECT content FROM event WHERE kind = 'instance.state' AND resource = $1 ORDER BY id`, [
    UNDONE,
  ])
  assert.deepEqual(
    rows.map((row) => (row['content'] as { to: string }).to),
    ['stopped', 'running', 'paused', 'running', 'stopped'],
  )
  assert.deepEqual(await stateOf(database, ID), ['failed', 'lost'])
})

test('an agent that does not say which journal it has joins as before', async () => {
  await using handle = await testDatabase()
  const database = handle.executor
  const usual = folder()
  await start(database, usual, async ({ toolstack }) => {
    await insert(database, ID, 'kept')
    await toolstack.define(ID, specOf('kept'), { commandId: 'define' })
  })
  const host = await openHost(usual)
  const { journalId: _, ...hello } = host.agent.hello
  const silent: AgentPort = {
    hello,
    call: (...call) => host.agent.call(...call),
    events: (...call) => host.agent.events(...call),
    acknowledge: (sequence) => host.agent.acknowledge(sequence),
    openStream: (...call) => host.agent.openStream(...call),
  }
  for (let round = 0; round < 2; round += 1) {
    const stop = new AbortController()
    const { done } = await attachHost({ database, ids, log: memoryLog() }, { name: HOST, agent: silent, own: true }, stop.signal)
    stop.abort()
    await done
  }
  await host.toolstack.close()
  await start(database, usual)
  const { rows } = await database.query(`SELECT 1 FROM event WHERE kind = 'instance.state'`)
  assert.equal(rows.length, 1, 'told once')
})

test('a row whose creation failed stays failed, whatever its host lists', async () => {
  await using handle = await testDatabase()
  const database = handle.executor
  await insert(database, UNDONE, 'undone')
  const failed = failedEffect(UNDONE, { code: 'exhausted', message: 'no memory' })
  await database.query(failed.text, failed.values)
  await start(database, folder(), ({ toolstack }) => toolstack.define(UNDONE, specOf('undone'), { commandId: 'define' }))
  assert.deepEqual(await stateOf(database, UNDONE), ['failed', 'exhausted'])
})

const microtasks = async (count: number): Promise<void> => {
  for (let at = 0; at < count; at += 1) await null
}

test('a transition that comes as the last one has just been taken in is taken in without waiting for the next', async () => {
  const answers = { rows: [{ event_sequence: 0, connection_epoch: 1 }], rowCount: 0 }
  const database: SqlExecutor = { query: async () => answers, transaction: (work) => work(database) } as SqlExecutor
  const eventOf = (sequence: number): DomainEvent =>
    ({
      sequence,
      at: 0,
      domain: ID,
      name: 'kept',
      from: null,
      to: null,
      cause: 'requested',
      detail: null,
      reconstructed: false,
    }) as unknown as DomainEvent
  for (let laterBy = 0; laterBy < 24; laterBy += 1) {
    const events = new Channel<DomainEvent>(8)
    const acknowledged: number[] = []
    const agent = {
      hello: { protocol: AGENT_PROTOCOL, name: HOST, images: [], domains: [], sequence: 0 },
      events: () => events,
      acknowledge: async (sequence: number) => {
        acknowledged.push(sequence)
        if (sequence !== 1) return
        void microtasks(laterBy).then(() => events.push(eventOf(2)))
        await microtasks(12)
      },
    } as unknown as AgentPort
    const { done } = await attachHost(
      { database, ids, log: memoryLog() },
      { name: HOST, agent, own: true },
      new AbortController().signal,
    )
    events.push(eventOf(1))
    for (let turns = 0; turns < 5; turns += 1) await turn()
    assert.deepEqual(acknowledged, [1, 2], `pushed ${laterBy} microtasks later`)
    events.close()
    await done
  }
})
