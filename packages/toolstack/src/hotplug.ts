/** What drivers share in planning devices that come later: which port is free, what a disk is called in the guest, which MAC comes next. */
import { Fault } from '@typevisor/base'
import type { DeviceRequest, DomainDevice, DomainHardware, VolumeId } from '@typevisor/model'

const portOf = (device: DomainDevice): string | undefined => ('port' in device ? device.port : undefined)

/** @throws Fault `unsupported` for a machine without ports, `exhausted` when each has a device. */
export function freePort({ devices }: DomainHardware, what: string): string {
  const ports = devices.flatMap((device) => (device.kind === 'port' ? [device.name] : []))
  if (ports.length === 0)
    throw new Fault(
      'unsupported',
      `attach ${what}: the domain was defined without hot-plug ports (hotplugPortCount), which cannot be added`,
    )
  const taken = new Set(devices.map(portOf))
  const free = ports.find((port) => !taken.has(port))
  if (free === undefined)
    throw new Fault('exhausted', `attach ${what}: all ${ports.length} hot-plug ports have a device, want one detached`)
  return free
}

/** At most 20 characters, which is what virtio-blk keeps: the name itself where it fits, so that a guest finds the disk by it. */
export function serialOfName(name: string): string {
  if (name.length <= 20) return name
  let hash = 0x811c9dc5 // FNV-1a
  for (const letter of name) hash = Math.imul(hash ^ letter.charCodeAt(0), 0x01000193) >>> 0
  return `${name.slice(0, 11)}-${hash.toString(16).padStart(8, '0')}`
}

/** The MAC that was asked for, else the first of the domain's own that no NIC of it has. @throws Fault `conflict` for one that it has already. */
export function macFor({ devices }: DomainHardware, wanted: string | undefined, ofIndex: (index: number) => string): string {
  const taken = new Set(devices.flatMap((device) => (device.kind === 'nic' ? [device.mac] : [])))
  if (wanted !== undefined) {
    if (!taken.has(wanted)) return wanted
    throw new Fault('conflict', `mac: got ${wanted}, which another NIC of the domain has`, {
      details: [{ path: 'mac', want: 'a MAC that no NIC of the domain has', got: wanted }],
    })
  }
  for (let index = 0; ; index += 1) if (!taken.has(ofIndex(index))) return ofIndex(index)
}

/** Ports of a controller: the first that has no device. */
function freeUsbPort({ devices }: DomainHardware, portCount: number, what: string): string {
  const taken = new Set(devices.flatMap((device) => (device.kind === 'usb' ? [device.address] : [])))
  for (let port = 1; port <= portCount; port += 1) if (!taken.has(String(port))) return String(port)
  throw new Fault('exhausted', `attach ${what}: all ${portCount} USB ports have a device, want one detached`)
}

/** A USB device in a port of the controller; the first one brings a controller, where the machine has none. */
export function planUsb(
  hardware: DomainHardware,
  { name, model }: DeviceRequest & { readonly kind: 'usb' },
  volume: VolumeId | null,
  portCount: number,
): readonly DomainDevice[] {
  const address = freeUsbPort(hardware, portCount, name)
  const volumeOf = volume === null ? {} : { volume }
  const usb: DomainDevice = { kind: 'usb', name, model, address, serial: serialOfName(name), ...volumeOf }
  if (hardware.devices.some((device) => device.kind === 'usb-controller')) return [usb]
  return [{ kind: 'usb-controller', name: 'usb', address: '0.0', port: freePort(hardware, name) }, usb]
}
