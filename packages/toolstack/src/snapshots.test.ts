/** What a snapshot holds, what a revert brings back, and what is refused; that both outlive a kill is `verbs.crash.test.ts`. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, gib, mib, type FaultCode } from '@typevisor/base'
import { createSimDriver, SimHypervisor, type SimFaults } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import {
  SNAPSHOT_COUNT_MAX,
  type DomainId,
  type DomainName,
  type DomainSpec,
  type SnapshotId,
  type SnapshotName,
  type VolumeId,
} from '@typevisor/model'
import { stateFile } from '@typevisor/saga'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock } from '@typevisor/sim'
import { memoryVolumeStore, type MemoryVolumeStore, type VolumeStore } from '@typevisor/storage'
import type { SnapshotRequest } from './snapshots.ts'
import { openToolstack, type Toolstack } from './toolstack.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const CLONE = '0192f000-0000-7000-8000-00000000bbbb' as DomainId
const ROOT = `${ID}.root` as VolumeId
const specOf = (name: string): DomainSpec => ({
  name: name as DomainName,
  vcpuCount: 1,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
})

const isFault = (code: FaultCode, words: RegExp) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  assert.match(error.message, words)
  return true
}

interface World {
  readonly hypervisor: SimHypervisor
  readonly volumes: MemoryVolumeStore
  readonly toolstack: Toolstack
  /** Counts in the guest's memory: what it prints. */
  count(): Promise<string>
  writeDisk(text: string): void
  disk(id?: VolumeId): string
}

let commands = 0
const command = () => ({ commandId: `command-${(commands += 1)}` })
/** One for each name. */
const snapshotIds = new Map<string, SnapshotId>()
const idOf = (name: string): SnapshotId => {
  const id = snapshotIds.get(name) ?? (`0192f000-0000-7000-8000-${String(snapshotIds.size).padStart(12, '0')}` as SnapshotId)
  snapshotIds.set(name, id)
  return id
}
const request = (name: string, more: Partial<SnapshotRequest> = {}): SnapshotRequest => ({
  snapshot: idOf(name),
  name: name as SnapshotName,
  memory: false,
  quiesce: 'try',
  timeoutMs: 1000,
  ...more,
})

interface WorldOptions {
  readonly faults?: SimFaults
  readonly storeOf?: (volumes: MemoryVolumeStore) => VolumeStore
  readonly bootMs?: number
}

/** A running domain. */
function scene(title: string, body: (world: World) => Promise<void>, { faults, storeOf, bootMs = 0 }: WorldOptions = {}): void {
  test(title, async () => {
    const clock = virtualClock()
    await clock.run(async () => {
      const hypervisor = new SimHypervisor(clock, { bootMs })
      const volumes = memoryVolumeStore()
      const log = memoryLog()
      const toolstack = await openToolstack({
        driver: createSimDriver({ hypervisor, clock, ...(faults ? { faults } : {}) }),
        volumes: storeOf?.(volumes) ?? volumes,
        images: { get: async () => SIM_IMAGE },
        state: stateFile({ disk: simDisk({ rng: seededRng(1) }), name: 'toolstack.journal', clock, log }),
        saves: hypervisor.saveFolder,
        clock,
        ids: sequentialIds(),
        log,
        owner: 'test',
      })
      await toolstack.define(ID, specOf('web'), command())
      await toolstack.carryOut('start', ID, command())
      await body({
        hypervisor,
        volumes,
        toolstack,
        count: async () => {
          const { stdout } = await toolstack.exec(ID, { argv: ['count'], timeoutMs: 1000 })
          return new TextDecoder().decode(stdout).trim()
        },
        writeDisk: (text) => volumes.write(ROOT, new TextEncoder().encode(text)),
        disk: (id = ROOT) => new TextDecoder().decode(volumes.content(id) ?? new Uint8Array()),
      })
      await toolstack.close()
    })
  })
}

scene('with memory the guest goes on, and a revert brings back memory and disk of one moment', async (world) => {
  const { toolstack, count, writeDisk, disk } = world
  assert.equal(await count(), '1')
  writeDisk('then')
  const { snapshots, state } = await toolstack.snapshot(ID, request('good', { memory: true }), command())
  assert.equal(state.kind, 'running')
  assert.deepEqual(
    snapshots.map(({ name, state: then, memory, quiesced }) => [name, then, memory?.sizeBytes, quiesced]),
    [['good', 'running', 1024, true]],
  )
  assert.equal(await count(), '2')
  writeDisk('now')
  for (let again = 0; again < 2; again += 1) {
    assert.equal((await toolstack.revert(ID, idOf('good'), command())).state.kind, 'running')
    assert.equal(disk(), 'then')
    assert.equal(await count(), '2', 'it counts from the snapshot on, each time')
    writeDisk('now')
  }
})

scene('of disks alone the guest was frozen while they were taken; a revert leaves it stopped, or boots it', async (world) => {
  const { toolstack, hypervisor, volumes, count, writeDisk, disk } = world
  const { snapshots: store } = volumes
  const take = store.take.bind(store)
  let wasFrozen: boolean | undefined
  store.take = async (of) => {
    wasFrozen = hypervisor.guests.get(ID)?.frozen
    await take(of)
  }
  writeDisk('then')
  const { snapshots } = await toolstack.snapshot(ID, request('disks'), command())
  assert.deepEqual([wasFrozen, hypervisor.guests.get(ID)?.frozen], [true, false])
  assert.deepEqual([snapshots[0]?.memory, snapshots[0]?.quiesced], [null, true])
  writeDisk('now')
  await count()
  assert.equal((await toolstack.revert(ID, idOf('disks'), command())).state.kind, 'stopped')
  assert.deepEqual([disk(), hypervisor.guests.size], ['then', 0])
  assert.equal((await toolstack.revert(ID, idOf('disks'), { ...command(), start: true })).state.kind, 'running')
  assert.equal(await count(), '1', 'it has booted')
})

scene(
  'a guest whose agent does not answer is taken as it is, unless it must be quiesced',
  async ({ toolstack }) => {
    await assert.rejects(
      toolstack.snapshot(ID, request('must', { quiesce: 'must' }), command()),
      isFault('unavailable', /no agent answers/),
    )
    const { snapshots } = await toolstack.snapshot(ID, request('try'), command())
    assert.deepEqual(
      snapshots.map(({ name, quiesced }) => [name, quiesced]),
      [['try', false]],
    )
  },
  { bootMs: 1e9 },
)

let thawFails = true
scene(
  'a guest that is not thawed at first is not left frozen',
  async ({ toolstack, hypervisor }) => {
    await toolstack.snapshot(ID, request('slow'), command())
    assert.deepEqual([thawFails, hypervisor.guests.get(ID)?.frozen], [false, false])
  },
  {
    faults: (operation) => {
      if (operation !== 'thaw' || !thawFails) return
      thawFails = false
      throw new Fault('unavailable', 'the agent is slow')
    },
  },
)

scene('a guest that waits for room goes on after a snapshot of its memory, and from it after a revert', async (world) => {
  const { toolstack, hypervisor } = world
  hypervisor.guest.fillDisk(ID)
  const { snapshots } = await toolstack.snapshot(ID, request('full', { memory: true }), command())
  assert.equal(snapshots[0]?.state, 'running')
  assert.deepEqual(hypervisor.need(ID).state, { kind: 'paused', cause: 'disk-full' })
  hypervisor.guest.makeRoom(ID)
  assert.deepEqual(hypervisor.need(ID).state, { kind: 'running' })
  assert.equal((await toolstack.revert(ID, idOf('full'), command())).state.kind, 'running')
  assert.equal(await world.count(), '1')
})

scene('a clone is a domain of its own on the disk of the snapshot, and outlives where it came from', async (world) => {
  const { toolstack, volumes, writeDisk, disk } = world
  writeDisk('then')
  await toolstack.snapshot(ID, request('gold', { memory: true }), command())
  writeDisk('now')
  const made = await toolstack.clone(CLONE, specOf('web-2'), { domain: ID, snapshot: idOf('gold') }, command())
  const own = toolstack.get(ID)
  assert.equal(made.state.kind, 'stopped')
  assert.deepEqual(made.snapshots, [])
  assert.equal(disk(`${CLONE}.root` as VolumeId), 'then')
  const macOf = (hardware: typeof made.hardware | undefined) => hardware?.devices.find((device) => device.kind === 'nic')?.mac
  assert.notEqual(macOf(made.hardware), macOf(own?.hardware))
  const seed = new TextDecoder('latin1').decode(volumes.content(`${CLONE}.seed` as VolumeId) ?? new Uint8Array())
  assert.ok(seed.includes(CLONE) && seed.includes('web-2') && !seed.includes(ID), 'its seed is its own')
  await toolstack.carryOut('destroy', ID, command())
  assert.equal((await volumes.snapshots.list(ROOT)).length, 0)
  assert.equal((await toolstack.carryOut('start', CLONE, command()))?.state.kind, 'running')
})

scene('what cannot be is refused in words, and leaves nothing', async ({ toolstack, hypervisor, volumes }) => {
  const snapshot = (name: string, more?: Partial<SnapshotRequest>) => toolstack.snapshot(ID, request(name, more), command())
  await snapshot('one')
  await assert.rejects(snapshot('again', { name: 'one' as SnapshotName }), isFault('conflict', /there is one of this name/))
  await assert.rejects(toolstack.revert(ID, idOf('two'), command()), isFault('not_found', /snapshot .* of web: there is none/))
  assert.equal((await toolstack.removeSnapshot(ID, idOf('two'), command())).snapshots.length, 1, 'it is deleted already')
  const clone = (spec: DomainSpec, name = 'one') => toolstack.clone(CLONE, spec, { domain: ID, snapshot: idOf(name) }, command())
  await assert.rejects(clone(specOf('web')), isFault('conflict', /has this name/))
  await assert.rejects(clone(specOf('other'), 'two'), isFault('not_found', /snapshot .* of web: there is none/))
  await assert.rejects(clone({ ...specOf('other'), rootDiskBytes: gib(2) }), isFault('invalid', /rootDiskBytes/))
  hypervisor.freeBytes = 100 * 1024 * 1024
  await assert.rejects(snapshot('full', { memory: true }), isFault('exhausted', /100 MiB are free for it, want 128 MiB/))
  await toolstack.carryOut('pause', ID, command())
  await assert.rejects(snapshot('must', { quiesce: 'must' }), isFault('conflict', /paused guest/))
  await toolstack.carryOut('unpause', ID, command())
  await toolstack.carryOut('save', ID, command())
  await assert.rejects(snapshot('saved'), isFault('conflict', /it is saved, want stopped or running or paused/))
  await toolstack.carryOut('poweroff', ID, command())
  await assert.rejects(snapshot('off', { memory: true }), isFault('conflict', /it is stopped, want running or paused/))
  assert.deepEqual([(await volumes.snapshots.list(ROOT)).length, hypervisor.saves.size], [1, 0])
})

scene(`a domain has at most ${SNAPSHOT_COUNT_MAX} snapshots, and room again when one is removed`, async ({ toolstack }) => {
  for (let count = 0; count < SNAPSHOT_COUNT_MAX; count += 1) await toolstack.snapshot(ID, request(`s${count}`), command())
  await assert.rejects(toolstack.snapshot(ID, request('more'), command()), isFault('exhausted', /want at most 128/))
  await toolstack.removeSnapshot(ID, idOf('s5'), command())
  assert.equal((await toolstack.snapshot(ID, request('more'), command())).snapshots.at(-1)?.name, 'more')
})

scene(
  'volumes without snapshots refuse as unsupported, and are destroyed all the same',
  async ({ toolstack }) => {
    await assert.rejects(toolstack.snapshot(ID, request('none'), command()), isFault('unsupported', /have no snapshots/))
    assert.equal(await toolstack.carryOut('destroy', ID, command()), null)
  },
  {
    storeOf: ({ clone, create, grow, put, get, remove, list }) => ({ clone, create, grow, put, get, remove, list }),
  },
)

scene('a revert whose memory is damaged or whose disk is missing is refused while the guest still runs', async (world) => {
  const { toolstack, hypervisor, volumes, count } = world
  await toolstack.snapshot(ID, request('hurt', { memory: true }), command())
  await count()
  const [save] = hypervisor.saves.values()
  assert.ok(save)
  save.whole = false
  await assert.rejects(toolstack.revert(ID, idOf('hurt'), command()), isFault('failed', /no save of this domain/))
  assert.equal(await count(), '2', 'it goes on')
  save.whole = true
  await volumes.snapshots.remove({ volume: ROOT, snapshot: idOf('hurt') })
  await assert.rejects(toolstack.revert(ID, idOf('hurt'), command()), isFault('failed', /has no snapshot/))
  assert.equal(await count(), '3', 'it goes on')
})

scene('a save that was made before a revert is not restored after it', async ({ toolstack, hypervisor, writeDisk }) => {
  writeDisk('then')
  await toolstack.snapshot(ID, request('before'), command())
  await toolstack.carryOut('save', ID, command())
  await toolstack.revert(ID, idOf('before'), command())
  await assert.rejects(toolstack.carryOut('restore', ID, command()), isFault('conflict', /it is stopped/))
  assert.equal(hypervisor.saves.size, 0)
})

let isAnothers = false
scene(
  'a destruction that is refused, since the disk is leased by another, takes nothing away; later it is done',
  async ({ toolstack, volumes, disk, writeDisk, count }) => {
    writeDisk('kept')
    await toolstack.snapshot(ID, request('before'), command())
    isAnothers = true
    await assert.rejects(toolstack.carryOut('destroy', ID, command()), isFault('conflict', /leased/))
    isAnothers = false
    assert.equal(toolstack.get(ID)?.state.kind, 'stopped')
    assert.deepEqual(await volumes.snapshots.list(ROOT), [idOf('before')])
    assert.ok(await volumes.get(`${ID}.seed` as VolumeId))
    assert.equal(disk(), 'kept')
    await toolstack.carryOut('start', ID, command())
    assert.equal(await count(), '1')
    await toolstack.carryOut('destroy', ID, command())
    assert.deepEqual([await volumes.list(), await volumes.snapshots.list(ROOT)], [[], []])
  },
  {
    storeOf: (volumes) => ({
      ...volumes,
      remove: async (id) => {
        if (isAnothers && id === ROOT) throw new Fault('conflict', `delete ${id}: leased`)
        await volumes.remove(id)
      },
    }),
  },
)
