/** What the sagas of `verbs.ts` and `snapshots.ts` share: their services, and the steps that both have. */
import { Fault, retryable, toFault, type Clock } from '@typevisor/base'
import { policyOf, type DomainCause } from '@typevisor/model'
import type { DomainBoot, DomainId, DomainSpec, ImageName, MigrationProgress, VerbName, VolumeId } from '@typevisor/model'
import type { SagaId, SagaStep, StepContext } from '@typevisor/saga'
import { buildSeed, type Image, type ImageStore } from '@typevisor/image'
import type { VolumeStore } from '@typevisor/storage'
import type { Ledger } from './ledger.ts'
import type { MediaFolder } from './devices.ts'
import type { ColdTarget } from './cold-receiving.ts'
import type { Incoming } from './incoming.ts'
import type { ControlClient } from './migration-control.ts'
import type { DomainDriver, DriverDomain, DriverState, MigrationLinks } from './ports.ts'

/** Files of saved domains, in a folder that the driver's processes need not reach. */
export interface SaveFolder {
  /** The path of one save and no other: `save` is unique among all saves ever made of the domain. */
  pathOf(id: DomainId, save: string): string
  /** Removes every save of the domain but those at `paths`. */
  keepOnly(id: DomainId, paths: readonly string[]): Promise<void>
  /** What can still be written there. */
  freeBytes(): Promise<number>
  /** A file of it, from its beginning to its end. @throws Fault `not_found`. */
  read(path: string): AsyncIterable<Uint8Array>
  /** Makes a file of it, in place of one that is there: whole and safe from a power cut, or not there. @throws Fault `exhausted`. */
  write(path: string, content: AsyncIterable<Uint8Array>): Promise<{ readonly sizeBytes: number }>
}

export interface ToolstackServices {
  readonly driver: DomainDriver
  readonly volumes: VolumeStore
  readonly images: Pick<ImageStore, 'get'>
  readonly ledger: Ledger
  /** Absent: the host keeps none. */
  readonly media?: MediaFolder | undefined
  readonly saves: SaveFolder
  readonly clock: Clock
  /** Resolves when the domain's process has powered off, was destroyed or crashed; used by shutdown. */
  readonly untilNotRunning: (id: DomainId, signal: AbortSignal) => Promise<void>
  /** Asks the driver how the domain is, and records what follows from it. */
  readonly look: (id: DomainId, signal: AbortSignal) => Promise<void>
  /** null: no domain moves from or to this host. */
  readonly links: MigrationLinks | null
  /** What is under way of moves, in memory alone: it is over with the process, and so are the moves. */
  readonly moves: Moves
  /** Says which verb is at work, so that what the driver reports meanwhile has its cause. */
  readonly intend: (id: DomainId, verb: VerbName | null) => void
}

export interface Moves {
  /** Domains that are expected, with what waits for them. */
  readonly incoming: Map<DomainId, Incoming>
  /** What takes in those of them that do not run. */
  readonly arriving: Map<DomainId, ColdTarget>
  /** Domains that are being sent, until they are handed over. */
  readonly sending: Map<DomainId, AbortController>
  /** To where they go, by saga. */
  readonly controls: Map<SagaId, ControlClient>
  readonly listeners: Map<DomainId, (progress: MigrationProgress) => void>
  /** Has an expected domain run here: by its own saga, of which there is one. Resolves with whether it does. */
  go(id: DomainId, commandId: string): Promise<void>
  /** Domains whose memory follows them: given up with them alone. */
  readonly handingOver: Map<DomainId, AbortController>
  /** What sends it, by saga. */
  readonly rests: Map<SagaId, Promise<void>>
  /** One that runs here lacks nothing any more, or never will have what it lacks. */
  arrived(id: DomainId): Promise<void>
  /** Ends an expected domain that never will come. */
  abandon(id: DomainId, commandId: string): Promise<void>
}

export type DefineInput = { readonly id: DomainId; readonly spec: DomainSpec }
export type VerbInput = { readonly id: DomainId; readonly timeoutMs?: number; readonly cause?: DomainCause }

export type OfDomain = { readonly id: DomainId }
export type Context<I> = StepContext<I, ToolstackServices>

export const rootVolume = (id: DomainId): VolumeId => `${id}.root` as VolumeId
export const seedVolume = (id: DomainId): VolumeId => `${id}.seed` as VolumeId

export async function imageOf(services: ToolstackServices, name: ImageName): Promise<Image> {
  const image = await services.images.get(name)
  if (!image)
    throw new Fault('not_found', `image ${name}: this host does not have it`, {
      details: [{ path: 'image', want: 'an image of the host', got: name }],
    })
  return image
}

/** Keeps which host ports the start chose. */
export async function noteForwards(services: ToolstackServices, id: DomainId, signal: AbortSignal): Promise<void> {
  const forwards = await services.driver.forwards(id, { signal })
  const domain = services.ledger.need(id)
  if (JSON.stringify(forwards) !== JSON.stringify(domain.forwards)) await services.ledger.update({ ...domain, forwards })
}

/**
 * How the domain is, for an undo; null when its hypervisor does not answer. What was asked of it may still happen then, and is recorded
 * by the event that tells of it: an undo that insisted would hold the domain for as long.
 */
export async function seenBy({ services, input, log }: Context<OfDomain>): Promise<DriverState | null> {
  try {
    return await services.driver.state(input.id)
  } catch (error) {
    if (!retryable(error)) throw error
    log.warn('domain.left_as_it_is', { domain: input.id, error: toFault(error).message })
    return null
  }
}

/** By as much as it stood still its clock is late. One that has no agent is left to its own ways of keeping time, and nobody waits for it. */
export function correctClock({ services, input, log }: Pick<Context<OfDomain>, 'services' | 'input' | 'log'>): void {
  void services.driver
    .correctClock(input.id)
    .catch((error: unknown) => log.info('domain.clock_not_set', { domain: input.id, reason: toFault(error).message }))
}

/** Those that it has, kept ones among them, and those of which only a snapshot is left. */
export async function volumesEver({ volumes, ledger }: ToolstackServices, id: DomainId): Promise<ReadonlySet<VolumeId>> {
  const found = (await volumes.list({ prefix: `${id}.` })).map((volume) => volume.id)
  const remembered = (ledger.get(id)?.snapshots ?? []).flatMap((snapshot) => snapshot.volumes)
  return new Set([rootVolume(id), ...found, ...remembered])
}

/** Removes the saves that neither the domain's state nor a snapshot names, and all core dumps but the newest. One that cannot be removed does no harm and is no reason to fail. */
export async function dropSaves({ services, input, log }: Context<OfDomain>): Promise<void> {
  const domain = services.ledger.get(input.id)
  const saved = domain?.state.kind === 'saved' ? [domain.state.savePath] : []
  const remembered = (domain?.snapshots ?? []).flatMap(({ memory }) => (memory ? [memory.path] : []))
  try {
    const dumped = domain?.dump ? [domain.dump.path] : []
    const firmware = (domain?.snapshots ?? []).flatMap(({ firmwarePath = [] }) => firmwarePath)
    await services.saves.keepOnly(input.id, [...saved, ...remembered, ...dumped, ...firmware])
  } catch (error) {
    log.warn('domain.save_left', { domain: input.id, error: toFault(error).message })
  }
}

/** The seed disk of a new domain. */
export const seedStep: SagaStep<DefineInput, ToolstackServices> = {
  name: 'seed',
  do: async ({ input, services }) => {
    await services.volumes.put(seedVolume(input.id), buildSeed({ instanceId: input.id, cloudInit: input.spec.cloudInit }))
  },
  undo: ({ input, services }) => services.volumes.remove(seedVolume(input.id)),
}

/** The record of a new domain, whose disks were made by the steps before; `equip` gives it the devices that came later to another. */
export const recordStep = (
  equip: (domain: DriverDomain, context: Context<DefineInput>) => Promise<DriverDomain> = async (domain) => domain,
): SagaStep<DefineInput, ToolstackServices> => ({
  name: 'record',
  do: async (context) => {
    const { input, services, outputs } = context
    const { driver, volumes, ledger, clock } = services
    // Of the version that the root disk was made of; the newest may be another by now. Absent: the step before is of an older program.
    const { 'root-disk': made } = outputs
    const boot = (made ?? null) === null ? (await imageOf(services, input.spec.image)).boot : (made as unknown as DomainBoot)
    const [root, seed] = await Promise.all([volumes.get(rootVolume(input.id)), volumes.get(seedVolume(input.id))])
    if (!root || !seed) throw new Fault('failed', `define ${input.spec.name}: a disk made by the step before is not there`)
    const hardware = await driver.planHardware(input.id, input.spec, [
      { name: 'root', volume: root.id, readOnly: false },
      { name: 'seed', volume: seed.id, readOnly: true },
    ])
    const sources = { [root.id]: root.source, [seed.id]: seed.source }
    const { id, spec } = input
    const policy = policyOf(spec)
    const settings = Object.keys(policy).length === 0 ? {} : { settings: policy }
    await ledger.define({
      ...(await equip({ id, name: spec.name, spec, hardware, boot, volumes: sources, ...settings }, context)),
      driver: driver.name,
      forwards: [],
      state: { kind: 'stopped', cause: 'requested', detail: null },
      snapshots: [],
      createdAt: clock.now(),
    })
  },
  undo: ({ input, services }) => services.ledger.forget(input.id),
})
