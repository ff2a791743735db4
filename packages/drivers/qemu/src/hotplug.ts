/**
 * Devices that come and go under a running QEMU.
 *
 *   plug     record --> block nodes and link --> forwards --> device_add       what fails on the way is taken away again
 *   unplug   device_del --> DEVICE_DELETED --> block nodes and link --> record
 *
 * Each begins by looking at what QEMU has, so that whoever goes on after a kill goes on from there. Ids come from the place (`port3-disk`), which
 * one device at a time has.
 *
 * A guest is asked to let go through ACPI, as the machine `q35` does it for what sits behind a root port. By force its answer is given in its
 * stead: the same write to the same I/O port (docs/specs/acpi_pci_hotplug.rst of QEMU: select the bus by its number at 0x10, eject by the slot's
 * bit at 0x8), upon which QEMU takes the device away as if the guest had done it. There is no other way in QMP.
 */
import { Fault, millis, type Bytes, type Clock, type Millis } from '@typevisor/base'
import { isDetachable, type DomainDevice } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import {
  deviceIds,
  driveOf,
  mediumNodes,
  pluggedParts,
  type DeviceParts,
  type DiskSource,
  type PluggedDevice,
} from './command-line.ts'
import { bringUpForwards } from './forwards.ts'
import type { Machine } from './machine.ts'
import { diskOf, dropSets, openLater } from './open-files.ts'
import type { ProcessUser, QemuHost } from './ports.ts'
import { listOf, numberOf, objectOf, textOf } from './read-json.ts'

export interface PlugContext {
  readonly host: QemuHost
  readonly clock: Clock
  readonly machine: Machine
  readonly user: ProcessUser | null
  readonly diskFolders: readonly string[] | null
  readonly signal: AbortSignal
}

/** ICH9's (hw/acpi/ich9.h, ACPI_PCIHP_ADDR_ICH9). */
const ACPI_HOTPLUG = 0x0cc0
const EJECT = ACPI_HOTPLUG + 0x8
const SELECT = ACPI_HOTPLUG + 0x10

const POLL = millis(100)
/** QEMU lets go of a device's nodes a moment after it has told of its end. */
const NODE_LIMIT = millis(5000)
const FORCE_LIMIT = millis(5000)
const RECONNECT_LIMIT = millis(30_000)

const namesAt = async (machine: Machine, path: string, signal: AbortSignal): Promise<ReadonlySet<string>> =>
  new Set(listOf(await machine.execute('qom-list', { path }, { signal })).map((item) => textOf(objectOf(item)['name']) ?? ''))

const peripherals = (machine: Machine, signal: AbortSignal): Promise<ReadonlySet<string>> =>
  namesAt(machine, '/machine/peripheral', signal)

/** Names of the devices of the record that QEMU has. */
export async function fronts(machine: Machine, signal: AbortSignal): Promise<ReadonlySet<string>> {
  const there = await peripherals(machine, signal)
  return new Set([...deviceIds(machine.record.hardware)].flatMap(([device, id]) => (there.has(id) ? [device.name] : [])))
}

export async function plug(context: PlugContext, domain: DriverDomain, device: DomainDevice): Promise<void> {
  const { machine } = context
  const id = idOf(domain, device)
  if (!isDetachable(device)) throw new Fault('unsupported', `attach ${device.name} to ${domain.name}: it has no hot-plug port`)
  const { state } = machine
  if (state.kind !== 'running' && state.kind !== 'paused')
    throw new Fault('conflict', `attach ${device.name} to ${domain.name}: it is ${state.kind}, want running or paused`)
  const { hardware } = machine.record
  const isKnown = hardware.devices.some(({ name }) => name === device.name)
  try {
    const [parts] = await Promise.all([
      openParts(context, domain, device, id),
      // Before QEMU is asked for anything: what the record does not know of nobody would take away.
      isKnown || machine.setHardware({ ...hardware, devices: [...hardware.devices, device] }),
    ])
    if (isKnown) return await addAnew(context, domain, device, parts)
    try {
      await add(context, domain, device, parts)
    } catch (error) {
      // A record that was lost was made anew, and knows of less than there is.
      if (!(error instanceof Fault) || !/duplicate/i.test(error.message)) throw error
      await addAnew(context, domain, device, parts)
    }
  } catch (error) {
    if (!machine.hasEnded) await unplug({ ...context, signal: NEVER }, device.name, { limit: FORCE_LIMIT, force: true })
    throw error
  }
}

async function openParts(context: PlugContext, domain: DriverDomain, device: DomainDevice, id: string): Promise<DeviceParts> {
  const disk = diskOf(device)
  const sources: [string, DiskSource][] = disk ? [[disk.name, await openLater(context, domain, disk)]] : []
  return pluggedParts(device as PluggedDevice, id, { domain, disks: new Map(sources), boot: domain.boot })
}

async function add(
  { machine, signal, host }: PlugContext,
  domain: DriverDomain,
  device: DomainDevice,
  { nodes, link, fronts: parts }: DeviceParts,
): Promise<void> {
  if (link) {
    await machine.execute('netdev_add', link, { signal })
    await bringUpForwards(host.files, domain, machine.paths, machine, device.name)
  }
  // All at once: QEMU takes one after the other, and what stands on one that failed fails too.
  const asked = [
    ...inOne(nodes).map((node) => machine.execute('blockdev-add', node, { signal })),
    ...parts.map((part) => machine.execute('device_add', part, { signal })),
  ]
  await Promise.allSettled(asked)
  await Promise.all(asked)
}

/** The last with what it stands on within it: one command instead of one for each. It takes them with it when it goes. */
function inOne(nodes: DeviceParts['nodes']): DeviceParts['nodes'] {
  const top = nodes.at(-1)
  const filled = (node: DeviceParts['nodes'][number]): DeviceParts['nodes'][number] =>
    Object.fromEntries(
      Object.entries(node).map(([key, value]) => {
        const below = key === 'file' || key === 'backing' ? nodes.find((each) => each['node-name'] === value) : undefined
        return [key, below ? filled(below) : value]
      }),
    )
  return top ? [filled(top)] : []
}

/** Unless it is whole: what is left of a run before this one, which was cut off, goes first. */
async function addAnew(context: PlugContext, domain: DriverDomain, device: DomainDevice, parts: DeviceParts): Promise<void> {
  const there = await peripherals(context.machine, context.signal)
  // The last part makes it whole.
  if (parts.fronts.every(({ id }) => there.has(String(id)))) return
  await takeAway(context, idOf(domain, device), device, { limit: FORCE_LIMIT, force: true })
  await add(context, domain, device, parts)
}

const NEVER = new AbortController().signal

/** What is not there is unplugged already. @throws Fault `timeout` when the guest has not let go. */
export async function unplug(context: PlugContext, name: string, how: { limit: Millis; force: boolean }): Promise<void> {
  const { machine } = context
  const { hardware } = machine.record
  const device = hardware.devices.find((each) => each.name === name)
  if (!device || !isDetachable(device)) return
  await takeAway(context, idOf(machine.record, device), device, how)
  await machine.setHardware({ ...hardware, devices: hardware.devices.filter((each) => each !== device) })
}

function idOf({ hardware }: Pick<DriverDomain, 'hardware'>, device: DomainDevice): string {
  const found = [...deviceIds(hardware)].find(([each]) => each.name === device.name)
  if (!found) throw new Fault('internal', `device ${device.name}: the hardware does not have it`)
  return found[1]
}

async function takeAway(
  context: PlugContext,
  id: string,
  device: DomainDevice,
  how: { limit: Millis; force: boolean },
): Promise<void> {
  const { machine, signal } = context
  // Asked for while the guest lets go: neither changes by that.
  const [, nodes] = await Promise.all([askOut(context, id, device, how), nodesOf(context, id)])
  await deleteNodes(context, id, nodes)
  if (device.kind === 'nic') {
    await machine.execute('netdev_del', { id: `${id}-link` }, { signal }).catch((error: unknown) => {
      if (!(error instanceof Fault) || (error.code !== 'not_found' && error.code !== 'failed')) throw error
    })
  }
}

interface BlockNode {
  readonly name: string
  readonly file: string
}

/** What the device is on: a format before the file that it is on, a layer before its base. */
async function nodesOf({ machine, signal }: PlugContext, id: string): Promise<readonly BlockNode[]> {
  return listOf(await machine.execute('query-named-block-nodes', { flat: true }, { signal }))
    .map(objectOf)
    .map((node) => ({ name: textOf(node['node-name']) ?? '', file: textOf(node['file']) ?? '' }))
    .filter(({ name }) => name === `${id}-file` || name === `${id}-format` || name.startsWith(`${id}-base`))
    .toSorted((a, b) => rank(a.name, id) - rank(b.name, id))
}

/** With the files that were opened for them. */
async function deleteNodes(context: PlugContext, id: string, nodes: readonly BlockNode[]): Promise<void> {
  await Promise.all(nodes.map(({ name }) => deleteNode(context, name)))
  await dropSets(
    context.machine,
    nodes.map(({ file }) => file),
    context.signal,
  )
}

/** `X-format`, `X-file`, `X-base1-format`, `X-base1-file`, ... */
function rank(node: string, id: string): number {
  const depth = Number(/-base(\d+)-/.exec(node.slice(id.length))?.[1] ?? 0)
  return 2 * depth + (node.endsWith('-file') ? 1 : 0)
}

async function deleteNode({ machine, clock, signal }: PlugContext, node: string): Promise<void> {
  const end = clock.monotonic() + NODE_LIMIT
  for (let pauseMs = 2; ; pauseMs = Math.min(2 * pauseMs, POLL)) {
    try {
      return void (await machine.execute('blockdev-del', { 'node-name': node }, { signal }))
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'failed') throw error
      if (/Failed to find node/i.test(error.message)) return
      if (clock.monotonic() > end) throw error
      await clock.sleep(millis(pauseMs), { signal })
    }
  }
}

/** What is not there has been let go of. */
async function askOut(
  context: PlugContext,
  id: string,
  device: DomainDevice,
  how: { limit: Millis; force: boolean },
): Promise<void> {
  const { machine, clock, signal } = context
  const { name: domain } = machine.record
  const path = `/machine/peripheral/${id}`
  let woken = new AbortController()
  let isRefused = false
  // What is asked for now is told of; what was asked for before may have been told by then.
  let isToLook = false
  const stop = machine.onEvent(({ name, content }) => {
    const at = textOf(content['path'])
    // QEMU tells of each part when its memory is freed, after its end as a device (50 ms for a front); what is within it comes first.
    const isMine = content['device'] === id || at === path || at?.startsWith(`${path}/`) === true
    if (!isMine || (name !== 'DEVICE_UNPLUG_GUEST_ERROR' && name !== 'DEVICE_DELETED')) return
    isRefused ||= name === 'DEVICE_UNPLUG_GUEST_ERROR'
    woken.abort()
  })
  try {
    try {
      await machine.execute('device_del', { id }, { signal })
    } catch (error) {
      if (!(error instanceof Fault)) throw error
      if (error.code === 'not_found' || /not found/i.test(error.message)) return
      isToLook = /already in the process of unplug/i.test(error.message)
      if (!isToLook) throw error
    }
    if (how.force && 'port' in device && device.port !== undefined) await eject(context, device.port, id)
    const end = clock.monotonic() + (how.force ? FORCE_LIMIT : how.limit)
    while (!isToLook || (await peripherals(machine, signal)).has(id)) {
      if (isRefused) throw new Fault('failed', `detach ${device.name} of ${domain}: the guest refuses`)
      if (clock.monotonic() >= end)
        throw new Fault('timeout', `detach ${device.name} of ${domain}: the guest did not let go of it in ${how.limit} ms`)
      await clock.sleep(POLL, { signal: AbortSignal.any([signal, woken.signal]) }).catch(() => signal.throwIfAborted())
      woken = new AbortController()
      isToLook = true
    }
  } finally {
    stop()
  }
}

/** In the guest's stead. */
async function eject({ machine, signal }: PlugContext, port: string, id: string): Promise<void> {
  if (!(await peripherals(machine, signal)).has(id)) return
  const bus = numberOf(
    await machine.execute('qom-get', { path: `/machine/peripheral/${port}/${port}`, property: 'acpi-pcihp-bsel' }, { signal }),
  )
  if (bus === null) throw new Fault('failed', `detach ${id}: QEMU does not tell the number of ${port}`)
  await machine.human(`o/w ${SELECT} ${bus}`, { signal })
  await machine.human(`o/w ${EJECT} 1`, { signal })
}

/** Makes the drive's content what `domain` says. */
export async function changeMedium(context: PlugContext, domain: DriverDomain, name: string): Promise<void> {
  const { machine, signal } = context
  const device = domain.hardware.devices.find((each) => each.name === name)
  if (device?.kind !== 'cd') throw new Fault('invalid', `device ${name} of ${domain.name}: it is no CD drive`)
  const id = idOf(domain, device)
  const drive = driveOf(id)
  if (!(await peripherals(machine, signal)).has(drive))
    throw new Fault('conflict', `change the medium of ${name}: the guest has no such drive`)
  // The lock of a guest's driver is no more than a wish; a tray that is open already is fine.
  const open = (): Promise<unknown> => machine.execute('blockdev-open-tray', { id: drive, force: true }, { signal })
  await openAnd(open, () => machine.execute('blockdev-remove-medium', { id: drive }, { signal }))
  await deleteNodes(context, id, await nodesOf(context, id))
  const disk = diskOf(device)
  if (disk) {
    for (const node of mediumNodes(id, await openLater(context, domain, disk)))
      await machine.execute('blockdev-add', node, { signal })
    await openAnd(open, () => machine.execute('blockdev-insert-medium', { id: drive, 'node-name': `${id}-format` }, { signal }))
  }
  await machine.execute('blockdev-close-tray', { id: drive }, { signal })
  const { hardware } = machine.record
  await machine.setHardware({ ...hardware, devices: hardware.devices.map((each) => (each.name === name ? device : each)) })
}

const TRAY_ATTEMPTS = 10

/** A guest that looks into an empty drive closes its tray. */
async function openAnd(open: () => Promise<unknown>, work: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    await open()
    try {
      return void (await work())
    } catch (error) {
      if (attempt === TRAY_ATTEMPTS || !(error instanceof Fault) || !/is not open/i.test(error.message)) throw error
    }
  }
}

/**
 * A file grows by QEMU itself. A volume of a server grows while nobody has it open: QEMU sees its connection end, and learns the new size when it
 * connects again, which it does for the next request; so one is made.
 */
export async function growDisk(
  context: PlugContext,
  domain: DriverDomain,
  name: string,
  sizeBytes: Bytes,
  grow: () => Promise<void>,
): Promise<void> {
  const { machine, signal, clock } = context
  const device = domain.hardware.devices.find((each) => each.name === name)
  if (device?.kind !== 'disk') throw new Fault('invalid', `resize ${name} of ${domain.name}: it is no disk`)
  const id = idOf(domain, device)
  const resize = (): Promise<unknown> =>
    machine.execute('block_resize', { 'node-name': `${id}-format`, size: sizeBytes }, { signal })
  if (domain.volumes[device.volume]?.kind !== 'nbd') return void (await resize())
  await grow()
  const end = clock.monotonic() + RECONNECT_LIMIT
  while (true) {
    await machine.human(`qemu-io ${id}-file "read 0 512"`, { signal })
    try {
      return void (await resize())
    } catch (error) {
      if (!(error instanceof Fault) || error.code !== 'failed' || clock.monotonic() > end) throw error
      await clock.sleep(POLL, { signal })
    }
  }
}
