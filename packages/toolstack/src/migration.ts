/**
 * A domain moves to another host and runs all the while.
 *
 *   source: domain.migrate     check --> copy --> | go --> end            copy, undone: the guest goes on here
 *   target: domain.receive     check --> disks --> record --> expect      undone: nothing is left
 *           domain.go          the guest runs here, and is an ordinary domain
 *           domain.abandon     nothing is left
 *
 * Exactly one side runs it. Until `copy` is written down as done, the source has it: whatever is killed, the guest goes on there. That it is done
 * is the hand-over, in the source's journal before the target hears `go`. From then on the source lets its own go on only when the
 * target has said that it never ran and never will, or when whoever stands over both takes it back (`takeBackMigrated`), who has heard the
 * same. A target that has been told to go has written that down before it does (its saga `domain.go`), and goes on with it after a crash.
 *
 *   killed             before copy is done           between                                   behind go
 *   source's agent     undone at its next start      asks `go` again, or says `handed-over`    ends what it has left
 *   target's agent     the source hears it: undone   all has come: kept, until `go`            the guest runs; nothing to do
 *                      what had not come is ended    by the source or from above
 *   the target's QEMU  undone                        `go` fails for good: undone               a guest that crashed
 *
 * A source that gets no answer to `go` ends as `handed-over`: its domain is kept, stands still, and is taken away (`destroy`) or taken back by
 * whoever can ask the target. Snapshots stay behind and are removed with the source's disks: what they hold is on the source's store, and the
 * target's disks are new ones.
 *
 * One that does not run moves by the same sagas, with another way for what it is made of: `cold-sending.ts`.
 */
import {
  assert,
  Fault,
  fieldFault,
  millis,
  retryable,
  toFault,
  withDeadline,
  type Clock,
  type IdSource,
  type Json,
  type Log,
} from '@typevisor/base'
import {
  isToRun,
  type DomainBoot,
  type DomainDevice,
  type DomainId,
  type DomainName,
  type DomainState,
  type MigrationOffer,
  type MigrationParameters,
  type MigrationProgress,
  type MigrationRequest,
  type MigrationResult,
  type MigrationStatistics,
} from '@typevisor/model'
import { defineSaga } from '@typevisor/saga'
import { buildSeed } from '@typevisor/image'
import { assertStarts, assertTakesCold, ColdTarget, goCold, isColdRequest } from './cold-receiving.ts'
import { assertReadable, coldVolumes, isCold, sendCold, toldBy } from './cold-sending.ts'
import { Incoming, type IncomingOptions } from './incoming.ts'
import { volumeOf } from './devices.ts'
import { CONTROL, ControlClient } from './migration-control.ts'
import type { CallOptions, DriverCapabilities, DriverState, MigrationLinks, MigrationTarget } from './ports.ts'
import { removeAllSnapshots } from './snapshots.ts'
import { holdsProcess, stateFromDriver } from './state.ts'
import {
  correctClock,
  dropSaves,
  noteForwards,
  seedVolume,
  volumesEver,
  type Context,
  type OfDomain,
  type ToolstackServices,
} from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

export type ReceiveInput = OfDomain & {
  readonly request: MigrationRequest
  readonly channelCount: number
  readonly postCopy?: boolean
}
export type MigrateInput = OfDomain & { readonly offer: MigrationOffer; readonly parameters: MigrationParameters }

/** How long the target is asked to go. */
const GO_LIMIT = millis(10_000)
const ABANDON_LIMIT = millis(2000)
const ASK_AGAIN = millis(1000)
const LISTEN_AGAIN = millis(1000)

const refuse = (what: string, path: string, want: string, got: string): Fault =>
  fieldFault({ path, want, got }, { code: 'conflict', what })

export function needLinks({ links }: Pick<ToolstackServices, 'links'>, what: string): MigrationLinks {
  if (links) return links
  throw new Fault('unsupported', `${what}: this toolstack has no links to other hosts`)
}

const isWritable = (device: DomainDevice): device is DomainDevice & { kind: 'disk' } => device.kind === 'disk' && !device.readOnly

/** Whether it can move at all. @returns what its driver can. @throws Fault `conflict`, `unsupported`. */
async function assertMovable(
  services: ToolstackServices,
  domain: StoredDomain,
  dropSnapshots: boolean,
): Promise<DriverCapabilities> {
  const what = `migrate ${domain.name}`
  const { kind } = domain.state
  if (kind === 'crashed') throw new Fault('conflict', `${what}: it is crashed; its power is cut first`)
  const capabilities = await services.driver.capabilities()
  const { liveMigration } = capabilities
  if (!isCold(domain.state) && !liveMigration.can) throw new Fault('unsupported', `${what}: ${liveMigration.reason}`)
  needLinks(services, what)
  const { length: count } = domain.snapshots
  if (count > 0 && !dropSnapshots)
    throw new Fault(
      'conflict',
      `${what}: it has ${count === 1 ? 'a snapshot' : `${count} snapshots`}, which cannot go with it; want them deleted, or dropped by this`,
      { details: [{ path: 'dropSnapshots', want: 'true, or no snapshots', got: String(count) }] },
    )
  return capabilities
}

/** What is in a drive, or on a stick, is a copy of this host's, and nobody mirrors what is in no device. @throws Fault `conflict` that names it. */
async function assertStays(services: ToolstackServices, { id, name, hardware }: StoredDomain): Promise<void> {
  const used = new Set(hardware.devices.map(volumeOf))
  const kept = (await coldVolumes(services, id)).find((volume) => !used.has(volume.id))?.id.slice(id.length + 1)
  if (kept !== undefined) {
    const want = 'none that is kept of a detached device (attach it, delete it, or stop the domain first)'
    throw new Fault('conflict', `migrate ${name}: volume ${kept} is in no device, want ${want}`, {
      details: [{ path: `devices.${kept}`, want, got: 'a kept volume' }],
    })
  }
  const held = hardware.devices.find((device) => (device.kind === 'cd' || device.kind === 'usb') && volumeOf(device) !== null)
  if (!held) return
  const want = held.kind === 'cd' ? 'an empty drive (eject it first)' : 'no USB storage (detach it first)'
  throw new Fault('conflict', `migrate ${name}: device ${held.name} has a medium of this host, want ${want}`, {
    details: [{ path: `devices.${held.name}`, want, got: held.kind === 'cd' ? 'a medium' : 'a stick' }],
  })
}

/** @throws Fault `conflict` when it cannot move as it is. */
export async function migrationRequest(
  services: ToolstackServices,
  id: DomainId,
  { dropSnapshots = false }: MigrationParameters,
): Promise<MigrationRequest> {
  const domain = services.ledger.need(id)
  const { accelerator } = await assertMovable(services, domain, dropSnapshots)
  const { name, driver, spec, hardware, boot, createdAt, state, settings } = domain
  const cold = isCold(state) ? { cold: { savedBytes: state.kind === 'saved' ? state.sizeBytes : null } } : {}
  await (isCold(state) ? assertReadable(services, domain) : assertStays(services, domain))
  const infos = isCold(state)
    ? await coldVolumes(services, id)
    : await Promise.all(
        hardware.devices.filter(isWritable).map(async ({ volume }) => {
          const info = await services.volumes.get(volume)
          if (!info) throw new Fault('failed', `migrate ${name}: its volume ${volume} is not there`)
          return info
        }),
      )
  const disks = infos.map(({ id: volume, virtualBytes }) => ({ volume, virtualBytes }))
  return {
    name,
    driver,
    spec,
    hardware,
    boot,
    ...(settings ? { settings } : {}),
    createdAt,
    disks,
    imageDigest: await digestOf(services, domain),
    accelerator,
    goesOn: isToRun(state),
    ...cold,
  }
}

async function digestOf({ images }: ToolstackServices, { name, spec, boot }: StoredDomain): Promise<string | null> {
  if (boot.kind === 'disk') return null
  const image = await images.get(spec.image)
  if (image && JSON.stringify(image.boot) === JSON.stringify(boot)) return image.digest
  throw refuse(`migrate ${name}`, 'image', `the ${spec.image} that it boots from`, image ? 'one that was built since' : 'none')
}

/** What the domain boots from here. @throws Fault `conflict` when this host has not the same. */
async function bootHere({ images }: ToolstackServices, { name, spec, boot, imageDigest }: MigrationRequest): Promise<DomainBoot> {
  if (imageDigest === null) return boot
  const image = await images.get(spec.image)
  if (image?.digest === imageDigest) return image.boot
  throw refuse(`receive ${name}`, `image ${spec.image}`, imageDigest, image?.digest ?? 'none on this host')
}

const receive = defineSaga<ReceiveInput, ToolstackServices>({
  name: 'domain.receive',
  steps: [
    {
      name: 'check',
      do: async ({ input: { id, request, channelCount, postCopy = false }, services }) => {
        const what = `receive ${request.name}`
        const { driver, ledger } = services
        if (ledger.get(id)) throw new Fault('conflict', `${what}: domain ${id} is on this host already`)
        const holder = ledger.byName(request.name)
        if (holder) throw new Fault('conflict', `${what}: domain ${holder.id} has this name here`)
        needLinks(services, what)
        const can = await driver.capabilities()
        const { liveMigration, accelerator } = can
        if (postCopy && !isColdRequest(request)) assertFetches(what, can, channelCount)
        if (request.driver !== driver.name) throw refuse(what, 'driver', request.driver, driver.name)
        if (isColdRequest(request)) await assertTakesCold(services, request, can)
        else if (!liveMigration.can) throw new Fault('unsupported', `${what}: ${liveMigration.reason}`)
        else if (request.accelerator !== accelerator) throw refuse(what, 'accelerator', request.accelerator, accelerator)
        return { output: (await bootHere(services, request)) as unknown as Json }
      },
    },
    {
      name: 'disks',
      do: async ({ input: { request, id }, services: { volumes } }) => {
        for (const { volume, virtualBytes } of request.disks) {
          const made = await volumes.create(volume, virtualBytes)
          if (made.virtualBytes < virtualBytes)
            throw new Fault(
              'failed',
              `receive ${request.name}: volume ${volume} has ${made.virtualBytes} bytes, want ${virtualBytes}`,
            )
        }
        await volumes.put(seedVolume(id), buildSeed({ instanceId: id, cloudInit: request.spec.cloudInit }))
      },
      undo: ({ input, services }) => removeDisks(services, input.id),
    },
    {
      name: 'record',
      do: async ({ input: { id, request }, services, outputs }) => {
        const { name, driver, spec, hardware, createdAt, goesOn, settings } = request
        const disks = hardware.devices.flatMap((device) => volumeOf(device) ?? [])
        const volumes = await Promise.all(
          disks.map(async (volume) => {
            const info = await services.volumes.get(volume)
            if (!info) throw new Fault('conflict', `receive ${name}: volume ${volume} is none that could be made here`)
            return [volume, info.source] as const
          }),
        )
        await services.ledger.define({
          id,
          name,
          driver,
          spec,
          hardware,
          boot: outputs['check'] as unknown as DomainBoot,
          volumes: Object.fromEntries(volumes) as StoredDomain['volumes'],
          forwards: [],
          state: { kind: 'stopped', cause: 'migrated', detail: null },
          snapshots: [],
          ...(settings ? { settings } : {}),
          createdAt,
          migration: { role: 'incoming', goesOn, ...(isColdRequest(request) ? { arrives: null } : {}) },
        })
      },
      undo: ({ input, services }) => services.ledger.forget(input.id, 'migrated'),
    },
    {
      name: 'expect',
      do: async ({ input: { id, channelCount, request, postCopy = false }, services, signal, log, sagaId }) => {
        const { driver, moves, ledger } = services
        moves.incoming.get(id)?.close()
        let target: MigrationTarget
        if (isColdRequest(request)) {
          await assertStarts(services, ledger.need(id), signal)
          const arriving = new ColdTarget(services, ledger.need(id), request, sagaId)
          moves.arriving.set(id, arriving)
          target = arriving
        } else target = await driver.receive(ledger.need(id), { channelCount, postCopy, signal })
        const isFetched = postCopy && !isColdRequest(request)
        const incoming = await expected(services, id, { target, log, command: sagaId, isFetched })
        if (isFetched) await ledger.update({ ...ledger.need(id), arriving: { kept: incoming.kept } })
        const { memory } = target
        return {
          output: {
            ...incoming.offer,
            ...(isFetched ? { postCopy: true } : {}),
            ...(memory ? { memory } : {}),
          } as unknown as Json,
        }
      },
      undo: ({ input, services }) => endExpected(services, input.id),
    },
  ],
})

/** Listens for what comes of it. */
async function expected(
  services: ToolstackServices,
  id: DomainId,
  {
    target,
    log,
    command,
    kept,
    isFetched,
  }: Pick<IncomingOptions, 'target' | 'log' | 'kept' | 'isFetched'> & { readonly command: string },
): Promise<Incoming> {
  const { moves, clock } = services
  const incoming = new Incoming({
    id,
    target,
    links: needLinks(services, 'receive'),
    clock,
    log,
    kept,
    isFetched,
    go: () => moves.go(id, `${command}.go`),
    abandon: () => moves.abandon(id, `${command}.abandon`),
    arrived: () => moves.arrived(id),
  })
  await incoming.listen()
  moves.incoming.set(id, incoming)
  return incoming
}

/** @throws Fault `unsupported` where memory cannot be fetched; `invalid` with several streams, which QEMU does not take along with it before 10.1. */
function assertFetches(what: string, { postCopy }: DriverCapabilities, channelCount: number): void {
  if (!postCopy?.can) throw new Fault('unsupported', `${what} by post-copy: ${postCopy?.reason ?? 'this host does not'}`)
  if (channelCount > 0) throw fieldFault({ path: 'channelCount', want: '0 by post-copy', got: String(channelCount) }, { what })
}

/** Of one that did not come whole: the source hears of it, be it after a while. */
const ended = (name: DomainName): MigrationTarget => {
  const never = async (): Promise<never> => {
    throw new Fault('failed', `receive ${name}: it has ended here before it had come`)
  }
  return { connect: never, disksDone: never, loaded: never, arrived: never }
}

/** Of a domain that a toolstack of before has left without all of its memory: the source is listened for where it was. */
export async function takeUpArrival(
  services: ToolstackServices,
  id: DomainId,
  { log, ids, clock }: { readonly log: Log; readonly ids: IdSource; readonly clock: Clock },
): Promise<void> {
  while (true) {
    const domain = services.ledger.get(id)
    if (!domain?.arriving) return
    try {
      const target = (await services.driver.receiving(id)) ?? (domain.migration ? ended(domain.name) : null)
      if (!target) return await services.moves.arrived(id)
      const incoming = await expected(services, id, {
        target,
        log,
        command: ids.next(),
        kept: domain.arriving.kept,
        isFetched: true,
      })
      // It may have been told to go since it was looked at.
      if (!services.ledger.get(id)?.migration) incoming.run()
      return
    } catch (error) {
      // Somebody has its port for now, or its hypervisor waits for a page.
      log.warn('migration.not_listening', { domain: id, error: toFault(error).message })
      await clock.sleep(LISTEN_AGAIN)
    }
  }
}

async function endExpected({ driver, moves }: ToolstackServices, id: DomainId): Promise<void> {
  moves.incoming.get(id)?.close()
  moves.incoming.delete(id)
  await moves.arriving.get(id)?.close()
  moves.arriving.delete(id)
  await driver.destroy(id)
  await driver.forget(id)
}

/** With what is saved beside them. */
async function removeDisks(services: ToolstackServices, id: DomainId): Promise<void> {
  const { volumes, saves } = services
  for (const volume of await volumesEver(services, id)) {
    await volumes.remove(volume)
    await removeAllSnapshots(services, volume)
  }
  await volumes.remove(seedVolume(id))
  await saves.keepOnly(id, [])
}

const isExpected = (domain: StoredDomain | null): domain is StoredDomain => domain?.migration?.role === 'incoming'

/** Anything but an expected domain is not touched: it went, or was given up before. */
const abandon = defineSaga<OfDomain, ToolstackServices>({
  name: 'domain.abandon',
  steps: [
    {
      name: 'end',
      do: async ({ input: { id }, services }) => {
        const domain = services.ledger.get(id)
        if (!isExpected(domain)) return
        await endExpected(services, id)
        await removeDisks(services, id)
        await services.ledger.forget(id, 'migrated')
      },
    },
  ],
})

/** To have been begun is to have been told to go: there is no undo, and it fails only when the domain has not run here. */
const go = defineSaga<OfDomain, ToolstackServices>({
  name: 'domain.go',
  steps: [
    {
      name: 'run',
      attemptCountMax: 1000,
      do: async (context) => {
        const { input, services, signal, attempt, log } = context
        const { ledger, driver, moves } = services
        const domain = ledger.get(input.id)
        if (domain && !domain.migration) return
        if (!isExpected(domain)) throw new Fault('conflict', `go ${input.id}: it is not expected here`)
        if (domain.migration?.arrives !== undefined) return await goCold(services, domain)
        const seen = await driver.state(input.id, { signal })
        if (seen.kind === 'gone' && attempt === 1)
          throw new Fault('failed', `go ${domain.name}: it ended before it ran here: ${seen.detail ?? 'without a word'}`)
        const { migration, arriving, ...rest } = domain
        assert(migration, 'it is expected')
        let lacksMemory = false
        const incoming = moves.incoming.get(input.id)
        let hasGoneOn = seen.kind === 'running'
        if (seen.kind !== 'gone') {
          const goesOn = migration.goesOn && seen.kind === 'paused'
          const { goneOnAt, isWhole } = await driver.takeOver(input.id, { signal, goesOn })
          lacksMemory = !isWhole
          if (incoming) incoming.goneOnAt = goneOnAt
          hasGoneOn ||= goneOnAt !== null
        }
        if (seen.kind === 'paused' && migration.goesOn && !hasGoneOn) {
          try {
            await driver.unpause(input.id, { signal })
            hasGoneOn = true
          } catch (error) {
            if (retryable(error)) throw error
            // From here on it is this host's, whatever it does.
            log.warn('migration.not_unpaused', { domain: input.id, error: toFault(error).message })
          }
        }
        const now = lacksMemory && arriving ? { ...rest, arriving } : rest
        await ledger.enter(input.id, arrived(seen, hasGoneOn), { cause: 'migrated' }, now)
        await noteForwards(services, input.id, signal).catch((error: unknown) =>
          log.warn('migration.forwards_unknown', { domain: input.id, error: toFault(error).message }),
        )
        if (lacksMemory) incoming?.run()
        else {
          incoming?.close()
          moves.incoming.delete(input.id)
        }
        // By as much as it stood still its clock is late. One that has no agent is left to its own ways of keeping time.
        if (hasGoneOn) correctClock(context)
      },
    },
  ],
})

const hasArrived = defineSaga<OfDomain, ToolstackServices>({
  name: 'domain.arrived',
  steps: [
    {
      name: 'settle',
      do: async ({ input: { id }, services: { ledger, moves } }) => {
        const domain = ledger.get(id)
        if (domain?.arriving && !domain.migration) {
          const { arriving: _arrived, ...rest } = domain
          await ledger.update(rest)
        }
        moves.incoming.get(id)?.close()
        moves.incoming.delete(id)
      },
    },
  ],
})

function arrived(seen: DriverState, hasGoneOn: boolean): DomainState {
  if (hasGoneOn) return { kind: 'running' }
  return stateFromDriver('running', seen) ?? { kind: 'running' }
}

const migrate = defineSaga<MigrateInput, ToolstackServices>({
  name: 'domain.migrate',
  steps: [
    {
      name: 'check',
      do: async ({ input: { id, parameters, offer }, services }) => {
        const domain = services.ledger.need(id)
        await assertMovable(services, domain, parameters.dropSnapshots ?? false)
        if (parameters.postCopy && !isCold(domain.state) && !offer.postCopy)
          throw new Fault('unsupported', `migrate ${domain.name} by post-copy: the other host does not expect it so`)
        return { output: isToRun(domain.state) }
      },
    },
    {
      /** That it is done is the hand-over. */
      name: 'copy',
      attemptCountMax: 1,
      do: async (context) => {
        const { input, services, attempt } = context
        if (attempt > 1) {
          const { name } = services.ledger.need(input.id)
          throw new Fault('failed', `migrate ${name}: its host's agent was started anew in the middle of it; it goes on there`)
        }
        try {
          return { output: (await copied(context)) as unknown as Json }
        } catch (error) {
          const fault = toFault(error)
          // Given again, the same command fails in the same way: whoever wants it begins another.
          throw retryable(fault) ? new Fault('failed', fault.message, { cause: fault }) : fault
        }
      },
      undo: async (context) => {
        const { input, services, outputs, sagaId } = context
        const control = services.moves.controls.get(sagaId) ?? (await controlOf(context).catch(() => null))
        await withDeadline({ limit: ABANDON_LIMIT, clock: services.clock, what: 'migration: abandon' }, async (signal) =>
          control?.ask('abandon', { signal }),
        ).catch(() => {})
        services.moves.controls.delete(sagaId)
        control?.close()
        await services.driver.takeBack(input.id, outputs['check'] === true)
        await dropSaves(context)
      },
    },
    {
      name: 'go',
      do: async (context) => ({ output: (await (isFetched(context) ? taken(context) : gone(context))) as unknown as Json }),
    },
    {
      name: 'end',
      do: async (context) => {
        const { input, services, outputs, sagaId } = context
        const { id } = input
        const { confirmed } = outputs['go'] as unknown as Gone
        if (confirmed && isFetched(context)) await Promise.race([restOf(context), wholeThere(context)])
        services.moves.rests.delete(sagaId)
        services.moves.handingOver.delete(id)
        services.moves.controls.get(sagaId)?.close()
        services.moves.controls.delete(sagaId)
        const domain = services.ledger.get(id)
        if (!domain) return
        if (!confirmed) {
          const migration = { role: 'handed-over', goesOn: outputs['check'] === true } as const
          const detail = 'it was handed over to another host, which has not answered yet'
          const state: DomainState = holdsProcess(domain.state.kind)
            ? { kind: 'stopped', cause: 'migrated', detail }
            : domain.state
          await services.ledger.enter(id, state, { cause: 'migrated' }, { ...domain, migration })
          return
        }
        await services.driver.destroy(id)
        await services.driver.forget(id)
        await removeDisks(services, id)
        await services.ledger.forget(id, 'migrated')
      },
    },
  ],
})

interface Gone {
  readonly confirmed: boolean
  /** From when all was sent to when it ran there. */
  readonly sinceMs: number
}

/** Of what the steps wrote down. */
export function resultOf(outputs: Readonly<Record<string, Json>>): MigrationResult {
  const statistics = outputs['copy'] as unknown as MigrationStatistics
  const { confirmed, sinceMs } = outputs['go'] as unknown as Gone
  const totalMs = statistics.totalMs + sinceMs
  // What did not run stood still for no move's sake.
  const downtimeMs = outputs['check'] === true ? statistics.downtimeMs + sinceMs : 0
  return { confirmed, statistics: { ...statistics, totalMs, downtimeMs } }
}

async function controlOf({ input, services }: Context<MigrateInput>, signal?: AbortSignal): Promise<ControlClient> {
  const links = needLinks(services, 'migrate')
  return new ControlClient(await links.connect(input.offer, CONTROL, { signal }), services.clock)
}

async function copied(context: Context<MigrateInput>): Promise<MigrationStatistics> {
  const { input, services, signal, sagaId, progress } = context
  const { driver, moves } = services
  const links = needLinks(services, 'migrate')
  const withdrawn = new AbortController()
  moves.sending.set(input.id, withdrawn)
  try {
    const either = AbortSignal.any([signal, withdrawn.signal])
    const beganAt = services.clock.monotonic()
    const control = await controlOf(context, either)
    moves.controls.set(sagaId, control)
    let loaded: Promise<unknown> | null = null
    const whole = AbortSignal.any([either, control.lost])
    const { dropSnapshots: _dropSnapshots, ...parameters } = input.parameters
    const open = (channel: string) => links.connect(placeOf(input.offer, channel), channel, { signal: whole })
    const onProgress = (now: MigrationProgress): void => {
      moves.listeners.get(input.id)?.(now)
      progress(now.phase === 'switchover' ? 1 : 0.5, now.phase)
    }
    const domain = services.ledger.need(input.id)
    const whyNot = () =>
      toldBy(() =>
        withDeadline({ limit: ABANDON_LIMIT, clock: services.clock, what: 'migration: loaded' }, async (late) => {
          await control.ask('loaded', { signal: late })
        }),
      )
    const isFetchedNow = isFetched(context) && !isCold(domain.state)
    const disksDone = async () => {
      await control.ask('disks-done', { signal: whole })
      if (isFetchedNow) return
      // What is left comes by itself: the answer is on its way when it has.
      loaded = control.ask('loaded', { signal: whole })
      loaded.catch(() => {})
    }
    const sending = { services, domain, peer: { open, whyNot }, move: sagaId, parameters, signal: whole, onProgress }
    const statistics = isCold(domain.state)
      ? await sendCold(sending)
      : await driver.migrateTo(input.id, { open, disksDone }, { ...parameters, signal: whole, onProgress })
    control.sentAt = services.clock.monotonic()
    if (!isFetchedNow) await (loaded ?? control.ask('loaded', { signal: whole }))
    either.throwIfAborted()
    return { ...statistics, totalMs: Math.round(control.sentAt - beganAt) }
  } finally {
    moves.sending.delete(input.id)
  }
}

const placeOf = (offer: MigrationOffer, channel: string): MigrationOffer =>
  channel === 'memory' && offer.memory ? offer.memory : offer

/** Whether its memory follows it. */
const isFetched = ({ input }: Context<MigrateInput>): boolean =>
  input.parameters.postCopy === true && input.offer.postCopy === true

/** Sends what the guest lacks there: from when it is begun there is no way back but the target's word that it never ran. */
function restOf({ input, services, sagaId, signal }: Context<MigrateInput>): Promise<void> {
  const { driver, moves } = services
  const links = needLinks(services, 'migrate')
  const known = moves.rests.get(sagaId)
  if (known) return known
  const open = (channel: string, options: CallOptions = {}) => links.connect(placeOf(input.offer, channel), channel, options)
  const onProgress = (now: MigrationProgress): void => moves.listeners.get(input.id)?.(now)
  const given = new AbortController()
  moves.handingOver.set(input.id, given)
  const rest = driver.sendRest(input.id, { open }, { signal: AbortSignal.any([signal, given.signal]), onProgress })
  rest.catch(() => {})
  moves.rests.set(sagaId, rest)
  return rest
}

/** The last word of the other hypervisor may be lost; its toolstack knows. */
async function wholeThere({ services, sagaId, signal }: Context<MigrateInput>): Promise<void> {
  const asked = services.moves.controls.get(sagaId)?.ask('whole', { signal })
  await (asked ?? Promise.reject(new Fault('unavailable', 'nobody is asked'))).catch(() => new Promise<never>(() => {}))
}

/** As `gone`, of one whose memory follows it: nobody else can say how it stands, so the target is asked for as long as it takes. */
async function taken(context: Context<MigrateInput>): Promise<Gone> {
  const { services, sagaId, log, input, signal } = context
  const { moves, clock } = services
  let failure = null as Fault | null
  let isSent = false
  const rest = restOf(context)
  rest.then(
    () => (isSent = true),
    (error: unknown) => (failure = toFault(error)),
  )
  const failed = rest.then(() => new Promise<never>(() => {}))
  failed.catch(() => {})
  while (true) {
    try {
      const control =
        moves.controls.get(sagaId) ??
        (await withDeadline({ limit: GO_LIMIT, clock, what: 'migration: go', signal }, (limited) => controlOf(context, limited)))
      moves.controls.set(sagaId, control)
      await Promise.race([control.ask('loaded', { signal }), failed])
      const said = await control.ask('go', { signal })
      const sinceMs = control.sentAt === null ? 0 : Math.max(0, clock.monotonic() - control.sentAt - (said.sinceMs ?? 0))
      return { confirmed: true, sinceMs: Math.round(sinceMs) }
    } catch (error) {
      signal.throwIfAborted()
      const fault: Fault = failure ?? toFault(error)
      if (fault.code === 'failed' || (fault === failure && fault.code === 'aborted')) throw fault
      log.warn('migration.not_confirmed', { domain: input.id, error: fault.message })
      // It lacks nothing: whoever stands over both can ask it.
      if (isSent) return { confirmed: false, sinceMs: 0 }
      moves.controls.get(sagaId)?.close()
      moves.controls.delete(sagaId)
      await clock.sleep(ASK_AGAIN, { signal })
    }
  }
}

/** @throws Fault `failed` only when the target has said that it never ran and never will: the guest is to go on here. */
async function gone(context: Context<MigrateInput>): Promise<Gone> {
  const { services, sagaId, log, input } = context
  // Not the saga's own signal: what was asked cannot be withdrawn.
  try {
    let sinceMs = 0
    await withDeadline({ limit: GO_LIMIT, clock: services.clock, what: 'migration: go' }, async (signal) => {
      const control = services.moves.controls.get(sagaId) ?? (await controlOf(context, signal))
      services.moves.controls.set(sagaId, control)
      const said = await control.ask('go', { signal })
      if (control.sentAt !== null) sinceMs = Math.max(0, services.clock.monotonic() - control.sentAt - (said.sinceMs ?? 0))
    })
    return { confirmed: true, sinceMs: Math.round(sinceMs) }
  } catch (error) {
    const fault = toFault(error)
    if (fault.code === 'failed') throw fault
    log.warn('migration.not_confirmed', { domain: input.id, error: fault.message })
    return { confirmed: false, sinceMs: 0 }
  }
}

/** Whoever asks for it has heard that the target does not run it and never will. */
const takeBack = defineSaga<OfDomain, ToolstackServices>({
  name: 'domain.take-back',
  steps: [
    {
      name: 'take-back',
      do: async ({ input: { id }, services, signal }) => {
        const { ledger, driver } = services
        const { migration, ...rest } = ledger.need(id)
        if (migration?.role !== 'handed-over') return
        await driver.takeBack(id, migration.goesOn, { signal })
        const seen = await driver.state(id, { signal })
        const state = stateFromDriver('stopped', seen) ?? rest.state
        await ledger.enter(id, state, { cause: 'migrated' }, rest)
      },
    },
  ],
})

export const MIGRATION_SAGAS = { receive, go, abandon, hasArrived, migrate, takeBack }
