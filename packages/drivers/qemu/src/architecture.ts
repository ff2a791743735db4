/**
 * What differs between guests of one architecture and another: QEMU's target, the machine and processor that they get, and the devices of the
 * board. Everything behind the PCI bus is the same for all.
 *
 *             x86_64            aarch64                 riscv64
 *   machine   pc-q35-7.2        virt-7.2                virt             (QEMU has no versions of it)
 *   console   isa-serial        the board's PL011       the board's 16550A
 *   panic     pvpanic (ISA)     pvpanic-pci at 1.0      pvpanic-pci at 1.0
 *   screen    VGA at 1.0        none                    none
 *   TPM       tpm-crb           tpm-tis-device          none
 */
import type { Architecture } from '@typevisor/model'

export interface Target {
  readonly binary: string
  /** Debian's, that has it. */
  readonly debianPackage: string
  readonly machine: string
  /** Of `-machine`, behind its name. */
  readonly machineOptions: string
  readonly cpuModel: string
  /** Of `-cpu`, behind its name. */
  readonly cpuOptions: string
  /** `isa`: a device of its own. `board`: the board has it; `board-fixed`: and it keeps the backend that it began with. */
  readonly console: 'isa' | 'board' | 'board-fixed'
  readonly panicDevice: { readonly driver: string; readonly bus?: string; readonly addr?: string }
  readonly hasVideo: boolean
  /** QEMU's front for a TPM; null: there is none for the machine. */
  readonly tpmDevice: string | null
  /** vCPUs, memory and devices come and go by ACPI, which the driver knows of this machine alone. */
  readonly hasHotplug: boolean
}

const PANIC_PCI = { driver: 'pvpanic-pci', bus: 'pcie.0', addr: '1.0' } as const

export const TARGETS: Readonly<Record<Architecture, Target>> = {
  x86_64: {
    binary: 'qemu-system-x86_64',
    debianPackage: 'qemu-system-x86',
    // Served by every QEMU from 7.2 on.
    machine: 'pc-q35-7.2',
    machineOptions: ',vmport=off,dump-guest-core=off',
    // The highest level that TCG gives in full (`enforce=on`, no warning; measured over every versioned model of QEMU 7.2: Westmere-v1 is
    // its equal with AES), that every KVM host of the last decade has too. Debian and the x86-64-v2 distributions run on it.
    cpuModel: 'Nehalem-v1',
    cpuOptions: ',enforce=on',
    console: 'isa',
    panicDevice: { driver: 'pvpanic' },
    hasVideo: true,
    tpmDevice: 'tpm-crb',
    hasHotplug: true,
  },
  aarch64: {
    binary: 'qemu-system-aarch64',
    debianPackage: 'qemu-system-arm',
    machine: 'virt-7.2',
    // The second version of the interrupt controller ends at eight vCPUs.
    machineOptions: ',gic-version=3,dump-guest-core=off',
    // A core that was built: it stays what it is, as `max` does not.
    cpuModel: 'cortex-a72',
    cpuOptions: '',
    console: 'board-fixed',
    panicDevice: PANIC_PCI,
    hasVideo: false,
    tpmDevice: 'tpm-tis-device',
    hasHotplug: false,
  },
  riscv64: {
    binary: 'qemu-system-riscv64',
    debianPackage: 'qemu-system-misc',
    machine: 'virt',
    machineOptions: ',dump-guest-core=off',
    // RV64GC, which is what distributions are built for; `rv64` gains extensions with each QEMU.
    cpuModel: 'sifive-u54',
    cpuOptions: '',
    console: 'board',
    panicDevice: PANIC_PCI,
    hasVideo: false,
    tpmDevice: null,
    hasHotplug: false,
  },
}
