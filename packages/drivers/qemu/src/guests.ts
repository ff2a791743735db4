/** What guests can be begun by on this host: looked for, with what is missing and how to get it. */
import { millis, type Millis } from '@typevisor/base'
import type { Architecture } from '@typevisor/model'
import type { Capability, GuestCapabilities } from '@typevisor/toolstack'
import { TARGETS } from './architecture.ts'
import { findFirmware, firmwareDescriptors, noFirmware, type UefiKind } from './firmware.ts'
import type { QemuHost } from './ports.ts'
import type { JsonObject } from './read-json.ts'
import { NO_TPM, TPM_BINARY } from './tpm.ts'

export interface GuestsContext {
  readonly host: QemuHost
  readonly binaryOf: (architecture: Architecture) => string
  /** Programs that were found once. */
  readonly found: Set<string>
  readonly netbootFolder: string | null
}

const CAN: Capability = { can: true }
const cannot = (reason: string): Capability => ({ can: false, reason })
const VERSION_LIMIT: Millis = millis(10_000)

async function isThere({ host, found }: GuestsContext, program: string): Promise<boolean> {
  if (found.has(program)) return true
  const ran = await host.processes.run(program, ['--version'], { limit: VERSION_LIMIT }).catch(() => null)
  if (ran?.exitCode === 0) found.add(program)
  return found.has(program)
}

export async function guestCapabilities(context: GuestsContext): Promise<Record<Architecture, GuestCapabilities>> {
  const descriptors = await firmwareDescriptors(context.host.files)
  const of = (architecture: Architecture) => ofArchitecture(context, descriptors, architecture)
  const [x86_64, aarch64, riscv64] = await Promise.all([of('x86_64'), of('aarch64'), of('riscv64')])
  return { x86_64, aarch64, riscv64 }
}

async function ofArchitecture(
  context: GuestsContext,
  descriptors: readonly JsonObject[],
  architecture: Architecture,
): Promise<GuestCapabilities> {
  const { host, binaryOf, netbootFolder } = context
  const target = TARGETS[architecture]
  const binary = binaryOf(architecture)
  const runs = (await isThere(context, binary))
    ? CAN
    : cannot(`this host has no ${binary}: apt-get install ${target.debianPackage}`)
  const uefi = async (firmware: UefiKind): Promise<Capability> => {
    const build = await findFirmware(host.files, descriptors, {
      architecture,
      machine: target.machine,
      firmware,
      nvramBytes: null,
    })
    return build ? CAN : cannot(noFirmware(architecture, firmware))
  }
  return {
    runs,
    firmware: { bios: CAN, uefi: await uefi('uefi'), 'uefi-secure': await uefi('uefi-secure') },
    tpm: await ofTpm(context, target.tpmDevice, architecture),
    networkBoot: ofNetwork(architecture, netbootFolder),
  }
}

async function ofTpm(context: GuestsContext, device: string | null, architecture: Architecture): Promise<Capability> {
  if (device === null) return cannot(`QEMU has no TPM for a guest of ${architecture}`)
  return (await isThere(context, TPM_BINARY)) ? CAN : cannot(NO_TPM)
}

function ofNetwork(architecture: Architecture, netbootFolder: string | null): Capability {
  if (architecture === 'riscv64') return cannot('a guest of riscv64 boots a kernel that it is given, and nothing else')
  return netbootFolder === null ? cannot('this host serves nothing to boot from the network') : CAN
}
