/**
 * Every saga of the control plane disturbed in every way, on a real PostgreSQL and with a real agent's toolstack (over domains in memory):
 * whatever happens the row, the host and the event log end as after an undisturbed run, or as after one that failed at once.
 */
import { after } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { bytes, gib, mib, type Json } from '@typevisor/base'
import { createAgentService } from '@typevisor/agent'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { memoryImageStore } from '@typevisor/image/testing'
import type { DomainId, DomainName, DomainSpec, ImageName, SnapshotId, SnapshotName, VerbName } from '@typevisor/model'
import { postgresSagaStore, stateFile, type SagaDefinition } from '@typevisor/saga'
import { sagaCrashSuite } from '@typevisor/saga/testing'
import { sequentialIds, simDisk } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { openToolstack, type Toolstack } from '@typevisor/toolstack'
import { serveHost } from '../agents/gateway.ts'
import { AgentRegistry } from '../agents/registry.ts'
import { nodeSecretCrypto } from '../secrets.ts'
import { stopTestPostgres, testDatabase, testIds, type TestDatabase } from '../testing.ts'
import { observedEffect, snapshotsEffect } from './effects.ts'
import { INSTANCE_SAGAS, type InstanceServices } from './sagas.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
/** The crash suite's own. */
const SAGA = '00000000-0000-7000-8000-0000000c4a54'
const HOST = 'h1'
const SNAPSHOT = '0192f000-0000-7000-8000-00000000cccc' as SnapshotId
const FIRST = 'first' as SnapshotName
/** Whose snapshot is cloned. */
const SOURCE = '0192f000-0000-7000-8000-00000000bbbb' as DomainId
const SPEC: DomainSpec = {
  name: 'crash' as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: 'micro' as ImageName,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: 'crash', user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
  hotplugPortCount: 4,
}

let shared: TestDatabase | undefined
after(async () => {
  await shared?.close()
  await stopTestPostgres()
})

type Before = VerbName | 'define' | 'attach a disk' | 'attach a drive' | 'snapshot' | 'snapshot with memory'

const REQUEST = { snapshot: SNAPSHOT, name: FIRST, memory: false, quiesce: 'try', timeoutMs: 1000 } as const

async function give(toolstack: Toolstack, act: Before): Promise<void> {
  const options = { commandId: `before-${act}` }
  if (act === 'define') await toolstack.define(ID, SPEC, options)
  else if (act === 'snapshot' || act === 'snapshot with memory')
    await toolstack.snapshot(ID, { ...REQUEST, memory: act !== 'snapshot' }, options)
  else if (act === 'attach a disk') await toolstack.attach(ID, { kind: 'disk', name: 'data', sizeBytes: mib(8) }, options)
  else if (act === 'attach a drive') await toolstack.attach(ID, { kind: 'cd', name: 'cd', medium: 'a.iso' }, options)
  else await toolstack.carryOut(act, ID, options)
}

interface Subject {
  readonly definition: SagaDefinition<never, InstanceServices>
  readonly title: string
  readonly input: Json
  readonly before: readonly Before[]
  /** A domain beside, with a snapshot. */
  readonly source?: boolean
  readonly resource?: string
  readonly irreversibleFrom?: string
  /** The row was destroyed already, by force. */
  readonly destroyed?: boolean
}

function suite({
  definition,
  title,
  input,
  before,
  resource = ID,
  irreversibleFrom,
  destroyed = false,
  source = false,
}: Subject): void {
  sagaCrashSuite<Json, InstanceServices>({
    definition: { ...definition, name: title } as unknown as SagaDefinition<Json, InstanceServices>,
    input,
    resource,
    time: 'real',
    seedCount: 8,
    undone: 'as failed at once',
    ...(irreversibleFrom === undefined ? {} : { irreversibleFrom }),
    setup: async ({ clock, log, rng }) => {
      shared ??= await testDatabase()
      const database = shared.executor
      await database.query('TRUNCATE saga, instance, image, host, event')

      const hypervisor = new SimHypervisor(clock)
      const volumes = memoryVolumeStore()
      const images = memoryImageStore()
      const toolstack = await openToolstack({
        driver: createSimDriver({ hypervisor, clock }),
        volumes,
        images,
        state: stateFile({ disk: simDisk({ rng }), name: 'agent.journal', clock, log }),
        saves: hypervisor.saveFolder,
        media: { find: async (name) => ({ path: `/media/${name}`, sizeBytes: 4096 }), list: async () => [] },
        clock,
        ids: sequentialIds(),
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
      for (const act of before) await give(toolstack, act)
      if (source) {
        await toolstack.define(SOURCE, { ...SPEC, name: 'source' as DomainName }, { commandId: 'source' })
        await toolstack.snapshot(SOURCE, REQUEST, { commandId: 'source-snapshot' })
      }
      if (resource === ID) {
        await database.query('INSERT INTO host (name, created_at) VALUES ($1, now())', [HOST])
        await database.query(
          `INSERT INTO instance (id, name, image, spec, vcpu_count, memory_bytes, root_disk_bytes, labels, forwards, state_kind, state_cause, state_since,
             created_at, created_by, host, operation_id, operation_name)
           VALUES ($1, 'crash', 'micro', $2, 1, $3, $4, '{}', '[]', 'creating', 'requested', now(), now(), 'test', $5, $6, $7)`,
          [ID, JSON.stringify(SPEC), SPEC.memoryBytes, SPEC.rootDiskBytes, HOST, SAGA, title],
        )
        const domain = toolstack.get(ID)
        if (domain) {
          const effect = observedEffect(ID, domain, toolstack.lastSequence())
          if (effect.kind === 'sql') await database.query(effect.text, effect.values)
          const kept = snapshotsEffect(ID, domain)
          await database.query(kept.text, kept.values)
        }
        if (definition.name === 'instance.destroy')
          await database.query(`UPDATE instance SET state_kind = 'destroying' WHERE id = $1`, [ID])
      }

      const agents = new AgentRegistry(clock)
      const stop = new AbortController()
      const joined = Promise.withResolvers<void>()
      const left = serveHost(
        { database, agents, crypto: nodeSecretCrypto, ids: testIds, log, signal: stop.signal },
        { name: HOST, agent, over: null, onJoined: joined.resolve },
      )
      left.catch(joined.reject)
      await joined.promise
      if (destroyed) await database.query('UPDATE instance SET destroyed_at = now(), operation_id = NULL, operation_name = NULL')

      const takenIn = async (): Promise<boolean> => {
        const { rows } = await database.query('SELECT event_sequence FROM host WHERE name = $1', [HOST])
        return Number(rows[0]?.['event_sequence']) >= toolstack.lastSequence()
      }
      return {
        services: { agents, database },
        store: postgresSagaStore({ sql: database }),
        async snapshot() {
          while (!(await takenIn())) await sleep(2)
          const { rows } = await database.query(
            'SELECT state_kind, root_disk_bytes, operation_id, destroyed_at IS NOT NULL AS destroyed, jsonb_array_length(snapshots) AS snapshot_count FROM instance',
          )
          const events = await database.query(
            `SELECT kind FROM event WHERE kind NOT IN ('instance.state', 'instance.reset', 'host.connected') ORDER BY id`,
          )
          return {
            rows,
            // Once; a saga whose undo failed says so at once, and again when it is undone at last.
            told: events.rows.map((row) => row['kind']).filter((kind, at, kinds) => kind !== kinds[at - 1]),
            domains: toolstack
              .list()
              .map(({ state, snapshots, hardware }) => [state.kind, snapshots.length, hardware.devices.length]),
            guests: [...hypervisor.guests.values()].map((guest) => guest.state.kind),
            saves: [...hypervisor.saves.keys()],
            volumes: (await volumes.list()).map(({ virtualBytes }) => virtualBytes),
          }
        },
        async dispose() {
          stop.abort()
          await left.catch(() => {})
          await toolstack.close()
        },
      }
    },
  })
}

const verbInput = (verb: VerbName) => ({ id: ID, name: 'crash', host: HOST, verb })
const asInput = (value: object): Json => value as Json
const {
  create,
  clone,
  set,
  snapshot,
  revert,
  rename,
  snapshotDelete,
  destroy,
  cleanUp,
  buildImage,
  migrate: _migrate,
  copy,
  attach,
  detach,
  resize,
  insert,
  eject,
  ...verbs
} = INSTANCE_SAGAS
const onHost = { id: ID, name: 'crash', host: HOST, snapshot: { id: SNAPSHOT, name: FIRST } }

suite({
  definition: create,
  title: 'instance.create',
  input: asInput({ id: ID, spec: SPEC, host: HOST, start: true }),
  before: [],
})
suite({
  definition: create,
  title: 'instance.create without start',
  input: asInput({ id: ID, spec: SPEC, host: HOST, start: false }),
  before: [],
})
suite({
  definition: destroy,
  title: 'instance.destroy of a running one',
  input: verbInput('destroy'),
  before: ['define', 'start'],
  irreversibleFrom: 'carry-out',
})
suite({
  definition: destroy,
  title: 'instance.destroy of a saved one',
  input: verbInput('destroy'),
  before: ['define', 'start', 'save'],
  irreversibleFrom: 'carry-out',
})
suite({
  definition: destroy,
  title: 'instance.destroy by force',
  input: { ...verbInput('destroy'), force: true },
  before: ['define', 'start'],
  irreversibleFrom: 'carry-out',
})
suite({
  definition: cleanUp,
  title: 'instance.clean-up',
  input: verbInput('destroy'),
  before: ['define', 'start'],
  destroyed: true,
  irreversibleFrom: 'carry-out',
})
suite({
  definition: buildImage,
  title: 'image.build',
  input: { image: 'micro', host: HOST },
  before: [],
  resource: 'image:h1/micro',
  irreversibleFrom: 'build',
})

suite({
  definition: clone,
  title: 'instance.clone',
  input: asInput({ id: ID, spec: SPEC, host: HOST, start: true, from: { domain: SOURCE, snapshot: SNAPSHOT } }),
  before: [],
  source: true,
})
suite({
  definition: copy,
  title: 'instance.copy',
  input: asInput({
    id: ID,
    spec: SPEC,
    host: HOST,
    start: true,
    copy: { domain: SOURCE, host: HOST, quiesce: 'try', timeoutMs: 1000 },
  }),
  before: [],
  source: true,
})
for (const memory of [false, true]) {
  suite({
    definition: snapshot,
    title: `instance.snapshot ${memory ? 'with memory' : 'of disks'}`,
    input: asInput({ ...onHost, memory, quiesce: 'try', timeoutMs: 1000 }),
    before: ['define', 'start'],
  })
  suite({
    definition: revert,
    title: `instance.revert to ${memory ? 'memory' : 'disks'}`,
    input: asInput({ ...onHost, start: false }),
    before: ['define', 'start', memory ? 'snapshot with memory' : 'snapshot'],
    irreversibleFrom: 'carry-out',
  })
}
suite({
  definition: rename,
  title: 'instance.rename',
  input: asInput({ id: ID, name: SPEC.name, host: HOST, to: 'other' }),
  before: ['define', 'start'],
  irreversibleFrom: 'carry-out',
})
suite({
  definition: set,
  title: 'instance.set',
  input: asInput({
    id: ID,
    name: SPEC.name,
    host: HOST,
    patch: { cpuWeight: 50 },
    timeoutMs: 1000,
    memoryBytes: SPEC.memoryBytes,
  }),
  before: ['define', 'start'],
  irreversibleFrom: 'carry-out',
})
suite({
  definition: snapshotDelete,
  title: 'instance.snapshot-delete',
  input: asInput(onHost),
  before: ['define', 'start', 'snapshot'],
  irreversibleFrom: 'carry-out',
})

const onDevice = { id: ID, name: 'crash', host: HOST }
const drive = { ...onDevice, device: 'cd' }
const DEVICES: readonly Omit<Subject, 'title'>[] = [
  {
    definition: attach,
    input: asInput({ ...onDevice, device: 'data', request: { kind: 'disk', name: 'data', sizeBytes: mib(8) } }),
    before: ['define', 'start'],
  },
  {
    definition: detach,
    input: asInput({ ...onDevice, device: 'data', timeoutMs: 1000, force: false, deleteVolume: true }),
    before: ['define', 'start', 'attach a disk'],
  },
  { definition: resize, input: asInput({ ...onDevice, device: 'root', sizeBytes: gib(2) }), before: ['define', 'start'] },
  { definition: insert, input: asInput({ ...drive, medium: 'b.iso' }), before: ['define', 'start', 'attach a drive'] },
  { definition: eject, input: asInput({ ...drive, medium: null }), before: ['define', 'start', 'attach a drive'] },
]
for (const subject of DEVICES) suite({ ...subject, title: subject.definition.name, irreversibleFrom: 'carry-out' })

const BEFORE: Record<keyof typeof verbs, readonly (VerbName | 'define')[]> = {
  start: ['define'],
  pause: ['define', 'start'],
  unpause: ['define', 'start', 'pause'],
  shutdown: ['define', 'start'],
  reboot: ['define', 'start'],
  save: ['define', 'start'],
  restore: ['define', 'start', 'save'],
  dump: ['define', 'start'],
  poweroff: ['define', 'start'],
}
for (const verb of Object.keys(BEFORE) as (keyof typeof verbs)[]) {
  suite({
    definition: verbs[verb],
    title: `instance.${verb}`,
    input: verbInput(verb),
    before: BEFORE[verb],
    irreversibleFrom: 'carry-out',
  })
}
