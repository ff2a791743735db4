/**
 * What a guest keeps for life. Planned once from the id and this host's QEMU; never planned again, so that a save made today is
 * restored by the QEMU of next year.
 *
 *   slot  1 video   2 agent channel   3 random numbers   4 balloon   5.. NICs   8..1e disks, the root disk first
 *         1e memory that is plugged later, where the domain may have any
 *
 * The root bus of Q35 has its own devices at 0 and 1f. Guests number disks by PCI order, so the root disk has the lowest slot.
 */
import { bytes, Fault } from '@typevisor/base'
import {
  isLabel,
  LABEL_WANT,
  type DomainDevice,
  type DomainHardware,
  type DomainId,
  type DomainSpec,
  type VolumeId,
} from '@typevisor/model'

/** Served by every QEMU from 7.2 on. */
export const MACHINE = 'pc-q35-7.2'
/**
 * The highest level that TCG gives in full (`enforce=on`, no warning; measured over every versioned model of QEMU 7.2: Westmere-v1 is
 * its equal with AES), that every KVM host of the last decade has too. Debian and the x86-64-v2 distributions run on it.
 */
export const CPU_MODEL = 'Nehalem-v1'

const NIC_SLOT_FIRST = 0x5
const DISK_SLOT_FIRST = 0x8
const DISK_SLOT_LAST = 0x1e
const MEMORY_SLOT = 0x1e

export interface PlannedVolume {
  readonly name: string
  readonly volume: VolumeId
  readonly readOnly: boolean
}

export function planHardware(id: DomainId, spec: DomainSpec, volumes: readonly PlannedVolume[]): DomainHardware {
  const pluggableBytes = (spec.memoryBytesMax ?? spec.memoryBytes) - spec.memoryBytes
  const diskCountMax = DISK_SLOT_LAST - DISK_SLOT_FIRST + (pluggableBytes > 0 ? 0 : 1)
  if (volumes.length > diskCountMax) throw new Fault('invalid', `volumes: got ${volumes.length}, want at most ${diskCountMax}`)
  const names = new Set<string>()
  for (const { name } of volumes) {
    if (!isLabel(name)) throw new Fault('invalid', `volume name: got ${JSON.stringify(name)}, want ${LABEL_WANT}`)
    if (names.has(name)) throw new Fault('invalid', `volume name: ${name} is there twice`)
    names.add(name)
  }
  const devices: DomainDevice[] = [
    { kind: 'video', name: 'video', address: '1.0' },
    { kind: 'agent-channel', name: 'agent', address: '2.0' },
    { kind: 'rng', name: 'rng', address: '3.0' },
    { kind: 'balloon', name: 'balloon', address: '4.0' },
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
  return { machine: MACHINE, cpuModel: CPU_MODEL, devices }
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
