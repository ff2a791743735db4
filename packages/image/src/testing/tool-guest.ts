/** A guest that is only a kernel and an initramfs with Debian's own programs and one script: for tests of disks, which it has no other use for. */
import { mkdir, writeFile } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { nodeCommandRunner } from '@typevisor/storage'
import { writeCpio } from '../cpio.ts'
import { unpackKernel } from '../kernel.ts'
import { content, kernelOf, libraryClosure, ModuleSet, type PackageFiles } from '../micro.ts'
import { fetchPackages, readFolders } from '../node-debian.ts'
import { TreeBuilder } from '../tree.ts'

export interface ToolGuestOptions {
  /** Where kernel and initramfs are written. */
  readonly folder: string
  /** Debian packages beside the kernel and busybox. */
  readonly packages: readonly string[]
  /** Their programs, by path. All lie in /bin of the guest, with `links` (name to program). */
  readonly programs: readonly string[]
  readonly links?: Readonly<Record<string, string>>
  /** Kernel modules, loaded in this order with what they need; one that is built in is passed over. */
  readonly modules: readonly string[]
  /** Shell script, run as the first process when /dev, /proc, /sys and the modules are there. */
  readonly script: string
}

export interface ToolGuest {
  readonly kernelPath: string
  readonly initrdPath: string
}

/** Downloads and unpacked packages of this machine. */
const CACHE =
  process.env['TYPEVISOR_CACHE'] ?? (process.getuid?.() === 0 ? '/var/cache/typevisor' : join(homedir(), '.cache', 'typevisor'))

/** @throws Fault as `fetchPackages` does, `failed` for a program or library that the packages lack. */
export async function buildToolGuest(options: ToolGuestOptions): Promise<ToolGuest> {
  const { folders } = await fetchPackages(['linux-image-cloud-amd64', 'busybox-static', ...options.packages], {
    runner: nodeCommandRunner(),
    cacheFolder: CACHE,
  })
  const files: PackageFiles = { files: readFolders(folders) }
  const { path, release } = kernelOf(files)
  const guest: ToolGuest = { kernelPath: join(options.folder, 'kernel'), initrdPath: join(options.folder, 'initrd') }
  await mkdir(options.folder, { recursive: true })
  await writeFile(guest.kernelPath, unpackKernel(content(files, path)).content)
  await writeFile(guest.initrdPath, initramfs(files, release, options))
  return guest
}

function initramfs(
  files: PackageFiles,
  release: string,
  { programs, links = {}, modules, script }: ToolGuestOptions,
): Uint8Array {
  const tree = new TreeBuilder()
  for (const name of ['lib', 'lib64']) tree.folder(`usr/${name}`).link(name, `usr/${name}`)
  for (const folder of ['dev', 'proc', 'sys', 'mnt', 'run', 'tmp', 'etc']) tree.folder(folder)
  tree.link('etc/mtab', '/proc/self/mounts')
  tree.add('dev/console', { kind: 'character-device', mode: 0o600, major: 5, minor: 1 })
  tree.file('bin/busybox', content(files, 'bin/busybox'), 0o755)
  const nameOf = (path: string): string => path.slice(path.lastIndexOf('/') + 1)
  for (const path of programs) tree.file(`bin/${nameOf(path)}`, content(files, path), 0o755)
  for (const [name, program] of Object.entries(links)) tree.link(`bin/${name}`, program)
  for (const [path, file] of libraryClosure(files, programs, [])) tree.file(path, file, 0o755)
  const order = new ModuleSet(files, release, []).withDependencies(modules)
  for (const path of order) tree.file(`modules/${nameOf(path)}`, content(files, path))
  tree.file(
    'init',
    [
      '#!/bin/busybox sh',
      'export PATH=/bin',
      '/bin/busybox --install -s /bin',
      'mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run',
      ...order.map((path) => `insmod /modules/${nameOf(path)}`),
      script,
      '',
    ].join('\n'),
    0o755,
  )
  return writeCpio(tree.build(), 0)
}
