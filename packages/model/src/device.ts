/**
 * Devices that come and go while a domain lives. They sit behind hot-plug ports, which are planned at definition; what is attached stays in
 * `DomainHardware.devices` with its address until it is detached, so that each start, save and restore builds the same machine.
 */
import type { Bytes } from '@typevisor/base'
import type { DomainDevice, PortForward } from './domain.ts'
import { isLabel } from './ids.ts'

/** What can be attached. */
export const DEVICE_KINDS = ['disk', 'nic', 'cd', 'usb'] as const
export type DeviceKind = (typeof DEVICE_KINDS)[number]

export const USB_MODELS = ['tablet', 'keyboard', 'storage'] as const
export type UsbModel = (typeof USB_MODELS)[number]

/** What a caller asks to have attached. `name` is of one domain only once; a volume that the device brings is named after it. */
export type DeviceRequest =
  | {
      readonly kind: 'disk'
      readonly name: string
      /** Of a new volume. Absent: the volume of this name that an earlier detaching kept. */
      readonly sizeBytes?: Bytes
      readonly readOnly?: boolean
    }
  | {
      readonly kind: 'nic'
      readonly name: string
      /** Absent: derived from the domain's id. */
      readonly mac?: string
      readonly forwards?: readonly PortForward[]
    }
  /** `medium`: an image of the host's media; absent: an empty drive. */
  | { readonly kind: 'cd'; readonly name: string; readonly medium?: string }
  | {
      readonly kind: 'usb'
      readonly name: string
      readonly model: UsbModel
      /** Of a `storage` device, as of a disk. */
      readonly sizeBytes?: Bytes
    }

/** As long as a volume's name may be. */
const NAME_LENGTH_MAX = 32
export const DEVICE_NAME_WANT = `1 to ${NAME_LENGTH_MAX} of a-z, 0-9 and -, beginning and ending with a letter or digit`
export const isDeviceName = (text: string): boolean => isLabel(text) && text.length <= NAME_LENGTH_MAX
/** Unicast, as an interface's own address must be. */
export const isMac = (text: string): boolean => /^[0-9a-f][02468ace](?::[0-9a-f]{2}){5}$/.test(text)
/** A file's name, and no path. */
export const isMediumName = (text: string): boolean => /^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$/.test(text)

/** Hot-plug ports of one domain. */
export const HOTPLUG_PORT_COUNT_MAX = 16

/** Whether it came after the definition and can go again. */
export const isDetachable = (device: DomainDevice): boolean =>
  device.kind === 'usb' || ('port' in device && device.port !== undefined)

/** A device as it is told of. */
export interface DeviceInfo {
  readonly name: string
  readonly kind: DomainDevice['kind']
  /**
   * `attached`: of the machine. `leaving`: the guest was asked to let go and has not answered yet. `kept`: detached; its volume is there and
   * is attached again by its name.
   */
  readonly state: 'attached' | 'leaving' | 'kept'
  readonly detachable: boolean
  /** Hot-plug port; null: on the root bus, or not attached. */
  readonly port: string | null
  readonly address: string | null
  /** Of a device with a volume. */
  readonly sizeBytes: Bytes | null
  readonly readOnly: boolean | null
  readonly mac: string | null
  /** `hostPort` 0: one of the host's choice, that is in the domain's own list. */
  readonly forwards: readonly PortForward[]
  /** In a CD drive. */
  readonly medium: string | null
  readonly model: string | null
}
