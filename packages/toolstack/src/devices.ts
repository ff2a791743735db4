/**
 * Devices that come and go.
 *
 *   attach   plan (port, address, MAC) --> volume --> to the guest --> record
 *   detach   from the guest, which is asked --> record --> volume, where it is not kept
 *   resize   volume and guest --> record
 *   medium   what is in the drive out --> volume of the new one --> into the drive --> record
 *
 * What was planned is kept with the first step: whoever goes on after a kill attaches the same device in the same place. A guest that does not let
 * go of a device may do so later: the record says `leaving` meanwhile, and is settled before the machine is written down by a save or a snapshot.
 *
 * A volume that a device brings is named after it, `<domain>.<device>`, and stays when the device is detached, unless it is to go.
 */
import { bytes, Fault, fieldFault, type Bytes, type Json } from '@typevisor/base'
import {
  assertCanDevice,
  isDetachable,
  isDeviceName,
  isMediumName,
  type DeviceInfo,
  type DeviceRequest,
  type DeviceVerbName,
  type DomainDevice,
  type DomainId,
  type PortForward,
  type VolumeId,
} from '@typevisor/model'
import { defineSaga } from '@typevisor/saga'
import type { VolumeInfo } from '@typevisor/storage'
import type { DetachOptions } from './ports.ts'
import { holdsProcess } from './state.ts'
import { noteForwards, seedVolume, type Context, type ToolstackServices } from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'

/** Images of media on this host: files of one folder, by name. */
export interface MediaFolder {
  /** null: there is none of this name, or it is no plain file. */
  find(name: string): Promise<{ readonly path: string; readonly sizeBytes: number } | null>
  list(): Promise<readonly string[]>
}

export const DETACH_DEFAULTS = { timeoutMs: 30_000, force: false, deleteVolume: false } as const

export type AttachInput = { readonly id: DomainId; readonly device: DeviceRequest }
export type DetachInput = {
  readonly id: DomainId
  readonly name: string
  readonly timeoutMs: number
  readonly force: boolean
  readonly deleteVolume: boolean
}
export type ResizeInput = { readonly id: DomainId; readonly name: string; readonly sizeBytes: Bytes }
/** `medium` null: out with it. */
export type MediumInput = { readonly id: DomainId; readonly name: string; readonly medium: string | null }

export const volumeNamed = (id: DomainId, name: string): VolumeId => `${id}.${name}` as VolumeId
export const volumeOf = (device: DomainDevice): VolumeId | null => ('volume' in device ? (device.volume ?? null) : null)

const invalid = (path: string, want: string, got: unknown): Fault =>
  fieldFault({ path, want, got: got === undefined ? 'nothing' : JSON.stringify(got).slice(0, 100) })

/** The domain with these devices, and what its driver opens for those that have a volume. */
function withDevices(domain: StoredDomain, devices: readonly DomainDevice[], volume: VolumeInfo | null): StoredDomain {
  const names = new Set(devices.map(({ name }) => name))
  const others = domain.hardware.devices.filter(({ name }) => !names.has(name))
  return {
    ...domain,
    hardware: { ...domain.hardware, devices: [...others, ...devices] },
    volumes: volume === null ? domain.volumes : { ...domain.volumes, [volume.id]: volume.source },
  }
}

function withoutDevices(domain: StoredDomain, names: ReadonlySet<string>): StoredDomain {
  const devices = domain.hardware.devices.filter(({ name }) => !names.has(name))
  const gone = new Set<string | null>(
    domain.hardware.devices.flatMap((device) => (names.has(device.name) ? [volumeOf(device)] : [])),
  )
  const volumes = Object.fromEntries(Object.entries(domain.volumes).filter(([id]) => !gone.has(id)))
  return { ...domain, hardware: { ...domain.hardware, devices }, volumes }
}

/** @throws Fault `conflict`, `unsupported` where the driver has no hot-plug. */
async function begin<I extends { readonly id: DomainId }>(context: Context<I>, verb: DeviceVerbName): Promise<StoredDomain> {
  const { services, input, signal } = context
  const { state, name } = services.ledger.need(input.id)
  assertCanDevice(verb, state.kind, name)
  const { hotplug } = await services.driver.capabilities({ signal })
  if (!hotplug.can) throw new Fault('unsupported', `${verb} ${name}: ${hotplug.reason}`)
  await settleDevices(services, input.id)
  return services.ledger.need(input.id)
}

function needDevice(domain: StoredDomain, name: string): DomainDevice {
  const found = domain.hardware.devices.find((device) => device.name === name && device.kind !== 'port')
  if (found) return found
  throw new Fault('not_found', `device ${name} of ${domain.name}: there is none of this name`, {
    details: [{ path: 'device', want: 'a device of the domain', got: name }],
  })
}

const wantsVolume = (device: DeviceRequest): device is DeviceRequest & { kind: 'disk' | 'usb' } =>
  device.kind === 'disk' || (device.kind === 'usb' && device.model === 'storage')

export async function needMedium({ media }: ToolstackServices, name: string): Promise<{ path: string; sizeBytes: number }> {
  if (!media) throw new Fault('unsupported', `medium ${name}: this host keeps no media`)
  const found = isMediumName(name) ? await media.find(name) : null
  if (found) return found
  const known = await media.list()
  const want = known.length === 0 ? 'an image of the media folder, which is empty' : `one of ${known.slice(0, 20).join(', ')}`
  throw new Fault('not_found', `medium ${name}: the media folder of this host has no such image`, {
    details: [{ path: 'medium', want, got: name }],
  })
}

/** CDs are read in sectors of this size. */
const MEDIUM_SECTOR = 4096
export const makeMedium = async (services: ToolstackServices, volume: VolumeId, name: string): Promise<VolumeInfo> => {
  const { path, sizeBytes } = await needMedium(services, name)
  return services.volumes.clone(volume, { path, format: 'raw' }, bytes(Math.ceil(sizeBytes / MEDIUM_SECTOR) * MEDIUM_SECTOR))
}

interface Plan {
  readonly devices: readonly DomainDevice[]
  readonly volume: VolumeId | null
  /** Made by this saga, which removes it again when it is undone. */
  readonly isNew: boolean
}
const planOf = ({ outputs }: Context<AttachInput>): Plan => outputs['check'] as unknown as Plan

/** What the request says of its volume, held against what is there. */
async function planVolume({ input, services }: Context<AttachInput>, domain: StoredDomain): Promise<Omit<Plan, 'devices'>> {
  const { device } = input
  const id = volumeNamed(domain.id, device.name)
  const isMedium = device.kind === 'cd' && device.medium !== undefined
  if (!wantsVolume(device) && !isMedium) return { volume: null, isNew: false }
  const kept = await services.volumes.get(id)
  const [path, got] = ['name', device.name] as const
  if (kept && (isMedium || id === seedVolume(domain.id)))
    throw new Fault('conflict', `attach ${got} to ${domain.name}: a volume of this name is kept`, {
      details: [{ path, want: 'a name that no kept volume has', got }],
    })
  if (isMedium) await needMedium(services, device.medium ?? '')
  if (!wantsVolume(device)) return { volume: id, isNew: true }
  const { sizeBytes } = device
  if (kept && sizeBytes !== undefined && sizeBytes !== kept.virtualBytes)
    throw new Fault(
      'conflict',
      `attach ${got} to ${domain.name}: its volume was kept and has ${kept.virtualBytes} bytes, got ${sizeBytes}`,
      {
        details: [{ path: 'sizeBytes', want: `nothing, or ${kept.virtualBytes}`, got: String(sizeBytes) }],
      },
    )
  if (!kept && (sizeBytes === undefined || sizeBytes <= 0))
    throw invalid('sizeBytes', `a size: no volume ${got} of ${domain.name} is kept`, sizeBytes)
  return { volume: id, isNew: kept === null }
}

export const attach = defineSaga<AttachInput, ToolstackServices>({
  name: 'domain.attach',
  steps: [
    {
      name: 'check',
      do: async (context) => {
        const { input, services } = context
        const { device } = input
        const domain = await begin(context, 'attach')
        if (domain.hardware.devices.some(({ name }) => name === device.name))
          throw new Fault('conflict', `attach ${device.name} to ${domain.name}: it has a device of this name`, {
            details: [{ path: 'name', want: 'a name that no device of the domain has', got: device.name }],
          })
        // Before the volume: what has no place brings none.
        const placed = await services.driver.planDevice(domain, device, null)
        const { volume, isNew } = await planVolume(context, domain)
        const devices = volume === null ? placed : await services.driver.planDevice(domain, device, volume)
        return { output: { devices, volume, isNew } as unknown as Json }
      },
    },
    {
      name: 'volume',
      do: async (context) => {
        const { input, services } = context
        const { volume, isNew } = planOf(context)
        const { device } = input
        if (volume === null || !isNew) return
        if (device.kind === 'cd') await makeMedium(services, volume, device.medium ?? '')
        else if ('sizeBytes' in device && device.sizeBytes !== undefined) await services.volumes.create(volume, device.sizeBytes)
      },
      undo: async (context) => {
        const { volume, isNew } = planOf(context)
        if (volume !== null && isNew) await context.services.volumes.remove(volume)
      },
    },
    {
      name: 'plug',
      do: async (context) => {
        const { input, services, signal } = context
        const domain = services.ledger.need(input.id)
        if (!holdsProcess(domain.state.kind)) return
        const { devices } = planOf(context)
        const target = withDevices(domain, devices, await volumeOfPlan(context))
        for (const device of devices) await services.driver.attach(target, device, { signal })
      },
      undo: async (context) => {
        const { input, services } = context
        for (const { name } of planOf(context).devices.toReversed())
          await services.driver.detach(input.id, name, { timeoutMs: 0, force: true })
      },
    },
    {
      name: 'record',
      do: async (context) => {
        const { input, services, signal } = context
        const domain = services.ledger.need(input.id)
        await services.ledger.update(withDevices(domain, planOf(context).devices, await volumeOfPlan(context)))
        if (holdsProcess(domain.state.kind)) await noteForwards(services, input.id, signal)
      },
      undo: async (context) => {
        const { input, services } = context
        const domain = services.ledger.get(input.id)
        if (!domain) return
        const { devices } = planOf(context)
        const names = new Set(devices.map(({ name }) => name))
        const forwarded = new Set(devices.flatMap((device) => (device.kind === 'nic' ? device.forwards.map(guestEnd) : [])))
        const forwards = domain.forwards.filter((forward) => !forwarded.has(guestEnd(forward)))
        if (domain.hardware.devices.some(({ name }) => names.has(name)))
          await services.ledger.update({ ...withoutDevices(domain, names), forwards })
      },
    },
  ],
})

const guestEnd = ({ protocol, guestPort }: { readonly protocol: string; readonly guestPort: number }): string =>
  `${protocol} ${guestPort}`

async function volumeOfPlan(context: Context<AttachInput>): Promise<VolumeInfo | null> {
  const { volume } = planOf(context)
  if (volume === null) return null
  const found = await context.services.volumes.get(volume)
  if (!found) throw new Fault('failed', `attach ${context.input.device.name}: its volume ${volume} is not there any more`)
  return found
}

interface Going {
  /** null: it is detached already, and only its volume is to go. */
  readonly device: DomainDevice | null
  readonly volume: VolumeId | null
}
const goingOf = ({ outputs }: Context<DetachInput>): Going => outputs['check'] as unknown as Going

export const detach = defineSaga<DetachInput, ToolstackServices>({
  name: 'domain.detach',
  steps: [
    {
      name: 'check',
      do: async (context) => {
        const { input, services } = context
        const domain = await begin(context, 'detach')
        const device = domain.hardware.devices.find(({ name }) => name === input.name)
        if (!device && input.deleteVolume) {
          const kept = isDeviceName(input.name) ? await services.volumes.get(volumeNamed(domain.id, input.name)) : null
          if (kept) return { output: { device: null, volume: kept.id } as unknown as Json }
        }
        const found = needDevice(domain, input.name)
        if (!isDetachable(found))
          throw new Fault('unsupported', `detach ${input.name} of ${domain.name}: it is part of the machine since its definition`)
        if (found.kind === 'usb-controller' && domain.hardware.devices.some(({ kind }) => kind === 'usb'))
          throw new Fault('conflict', `detach ${input.name} of ${domain.name}: it has USB devices, want them detached first`)
        return { output: { device: found, volume: volumeOf(found) } as unknown as Json }
      },
    },
    {
      name: 'unplug',
      attemptCountMax: 1,
      do: async (context) => {
        const { input, services, signal } = context
        const { device } = goingOf(context)
        const domain = services.ledger.need(input.id)
        if (device === null || !holdsProcess(domain.state.kind)) return
        const { timeoutMs, force } = input
        try {
          await letGo(services, input.id, [input.name], { timeoutMs, force, signal })
        } catch (error) {
          if (error instanceof Fault && error.code === 'timeout') await markLeaving(services, input.id, input.name)
          throw error
        }
      },
      undo: ({ services, input }) => settleDevices(services, input.id),
    },
    {
      name: 'record',
      do: async ({ input, services, signal }) => {
        const domain = services.ledger.need(input.id)
        // Of a domain without a process.
        if (domain.hardware.devices.some(({ name }) => name === input.name))
          await services.ledger.update(withoutDevices(domain, new Set([input.name])))
        if (holdsProcess(domain.state.kind)) await noteForwards(services, input.id, signal)
      },
    },
    {
      name: 'volume',
      do: async (context) => {
        const { device, volume } = goingOf(context)
        if (volume !== null && (context.input.deleteVolume || device?.kind === 'cd'))
          await context.services.volumes.remove(volume)
      },
    },
  ],
})

async function markLeaving({ ledger }: ToolstackServices, id: DomainId, name: string): Promise<void> {
  const domain = ledger.need(id)
  const devices = domain.hardware.devices.map((device) =>
    device.name === name && isDetachable(device) ? ({ ...device, leaving: true } as DomainDevice) : device,
  )
  await ledger.update({ ...domain, hardware: { ...domain.hardware, devices } })
}

const isLeaving = (device: DomainDevice): boolean => 'leaving' in device && device.leaving === true

/** What a guest let go of after nobody waited for it any more leaves the record, and what the host holds for it goes. */
export async function settleDevices({ ledger, driver }: ToolstackServices, id: DomainId): Promise<void> {
  const domain = ledger.get(id)
  const leaving = domain?.hardware.devices.filter(isLeaving) ?? []
  if (!domain || leaving.length === 0 || !holdsProcess(domain.state.kind)) return
  const there = new Set(await driver.attachedDevices(id))
  const gone = leaving.filter(({ name }) => !there.has(name))
  if (gone.length === 0) return
  const names = gone.map(({ name }) => name)
  await letGo({ ledger, driver }, id, names, { timeoutMs: 0, force: true })
}

/** In one step with the record: whoever takes the domain up in between holds again for it what that has, and lets go of it once more. */
async function letGo(
  { ledger, driver }: Pick<ToolstackServices, 'ledger' | 'driver'>,
  id: DomainId,
  names: readonly string[],
  how: DetachOptions,
): Promise<void> {
  for (const name of names) await driver.detach(id, name, how)
  await ledger.update(withoutDevices(ledger.need(id), new Set(names)))
}

/** A machine that is made anew has all its devices: none is on its way out. */
export function stayingDevices(domain: StoredDomain): StoredDomain {
  if (!domain.hardware.devices.some(isLeaving)) return domain
  const devices = domain.hardware.devices.map((device) => {
    if (!isLeaving(device)) return device
    const { leaving: _leaving, ...rest } = device as DomainDevice & { leaving?: boolean }
    return rest as DomainDevice
  })
  return { ...domain, hardware: { ...domain.hardware, devices } }
}

export const resize = defineSaga<ResizeInput, ToolstackServices>({
  name: 'domain.resize',
  steps: [
    {
      name: 'check',
      do: async ({ input, services }) => {
        const domain = services.ledger.need(input.id)
        assertCanDevice('resize', domain.state.kind, domain.name)
        const device = needDevice(domain, input.name)
        if (device.kind !== 'disk' || device.readOnly)
          throw new Fault('unsupported', `resize ${input.name} of ${domain.name}: it is no disk that can be written`)
        const volume = await services.volumes.get(device.volume)
        if (!volume) throw new Fault('failed', `resize ${input.name} of ${domain.name}: its volume is not there`)
        if (input.sizeBytes < volume.virtualBytes)
          throw invalid('sizeBytes', `at least ${volume.virtualBytes}, which it has: a disk only grows`, input.sizeBytes)
        return { output: device.volume }
      },
    },
    {
      name: 'grow',
      do: async ({ input, services, signal, outputs }) => {
        const domain = services.ledger.need(input.id)
        const volume = outputs['check'] as VolumeId
        const { name, sizeBytes } = input
        const grow = async (): Promise<void> => void (await services.volumes.grow(volume, sizeBytes))
        if (holdsProcess(domain.state.kind)) await services.driver.resizeDisk(domain, name, sizeBytes, grow, { signal })
        else await grow()
      },
    },
    {
      name: 'record',
      do: async ({ input, services }) => {
        const domain = services.ledger.need(input.id)
        if (input.name === 'root')
          await services.ledger.update({ ...domain, spec: { ...domain.spec, rootDiskBytes: input.sizeBytes } })
      },
    },
  ],
})

function needDrive(domain: StoredDomain, name: string): DomainDevice & { kind: 'cd' } {
  const device = needDevice(domain, name)
  if (device.kind === 'cd') return device
  throw new Fault('invalid', `device ${name} of ${domain.name}: it is a ${device.kind}, want a CD drive`, {
    details: [{ path: 'device', want: 'a CD drive', got: name }],
  })
}

/** The domain with this in its drive. */
function loaded(domain: StoredDomain, name: string, medium: string | null, volume: VolumeInfo | null): StoredDomain {
  const drive = needDrive(domain, name)
  const emptied = withoutDevices(domain, new Set([name]))
  const devices = domain.hardware.devices.map((device) =>
    device === drive ? { ...drive, medium, volume: volume?.id ?? null } : device,
  )
  return {
    ...domain,
    hardware: { ...domain.hardware, devices },
    volumes: volume === null ? emptied.volumes : { ...emptied.volumes, [volume.id]: volume.source },
  }
}

async function load({ services, input, signal }: Context<MediumInput>, volume: VolumeInfo | null): Promise<void> {
  const domain = services.ledger.need(input.id)
  const next = loaded(domain, input.name, volume === null ? null : input.medium, volume)
  if (holdsProcess(domain.state.kind)) await services.driver.changeMedium(next, input.name, { signal })
  await services.ledger.update(next)
}

export const medium = defineSaga<MediumInput, ToolstackServices>({
  name: 'domain.medium',
  steps: [
    {
      name: 'check',
      do: async (context) => {
        const { input, services } = context
        const domain = await begin(context, input.medium === null ? 'eject' : 'insert')
        needDrive(domain, input.name)
        if (input.medium !== null) await needMedium(services, input.medium)
      },
    },
    {
      name: 'eject',
      do: async (context) => {
        const { input, services } = context
        const { volume } = needDrive(services.ledger.need(input.id), input.name)
        if (volume !== null) await load(context, null)
        await services.volumes.remove(volumeNamed(input.id, input.name))
      },
    },
    {
      name: 'volume',
      do: async ({ input, services }) => {
        if (input.medium !== null) await makeMedium(services, volumeNamed(input.id, input.name), input.medium)
      },
      undo: ({ input, services }) => services.volumes.remove(volumeNamed(input.id, input.name)),
    },
    {
      name: 'insert',
      do: async (context) => {
        const { input, services } = context
        if (input.medium !== null) await load(context, await services.volumes.get(volumeNamed(input.id, input.name)))
      },
      undo: async (context) => {
        if (context.services.ledger.get(context.input.id)) await load(context, null)
      },
    },
  ],
})

/** All of the machine's devices that have a name of their own, then the volumes that are kept of detached ones. */
export async function describeDevices(
  { volumes }: Pick<ToolstackServices, 'volumes'>,
  domain: StoredDomain,
): Promise<DeviceInfo[]> {
  const found = new Map((await volumes.list({ prefix: `${domain.id}.` })).map((volume) => [volume.id, volume]))
  const devices = domain.hardware.devices.filter(({ kind }) => kind !== 'port')
  const used = new Set(devices.map(volumeOf))
  const kept = [...found.values()].filter(({ id }) => !used.has(id))
  const inEffect = forwardsInEffect(domain)
  return [
    ...devices.map((device): DeviceInfo => {
      const volume = volumeOf(device)
      return {
        ...NOTHING,
        name: device.name,
        kind: device.kind,
        state: isLeaving(device) && holdsProcess(domain.state.kind) ? 'leaving' : 'attached',
        detachable: isDetachable(device),
        port: ('port' in device ? device.port : null) ?? null,
        address: device.address,
        sizeBytes: (volume === null ? null : found.get(volume)?.virtualBytes) ?? null,
        readOnly: device.kind === 'disk' ? device.readOnly : null,
        ...(device.kind === 'nic' ? { mac: device.mac, forwards: device.forwards.map(inEffect) } : {}),
        ...(device.kind === 'cd' ? { medium: device.medium } : {}),
        ...(device.kind === 'usb' ? { model: device.model } : {}),
      }
    }),
    ...kept.map(({ id, virtualBytes }): DeviceInfo => ({
      ...NOTHING,
      name: id.slice(domain.id.length + 1),
      kind: 'disk',
      state: 'kept',
      detachable: false,
      sizeBytes: virtualBytes,
    })),
  ]
}

/** With the port that the host chose, where no other card asks it to choose for the same port of the guest. */
function forwardsInEffect({ hardware, forwards }: StoredDomain): (wish: PortForward) => PortForward {
  const wishes = hardware.devices.flatMap((device) => (device.kind === 'nic' ? device.forwards : []))
  const isSame = (one: PortForward, other: PortForward): boolean =>
    one.protocol === other.protocol && one.guestPort === other.guestPort
  return (wish) => {
    if (wish.hostPort !== 0) return wish
    const [chosen, ...others] = forwards.filter(
      (each) => isSame(each, wish) && !wishes.some((fixed) => isSame(fixed, each) && fixed.hostPort === each.hostPort),
    )
    return others.length === 0 ? (chosen ?? wish) : wish
  }
}

const NOTHING = {
  port: null,
  address: null,
  sizeBytes: null,
  readOnly: null,
  mac: null,
  forwards: [],
  medium: null,
  model: null,
} as const
