/**
 * Snapshots of domains: disks, and memory if that is asked for, as they were at one moment.
 *
 *   snapshot   running, memory:  memory stream --> paused --> disks --> goes on --> record
 *              running, disks:   the guest's file systems frozen --> disks --> thawed --> record
 *              stopped, paused:  disks --> record
 *   revert     guest ended --> disks --> memory stream, or booted if asked, or stopped
 *   clone      a new domain on a clone of the disk; memory stays where it is
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
  type DomainId,
  type DomainSnapshot,
  type DomainSpec,
  type Quiesce,
  type SnapshotId,
  type SnapshotName,
  type VolumeId,
} from '@typevisor/model'
import { defineSaga } from '@typevisor/saga'
import type { VolumeSnapshots } from '@typevisor/storage'
import { holdsProcess } from './state.ts'
import {
  dropSaves,
  noteForwards,
  recordStep,
  rootVolume,
  seedStep,
  seenBy,
  type Context,
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
  hardware.devices.flatMap((device) => (device.kind === 'disk' && !device.readOnly ? [device.volume] : []))

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
        const { takenAt, quiesced } = outputs['disks'] as unknown as Taken
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
}

async function takeDisks(context: Context<SnapshotInput>): Promise<{ output: Json }> {
  const { input, services, attempt } = context
  const domain = services.ledger.need(input.id)
  const store = storeOf(services, `snapshot ${domain.name}`)
  const [snapshot, state] = [input.snapshot, stateThen(context)]
  const volumes = writableVolumes(domain)
  // What an earlier run took may be of another moment.
  if (attempt > 1) for (const volume of volumes) await store.remove({ volume, snapshot })
  const isLive = state === 'running' && !input.memory
  const isFrozen = isLive && (await frozen(context))
  try {
    const takenAt = services.clock.now()
    for (const volume of volumes) await store.take({ volume, snapshot })
    return { output: { takenAt, quiesced: isFrozen || input.memory || state === 'stopped' } }
  } finally {
    if (isFrozen) await services.driver.thaw(input.id)
  }
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
  if (input.quiesce !== 'no' && !input.memory && state === 'running') {
    // A guest without its agent cannot be thawed from here; it must not be held for that, since a reboot thaws it.
    await services.driver
      .thaw(input.id)
      .catch((error: unknown) => log.warn('domain.not_thawed', { domain: input.id, error: toFault(error).message }))
  }
  const store = storeOf(services, `snapshot ${domain.name}`)
  for (const volume of writableVolumes(domain)) await store.remove({ volume, snapshot })
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
        if (found.memory) await services.driver.checkSave(domain, found.memory.path, { signal })
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
        for (const volume of snapshot.volumes) await revertVolume(context, store, { volume, snapshot: snapshot.id })
      },
    },
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
        const { to } = wayOf(context)
        if (to === 'stopped') return
        await noteForwards(services, input.id, signal)
        if (to === 'running') await services.driver.unpause(input.id, { signal })
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
        await store.clone(rootVolume(input.id), { volume: rootVolume(source.id), snapshot: id })
        return { output: source.boot as unknown as Json }
      },
      undo: ({ input, services }) => services.volumes.remove(rootVolume(input.id)),
    },
    seedStep,
    recordStep,
  ],
})

/** Also of one whose record is gone: snapshots outlive their volume. */
export async function removeAllSnapshots({ volumes: { snapshots } }: ToolstackServices, volume: VolumeId): Promise<void> {
  for (const each of (await snapshots?.list(volume)) ?? []) await snapshots?.remove({ volume, snapshot: each })
}
