/**
 * UEFI firmware: which build, by the descriptors that distributions install (QEMU docs/interop/firmware.json), and the guest's own NVRAM.
 *
 *   code      read-only flash, of the host; the same for all guests
 *   nvram     <data folder>/nvram.fd, writable flash: made of the build's template at the first start, kept until the domain is forgotten
 *
 * QEMU writes what the guest changes to the file at once, and writes the file anew from a save that it restores: the stream has both flashes.
 * A snapshot without memory has no stream; for it the NVRAM, and the TPM's state, are kept in a file beside (`keepFirmware`).
 *
 * Failure paths: a build whose template has another size than the guest's NVRAM is not for it; without one that fits the start is `failed`.
 */
import { Fault } from '@typevisor/base'
import type { Architecture, Firmware } from '@typevisor/model'
import { fromBase64, toBase64 } from './base64.ts'
import type { DomainPaths } from './layout.ts'
import type { HostFiles, ProcessUser } from './ports.ts'
import { listOf, objectOf, parseObject, textOf, type JsonObject } from './read-json.ts'

/** Where distributions and administrators put descriptors; a file of the first replaces one of its name in the second. */
const DESCRIPTOR_FOLDERS = ['/etc/qemu/firmware', '/usr/share/qemu/firmware']
const DESCRIPTOR_SIZE_MAX = 64 * 1024
export const FIRMWARE_PACKAGES: Partial<Record<Architecture, string>> = { x86_64: 'ovmf', aarch64: 'qemu-efi-aarch64' }

export type UefiKind = Exclude<Firmware, 'bios'>

export interface FirmwareBuild {
  readonly code: string
  readonly template: string
  readonly templateBytes: number
  /** Its NVRAM is to be written in system management mode alone. */
  readonly needsSmm: boolean
}

export interface FirmwareWanted {
  readonly architecture: Architecture
  readonly machine: string
  readonly firmware: UefiKind
  /** Of the NVRAM that the guest has; null: none yet. */
  readonly nvramBytes: number | null
}

/** Those of this host, in the order in which they are tried. */
export async function firmwareDescriptors(files: HostFiles): Promise<readonly JsonObject[]> {
  const paths = new Map<string, string>()
  for (const folder of DESCRIPTOR_FOLDERS.toReversed())
    for (const name of await files.list(folder)) if (name.endsWith('.json')) paths.set(name, `${folder}/${name}`)
  const descriptors: JsonObject[] = []
  for (const [, path] of [...paths].toSorted(([a], [b]) => (a < b ? -1 : 1))) {
    const content = await files.read(path, 0, DESCRIPTOR_SIZE_MAX)
    const descriptor = content && parseObject(new TextDecoder().decode(content))
    if (descriptor) descriptors.push(descriptor)
  }
  return descriptors
}

/** null: none of them fits. */
export async function findFirmware(
  files: HostFiles,
  descriptors: readonly JsonObject[],
  wanted: FirmwareWanted,
): Promise<FirmwareBuild | null> {
  for (const descriptor of descriptors) {
    const build = await buildOf(files, descriptor, wanted)
    if (build) return build
  }
  return null
}

async function buildOf(files: HostFiles, descriptor: JsonObject, wanted: FirmwareWanted): Promise<FirmwareBuild | null> {
  const mapping = objectOf(descriptor['mapping'])
  const [executable, nvram] = [objectOf(mapping['executable']), objectOf(mapping['nvram-template'])]
  const features = listOf(descriptor['features'])
  const isSecure = features.includes('secure-boot') && features.includes('enrolled-keys')
  const isOfKind = wanted.firmware === 'uefi-secure' ? isSecure : !features.includes('secure-boot')
  const isForMachine = listOf(descriptor['targets']).some((target) => {
    const { architecture, machines } = objectOf(target)
    return architecture === wanted.architecture && listOf(machines).some((glob) => matches(textOf(glob) ?? '', wanted.machine))
  })
  const isFlash = mapping['device'] === 'flash' && [undefined, 'split'].includes(mapping['mode'] as string | undefined)
  const isRaw = executable['format'] === 'raw' && nvram['format'] === 'raw'
  const [code, template] = [textOf(executable['filename']), textOf(nvram['filename'])]
  if (!listOf(descriptor['interface-types']).includes('uefi') || !isOfKind || !isForMachine || !isFlash || !isRaw) return null
  if (code === null || template === null || (await files.size(code)) === null) return null
  const templateBytes = await files.size(template)
  if (templateBytes === null || (wanted.nvramBytes !== null && wanted.nvramBytes !== templateBytes)) return null
  return { code, template, templateBytes, needsSmm: features.includes('requires-smm') }
}

/** `pc-q35-*`, as the descriptors have it. */
const matches = (glob: string, name: string): boolean => (glob.endsWith('*') ? name.startsWith(glob.slice(0, -1)) : glob === name)

export const noFirmware = (architecture: Architecture, firmware: UefiKind): string => {
  const debianPackage = FIRMWARE_PACKAGES[architecture]
  const what = firmware === 'uefi-secure' ? 'UEFI firmware with Secure Boot and its keys' : 'UEFI firmware'
  if (debianPackage === undefined) return `there is no ${what} for ${architecture}`
  return `this host has no ${what} for ${architecture}: apt-get install ${debianPackage}`
}

/** The build for a start; the guest's NVRAM is there then. @throws Fault `unsupported` without a build, `failed` without one that fits. */
export async function readyFirmware(
  files: HostFiles,
  paths: Pick<DomainPaths, 'nvram'>,
  wanted: Omit<FirmwareWanted, 'nvramBytes'> & { readonly name: string },
): Promise<FirmwareBuild> {
  const nvramBytes = await files.size(paths.nvram)
  const descriptors = await firmwareDescriptors(files)
  const build = await findFirmware(files, descriptors, { ...wanted, nvramBytes })
  if (!build) {
    if (nvramBytes === null || !(await findFirmware(files, descriptors, { ...wanted, nvramBytes: null })))
      throw new Fault('unsupported', `start ${wanted.name}: firmware: ${noFirmware(wanted.architecture, wanted.firmware)}`)
    throw new Fault(
      'failed',
      `start ${wanted.name}: firmware: its NVRAM has ${nvramBytes} bytes, which is the size of no ${wanted.firmware} build of this host`,
    )
  }
  if (nvramBytes === null) {
    const content = await files.read(build.template, 0, build.templateBytes)
    if (!content) throw new Fault('failed', `start ${wanted.name}: firmware: no file ${build.template}`)
    await writeSparse(files, paths.nvram, content, build.templateBytes)
  }
  return build
}

/** Whole or not there. What follows the last byte that is not zero takes no room. */
async function writeSparse(files: HostFiles, path: string, content: Uint8Array, sizeBytes: number): Promise<void> {
  const fresh = `${path}.new`
  const writer = await files.create(fresh)
  try {
    const used = withoutZeros(content)
    await writer.append(used)
    if (used.length < sizeBytes) await writer.writeAt(sizeBytes - 1, new Uint8Array(1))
    await writer.sync()
  } finally {
    await writer.close()
  }
  await files.rename(fresh, path)
}

function withoutZeros(content: Uint8Array): Uint8Array {
  let end = content.length
  while (end > 0 && content[end - 1] === 0) end -= 1
  return content.subarray(0, end)
}

/** swtpm's, of a TPM 2.0. */
const tpmState = ({ tpmFolder }: Pick<DomainPaths, 'tpmFolder'>): string => `${tpmFolder}/tpm2-00.permall`
const TPM_STATE_SIZE_MAX = 1024 * 1024
const KEPT_VERSION = 1
const KEPT_SIZE_MAX = 128 * 1024 * 1024

type KeptPaths = Pick<DomainPaths, 'nvram' | 'tpmFolder'>

/** False: there is nothing to be kept. */
export async function keepFirmware(files: HostFiles, paths: KeptPaths, path: string): Promise<boolean> {
  const nvramBytes = await files.size(paths.nvram)
  const nvram = nvramBytes === null ? null : await files.read(paths.nvram, 0, nvramBytes)
  const tpm = await files.read(tpmState(paths), 0, TPM_STATE_SIZE_MAX)
  if (nvram === null && tpm === null) return false
  const kept = {
    version: KEPT_VERSION,
    nvramBytes: nvram?.length ?? 0,
    nvram: nvram && toBase64(withoutZeros(nvram)),
    tpm: tpm && toBase64(tpm),
  }
  await files.replace(path, new TextEncoder().encode(`${JSON.stringify(kept)}\n`), { sync: true })
  return true
}

export async function putFirmwareBack(
  files: HostFiles,
  paths: KeptPaths & Pick<DomainPaths, 'dataFolder'>,
  path: string,
  { user, nvramOnly }: { readonly user: ProcessUser | null; readonly nvramOnly: boolean },
): Promise<void> {
  const content = await files.read(path, 0, KEPT_SIZE_MAX)
  if (content === null) throw new Fault('not_found', `put firmware back: no file ${path}`)
  const { version, nvram, nvramBytes, tpm } = objectOf(parseObject(new TextDecoder().decode(content)))
  const parts = [nvram, tpm].map((part) => (part === null ? null : fromBase64(textOf(part) ?? '!')))
  const isDamaged = [nvram, tpm].some((part, at) => part !== null && parts[at] === null)
  if (version !== KEPT_VERSION || typeof nvramBytes !== 'number' || isDamaged)
    throw new Fault('failed', `put firmware back: ${path} is damaged or of another version, want ${KEPT_VERSION}`)
  const [nvramContent, tpmContent] = parts
  await files.ensureFolder(paths.dataFolder, { user: null })
  if (nvramContent) await writeSparse(files, paths.nvram, nvramContent, nvramBytes)
  if (nvramOnly) return
  await files.remove(paths.tpmFolder)
  if (!tpmContent) return
  await files.ensureFolder(paths.tpmFolder, { user })
  await files.ensureFile(tpmState(paths), { user })
  const writer = await files.create(tpmState(paths))
  try {
    await writer.append(tpmContent)
    await writer.sync()
  } finally {
    await writer.close()
  }
}
