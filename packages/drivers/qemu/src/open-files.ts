/**
 * What QEMU opens, made ready: the files are there, and its user can reach them.
 *
 *   own user or none   paths as they are
 *   another user       disks and console log are opened by the caller and inherited (`-add-fd`, /dev/fdset/N), so a folder of mode 0700
 *                      is no hindrance; kernel and initrd are inherited too and opened as /proc/self/fd/N, which skips the folders and
 *                      still asks the file's own mode. Firmware and NVRAM are as disks are; what is booted from the network, as kernels are.
 *                      What is plugged later is sent open over the monitor (SCM_RIGHTS)
 *
 * Failure paths: a missing file is `failed` with its path; a kernel or a folder that bars the user is `forbidden`, naming it.
 */
import { Fault } from '@typevisor/base'
import { architectureOf, bootOrderOf, firmwareOf, type DomainDevice, type VolumeId } from '@typevisor/model'
import type { DriverDomain } from '@typevisor/toolstack'
import type { CommandLineInput, DiskSource } from './command-line.ts'
import { readyFirmware } from './firmware.ts'
import type { DomainPaths } from './layout.ts'
import type { HostFiles, ProcessUser, QemuHost } from './ports.ts'
import type { Machine } from './machine.ts'
import { readChain } from './qcow2-chain.ts'
import { numberOf, objectOf } from './read-json.ts'

export interface OpenFiles extends AsyncDisposable {
  readonly disks: CommandLineInput['disks']
  readonly boot: CommandLineInput['boot']
  readonly firmware: CommandLineInput['firmware'] | null
  readonly netboot: CommandLineInput['netboot'] | null
  readonly consoleLog: string
  /** Descriptors for 3, 4, ...: first those of `-add-fd`, of which there are `setCount`. */
  readonly inherit: readonly number[]
  readonly setCount: number
}

export async function openFiles(
  files: HostFiles,
  domain: DriverDomain,
  paths: DomainPaths,
  user: ProcessUser | null,
  diskFolders: readonly string[] | null,
  netbootFolder: string | null = null,
): Promise<OpenFiles> {
  await using stack = new AsyncDisposableStack()
  const inherit: number[] = []
  const inherited = async (path: string, mode: 'read' | 'write' | 'append' | 'both'): Promise<number> => {
    const descriptor = await files.openDescriptor(path, mode)
    stack.defer(() => descriptor.close())
    inherit.push(descriptor.fd)
    return inherit.length
  }
  const asSet = async (path: string, mode: 'read' | 'write' | 'append'): Promise<string> =>
    user ? `/dev/fdset/${await inherited(path, mode)}` : path

  const disks = new Map<string, DiskSource>()
  for (const device of domain.hardware.devices) {
    const of = diskOf(device)
    if (of) disks.set(of.name, await diskSource(files, domain, of, diskFolders, asSet))
  }
  const kind = firmwareOf(domain.spec)
  const architecture = architectureOf(domain.spec)
  let firmware: OpenFiles['firmware'] = null
  if (kind !== 'bios') {
    const wanted = { architecture, machine: domain.hardware.machine, firmware: kind, name: domain.name }
    const { code, needsSmm } = await readyFirmware(files, paths, wanted)
    firmware = { code: await asSet(code, 'read'), nvram: await asSet(paths.nvram, 'write'), needsSmm }
  }
  const consoleLog = await asSet(paths.consoleLog, 'append')
  const setCount = user ? inherit.length : 0
  // QEMU holds the pipe's writing end itself: opening it for reading never waits, and it never ends when a caller does.
  await inherited(paths.consoleInput, 'both')
  const asFile = async (path: string): Promise<string> => {
    if ((await files.size(path)) === null) throw new Fault('failed', `boot ${domain.name}: no file ${path}`)
    if (!user) return path
    const number = await inherited(path, 'read')
    const reason = await files.whyUnreachable(path, user, 'read-open')
    if (reason) throw new Fault('forbidden', `boot ${domain.name}: ${reason}`)
    return `/proc/self/fd/${number + 2}`
  }
  const order = bootOrderOf(domain.spec)
  let netboot: OpenFiles['netboot'] = null
  if (order.includes('network') && netbootFolder !== null) {
    const file = kind === 'bios' ? 'boot.ipxe' : `boot-${architecture}.efi`
    if ((await files.size(`${netbootFolder}/${file}`)) === null)
      throw new Fault('failed', `boot ${domain.name} from the network: no file ${netbootFolder}/${file}`)
    const folder = user ? `/proc/self/fd/${(await inherited(netbootFolder, 'read')) + 2}` : netbootFolder
    netboot = { folder, file }
  }
  // Its kernel would be loaded before any device is looked at.
  const boot = order[0] === 'network' ? ({ kind: 'disk' } as const) : domain.boot
  const opened: CommandLineInput['boot'] =
    boot.kind === 'disk'
      ? boot
      : {
          kind: 'kernel',
          kernel: await asFile(kind === 'bios' ? boot.kernelPath : (boot.efiKernelPath ?? boot.kernelPath)),
          initrd: boot.initrdPath === null ? null : await asFile(boot.initrdPath),
          commandLine: boot.commandLine,
        }
  const kept = stack.move()
  return {
    disks,
    boot: opened,
    firmware,
    netboot,
    consoleLog,
    inherit,
    setCount,
    [Symbol.asyncDispose]: () => kept.disposeAsync(),
  }
}

export interface DiskOf {
  readonly name: string
  readonly volume: VolumeId
  readonly readOnly: boolean
}

/** null: the device has no volume now. */
export function diskOf(device: DomainDevice): DiskOf | null {
  if (device.kind === 'disk') return device
  if (device.kind === 'cd' && device.volume !== null) return { name: device.name, volume: device.volume, readOnly: true }
  if (device.kind === 'usb' && device.volume !== undefined) return { name: device.name, volume: device.volume, readOnly: false }
  return null
}

export interface LaterContext {
  readonly host: Pick<QemuHost, 'files'>
  readonly user: ProcessUser | null
  readonly diskFolders: readonly string[] | null
  readonly machine: Pick<Machine, 'execute'>
  readonly signal: AbortSignal
}

/**
 * What a running QEMU opens. One of another user is handed each file open (`add-fd`), in a set of its own that `dropSets` takes away again.
 * @throws Fault `unsupported` for a file of another user's QEMU, where descriptors cannot be sent.
 */
export async function openLater(context: LaterContext, domain: DriverDomain, disk: DiskOf): Promise<DiskSource> {
  const { host, user, diskFolders, machine, signal } = context
  const { files } = host
  return await diskSource(files, domain, disk, diskFolders, async (path, mode) => {
    if (!user) return path
    const opened = await files.openDescriptor(path, mode)
    try {
      const answer = objectOf(await machine.execute('add-fd', { opaque: path }, { signal, descriptor: opened.fd }))
      return `${FDSET}${numberOf(answer['fdset-id']) ?? ''}`
    } finally {
      await opened.close()
    }
  })
}

const FDSET = '/dev/fdset/'

/** The sets that these block nodes are on, which nothing opens any more. */
export async function dropSets(
  machine: LaterContext['machine'],
  filenames: Iterable<string>,
  signal: AbortSignal,
): Promise<void> {
  const sets = new Set([...filenames].filter((name) => name.startsWith(FDSET)).map((name) => Number(name.slice(FDSET.length))))
  for (const id of sets)
    // One that is not there is what is wanted.
    await machine.execute('remove-fd', { 'fdset-id': id }, { signal }).catch(() => {})
}

async function diskSource(
  files: HostFiles,
  domain: DriverDomain,
  device: DiskOf,
  diskFolders: readonly string[] | null,
  asSet: (path: string, mode: 'read' | 'write') => Promise<string>,
): Promise<DiskSource> {
  const attachment = domain.volumes[device.volume]
  if (!attachment) throw new Fault('invalid', `disk ${device.name}: volume ${device.volume} is not attached`)
  if (attachment.kind === 'nbd') return { kind: 'nbd', socketPath: attachment.socketPath, exportName: attachment.exportName }
  const layers = []
  const chain = await readChain(files, attachment.path, attachment.format, diskFolders)
  for (const [depth, layer] of chain.entries()) {
    layers.push({ filename: await asSet(layer.path, depth > 0 || device.readOnly ? 'read' : 'write'), format: layer.format })
  }
  return { kind: 'chain', layers }
}
