/**
 * What a guest keeps for life. Planned once from the id and this host's QEMU; never planned again, so that a save made today is
 * restored by the QEMU of next year.
 *
 *   slot  1 video (or pvpanic-pci)   2 agent channel   3 random numbers   4 balloon   5 NIC   6, 7 hot-plug ports, eight each
 *         8..1e disks, the root disk first (1e: memory that is plugged later, 1d: the USB controller, where one is asked for)
 *
 * The root bus of Q35 has its own devices at 0 and 1f. Guests number disks by PCI order, so the root disk has the lowest slot.
 */
import { bytes, Fault, unreachable } from '@typevisor/base'
import {
  architectureOf,
  HOTPLUG_PORT_COUNT_MAX,
  isLabel,
  LABEL_WANT,
  type DeviceRequest,
  type DomainDevice,
  type DomainHardware,
  type DomainId,
  type DomainSpec,
  type VolumeId,
} from '@typevisor/model'
import { freePort, macFor, planUsb, serialOfName, type DriverDomain } from '@typevisor/toolstack'
import { TARGETS } from './architecture.ts'
import { USB_PORT_COUNT } from './command-line.ts'

/** Of the host's own architecture. */
export const { machine: MACHINE, cpuModel: CPU_MODEL } = TARGETS.x86_64

const NIC_SLOT_FIRST = 0x5
const PORT_SLOT_FIRST = 0x6
const DISK_SLOT_FIRST = 0x8
const DISK_SLOT_LAST = 0x1e
const MEMORY_SLOT = 0x1e
const USB_SLOT = 0x1d

export interface PlannedVolume {
  readonly name: string
  readonly volume: VolumeId
  readonly readOnly: boolean
}

export function planHardware(id: DomainId, spec: DomainSpec, volumes: readonly PlannedVolume[]): DomainHardware {
  const { usb = false } = spec
  const { machine, cpuModel, hasVideo, hasHotplug } = TARGETS[architectureOf(spec)]
  const hotplugPortCount = hasHotplug ? (spec.hotplugPortCount ?? 0) : 0
  const pluggableBytes = (spec.memoryBytesMax ?? spec.memoryBytes) - spec.memoryBytes
  const slotLast = usb ? USB_SLOT - 1 : pluggableBytes > 0 ? MEMORY_SLOT - 1 : DISK_SLOT_LAST
  if (!hasHotplug) refuseGrowth(spec)
  const diskCountMax = slotLast - DISK_SLOT_FIRST + 1
  if (!Number.isInteger(hotplugPortCount) || hotplugPortCount < 0 || hotplugPortCount > HOTPLUG_PORT_COUNT_MAX)
    throw new Fault('invalid', `hotplugPortCount: got ${hotplugPortCount}, want 0 to ${HOTPLUG_PORT_COUNT_MAX}`)
  if (volumes.length > diskCountMax) throw new Fault('invalid', `volumes: got ${volumes.length}, want at most ${diskCountMax}`)
  const names = new Set<string>()
  for (const { name } of volumes) {
    if (!isLabel(name)) throw new Fault('invalid', `volume name: got ${JSON.stringify(name)}, want ${LABEL_WANT}`)
    if (names.has(name)) throw new Fault('invalid', `volume name: ${name} is there twice`)
    names.add(name)
  }
  const devices: DomainDevice[] = [
    ...(hasVideo ? [{ kind: 'video', name: 'video', address: '1.0' } as const] : []),
    { kind: 'agent-channel', name: 'agent', address: '2.0' },
    { kind: 'rng', name: 'rng', address: '3.0' },
    { kind: 'balloon', name: 'balloon', address: '4.0' },
    ...Array.from({ length: hotplugPortCount }, (_, index): DomainDevice => ({
      kind: 'port',
      name: `port${index}`,
      address: `${PORT_SLOT_FIRST + (index >> 3)}.${index & 7}`,
    })),
    ...(usb ? [{ kind: 'usb-controller', name: 'usb', address: `${USB_SLOT.toString(16)}.0` } as const] : []),
    { kind: 'nic', name: 'nic0', mac: macOf(id, 0), address: `${NIC_SLOT_FIRST.toString(16)}.0`, forwards: spec.forwards },
    ...volumes.map(({ name, volume, readOnly }, index): DomainDevice => ({
      kind: 'disk',
      name,
      volume,
      readOnly,
      address: `${(DISK_SLOT_FIRST + index).toString(16)}.0`,
      serial: serialOf(name, volume),
    })),
    ...(pluggableBytes > 0
      ? [{ kind: 'memory', name: 'memory', address: `${MEMORY_SLOT.toString(16)}.0`, sizeBytes: bytes(pluggableBytes) } as const]
      : []),
  ]
  return { machine, cpuModel, devices }
}

function refuseGrowth({ name, architecture, vcpuCount, vcpuCountMax, memoryBytes, memoryBytesMax }: DomainSpec): void {
  const grows = [
    ['vcpuCountMax', vcpuCountMax ?? 0, vcpuCount],
    ['memoryBytesMax', memoryBytesMax ?? 0, memoryBytes],
  ] as const
  for (const [path, got, want] of grows)
    if (got > want)
      throw new Fault('unsupported', `plan ${name}: ${path}: got ${got}: a guest of ${architecture} keeps what it began with`, {
        details: [{ path, want: `${want}: a guest of ${architecture} keeps what it began with`, got: String(got) }],
      })
}

/** A device that comes later; see `DomainDriver.planDevice`. */
export function planDevice(
  { id, hardware }: DriverDomain,
  request: DeviceRequest,
  volume: VolumeId | null,
): readonly DomainDevice[] {
  if (request.kind === 'usb') return planUsb(hardware, request, volume, USB_PORT_COUNT)
  const { kind, name } = request
  const serial = serialOfName(name)
  const at = { name, address: '0.0', port: freePort(hardware, name) }
  switch (kind) {
    case 'disk':
      return [{ kind, ...at, serial, volume: volume ?? (`${id}.${name}` as VolumeId), readOnly: request.readOnly ?? false }]
    case 'nic':
      return [{ kind, ...at, mac: macFor(hardware, request.mac, (index) => macOf(id, index)), forwards: request.forwards ?? [] }]
    case 'cd':
      return [{ kind, ...at, serial, medium: request.medium ?? null, volume }]
    default:
      return unreachable(kind)
  }
}

/**
 * 40 bits of the id's random end behind 52 (unicast, locally administered). QEMU's customary 52:54:00 leaves 24 bits, at which 4,800
 * guests of one network share an address with probability one half.
 */
export function macOf(id: DomainId, index: number): string {
  const digits = id.replaceAll('-', '').slice(-10)
  const last = (Number.parseInt(digits.slice(-2), 16) + index) & 0xff
  return ['52', ...(digits.slice(0, 8).match(/../g) ?? []), last.toString(16).padStart(2, '0')].join(':')
}

/** virtio-blk keeps 20 bytes: the name's beginning and 48 bits of the volume's id. */
export function serialOf(name: string, volume: VolumeId): string {
  return `${name.slice(0, 7)}-${volume.slice(0, 36).replaceAll('-', '').slice(-12)}`
}
