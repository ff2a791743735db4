/**
 * Snapshots of domains: disks, and memory if that is asked for, as they were at one moment.
 *
 *   snapshot   running, memory:  memory stream --> paused --> disks --> goes on --> record
 *              running, disks:   the guest's file systems frozen --> disks --> thawed --> record
 *              stopped, paused:  disks --> record
 *   revert     guest ended --> disks --> memory stream, or booted if asked, or stopped
 *   clone      a new domain on clones of the disks, with devices like those that came later; memory stays where it is
 *
 * Disks are of one moment: of one that runs and has more than one the guest stands still while they are taken.
 *
 * Its volumes' snapshots and its memory stream are named by the snapshot's id: another of the same name that was taken or removed half-way
 * lies elsewhere and is never taken for it. It is there from its record in the ledger on; what no record names is litter,
 * and goes with its domain.
 *
 * Whatever is killed, a guest that was frozen is thawed: freezing, taking and thawing are one step, which the next process does again from
 * its beginning, or takes back.
 */
import { bytes, Fault, formatBytes, millis, toFault, type EpochMillis, type Json } from '@typevisor/base'
import {
  assertCanSnapshot,
  machineSettings,
  memoryBytesOf,
  SNAPSHOT_COUNT_MAX,
  waitsForRoom,
  isDetachable,
  type DeviceRequest,
  type DomainDevice,
  type DomainHardware,
  type DomainId,
  type DomainSnapshot,
  type DomainSpec,
  type Quiesce,
  type SnapshotId,
  type SnapshotName,
  type VolumeId,
} from '@typevisor/model'
import { defineSaga } from '@typevisor/saga'
import type { VolumeSnapshots, VolumeSource } from '@typevisor/storage'
import { makeMedium, needMedium, settleDevices, stayingDevices, volumeNamed, volumeOf } from './devices.ts'
import type { DriverDomain } from './ports.ts'
import { holdsProcess } from './state.ts'
import {
  correctClock,
  dropSaves,
  noteForwards,
  recordStep,
  rootVolume,
  seedStep,
  seenBy,
  type Context,
  type DefineInput,
  type ToolstackServices,
} from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

export type SnapshotRequest = {
  readonly snapshot: SnapshotId
  readonly name: SnapshotName
  /** Of a running or paused domain. */
  readonly memory: boolean
  /** Of a running domain whose memory is not taken. */
  readonly quiesce: Quiesce
  /** For the guest to freeze its file systems. */
  readonly timeoutMs: number
}
export const SNAPSHOT_DEFAULTS = { memory: false, quiesce: 'try', timeoutMs: 10_000 } as const satisfies Partial<SnapshotRequest>

export type SnapshotInput = SnapshotRequest & { readonly id: DomainId }
export type RevertInput = { readonly id: DomainId; readonly snapshot: SnapshotId; readonly start: boolean }
export type RemoveSnapshotInput = { readonly id: DomainId; readonly snapshot: SnapshotId }
export type CloneInput = {
  readonly id: DomainId
  readonly spec: DomainSpec
  readonly from: { readonly domain: DomainId; readonly snapshot: SnapshotId }
}

function storeOf({ volumes }: Pick<ToolstackServices, 'volumes'>, what: string): VolumeSnapshots {
  if (volumes.snapshots) return volumes.snapshots
  throw new Fault('unsupported', `${what}: the volumes of this host have no snapshots`)
}

function needSnapshot(domain: StoredDomain, snapshot: SnapshotId): DomainSnapshot {
  const found = domain.snapshots.find(({ id }) => id === snapshot)
  if (found) return found
  throw new Fault('not_found', `snapshot ${snapshot} of ${domain.name}: there is none of this id`, {
    details: [{ path: 'snapshot', want: 'a snapshot of the domain', got: snapshot }],
  })
}

const writableVolumes = ({ hardware }: StoredDomain): VolumeId[] =>
  hardware.devices.flatMap((device) => {
    const volume = volumeOf(device)
    const isWritable = device.kind === 'disk' ? !device.readOnly : device.kind === 'usb'
    return volume !== null && isWritable ? [volume] : []
  })

/** What the first step found; the others go by it and not by a state that they change themselves. */
const stateThen = ({ outputs }: Context<SnapshotInput>) => outputs['check'] as DomainSnapshot['state']
const memoryPath = ({ services, input }: Context<SnapshotInput>): string => services.saves.pathOf(input.id, input.snapshot)

async function assertMemory({ services }: Context<SnapshotInput>, domain: StoredDomain): Promise<void> {
  const { name, spec, settings, state } = domain
  const memoryBytes = memoryBytesOf(spec, settings)
  if (state.kind === 'stopped') throw new Fault('conflict', `snapshot ${name} with memory: it is stopped, want running or paused`)
  const { save } = await services.driver.capabilities()
  if (!save.can) throw new Fault('unsupported', `snapshot ${name} with memory: ${save.reason}`)
  const free = await services.saves.freeBytes()
  if (free < memoryBytes) {
    const [got, want] = [formatBytes(free), formatBytes(memoryBytes)]
    throw new Fault('exhausted', `snapshot ${name} with memory: ${got} are free for it, want ${want}`)
  }
}

export const snapshot = defineSaga<SnapshotInput, ToolstackServices>({
  name: 'domain.snapshot',
  steps: [
    {
      name: 'check',
      do: async (context) => {
        const { input, services } = context
        await settleDevices(services, input.id)
        const domain = services.ledger.need(input.id)
        const { state, snapshots } = domain
        assertCanSnapshot('snapshot', state.kind, domain.name)
        storeOf(services, `snapshot ${domain.name}`)
        if (snapshots.some(({ id, name }) => id === input.snapshot || name === input.name))
          throw new Fault('conflict', `snapshot ${input.name} of ${domain.name}: there is one of this name or id`, {
            details: [{ path: 'name', want: 'a name that no snapshot of the domain has', got: input.name }],
          })
        if (snapshots.length >= SNAPSHOT_COUNT_MAX)
          throw new Fault('exhausted', `snapshot ${domain.name}: it has ${snapshots.length}, want at most ${SNAPSHOT_COUNT_MAX}`)
        if (input.memory) await assertMemory(context, domain)
        else if (input.quiesce === 'must' && state.kind === 'paused')
          throw new Fault('conflict', `snapshot ${domain.name}: a paused guest cannot freeze its file systems, want running`)
        // One that waits for room is to run.
        return { output: waitsForRoom(state) ? 'running' : state.kind }
      },
    },
    {
      name: 'memory',
      do: async (context) => {
        const { input, services, signal } = context
        if (!input.memory) return
        const { sizeBytes } = await services.driver.snapshotMemory(input.id, memoryPath(context), { signal })
        return { output: sizeBytes }
      },
      undo: async (context) => {
        const { input, services } = context
        if (!input.memory) return
        const seen = await seenBy(context)
        if (stateThen(context) === 'running' && seen?.kind === 'paused' && (seen.cause === 'requested' || waitsForRoom(seen)))
          await services.driver.unpause(input.id)
        await dropSaves(context)
      },
    },
    { name: 'disks', do: takeDisks, undo: dropDisks },
    {
      name: 'go-on',
      do: async (context) => {
        const { input, services, signal } = context
        if (input.memory && stateThen(context) === 'running') await services.driver.unpause(input.id, { signal })
      },
    },
    {
      name: 'record',
      do: async (context) => {
        const { input, services, outputs } = context
        const domain = services.ledger.need(input.id)
        if (domain.snapshots.some(({ id }) => id === input.snapshot)) return
        const { takenAt, quiesced, firmwarePath } = outputs['disks'] as unknown as Taken
        const memory = input.memory ? { path: memoryPath(context), sizeBytes: bytes(Number(outputs['memory'])) } : null
        const made: DomainSnapshot = {
          id: input.snapshot,
          name: input.name,
          takenAt,
          state: stateThen(context),
          memory,
          quiesced,
          volumes: writableVolumes(domain),
          ...(domain.settings ? { settings: domain.settings } : {}),
          hardware: stayingDevices(domain).hardware,
          ...(firmwarePath === undefined ? {} : { firmwarePath }),
        }
        await services.ledger.update({ ...domain, snapshots: [...domain.snapshots, made] })
      },
      undo: async (context) => {
        const { input, services } = context
        const domain = services.ledger.get(input.id)
        if (!domain) return
        const snapshots = domain.snapshots.filter(({ id }) => id !== input.snapshot)
        if (snapshots.length < domain.snapshots.length) await services.ledger.update({ ...domain, snapshots })
      },
    },
  ],
})

interface Taken {
  readonly takenAt: EpochMillis
  readonly quiesced: boolean
  readonly firmwarePath?: string
}

async function takeDisks(context: Context<SnapshotInput>): Promise<{ output: Json }> {
  const { input, services, attempt, signal } = context
  const domain = services.ledger.need(input.id)
  const store = storeOf(services, `snapshot ${domain.name}`)
  const [snapshot, state] = [input.snapshot, stateThen(context)]
  const volumes = writableVolumes(domain)
  // What an earlier run took may be of another moment.
  if (attempt > 1) for (const volume of volumes) await store.remove({ volume, snapshot })
  const isLive = state === 'running' && !input.memory
  if (isLive && attempt > 1) await goOn(context)
  const isFrozen = isLive && (await frozen(context))
  const isHeld = isLive && volumes.length > 1
  try {
    if (isHeld) await services.driver.pause(input.id, { signal })
    const takenAt = services.clock.now()
    for (const volume of volumes) await store.take({ volume, snapshot })
    const firmwarePath = services.saves.pathOf(input.id, `${snapshot}-firmware`)
    const hasFirmware = await services.driver.keepFirmware(domain, firmwarePath, { signal })
    return {
      output: {
        takenAt,
        quiesced: isFrozen || input.memory || state === 'stopped',
        ...(hasFirmware ? { firmwarePath } : {}),
      },
    }
  } finally {
    if (isHeld) await goOn(context)
    if (isFrozen) await services.driver.thaw(input.id)
  }
}

/** What stands still because this saga had it stand still, now or in an earlier run, runs again. */
async function goOn(context: Context<SnapshotInput>): Promise<void> {
  const seen = await seenBy(context)
  if (seen?.kind === 'paused' && seen.cause === 'requested') await context.services.driver.unpause(context.input.id)
}

/** @throws why not, where it must be. */
async function frozen({ input, services, signal, log }: Context<SnapshotInput>): Promise<boolean> {
  if (input.quiesce === 'no') return false
  try {
    await services.driver.freeze(input.id, input.timeoutMs, { signal })
    return true
  } catch (error) {
    if (input.quiesce === 'must' || signal.aborted) throw error
    log.info('domain.not_quiesced', { domain: input.id, error: toFault(error).message })
    return false
  }
}

async function dropDisks(context: Context<SnapshotInput>): Promise<void> {
  const { input, services, log } = context
  const domain = services.ledger.get(input.id)
  if (!domain) return
  const [snapshot, state] = [input.snapshot, stateThen(context)]
  if (!input.memory && state === 'running') await goOn(context)
  if (input.quiesce !== 'no' && !input.memory && state === 'running') {
    // A guest without its agent cannot be thawed from here; it must not be held for that, since a reboot thaws it.
    await services.driver
      .thaw(input.id)
      .catch((error: unknown) => log.warn('domain.not_thawed', { domain: input.id, error: toFault(error).message }))
  }
  const store = storeOf(services, `snapshot ${domain.name}`)
  for (const volume of writableVolumes(domain)) await store.remove({ volume, snapshot })
  await dropSaves(context)
}

async function assertDisks(store: VolumeSnapshots, domain: StoredDomain, { id, name, volumes }: DomainSnapshot): Promise<void> {
  for (const volume of volumes) {
    if (!(await store.list(volume)).includes(id))
      throw new Fault('failed', `revert ${domain.name} to ${name}: volume ${volume} has no snapshot ${id} any more`)
  }
}

/** A server of volumes sees the end of its client a moment after it. */
const LET_GO_LIMIT_MS = 5000
const LET_GO_PAUSE = millis(50)

async function revertVolume(
  { services, signal }: Context<RevertInput>,
  store: VolumeSnapshots,
  to: Parameters<VolumeSnapshots['revert']>[0],
) {
  const { clock } = services
  const end = clock.monotonic() + LET_GO_LIMIT_MS
  while (true) {
    try {
      return await store.revert(to)
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'conflict' || clock.monotonic() >= end) throw error
      await clock.sleep(LET_GO_PAUSE, { signal })
    }
  }
}

/** With its memory the guest's machine is what it was then. */
async function putSettingsBack({ services: { ledger }, input }: Context<RevertInput>, snapshot: DomainSnapshot): Promise<void> {
  const { settings: now = {}, settingsNotes: _notes, ...rest } = ledger.need(input.id)
  const settings = machineSettings(now, snapshot.settings ?? {})
  await ledger.update(Object.keys(settings).length === 0 ? rest : { ...rest, settings })
}

interface Way {
  readonly snapshot: DomainSnapshot
  /** What the domain is in the end. */
  readonly to: DomainSnapshot['state']
}
const wayOf = ({ outputs }: Context<RevertInput>): Way => outputs['check'] as unknown as Way

const STOPPED = { kind: 'stopped', cause: 'requested', detail: null } as const
const REQUESTED = { cause: 'requested' } as const

export const revert = defineSaga<RevertInput, ToolstackServices>({
  name: 'domain.revert',
  steps: [
    {
      name: 'check',
      do: async ({ input, services, signal }) => {
        const domain = services.ledger.need(input.id)
        assertCanSnapshot('revert', domain.state.kind, domain.name)
        const found = needSnapshot(domain, input.snapshot)
        // Before anything is lost: all that the guest is to go on from is there, and whole.
        await assertDisks(storeOf(services, `revert ${domain.name}`), domain, found)
        await assertMachine(services, domain, found)
        const then = { ...domain, hardware: found.hardware ?? domain.hardware }
        if (found.memory) await services.driver.checkSave(then, found.memory.path, { signal })
        const to = found.memory ? found.state : input.start ? 'running' : 'stopped'
        return { output: { snapshot: found, to } as unknown as Json }
      },
    },
    {
      /** From here on what was not taken is gone. A save is: the state leaves `saved` before the disks are other ones. */
      name: 'end',
      do: async ({ input, services }) => {
        await services.driver.destroy(input.id)
        await services.ledger.enter(input.id, STOPPED, REQUESTED)
      },
      /** What was ended stays ended, and the record says so. */
      undo: async (context) => {
        const { input, services } = context
        const domain = services.ledger.need(input.id)
        if (!holdsProcess(domain.state.kind) || (await seenBy(context))?.kind !== 'gone') return
        await services.ledger.enter(input.id, STOPPED, REQUESTED)
      },
    },
    {
      name: 'disks',
      do: async (context) => {
        const { services, input } = context
        const store = storeOf(services, `revert ${services.ledger.need(input.id).name}`)
        const { snapshot } = wayOf(context)
        for (const volume of snapshot.volumes) {
          // One that was deleted since is made anew.
          if ((await services.volumes.get(volume)) === null) await store.clone(volume, { volume, snapshot: snapshot.id })
          else await revertVolume(context, store, { volume, snapshot: snapshot.id })
        }
        const { firmwarePath } = snapshot
        if (firmwarePath !== undefined) await services.driver.putFirmwareBack(services.ledger.need(input.id), firmwarePath)
      },
    },
    { name: 'machine', do: putBackMachine },
    {
      name: 'make',
      do: async (context) => {
        const { services, input, signal } = context
        const { snapshot, to } = wayOf(context)
        if (snapshot.memory) await putSettingsBack(context, snapshot)
        const domain = services.ledger.need(input.id)
        if (snapshot.memory) await services.driver.restore(domain, snapshot.memory.path, { signal })
        else if (to === 'running') await services.driver.create(domain, { signal })
      },
      undo: async ({ services, input }) => {
        await services.driver.destroy(input.id)
        await services.ledger.enter(input.id, STOPPED, REQUESTED)
        const domain = services.ledger.need(input.id)
        if (domain.forwards.length > 0) await services.ledger.update({ ...domain, forwards: [] })
      },
    },
    {
      name: 'go-on',
      do: async (context) => {
        const { services, input, signal } = context
        const { to, snapshot } = wayOf(context)
        if (to === 'stopped') return
        await noteForwards(services, input.id, signal)
        if (to === 'running') await services.driver.unpause(input.id, { signal })
        if (to === 'running' && snapshot.memory) correctClock(context)
        await services.ledger.enter(
          input.id,
          to === 'running' ? { kind: 'running' } : { kind: 'paused', ...REQUESTED },
          REQUESTED,
        )
      },
    },
    { name: 'drop-saves', do: dropSaves },
  ],
})

type Drive = DomainDevice & { kind: 'cd' }
const drivesOf = (hardware: DomainHardware): Drive[] => hardware.devices.filter((device): device is Drive => device.kind === 'cd')

/** Is what was in the drive then in it now? */
async function holdsStill({ volumes }: ToolstackServices, domain: StoredDomain, drive: Drive): Promise<boolean> {
  const now = drivesOf(domain.hardware).find(({ name }) => name === drive.name)
  return now?.medium === drive.medium && drive.volume !== null && (await volumes.get(drive.volume)) !== null
}

/** What the machine of then cannot do without, and a snapshot does not hold: disks that cannot be written, and media where memory goes on. */
async function assertMachine(
  services: ToolstackServices,
  domain: StoredDomain,
  { hardware, memory, name }: DomainSnapshot,
): Promise<void> {
  for (const device of hardware?.devices ?? []) {
    if (device.kind === 'disk' && device.readOnly && !(await services.volumes.get(device.volume)))
      throw new Fault(
        'failed',
        `revert ${domain.name} to ${name}: the volume of ${device.name}, which cannot be written, is gone`,
      )
    if (device.kind === 'cd' && device.medium !== null && memory && !(await holdsStill(services, domain, device)))
      await needMedium(services, device.medium)
  }
}

/** The devices of then. A guest that boots finds a drive empty whose medium was taken out; one that goes on finds it there again. */
async function putBackMachine(context: Context<RevertInput>): Promise<void> {
  const { services, input } = context
  const domain = services.ledger.need(input.id)
  const { snapshot } = wayOf(context)
  const hardware = snapshot.hardware ?? domain.hardware
  const devices: DomainDevice[] = []
  const used = new Set<VolumeId>()
  for (const device of hardware.devices) {
    const volume = volumeOf(device)
    let isThere = volume !== null
    if (device.kind === 'cd' && volume !== null && !(await holdsStill(services, domain, device))) {
      await services.volumes.remove(volume)
      if (snapshot.memory) await makeMedium(services, volume, device.medium ?? '')
      else isThere = false
    }
    devices.push(device.kind === 'cd' && !isThere ? { ...device, medium: null, volume: null } : device)
    if (volume !== null && isThere) used.add(volume)
  }
  const sources: Record<VolumeId, VolumeSource> = {}
  for (const id of used) {
    const info = await services.volumes.get(id)
    if (info) sources[id] = info.source
  }
  // Media that are in no drive any more are nobody's.
  for (const drive of drivesOf(domain.hardware))
    if (drive.volume !== null && !used.has(drive.volume)) await services.volumes.remove(drive.volume)
  const rootDiskBytes = (await services.volumes.get(rootVolume(domain.id)))?.virtualBytes ?? domain.spec.rootDiskBytes
  await services.ledger.update({
    ...services.ledger.need(input.id),
    hardware: { ...hardware, devices },
    volumes: sources,
    spec: { ...domain.spec, rootDiskBytes },
  })
}

/** One that is not there is deleted already, and what is left of one that was never recorded goes: an owner takes its command back by this. */
export const removeSnapshot = defineSaga<RemoveSnapshotInput, ToolstackServices>({
  name: 'domain.snapshot-delete',
  steps: [
    {
      name: 'disks',
      do: async ({ input, services }) => {
        const domain = services.ledger.need(input.id)
        const store = storeOf(services, `delete a snapshot of ${domain.name}`)
        const volumes = domain.snapshots.find(({ id }) => id === input.snapshot)?.volumes ?? writableVolumes(domain)
        for (const volume of volumes) await store.remove({ volume, snapshot: input.snapshot })
      },
    },
    {
      name: 'record',
      do: async ({ input, services }) => {
        const domain = services.ledger.need(input.id)
        const snapshots = domain.snapshots.filter(({ id }) => id !== input.snapshot)
        if (snapshots.length < domain.snapshots.length) await services.ledger.update({ ...domain, snapshots })
      },
    },
    { name: 'drop-saves', do: dropSaves },
  ],
})

export const clone = defineSaga<CloneInput, ToolstackServices>({
  name: 'domain.clone',
  steps: [
    {
      name: 'check',
      do: async ({ input, services }) => {
        const { spec, from } = input
        const source = services.ledger.need(from.domain)
        storeOf(services, `clone ${source.name}`)
        const holder = services.ledger.byName(spec.name)
        if (holder && holder.id !== input.id)
          throw new Fault('conflict', `clone ${source.name} as ${spec.name}: domain ${holder.id} has this name`)
        for (const field of ['image', 'rootDiskBytes'] as const) {
          if (spec[field] !== source.spec[field])
            throw new Fault('invalid', `clone ${source.name}: ${field}: got ${spec[field]}, want its own, ${source.spec[field]}`)
        }
        return { output: needSnapshot(source, from.snapshot) as unknown as Json }
      },
    },
    {
      name: 'root-disk',
      do: async ({ input, services, outputs }) => {
        const source = services.ledger.need(input.from.domain)
        const { id } = outputs['check'] as unknown as DomainSnapshot
        const store = storeOf(services, `clone ${source.name}`)
        for (const volume of (outputs['check'] as unknown as DomainSnapshot).volumes)
          await store.clone(volumeOfClone(input, volume), { volume, snapshot: id })
        // It has grown since.
        await services.volumes.grow(rootVolume(input.id), input.spec.rootDiskBytes)
        return { output: source.boot as unknown as Json }
      },
      undo: async ({ input, services, outputs }) => {
        for (const volume of (outputs['check'] as unknown as DomainSnapshot).volumes)
          await services.volumes.remove(volumeOfClone(input, volume))
      },
    },
    seedStep,
    recordStep(equipClone),
    {
      /** What its firmware boots by. Its TPM is a new one: two of one identity would vouch for each other. */
      name: 'firmware',
      do: async ({ input, services, outputs }) => {
        const { firmwarePath } = outputs['check'] as unknown as DomainSnapshot
        const domain = services.ledger.need(input.id)
        if (firmwarePath !== undefined) await services.driver.putFirmwareBack(domain, firmwarePath, { nvramOnly: true })
      },
      undo: ({ input, services }) => services.driver.forget(input.id),
    },
  ],
})

const volumeOfClone = ({ id, from }: CloneInput, volume: VolumeId): VolumeId =>
  volumeNamed(id, volume.slice(from.domain.length + 1))

/** Devices like those that the other got later, with addresses of their own. Drives are empty, and what cannot be written is not in a snapshot. */
async function equipClone(domain: DriverDomain, context: Context<DefineInput>): Promise<DriverDomain> {
  const { services, outputs } = context
  const { volumes, hardware } = outputs['check'] as unknown as DomainSnapshot
  const devices = [...domain.hardware.devices]
  const sources = { ...domain.volumes }
  for (const device of hardware?.devices ?? []) {
    const request = isDetachable(device) ? requestLike(device, volumes) : null
    if (request === null) continue
    const hasVolume = volumeOf(device) !== null && device.kind !== 'cd'
    const volume = hasVolume ? await services.volumes.get(volumeNamed(domain.id, device.name)) : null
    const now = { ...domain, hardware: { ...domain.hardware, devices } }
    devices.push(...(await services.driver.planDevice(now, request, volume?.id ?? null)))
    if (volume !== null) sources[volume.id] = volume.source
  }
  return { ...domain, hardware: { ...domain.hardware, devices }, volumes: sources }
}

/** null: it comes by itself, or not at all. */
function requestLike(device: DomainDevice, volumes: readonly VolumeId[]): DeviceRequest | null {
  const { name } = device
  switch (device.kind) {
    case 'disk':
      return volumes.includes(device.volume) ? { kind: 'disk', name } : null
    case 'nic':
      return { kind: 'nic', name, forwards: device.forwards.map((forward) => ({ ...forward, hostPort: 0 })) }
    case 'cd':
      return { kind: 'cd', name }
    case 'usb':
      return { kind: 'usb', name, model: device.model }
    default:
      return null
  }
}

/** Also of one whose record is gone: snapshots outlive their volume. */
export async function removeAllSnapshots({ volumes: { snapshots } }: ToolstackServices, volume: VolumeId): Promise<void> {
  for (const each of (await snapshots?.list(volume)) ?? []) await snapshots?.remove({ volume, snapshot: each })
}
