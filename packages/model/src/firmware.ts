/** What a guest is begun by: its processor's architecture, its firmware, where that looks for something to boot, and a TPM. */

export const ARCHITECTURES = ['x86_64', 'aarch64', 'riscv64'] as const
export type Architecture = (typeof ARCHITECTURES)[number]

/** `bios`: the platform's own beginning without UEFI: SeaBIOS on x86_64, OpenSBI on riscv64, none on aarch64. `uefi-secure`: with Secure Boot on. */
export const FIRMWARE_KINDS = ['bios', 'uefi', 'uefi-secure'] as const
export type Firmware = (typeof FIRMWARE_KINDS)[number]

/** `disk`: as its image boots, by a kernel or from its root disk. `network`: its first NIC, by PXE. */
export const BOOT_SOURCES = ['disk', 'network'] as const
export type BootSource = (typeof BOOT_SOURCES)[number]

interface Begun {
  readonly architecture?: Architecture
  readonly firmware?: Firmware
  readonly bootOrder?: readonly BootSource[]
}

export const architectureOf = ({ architecture }: Begun): Architecture => architecture ?? 'x86_64'
export const firmwareOf = ({ firmware }: Begun): Firmware => firmware ?? 'bios'
export const bootOrderOf = ({ bootOrder }: Begun): readonly BootSource[] => bootOrder ?? ['disk']

export const BOOT_ORDER_WANT = `one or more of ${BOOT_SOURCES.join(', ')}, none of them twice`
export const isBootOrder = (order: readonly BootSource[]): boolean => order.length > 0 && new Set(order).size === order.length
