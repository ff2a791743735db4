/** Whether a host can begin such a guest at all: architecture, firmware, TPM, boot order, by what its driver says that it can. */
import { Fault, fieldFault } from '@typevisor/base'
import type { DomainBoot, DomainSpec } from './domain.ts'
import {
  ARCHITECTURES,
  architectureOf,
  BOOT_ORDER_WANT,
  bootOrderOf,
  FIRMWARE_KINDS,
  firmwareOf,
  isBootOrder,
  type Architecture,
  type Firmware,
} from './firmware.ts'

/** What a driver can do here and now, asked and never guessed. `reason` says why not. */
export type Capability = { readonly can: true } | { readonly can: false; readonly reason: string }

/** A reason says what is missing and how to get it. */
export interface GuestCapabilities {
  readonly runs: Capability
  readonly firmware: Readonly<Record<Firmware, Capability>>
  readonly tpm: Capability
  readonly networkBoot: Capability
}

/** By architecture. */
export type GuestsOffered = Readonly<Record<Architecture, GuestCapabilities>>

/** Where UEFI hands over to a kernel: measured, that of edk2 2022.11 dies with 192 MiB and Secure Boot. */
const UEFI_MEMORY_BYTES = 256 * 1024 * 1024

/** What of a specification says how its guest is begun. */
export type GuestWish = { readonly image: string; readonly memoryBytes: number } & Pick<
  DomainSpec,
  'architecture' | 'firmware' | 'tpm' | 'bootOrder' | 'boot'
>

const OLDER: Capability = { can: false, reason: 'this driver knows x86_64 by bios from its disk alone' }
const CAN: Capability = { can: true }

const ofBefore = (architecture: Architecture): GuestCapabilities => ({
  runs: architecture === 'x86_64' ? CAN : OLDER,
  firmware: { bios: CAN, uefi: OLDER, 'uefi-secure': OLDER },
  tpm: OLDER,
  networkBoot: OLDER,
})

export interface GuestCheck {
  /** Begins the message. */
  readonly what: string
  /** Its image's way to boot; null where that is not known. */
  readonly boot: DomainBoot | null
  /** Undefined: a driver of before. */
  readonly guests: GuestsOffered | undefined
  /** Before the names of fields: `body.`. */
  readonly prefix?: string
}

/** @throws Fault `invalid` for what no host can do, `unsupported` with the driver's reason; both name the field. */
export function assertGuest(spec: GuestWish, { what, boot, guests, prefix = '' }: GuestCheck): void {
  const invalid = (field: string, want: string, got: string): Fault =>
    fieldFault({ path: `${prefix}${field}`, want, got }, { what })
  const [architecture, firmware, order] = [architectureOf(spec), firmwareOf(spec), bootOrderOf(spec)]
  if (!ARCHITECTURES.includes(architecture)) throw invalid('architecture', ARCHITECTURES.join(', '), String(architecture))
  if (!FIRMWARE_KINDS.includes(firmware)) throw invalid('firmware', FIRMWARE_KINDS.join(', '), String(firmware))
  if (!isBootOrder(order)) throw invalid('bootOrder', BOOT_ORDER_WANT, order.join() || 'none')
  if (spec.boot === undefined && boot?.kind === 'kernel' && architecture !== 'x86_64')
    throw invalid('architecture', `x86_64, whose kernel image ${spec.image} boots`, architecture)
  if (spec.boot === undefined && boot?.kind === 'kernel' && firmware !== 'bios' && boot.efiKernelPath === undefined)
    throw invalid('firmware', `bios: image ${spec.image} has no kernel that UEFI loads; build it again`, firmware)
  if ((spec.boot ?? boot)?.kind === 'kernel' && order[0] === 'network' && order.includes('disk'))
    throw invalid(
      'bootOrder',
      `disk first or network alone: the kernel of image ${spec.image} is loaded before any device is looked at`,
      order.join(),
    )
  if ((spec.boot ?? boot)?.kind === 'disk' && order.includes('disk') && architecture !== 'x86_64' && firmware === 'bios')
    throw invalid('firmware', `uefi, or a kernel to boot: ${architecture} has no BIOS that boots a disk`, firmware)
  const can = guests?.[architecture] ?? ofBefore(architecture)
  const need = (field: string, got: string, capability: Capability): void => {
    if (capability.can) return
    const path = `${prefix}${field}`
    throw new Fault('unsupported', `${what}: ${path}: got ${got}: ${capability.reason}`, {
      details: [{ path, want: capability.reason, got }],
    })
  }
  if (firmware !== 'bios' && spec.memoryBytes < UEFI_MEMORY_BYTES)
    throw invalid('memoryBytes', `at least ${UEFI_MEMORY_BYTES} with firmware ${firmware}`, String(spec.memoryBytes))
  need('architecture', architecture, can.runs)
  need('firmware', firmware, can.firmware[firmware])
  if (spec.tpm === true) need('tpm', 'true', can.tpm)
  if (order.includes('network')) need('bootOrder', order.join(), can.networkBoot)
  // SeaBIOS keeps its log beside the tables that tell of the TPM, where QEMU (7.2) puts the initrd of a kernel that it loads: over them.
  if (spec.tpm === true && firmware === 'bios') throw invalid('tpm', 'firmware uefi or uefi-secure with it', 'true')
}
