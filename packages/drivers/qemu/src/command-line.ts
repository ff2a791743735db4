/**
 * From a domain to QEMU's argument vector: a pure function, so that a golden test can hold it.
 *
 * What QEMU takes as JSON is given as JSON (-blockdev, -device, -netdev, -object), where a value cannot become an option. What it
 * takes only as `key=value,...` (-chardev, -name, -vnc, -add-fd) has its commas doubled, QEMU's own quoting. Names that become part
 * of an option are checked against a pattern first. No shell is involved anywhere.
 *
 * Files are given as `OpenFile`s: a path, or `/dev/fdset/N` where QEMU runs as another user and inherits what that user cannot reach.
 */
import { assert, Fault, fieldFault, KIB, unreachable, type Json } from '@typevisor/base'
import {
  architectureOf,
  bootOrderOf,
  pluggedBytesOf,
  vcpuCountOf,
  type DomainDevice,
  type DomainHardware,
} from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import { TARGETS } from './architecture.ts'
import type { DomainPaths } from './layout.ts'

/** A disk as QEMU opens it: one file, or a chain of files, the guest's own first. */
export type DiskSource =
  | { readonly kind: 'chain'; readonly layers: readonly { readonly filename: string; readonly format: 'qcow2' | 'raw' }[] }
  | { readonly kind: 'nbd'; readonly socketPath: string; readonly exportName: string }

export interface CommandLineInput {
  readonly domain: DriverDomain
  readonly paths: DomainPaths
  readonly accelerator: 'tcg' | 'kvm'
  /** By device name. */
  readonly disks: ReadonlyMap<string, DiskSource>
  readonly boot:
    | { readonly kind: 'kernel'; readonly kernel: string; readonly initrd: string | null; readonly commandLine: string }
    | { readonly kind: 'disk' }
  /** UEFI in flash, as files to open; absent: the machine's own beginning. */
  readonly firmware?: { readonly code: string; readonly nvram: string; readonly needsSmm: boolean }
  /** What the first NIC boots: a file in a folder that QEMU serves by TFTP. Absent: nothing. */
  readonly netboot?: { readonly folder: string; readonly file: string }
  /** The console's log, where QEMU writes it as it begins. */
  readonly consoleLog?: string
  /** `incoming`: wait for a saved state instead of the reset vector. `fetching`: and for its memory behind that, by a process with a monitor of its own. */
  readonly start: StartKind
  /** Inherited descriptors: 3, 4, ... in this order become sets 1, 2, ... */
  readonly inheritedCount: number
}

export type StartKind = 'fresh' | 'incoming' | 'fetching'

/** For `key=value,...` options. */
export const quoteOption = (value: string): string => value.replaceAll(',', ',,')

const WORD = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
const ADDRESS = /^[0-9a-f]{1,2}\.[0-7]$/
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/
const PORT = /^port(?:[0-9]|1[0-5])$/
const USB_PORT = /^[1-8]$/
/** Of a controller, each for USB 2 and 3. */
export const USB_PORT_COUNT = 8

function checked(path: string, value: string, pattern: RegExp): string {
  if (!pattern.test(value)) throw fieldFault({ path, want: pattern.source, got: JSON.stringify(value.slice(0, 100)) })
  return value
}

/**
 * QEMU counts devices by kind; the record's order never changes. What can come and go is named by where it sits, whatever else comes and goes.
 */
export function deviceIds(hardware: DomainHardware): ReadonlyMap<DomainDevice, string> {
  const counts = new Map<string, number>()
  const idOf = (device: DomainDevice): string => {
    if (device.kind === 'port') return checked('hardware.devices.port', device.name, PORT)
    if (device.kind === 'usb') return `usb-${checked('hardware.devices.usb.address', device.address, USB_PORT)}`
    if ('port' in device && device.port !== undefined)
      return `${checked('hardware.devices.port', device.port, PORT)}-${device.kind}`
    const count = counts.get(device.kind) ?? 0
    counts.set(device.kind, count + 1)
    return `${device.kind === 'agent-channel' ? 'agent' : device.kind}${count}`
  }
  return new Map(hardware.devices.map((device) => [device, idOf(device)]))
}

export const AGENT_PORT = 'org.qemu.guest_agent.0'

const json = (value: Json): string => JSON.stringify(value)

export function commandLine(input: CommandLineInput): string[] {
  const { domain, paths } = input
  const { hardware, spec } = domain
  const machine = checked('hardware.machine', hardware.machine, WORD)
  const cpuModel = checked('hardware.cpuModel', hardware.cpuModel, WORD)
  const target = TARGETS[architectureOf(spec)]
  const { firmware } = input
  const flash = firmware ? ',pflash0=firmware,pflash1=nvram' : ''
  const smm = firmware?.needsSmm ? ',smm=on' : ''
  const socket = (id: string, path: string): string => `socket,id=${id},path=${quoteOption(path)},server=on,wait=off`
  assert(spec.memoryBytes % KIB === 0, `memory of ${spec.memoryBytes} bytes is no whole number of KiB`)
  const argv = [
    ['-nodefaults', '-no-user-config', '-name', `guest=${quoteOption(domain.name)}`, '-uuid', domain.id],
    ['-machine', `${machine}${target.machineOptions}${spec.hugePages ? ',memory-backend=ram0' : ''}${smm}${flash}`],
    ['-accel', input.accelerator === 'kvm' ? 'kvm' : 'tcg,thread=multi,tb-size=256'],
    ['-cpu', `${cpuModel}${target.cpuOptions}`],
    ['-smp', smp(domain), '-m', memory(domain)],
    ['-rtc', 'base=utc', '-boot', 'strict=on', '-S', '-no-shutdown', '-action', 'panic=pause'],
    ...(spec.hugePages ? [['-object', json(hugePages('ram0', spec.memoryBytes, {}))]] : []),
    [
      '-sandbox',
      'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny',
      '-msg',
      'timestamp=on',
      '-pidfile',
      paths.pid,
    ],
  ].flat()
  for (let set = 1; set <= input.inheritedCount; set += 1) argv.push('-add-fd', `fd=${set + 2},set=${set}`)
  argv.push('-chardev', socket('qmp', paths.qmp), '-mon', 'chardev=qmp,mode=control')
  if (input.start === 'fetching') argv.push('-chardev', socket('carrier', paths.carrier), '-mon', 'chardev=carrier,mode=control')
  argv.push(...consoleArguments(input))
  argv.push('-device', json({ ...target.panicDevice, id: 'panic0' }))
  if (firmware) argv.push(...firmwareArguments(firmware))
  if (spec.tpm && target.tpmDevice !== null) argv.push(...tpmArguments(target.tpmDevice, paths))
  let hasVideo = false
  for (const [device, id] of deviceIds(hardware)) {
    hasVideo ||= device.kind === 'video'
    argv.push(...deviceArguments(device, id, input))
  }
  argv.push(...(hasVideo ? ['-vnc', `unix:${quoteOption(paths.vnc)}`] : ['-display', 'none']))
  if (input.boot.kind === 'kernel') {
    argv.push('-kernel', input.boot.kernel, '-append', input.boot.commandLine)
    if (input.boot.initrd !== null) argv.push('-initrd', input.boot.initrd)
  }
  if (input.start !== 'fresh') argv.push('-incoming', 'defer')
  return argv
}

function consoleArguments({ domain, paths, consoleLog }: CommandLineInput): string[] {
  const kind = TARGETS[architectureOf(domain.spec)].console
  if (kind === 'board-fixed') {
    // It keeps what it began with. The command line of 7.2 can say a pair of pipes and a log: what is written to the second goes nowhere else.
    const pipes = quoteOption(paths.consoleInput.replace(/\.in$/, ''))
    const log = consoleLog === undefined ? '' : `,logfile=${quoteOption(consoleLog)},logappend=on`
    return ['-chardev', `pipe,id=console,path=${pipes}${log}`, '-serial', 'chardev:console']
  }
  // Becomes file and pipe by `consoleBackend`, which the command line of 7.2 cannot say.
  const backend = ['-chardev', 'null,id=console']
  if (kind === 'board') return [...backend, '-serial', 'chardev:console']
  return [...backend, '-device', json({ driver: 'isa-serial', id: 'serial0', chardev: 'console', index: 0 })]
}

function firmwareArguments({ code, nvram, needsSmm }: NonNullable<CommandLineInput['firmware']>): string[] {
  const node = (name: string, filename: string, more: JsonFields): string[] => [
    '-blockdev',
    json({ driver: 'file', 'node-name': `${name}-file`, filename, ...more }),
    '-blockdev',
    json({ driver: 'raw', 'node-name': name, file: `${name}-file`, ...more }),
  ]
  const guarded = needsSmm ? ['-global', 'driver=cfi.pflash01,property=secure,value=on'] : []
  return [...node('firmware', code, { 'read-only': true }), ...node('nvram', nvram, { 'read-only': false }), ...guarded]
}

const tpmArguments = (driver: string, { tpm }: DomainPaths): string[] => [
  ...['-chardev', `socket,id=tpm0-channel,path=${quoteOption(tpm)}`, '-tpmdev', 'emulator,id=tpm0-state,chardev=tpm0-channel'],
  ...['-device', json({ driver, id: 'tpm0', tpmdev: 'tpm0-state' })],
]

/** Counted from 1, as QEMU's `bootindex`; none: it is not tried. */
function bootIndex({ spec }: Pick<DriverDomain, 'spec'>, source: 'disk' | 'network'): { readonly bootindex?: number } {
  const at = bootOrderOf(spec).indexOf(source)
  return at < 0 ? {} : { bootindex: at + 1 }
}

/** As many as there are now; places for as many as it may be given. */
function smp({ spec, settings }: DriverDomain): string {
  const [count, max] = [vcpuCountOf(spec, settings), spec.vcpuCountMax ?? spec.vcpuCount]
  return `cpus=${count},${max > spec.vcpuCount ? `maxcpus=${max},` : ''}sockets=1,cores=${max},threads=1`
}

function memory({ spec, hardware }: DriverDomain): string {
  const plugged = hardware.devices.reduce((sum, device) => sum + (device.kind === 'memory' ? device.sizeBytes : 0), 0)
  return `size=${spec.memoryBytes / KIB}k${plugged > 0 ? `,maxmem=${(spec.memoryBytes + plugged) / KIB}k` : ''}`
}

const hugePages = (id: string, size: number, more: { readonly [key: string]: Json }): Json => ({
  'qom-type': 'memory-backend-memfd',
  id,
  size,
  hugetlb: true,
  ...more,
})

/** For `chardev-change`: output appended to a file, input from a named pipe. */
export const consoleBackend = (log: string, input: string): Json => ({
  type: 'file',
  data: { out: log, in: input, append: true },
})

function deviceArguments(device: DomainDevice, id: string, input: CommandLineInput): string[] {
  if (isPlugged(device)) return pluggedArguments(pluggedParts(device, id, input))
  const at = placeOf(device, id)
  switch (device.kind) {
    case 'video':
      return ['-device', json({ driver: 'VGA', ...at })]
    case 'agent-channel': {
      const chardev = `socket,id=${id}-channel,path=${quoteOption(input.paths.agent)},server=on,wait=off`
      const port = {
        driver: 'virtserialport',
        id: `${id}-port`,
        bus: `${id}.0`,
        chardev: `${id}-channel`,
        name: AGENT_PORT,
        nr: 1,
      }
      return ['-device', json({ driver: 'virtio-serial-pci', ...at }), '-chardev', chardev, '-device', json(port)]
    }
    case 'rng':
      return [
        '-object',
        json({ 'qom-type': 'rng-builtin', id: `${id}-source` }),
        '-device',
        json({ driver: 'virtio-rng-pci', ...at, rng: `${id}-source` }),
      ]
    case 'balloon':
      return ['-device', json({ driver: 'virtio-balloon-pci', ...at, 'deflate-on-oom': true, 'free-page-reporting': true })]
    case 'memory': {
      // Nothing is set aside for what is not plugged; a huge page that is plugged is there, or the guest is told that it is not.
      const [size, late, isHuge] = [device.sizeBytes, { reserve: false }, input.domain.spec.hugePages === true]
      const ram: Json = isHuge
        ? hugePages(`${id}-ram`, size, late)
        : { 'qom-type': 'memory-backend-ram', id: `${id}-ram`, size, ...late }
      const requested = { 'requested-size': pluggedBytesOf(input.domain.spec, input.domain.settings) }
      const front = { driver: 'virtio-mem-pci', ...at, memdev: `${id}-ram`, ...requested, ...(isHuge ? { prealloc: true } : {}) }
      return ['-object', json(ram), '-device', json(front)]
    }
    default:
      return unreachable(device)
  }
}

export type PluggedDevice = DomainDevice & { readonly kind: 'disk' | 'nic' | 'cd' | 'usb-controller' | 'usb' | 'port' }
const isPlugged = (device: DomainDevice): device is PluggedDevice =>
  ['disk', 'nic', 'cd', 'usb-controller', 'usb', 'port'].includes(device.kind)

type JsonFields = { readonly [key: string]: Json }
/** A device by what the command line takes and, of one that comes later, the monitor: nodes and link first, then the fronts in their order. */
export interface DeviceParts {
  /** Of `blockdev-add`, those first that others name. */
  readonly nodes: readonly JsonFields[]
  /** Of `netdev_add`. */
  readonly link: JsonFields | null
  /** Of `device_add`. */
  readonly fronts: readonly JsonFields[]
}

const pluggedArguments = ({ nodes, link, fronts }: DeviceParts): string[] => [
  ...nodes.flatMap((node) => ['-blockdev', json(node)]),
  ...(link === null ? [] : ['-netdev', json(link)]),
  ...fronts.flatMap((front) => ['-device', json(front)]),
]

function placeOf(device: DomainDevice, id: string): { id: string; bus: string; addr: string } {
  const port = 'port' in device ? device.port : undefined
  const bus = port === undefined ? 'pcie.0' : checked(`hardware.devices.${id}.port`, port, PORT)
  return { id, bus, addr: checked(`hardware.devices.${id}.address`, device.address, ADDRESS) }
}

export interface PartsInput {
  readonly domain: Pick<DriverDomain, 'spec' | 'hardware'>
  readonly disks: ReadonlyMap<string, DiskSource>
  readonly boot: { readonly kind: 'kernel' | 'disk' }
  readonly netboot?: CommandLineInput['netboot']
}

/** The drive of a CD, behind its controller. */
export const driveOf = (id: string): string => `${id}-drive`

export function pluggedParts(device: PluggedDevice, id: string, input: PartsInput): DeviceParts {
  const none: DeviceParts = { nodes: [], link: null, fronts: [] }
  switch (device.kind) {
    case 'port': {
      const number = Number(device.name.slice('port'.length)) + 1
      const at = placeOf(device, id)
      // Sixteen of them would take more I/O ports than there are, for which no virtio device asks.
      const port = { driver: 'pcie-root-port', ...at, multifunction: true, chassis: number, slot: number, 'io-reserve': 0 }
      return { ...none, fronts: [port] }
    }
    case 'nic': {
      const mac = checked(`hardware.devices.${id}.mac`, device.mac, MAC)
      const isBooted = device.port === undefined && bootOrderOf(input.domain.spec).includes('network')
      // Its ROM speaks PXE; without one there is nothing of it in the guest's address space.
      const rom = isBooted ? bootIndex(input.domain, 'network') : { romfile: '' }
      const front = { driver: 'virtio-net-pci', ...placeOf(device, id), netdev: `${id}-link`, mac, ...rom }
      const { netboot } = input
      const tftp = isBooted && netboot ? { tftp: netboot.folder, bootfile: netboot.file } : {}
      // Each link is a network of its own; two of one address would be one too many for the guest.
      const net = device.port === undefined ? {} : { net: `10.0.${3 + Number(device.port.slice('port'.length))}.0/24` }
      return { ...none, link: { type: 'user', id: `${id}-link`, ...net, ...tftp }, fronts: [front] }
    }
    case 'disk':
      return diskParts(device, id, input)
    case 'cd': {
      // By itself it would have as many queues as there are vCPUs when it comes: another device after each change of their number.
      const controller = { driver: 'virtio-scsi-pci', ...placeOf(device, id), num_queues: 1 }
      const nodes = device.volume === null ? [] : mediumNodes(id, sourceOf(device.name, device.volume, input))
      const medium = nodes.length === 0 ? {} : { drive: `${id}-format` }
      const drive = { driver: 'scsi-cd', id: driveOf(id), bus: `${id}.0`, ...medium, serial: device.serial.slice(0, 20) }
      return { ...none, nodes, fronts: [controller, drive] }
    }
    case 'usb-controller':
      return { ...none, fronts: [{ driver: 'qemu-xhci', ...placeOf(device, id), p2: USB_PORT_COUNT, p3: USB_PORT_COUNT }] }
    case 'usb': {
      const controller = input.domain.hardware.devices.find((each) => each.kind === 'usb-controller')
      const bus = controller && deviceIds(input.domain.hardware).get(controller)
      if (bus === undefined) throw new Fault('invalid', `device ${device.name}: the domain has no USB controller`)
      const at = { id, bus: `${bus}.0`, port: checked(`hardware.devices.${id}.address`, device.address, USB_PORT) }
      if (device.model === 'tablet') return { ...none, fronts: [{ driver: 'usb-tablet', ...at }] }
      if (device.model === 'keyboard') return { ...none, fronts: [{ driver: 'usb-kbd', ...at }] }
      const nodes = backendNodes(sourceOf(device.name, device.volume, input), id, false)
      const storage = { driver: 'usb-storage', ...at, drive: `${id}-format`, serial: device.serial.slice(0, 20), removable: true }
      return { ...none, nodes, fronts: [storage] }
    }
    default:
      return unreachable(device)
  }
}

function sourceOf(name: string, volume: string | undefined, { disks }: PartsInput): DiskSource {
  const source = disks.get(name)
  if (!source) throw new Fault('invalid', `disk ${name}: no volume attached for ${volume}`)
  return source
}

export const mediumNodes = (id: string, source: DiskSource): readonly JsonFields[] => backendNodes(source, id, true)

function diskParts(device: DomainDevice & { kind: 'disk' }, id: string, input: PartsInput): DeviceParts {
  const source = sourceOf(device.name, device.volume, input)
  const isRoot = id === 'disk0'
  const { vcpuCount, vcpuCountMax = vcpuCount } = input.domain.spec
  const front = {
    driver: 'virtio-blk-pci',
    ...placeOf(device, id),
    drive: `${id}-format`,
    serial: device.serial.slice(0, 20),
    // A full or failing disk stops the guest, which waits; its file system never sees the error. Of a guest that wants it for a full disk it
    // sees every failed write: QEMU can stop for ENOSPC and report the others (`enospc`), and not the other way round.
    werror: input.domain.spec.diskFull === 'error' ? 'report' : 'stop',
    rerror: 'stop',
    // By itself it would have as many as there are vCPUs at this start: another device after each change of their number.
    'num-queues': vcpuCountMax,
    ...(isRoot && input.boot.kind === 'disk' ? bootIndex(input.domain, 'disk') : {}),
  }
  return { nodes: backendNodes(source, id, device.readOnly), link: null, fronts: [front] }
}

const RECONNECT_SECONDS = 300
const OPEN_SECONDS = 10

function backendNodes(source: DiskSource, id: string, readOnly: boolean): JsonFields[] {
  const common = { 'read-only': readOnly, ...(readOnly ? {} : { discard: 'unmap' }) }
  switch (source.kind) {
    case 'nbd': {
      const server = { type: 'unix', path: source.socketPath }
      const nbd = {
        driver: 'nbd',
        'node-name': `${id}-file`,
        server,
        export: source.exportName,
        // Its server is started again under the guest, which waits; behind this the guest is stopped by `rerror` and `werror`.
        'reconnect-delay': RECONNECT_SECONDS,
        'open-timeout': OPEN_SECONDS,
        ...common,
      }
      // The volume keeps no place for zeros.
      const zeroes = readOnly ? {} : { 'detect-zeroes': 'unmap' }
      return [nbd, { driver: 'raw', 'node-name': `${id}-format`, file: `${id}-file`, ...common, ...zeroes }]
    }
    case 'chain': {
      const nodes: JsonFields[] = []
      // From the oldest layer up, since a node may only name nodes that are there.
      for (let depth = source.layers.length - 1; depth >= 0; depth -= 1) {
        const layer = source.layers[depth]
        assert(layer, 'depth is within the chain')
        const name = depth === 0 ? id : `${id}-base${depth}`
        const options = depth === 0 ? common : { 'read-only': true }
        const isLast = depth === source.layers.length - 1
        const backing = layer.format === 'qcow2' ? { backing: isLast ? null : `${id}-base${depth + 1}-format` } : {}
        nodes.push({ driver: 'file', 'node-name': `${name}-file`, filename: layer.filename, locking: 'on', ...options })
        nodes.push({ driver: layer.format, 'node-name': `${name}-format`, file: `${name}-file`, ...backing, ...options })
      }
      return nodes
    }
    default:
      return unreachable(source)
  }
}
