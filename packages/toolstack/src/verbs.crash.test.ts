/** Every verb of the toolstack disturbed in every way, and the whole toolstack killed at every operation of its disk. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { gib, mib, retryable, toFault, type Clock, type Json, type Log } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { SIM_IMAGE } from '@typevisor/image'
import {
  isVerb,
  isHostEvent,
  type DeviceRequest,
  type DomainEvent,
  type DomainId,
  type DomainName,
  type DomainRecord,
  type DomainSpec,
  type ImageName,
  type SettingsPatch,
  type SnapshotId,
  type SnapshotName,
  type VolumeId,
} from '@typevisor/model'
import { stateFile, type SagaDefinition } from '@typevisor/saga'
import { sagaCrashSuite } from '@typevisor/saga/testing'
import { memoryLog, seededRng, sequentialIds, simDisk, virtualClock, type SimDisk } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { Ledger } from './ledger.ts'
import type { DomainDriver } from './ports.ts'
import { openToolstack, type Toolstack } from './toolstack.ts'
import type { ToolstackServices } from './steps.ts'
import { TOOLSTACK_SAGAS } from './verbs.ts'

const ID = '0192f000-0000-7000-8000-00000000aaaa' as DomainId
const SPEC: DomainSpec = {
  name: 'crash' as DomainName,
  vcpuCount: 1,
  vcpuCountMax: 2,
  memoryBytes: mib(128),
  image: SIM_IMAGE.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: 'crash', user: null, sshKeys: [], userData: null },
  forwards: [{ protocol: 'tcp', hostPort: 0, guestPort: 22 }],
  labels: {},
  hotplugPortCount: 4,
}

const SNAPSHOT = '0192f000-0000-7000-8000-00000000cccc' as SnapshotId
const ROOT = `${ID}.root` as VolumeId
const CLONE = '0192f000-0000-7000-8000-00000000bbbb' as DomainId
const CLONE_SPEC: DomainSpec = { ...SPEC, name: 'clone' as DomainName }

/** What outlives the toolstack's process. */
function machine(clock: Clock) {
  const hypervisor = new SimHypervisor(clock)
  const volumes = memoryVolumeStore()
  const parts = (driver: DomainDriver, disk: SimDisk, log: Log) => ({
    driver,
    volumes,
    images: { get: async (name: ImageName) => (name === SIM_IMAGE.name ? SIM_IMAGE : null) },
    state: stateFile({ disk, name: 'toolstack.journal', clock, log }),
    saves: hypervisor.saveFolder,
    media: { find: async (name: string) => ({ path: `/media/${name}`, sizeBytes: 10_000 }), list: async () => [] },
    clock,
    ids: sequentialIds(),
    log,
  })
  /** But for the console's output: what a guest said before its start was undone is kept, for whoever asks why. */
  const everything = async (
    domains: readonly Pick<DomainRecord, 'state' | 'forwards' | 'snapshots' | 'settings' | 'settingsNotes' | 'hardware'>[],
  ) => ({
    domains: domains.map(({ state: { kind }, forwards, snapshots, settings, settingsNotes, hardware }) => ({
      kind,
      settings,
      settingsNotes,
      devices: hardware.devices,
      forwards: kind === 'running' || kind === 'paused' ? forwards : 'none in effect',
      snapshots: snapshots.map(({ name, state, memory, quiesced }) => ({ name, state, hasMemory: memory !== null, quiesced })),
    })),
    guests: [...hypervisor.guests.values()].map(({ state, frozen, memory, settings, domain }) => ({
      kind: state.kind,
      frozen,
      memory,
      settings,
      devices: domain.hardware.devices,
    })),
    saves: [...hypervisor.saves.values()].map((save) => save.domain),
    volumes: (await volumes.list()).map(({ id, virtualBytes }) => ({
      id,
      virtualBytes,
      text: new TextDecoder().decode(volumes.content(id)?.slice(0, 8)),
    })),
    taken: (await volumes.snapshots.list(ROOT)).length,
  })
  return { hypervisor, volumes, parts, everything }
}

let commands = 0
const command = () => ({ commandId: `command-${(commands += 1)}` })

type SagaName = keyof typeof TOOLSTACK_SAGAS
/** A saga, or one of its ways. */
type Act =
  | SagaName
  | 'snapshot with memory'
  | 'attach a NIC'
  | 'attach a stick'
  | 'attach a drive'
  | 'detach by force'
  | 'detach and delete'
  | 'detach what is kept and delete'
  | 'eject'

const REQUEST = { snapshot: SNAPSHOT, name: 'first' as SnapshotName, memory: false, quiesce: 'try', timeoutMs: 1000 } as const
const PATCH: SettingsPatch = { vcpuCount: 2, cpuWeight: 300, memoryTargetBytes: mib(96) }
const DATA: DeviceRequest = { kind: 'disk', name: 'data', sizeBytes: mib(64) }
const ATTACHED: Partial<Record<Act, DeviceRequest>> = {
  attach: DATA,
  'attach a NIC': { kind: 'nic', name: 'lan', forwards: [{ protocol: 'tcp', hostPort: 0, guestPort: 80 }] },
  'attach a stick': { kind: 'usb', name: 'stick', model: 'storage', sizeBytes: mib(8) },
  'attach a drive': { kind: 'cd', name: 'cd', medium: 'debian.iso' },
}
const DETACHED: Partial<Record<Act, { timeoutMs: number; force: boolean; deleteVolume: boolean }>> = {
  detach: { timeoutMs: 1000, force: false, deleteVolume: false },
  'detach by force': { timeoutMs: 0, force: true, deleteVolume: false },
  'detach and delete': { timeoutMs: 1000, force: false, deleteVolume: true },
  'detach what is kept and delete': { timeoutMs: 1000, force: false, deleteVolume: true },
}
const inputOf = (act: Act): Json => {
  const device = ATTACHED[act]
  if (device) return { id: ID, device } as unknown as Json
  const how = DETACHED[act]
  if (how) return { id: ID, name: 'data', ...how }
  if (act === 'resize') return { id: ID, name: 'root', sizeBytes: gib(2) }
  if (act === 'medium' || act === 'eject') return { id: ID, name: 'cd', medium: act === 'eject' ? null : 'other.iso' }
  if (act === 'define') return { id: ID, spec: SPEC } as unknown as Json
  if (act === 'clone') return { id: CLONE, spec: CLONE_SPEC, from: { domain: ID, snapshot: SNAPSHOT } } as unknown as Json
  if (act === 'snapshot') return { id: ID, ...REQUEST }
  if (act === 'snapshot with memory') return { id: ID, ...REQUEST, memory: true }
  if (act === 'revert') return { id: ID, snapshot: SNAPSHOT, start: false }
  if (act === 'snapshot-delete') return { id: ID, snapshot: SNAPSHOT }
  if (act === 'rename') return { id: ID, name: 'other' }
  if (act === 'set') return { id: ID, patch: PATCH } as unknown as Json
  return { id: ID }
}

async function give(toolstack: Toolstack, act: Act, options: { commandId: string }): Promise<unknown> {
  const device = ATTACHED[act]
  if (device) return toolstack.attach(ID, device, options)
  const how = DETACHED[act]
  if (how) return toolstack.detach(ID, 'data', { ...options, ...how })
  if (act === 'resize') return toolstack.resizeDisk(ID, 'root', gib(2), options)
  if (act === 'medium' || act === 'eject') return toolstack.changeMedium(ID, 'cd', act === 'eject' ? null : 'other.iso', options)
  if (act === 'define') return toolstack.define(ID, SPEC, options)
  if (act === 'clone') return toolstack.clone(CLONE, CLONE_SPEC, { domain: ID, snapshot: SNAPSHOT }, options)
  if (act === 'snapshot') return toolstack.snapshot(ID, REQUEST, options)
  if (act === 'snapshot with memory') return toolstack.snapshot(ID, { ...REQUEST, memory: true }, options)
  if (act === 'revert') return toolstack.revert(ID, SNAPSHOT, options)
  if (act === 'snapshot-delete') return toolstack.removeSnapshot(ID, SNAPSHOT, options)
  if (act === 'rename') return toolstack.rename(ID, 'other' as DomainName, options)
  if (act === 'set') return toolstack.set(ID, PATCH, options)
  assert.ok(isVerb(act))
  return toolstack.carryOut(act, ID, options)
}

/** After each act memory and disk are others: what a revert brings back can be told from what it does not. */
async function prepare(
  toolstack: Toolstack,
  acts: readonly Act[],
  { hypervisor, volumes }: ReturnType<typeof machine>,
): Promise<void> {
  for (const act of acts) {
    await give(toolstack, act, command())
    const guest = hypervisor.guests.get(ID)
    if (guest) guest.memory += 1
    volumes.write(ROOT, new TextEncoder().encode(`after ${act}`))
  }
}

interface Life {
  /** What leads to the state in which the verb is given. */
  readonly before: readonly Act[]
  /** Left out: the saga's name. */
  readonly act?: Act
  readonly irreversibleFrom?: string
  readonly end: string
}

/** A saga without a life here is an error of types: none goes undisturbed. */
const LIVES_OF: Readonly<Record<SagaName, readonly [Life, ...Life[]]>> = {
  define: [{ before: [], end: 'stopped' }],
  start: [{ before: ['define'], end: 'running' }],
  pause: [{ before: ['define', 'start'], end: 'paused' }],
  unpause: [{ before: ['define', 'start', 'pause'], end: 'running' }],
  shutdown: [{ before: ['define', 'start'], irreversibleFrom: 'await', end: 'stopped' }],
  reboot: [{ before: ['define', 'start'], irreversibleFrom: 'reset', end: 'running' }],
  poweroff: [
    { before: ['define', 'start'], irreversibleFrom: 'destroy', end: 'stopped' },
    { before: ['define', 'start', 'save'], irreversibleFrom: 'destroy', end: 'stopped' },
  ],
  save: [
    { before: ['define', 'start'], irreversibleFrom: 'save', end: 'saved' },
    { before: ['define', 'start', 'pause'], irreversibleFrom: 'save', end: 'saved' },
  ],
  restore: [{ before: ['define', 'start', 'save'], irreversibleFrom: 'take-over', end: 'running' }],
  dump: [
    { before: ['define', 'start'], irreversibleFrom: 'dump', end: 'running' },
    { before: ['define', 'start', 'pause', 'dump'], irreversibleFrom: 'dump', end: 'paused' },
  ],
  destroy: [
    { before: ['define'], irreversibleFrom: 'end', end: 'gone' },
    { before: ['define', 'start'], irreversibleFrom: 'end', end: 'gone' },
    { before: ['define', 'start', 'save'], irreversibleFrom: 'end', end: 'gone' },
    { before: ['define', 'start', 'snapshot with memory'], irreversibleFrom: 'end', end: 'gone' },
    { before: ['define', 'start', 'attach', 'attach a NIC', 'detach'], irreversibleFrom: 'end', end: 'gone' },
  ],
  snapshot: [
    { before: ['define'], end: 'stopped' },
    { before: ['define', 'start'], end: 'running' },
    { before: ['define', 'start', 'pause'], end: 'paused' },
    { before: ['define', 'start'], act: 'snapshot with memory', end: 'running' },
    { before: ['define', 'start', 'pause'], act: 'snapshot with memory', end: 'paused' },
    { before: ['define', 'start', 'attach'], end: 'running' },
  ],
  revert: [
    { before: ['define', 'start', 'snapshot'], irreversibleFrom: 'end', end: 'stopped' },
    { before: ['define', 'start', 'snapshot', 'save'], irreversibleFrom: 'end', end: 'stopped' },
    { before: ['define', 'start', 'snapshot with memory'], irreversibleFrom: 'end', end: 'running' },
    { before: ['define', 'start', 'pause', 'snapshot with memory', 'poweroff'], irreversibleFrom: 'end', end: 'paused' },
    { before: ['define', 'start', 'attach', 'snapshot', 'detach and delete'], irreversibleFrom: 'end', end: 'stopped' },
    {
      before: ['define', 'start', 'attach', 'attach a drive', 'snapshot with memory', 'detach and delete', 'eject'],
      irreversibleFrom: 'end',
      end: 'running',
    },
    { before: ['define', 'start', 'snapshot', 'attach', 'attach a drive'], irreversibleFrom: 'end', end: 'stopped' },
  ],
  'snapshot-delete': [
    { before: ['define', 'start', 'snapshot'], irreversibleFrom: 'disks', end: 'running' },
    { before: ['define', 'start', 'snapshot with memory'], irreversibleFrom: 'disks', end: 'running' },
  ],
  clone: [
    { before: ['define', 'start', 'snapshot with memory'], end: 'stopped' },
    { before: ['define', 'start', 'attach', 'attach a NIC', 'attach a stick', 'snapshot', 'detach and delete'], end: 'stopped' },
  ],
  rename: [
    { before: ['define'], end: 'stopped' },
    { before: ['define', 'start'], end: 'running' },
    { before: ['define', 'start', 'save'], end: 'saved' },
  ],
  set: [
    { before: ['define'], end: 'stopped' },
    { before: ['define', 'start'], end: 'running' },
  ],
  attach: [
    { before: ['define'], end: 'stopped' },
    { before: ['define', 'start'], end: 'running' },
    { before: ['define', 'start', 'pause'], end: 'paused' },
    { before: ['define', 'start', 'attach', 'detach'], end: 'running' },
    { before: ['define', 'start'], act: 'attach a NIC', end: 'running' },
    { before: ['define', 'start'], act: 'attach a stick', end: 'running' },
    { before: ['define', 'start'], act: 'attach a drive', end: 'running' },
  ],
  detach: [
    { before: ['define', 'attach'], irreversibleFrom: 'unplug', end: 'stopped' },
    { before: ['define', 'start', 'attach'], irreversibleFrom: 'unplug', end: 'running' },
    { before: ['define', 'start', 'attach', 'pause'], act: 'detach by force', irreversibleFrom: 'unplug', end: 'paused' },
    { before: ['define', 'start', 'attach'], act: 'detach and delete', irreversibleFrom: 'unplug', end: 'running' },
    {
      before: ['define', 'start', 'attach', 'detach'],
      act: 'detach what is kept and delete',
      irreversibleFrom: 'unplug',
      end: 'running',
    },
  ],
  resize: [
    { before: ['define'], irreversibleFrom: 'grow', end: 'stopped' },
    { before: ['define', 'start'], irreversibleFrom: 'grow', end: 'running' },
  ],
  medium: [
    { before: ['define', 'start', 'attach a drive'], irreversibleFrom: 'eject', end: 'running' },
    { before: ['define', 'start', 'attach a drive'], act: 'eject', irreversibleFrom: 'eject', end: 'running' },
    { before: ['define', 'start', 'attach a drive', 'eject'], end: 'running' },
  ],
}
const LIVES = (Object.keys(LIVES_OF) as SagaName[]).flatMap((verb) =>
  LIVES_OF[verb].map(({ act = verb, ...life }) => ({ verb, act, subject: act === 'clone' ? CLONE : ID, ...life })),
)

for (const { verb, act, subject, before, irreversibleFrom } of LIVES) {
  const definition = TOOLSTACK_SAGAS[verb] as SagaDefinition<never, ToolstackServices>
  const from = before.at(-1)
  sagaCrashSuite<Json, ToolstackServices>({
    definition: {
      ...definition,
      name: from === undefined ? `domain.${act}` : `domain.${act} after ${before.slice(1).join(', ') || from}`,
    } as SagaDefinition<Json, ToolstackServices>,
    input: inputOf(act),
    resource: subject,
    ...(irreversibleFrom === undefined ? {} : { irreversibleFrom }),
    seedCount: 20,
    setup: async ({ clock, log, rng }) => {
      const world = machine(clock)
      const { hypervisor, parts, everything } = world
      const disk = simDisk({ rng })
      const driver = () => createSimDriver({ hypervisor, clock })
      const first = await openToolstack({ ...parts(driver(), disk, log), owner: 'before' })
      await prepare(first, before, world)
      await first.close()

      const { state, ...rest } = parts(driver(), disk, log)
      // The sagas of the toolstack before are not this suite's.
      state.map('sagas')
      const ledger = new Ledger(state, clock)
      await state.open()
      const services: ToolstackServices = {
        ...rest,
        ledger,
        links: null,
        moves: noMoves(),
        intend: () => {},
        look: async (id) => {
          if (hypervisor.guests.get(id)?.state.kind !== 'powered-off') return
          await ledger.enter(id, { kind: 'stopped', cause: 'requested', detail: null }, { cause: 'requested' })
          await rest.driver.destroy(id)
        },
        untilNotRunning: async (id, signal) => {
          while (hypervisor.guests.get(id)?.state.kind === 'running') await clock.sleep(5 as never, { signal })
          await services.look(id, signal)
        },
      }
      return { services, snapshot: () => everything(ledger.list()), dispose: () => state.close() }
    },
  })
}

/** None of these verbs moves a domain. */
const noMoves = (): ToolstackServices['moves'] => ({
  incoming: new Map(),
  arriving: new Map(),
  sending: new Map(),
  controls: new Map(),
  listeners: new Map(),
  handingOver: new Map(),
  rests: new Map(),
  arrived: async () => {},
  go: async () => {},
  abandon: async () => {},
})

/** Whose process is dead asks and is answered no more. */
function mortal(driver: DomainDriver): { driver: DomainDriver; die: () => void } {
  let dead = false
  const never = new Promise<never>(() => {})
  return {
    die: () => (dead = true),
    driver: new Proxy(driver, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name)
        if (typeof value !== 'function') return value
        if (name === 'events') return (...args: unknown[]) => value.apply(target, args) as unknown
        return async (...args: unknown[]): Promise<unknown> => {
          if (dead) return never
          const answer: unknown = await value.apply(target, args)
          return dead ? never : answer
        }
      },
    }),
  }
}

async function eventsOf(toolstack: Toolstack): Promise<DomainEvent[]> {
  const seen: DomainEvent[] = []
  const last = toolstack.lastSequence()
  if (last > 0) {
    for await (const event of toolstack.events(0)) {
      if (!isHostEvent(event)) seen.push(event)
      if (event.sequence >= last) break
    }
  }
  return seen
}

for (const { act, subject, before, end } of LIVES) {
  const after = before.length > 0 ? ` after ${before.slice(1).join(', ') || before[0]}` : ''
  test(`${act}${after}: killed at each operation of the disk, the next process ends it, and every transition is told in one line`, async () => {
    for (let killAt = 1; ; killAt += 1) {
      const clock = virtualClock()
      const ended = await clock.run(async () => {
        const world = machine(clock)
        const { hypervisor, parts, everything } = world
        const log = memoryLog()
        let operations = -1
        let die: () => void = () => {}
        let disk: SimDisk = simDisk({
          rng: seededRng(killAt),
          onOperation: () => {
            if (operations < 0) return
            operations += 1
            if (operations === killAt) die()
          },
        })
        const first = await openToolstack({ ...parts(createSimDriver({ hypervisor, clock }), disk, log), owner: 'test' })
        await prepare(first, before, world)
        await first.close()

        const { driver, die: stopDriver } = mortal(createSimDriver({ hypervisor, clock }))
        const killed = Promise.withResolvers<'killed'>()
        die = () => {
          stopDriver()
          operations = -1
          disk = disk.crash()
          killed.resolve('killed')
        }
        operations = 0
        const commandId = `the-command-${killAt}`
        const told = new Map<number, string>()
        const life = (async () => {
          const toolstack = await openToolstack({ ...parts(driver, disk, log), owner: 'test' })
          const listening = (async () => {
            for await (const event of toolstack.events(0)) told.set(event.sequence, JSON.stringify({ ...event, at: 0 }))
          })()
          listening.catch(() => {})
          await give(toolstack, act, { commandId })
          await toolstack.close()
          return 'ended' as const
        })()
        const how = await Promise.race([life, killed.promise])
        operations = -1
        const second = await openToolstack({ ...parts(createSimDriver({ hypervisor, clock }), disk, log), owner: 'test' })
        await give(second, act, { commandId })
        await clock.advance(100)
        assert.equal(second.get(subject)?.state.kind ?? 'gone', end, `killed at operation ${killAt}`)
        const found = await everything(second.list())
        if (act === 'set') {
          assert.deepEqual(second.get(ID)?.settings, PATCH, `killed at operation ${killAt}`)
          assert.deepEqual(found.guests[0]?.settings ?? PATCH, PATCH, `killed at operation ${killAt}`)
        }
        const kinds = second.list().map(({ state }) => state.kind)
        assert.deepEqual(
          found.guests.map(({ kind }) => kind),
          kinds.filter((kind) => kind === 'running' || kind === 'paused'),
          `killed at operation ${killAt}`,
        )
        assert.ok(
          found.guests.every(({ frozen }) => !frozen),
          `killed at operation ${killAt}`,
        )
        const named = second
          .list()
          .flatMap(({ state, snapshots, dump }) => [
            ...(state.kind === 'saved' ? [state.savePath] : []),
            ...snapshots.flatMap(({ memory }) => (memory ? [memory.path] : [])),
            ...(dump ? [dump.path] : []),
          ])
        assert.deepEqual([...hypervisor.saves.keys()], named, `killed at operation ${killAt}`)
        const devices = (await Promise.all(second.list().map(({ id }) => second.devices(id)))).flat()
        assert.equal(
          found.volumes.length,
          devices.filter(({ sizeBytes }) => sizeBytes !== null).length,
          `killed at operation ${killAt}`,
        )
        const [recorded, real] = [found.domains, found.guests].map((each) => each.map((one) => one.devices))
        if (real?.length === recorded?.length) assert.deepEqual(real, recorded, `killed at operation ${killAt}`)
        assert.equal(found.taken, second.get(ID)?.snapshots.length ?? 0, `killed at operation ${killAt}`)
        const events = await eventsOf(second)
        const at = new Map<DomainId, string | null>()
        for (const [index, event] of events.entries()) {
          assert.equal(event.sequence, index + 1)
          assert.equal(event.from, at.get(event.domain) ?? null, `killed at operation ${killAt}: ${JSON.stringify(events)}`)
          at.set(event.domain, event.to)
          const earlier = told.get(event.sequence)
          if (earlier !== undefined)
            assert.equal(JSON.stringify({ ...event, at: 0 }), earlier, 'what was told is told the same again')
        }
        assert.ok(
          [...told.keys()].every((sequence) => sequence <= events.length),
          'what was told is never lost',
        )
        await second.close()
        return how === 'ended'
      })
      if (ended) break
      assert.ok(killAt < 200)
    }
  })
}

test('a destruction that failed for a reason that passes is tried again by the same command', async () => {
  const clock = virtualClock()
  await clock.run(async () => {
    const world = machine(clock)
    const { hypervisor, parts } = world
    let hung = false
    const faults = (operation: string) => {
      if (operation === 'destroy' && hung) throw toFault(Object.assign(new Error('hung'), { name: 'TimeoutError' }))
    }
    const toolstack = await openToolstack({
      ...parts(createSimDriver({ hypervisor, clock, faults }), simDisk({ rng: seededRng(1) }), memoryLog()),
      owner: 'test',
    })
    await prepare(toolstack, ['define', 'start'], world)
    hung = true
    await assert.rejects(toolstack.carryOut('destroy', ID, { commandId: 'undo' }), (error) => retryable(error))
    assert.equal(toolstack.get(ID)?.state.kind, 'running')
    hung = false
    assert.equal(await toolstack.carryOut('destroy', ID, { commandId: 'undo' }), null)
    assert.equal(hypervisor.guests.size, 0)
    await toolstack.close()
  })
})

test('a domain whose undo failed is held, and can be destroyed', async () => {
  const clock = virtualClock()
  await clock.run(async () => {
    const world = machine(clock)
    const { hypervisor, volumes, parts } = world
    let broken = true
    const faults = (operation: string) => {
      if (broken && (operation === 'unpause' || operation === 'destroy')) throw new Error('broken')
    }
    const toolstack = await openToolstack({
      ...parts(createSimDriver({ hypervisor, clock, faults }), simDisk({ rng: seededRng(1) }), memoryLog()),
      owner: 'test',
    })
    await prepare(toolstack, ['define'], world)
    await assert.rejects(toolstack.carryOut('start', ID, command()), /could not be undone/)
    await assert.rejects(toolstack.carryOut('start', ID, command()), { code: 'busy' })
    broken = false
    assert.equal(await toolstack.carryOut('destroy', ID, command()), null)
    assert.deepEqual([hypervisor.guests.size, await volumes.list()], [0, []])
    await toolstack.close()
  })
})

test('a destruction that fails half-way says that the guest is off, and can be given again', async () => {
  const clock = virtualClock()
  await clock.run(async () => {
    const world = machine(clock)
    const { hypervisor, parts } = world
    let broken = true
    const faults = (operation: string) => {
      if (broken && operation === 'forget') throw new Error('broken')
    }
    const toolstack = await openToolstack({
      ...parts(createSimDriver({ hypervisor, clock, faults }), simDisk({ rng: seededRng(1) }), memoryLog()),
      owner: 'test',
    })
    await prepare(toolstack, ['define', 'start'], world)
    await assert.rejects(toolstack.carryOut('destroy', ID, command()), /broken/)
    assert.deepEqual(toolstack.get(ID)?.state, { kind: 'stopped', cause: 'requested', detail: null })
    broken = false
    assert.equal(await toolstack.carryOut('destroy', ID, command()), null)
    await toolstack.close()
  })
})

test('a restore that fails once the guest goes on leaves it going on: its disks are newer than the save', async () => {
  const clock = virtualClock()
  await clock.run(async () => {
    const world = machine(clock)
    const { hypervisor, parts } = world
    let late = false
    const driver = createSimDriver({ hypervisor, clock })
    const unpause = driver.unpause.bind(driver)
    // It acts, and the answer is lost each time.
    driver.unpause = async (...args) => {
      await unpause(...args)
      if (late) throw new Error('the answer was lost')
    }
    const toolstack = await openToolstack({ ...parts(driver, simDisk({ rng: seededRng(1) }), memoryLog()), owner: 'test' })
    await prepare(toolstack, ['define', 'start', 'save'], world)
    late = true
    await assert.rejects(toolstack.carryOut('restore', ID, command()), /the answer was lost/)
    assert.equal(toolstack.get(ID)?.state.kind, 'running')
    assert.deepEqual([hypervisor.guests.size, hypervisor.saves.size], [1, 0])
    await toolstack.close()
  })
})
