/**
 * The recipe of the starter image, as a pure function: files of Debian packages in, kernel, initramfs and root tree out.
 *
 *   linux-image-cloud-amd64 --> ELF kernel (started by its PVH note), and as it is, for UEFI
 *                      \-----> modules --> initramfs: 6 of them, busybox, one script
 *   busybox-static ----------> every small program, init, getty, udhcpc, acpid
 *   dropbear-bin, qemu-guest-agent, e2fsprogs (resize2fs) with the libraries they load --> root disk
 *   guest/root ---------------> inittab, start and stop scripts, the cloud-init reader
 */
import { Fault } from '@typevisor/base'
import { writeCpio } from './cpio.ts'
import { moduleDepends, modinfo, neededLibraries } from './elf.ts'
import { unpackKernel, type KernelImage, type Unpack } from './kernel.ts'
import { TreeBuilder, type Tree } from './tree.ts'

/** Packages asked for by name; the kernel's real package and the libraries follow from their dependencies. */
export const MICRO_PACKAGES = [
  'linux-image-cloud-amd64',
  'busybox-static',
  'dropbear-bin',
  'qemu-guest-agent',
  'e2fsprogs',
] as const

/** Loaded by the initramfs: what the root disk needs. ext4 and PCI are built in. */
const INITRAMFS_MODULES = ['virtio_pci', 'virtio_blk'] as const
/** Loaded at every boot from the root disk, in this order: what a guest of QEMU has. */
const BOOT_MODULES = [
  'virtio_console',
  'virtio_net',
  'isofs',
  'virtio_rng',
  'button',
  'evdev',
  'virtio_balloon',
  'virtio_mem',
  'pvpanic_mmio',
  'pvpanic_pci',
] as const
/** Kept on the disk for `modprobe`: what a starter image may be asked to do. Paths below kernel/. */
const KEPT_MODULES =
  /^(?:drivers\/(?:virtio|block|char|net\/(?:[^/]+$|wireguard|vxlan|bonding)|misc\/pvpanic|md|cdrom|scsi\/(?:virtio_scsi|scsi_mod|sd_mod|sr_mod)|input|acpi|vhost|firmware|dax|nvdimm|nvme)|fs\/(?:isofs|efivarfs|nls\/nls_(?:utf8|ascii|cp437|iso8859-1)\.|fat|exfat|overlayfs|fuse|9p|netfs|fscache|squashfs|xfs|btrfs|nfs|nfs_common|lockd)|net\/(?:9p|bridge|core|ipv4|ipv6|netfilter|packet|sched|vmw_vsock|8021q|802|llc|sunrpc|dns_resolver|unix|tls|key|xfrm)|crypto|lib|mm|arch\/x86\/crypto)/

const PROGRAMS = [
  'usr/sbin/dropbear',
  'usr/bin/dropbearkey',
  'usr/bin/dbclient',
  'usr/sbin/qemu-ga',
  'sbin/resize2fs',
  'sbin/e2fsck',
] as const
/** Loaded by name at run time, so no ELF header speaks of them. */
const LATE_LIBRARIES = ['libnss_files.so.2', 'libnss_dns.so.2', 'libresolv.so.2'] as const
const LIBRARY_FOLDER = 'usr/lib/x86_64-linux-gnu'
/** Found by the path that is written into the library above it (fio's librbd). */
const PRIVATE_LIBRARY_FOLDERS = [`${LIBRARY_FOLDER}/ceph`] as const

export interface PackageFiles {
  /** Everything that the packages unpack to: path to content, or to a link's target. */
  readonly files: ReadonlyMap<
    string,
    | { readonly kind: 'file'; readonly mode: number; readonly content: () => Uint8Array }
    | { readonly kind: 'link'; readonly target: string }
  >
}

export interface MicroInput extends PackageFiles {
  /** The project's own files: `initramfs/init`, `root/etc/inittab` and so on. */
  readonly guest: ReadonlyMap<string, { readonly mode: number; readonly content: Uint8Array }>
  /** Names of busybox's applets. */
  readonly applets: readonly string[]
  /** Package to version. */
  readonly versions: Readonly<Record<string, string>>
  readonly unpack?: Unpack
}

export interface MicroParts {
  readonly kernel: KernelImage
  /** The same as its distribution ships and signs it: UEFI loads no ELF file. */
  readonly efiKernel: Uint8Array
  readonly kernelRelease: string
  readonly initramfs: Uint8Array
  readonly root: Tree
  readonly commandLine: string
}

/** Why each word of the kernel's command line is there. Their savings were not measured one by one. */
const COMMAND_LINE: readonly (readonly [string, string])[] = [
  ['console=ttyS0', 'messages and login on the serial port'],
  ['root=/dev/vda', 'read by the initramfs'],
  ['quiet', 'every character is an exit to the emulator'],
  ['cryptomgr.notests', 'no self-tests of ciphers at boot'],
  ['no_timer_check', 'the virtual timer is wired as it says'],
  ['i8042.noaux', 'no wait for a PS/2 mouse'],
  ['8250.nr_uarts=1', 'one serial port is probed, not four'],
  ['rcupdate.rcu_expedited=1', 'short grace periods while modules load'],
  ['memhp_default_state=online_movable', 'memory that is plugged is used at once, and can be given back'],
  ['panic=0', 'a panic stays for the host to see'],
]

export const MICRO_COMMAND_LINE = COMMAND_LINE.map(([word]) => word).join(' ')

/** @throws Fault `failed` naming what the packages lack. */
export function assembleMicro(input: MicroInput): MicroParts {
  const { path: kernelPath, release } = kernelOf(input)
  const modules = new ModuleSet(input, release)
  const efiKernel = content(input, kernelPath)
  return {
    kernel: unpackKernel(efiKernel, input.unpack),
    efiKernel,
    kernelRelease: release,
    initramfs: writeCpio(initramfsTree(input, modules), 0),
    root: rootTree(input, modules, release),
    commandLine: MICRO_COMMAND_LINE,
  }
}

export function kernelOf(input: PackageFiles): { path: string; release: string } {
  const path = only(input, /^boot\/vmlinuz-(.+)$/, 'a kernel')
  return { path, release: path.slice('boot/vmlinuz-'.length) }
}

function initramfsTree(input: MicroInput, modules: ModuleSet): Tree {
  const tree = new TreeBuilder()
  tree.file('bin/busybox', content(input, 'bin/busybox'), 0o755)
  for (const name of ['sh', 'mount', 'insmod', 'switch_root', 'cat', 'usleep', 'echo']) tree.link(`bin/${name}`, 'busybox')
  for (const folder of ['dev', 'proc', 'root']) tree.folder(folder)
  tree.add('dev/console', { kind: 'character-device', mode: 0o600, major: 5, minor: 1 })
  tree.file('init', guest(input, 'initramfs/init').content, 0o755)
  const order = modules.withDependencies(INITRAMFS_MODULES)
  for (const path of order) tree.file(`modules/${baseName(path)}`, content(input, path))
  tree.file('modules/order', order.map((path) => `${baseName(path)}\n`).join(''))
  return tree.build()
}

function rootTree(input: MicroInput, modules: ModuleSet, release: string): Tree {
  const tree = new TreeBuilder()
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) tree.folder(`usr/${name}`).link(name, `usr/${name}`)
  for (const folder of [
    'dev',
    'proc',
    'sys',
    'run',
    'mnt',
    'home',
    'opt',
    'srv',
    'var/lib/cloud',
    'var/log',
    'var/cache',
    'etc/dropbear',
    'usr/local/bin',
    'usr/local/sbin',
  ]) {
    tree.folder(folder)
  }
  tree
    .folder('root', 0o700)
    .folder('tmp', 0o1777)
    .folder('var/tmp', 0o1777)
    .link('var/run', '/run')
    .link('etc/mtab', '/proc/self/mounts')
  tree.file('usr/bin/busybox', content(input, 'bin/busybox'), 0o755)
  for (const applet of input.applets)
    tree.link(SBIN_APPLETS.has(applet) ? `usr/sbin/${applet}` : `usr/bin/${applet}`, '/bin/busybox')
  // busybox's own dpkg and rpm would mislead: there is no package database here.
  for (const path of PROGRAMS) tree.file(usrMerged(path), content(input, path), 0o755)
  for (const [path, file] of libraryClosure(input, PROGRAMS, LATE_LIBRARIES)) tree.file(path, file, 0o755)
  for (const path of modules.kept()) tree.file(usrMerged(path), content(input, path))
  modules.writeIndex(tree, release)
  const boot = modules.withDependencies(BOOT_MODULES, modules.withDependencies(INITRAMFS_MODULES))
  tree.file('usr/lib/typevisor/modules', boot.map((path) => `/${path}\n`).join(''))
  tree.file('var/lib/typevisor/root-sectors', `${ROOT_DISK_BYTES / 512}\n`)
  for (const [path, file] of input.guest) {
    if (path.startsWith('root/'))
      tree.file(usrMerged(path.slice('root/'.length)), file.content, file.mode & 0o111 ? 0o755 : 0o644)
  }
  writeAccounts(tree)
  const versions = Object.entries(input.versions).sort(([a], [b]) => (a < b ? -1 : 1))
  tree.file('etc/typevisor-image', versions.map(([name, version]) => `${name} ${version}\n`).join(''))
  tree.file('etc/os-release', 'ID=typevisor-micro\nID_LIKE=debian\nNAME="Typevisor micro"\nPRETTY_NAME="Typevisor micro"\n')
  return tree.build()
}

/** Size of the root disk as built; a guest's larger disk is filled at its first boot. */
export const ROOT_DISK_BYTES = 256 * 1024 * 1024

function writeAccounts(tree: TreeBuilder): void {
  tree.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n')
  tree.file('etc/shadow', 'root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n', 0o600)
  tree.file('etc/group', 'root:x:0:\ntty:x:5:\nnogroup:x:65534:\n')
  tree.file('etc/shells', '/bin/sh\n/bin/ash\n')
  tree.file('etc/hostname', 'micro\n')
  tree.file('etc/hosts', '127.0.0.1 localhost\n127.0.1.1 micro\n::1 localhost ip6-localhost ip6-loopback\n')
  tree.file('etc/nsswitch.conf', 'passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n')
  tree.file('etc/resolv.conf', '')
  tree.file('etc/fstab', '/dev/vda / ext4 rw,noatime 0 0\n')
}

/** Applets that belong to the administrator; the others go to /usr/bin. */
const SBIN_APPLETS = new Set(
  (
    'acpid arp blockdev brctl depmod fdisk findfs fsfreeze fstrim getty halt hwclock ifconfig ifdown ifup init insmod ip klogd loadkmap losetup lsmod ' +
    'mdev mkdosfs mkswap modinfo modprobe nameif nologin pivot_root poweroff reboot rmmod route run-init setkeycodes start-stop-daemon sulogin ' +
    'swapoff swapon switch_root sysctl syslogd tc tunctl udhcpc udhcpd vconfig watchdog'
  ).split(' '),
)

/** What programs load, and what that loads: path to content. `late`: loaded by name at run time. @throws Fault `failed` for what is not there. */
export function libraryClosure(
  input: PackageFiles,
  programs: readonly string[],
  late: readonly string[],
): Map<string, Uint8Array> {
  const found = new Map<string, Uint8Array>()
  const visit = (name: string): void => {
    const path = `${LIBRARY_FOLDER}/${name}`
    if (found.has(path)) return
    const file = library(input, name)
    found.set(path, file)
    for (const next of neededLibraries(file).libraries) visit(next)
  }
  for (const program of programs) {
    const { libraries, interpreter } = neededLibraries(content(input, program))
    for (const name of libraries) visit(name)
    if (interpreter !== null) found.set(`usr${interpreter}`, library(input, baseName(interpreter)))
  }
  for (const name of late) visit(name)
  return found
}

function library(input: PackageFiles, name: string): Uint8Array {
  for (const folder of ['lib/x86_64-linux-gnu', LIBRARY_FOLDER, ...PRIVATE_LIBRARY_FOLDERS])
    if (input.files.has(`${folder}/${name}`)) return content(input, `${folder}/${name}`)
  throw new Fault('failed', `assemble micro: no library ${name} in the packages`)
}

/** Kernel modules by the name that the kernel gives them (`-` is `_`). */
export class ModuleSet {
  readonly #input: PackageFiles
  readonly #paths = new Map<string, string>()
  readonly #depends = new Map<string, readonly string[]>()
  readonly #prefix: string

  constructor(input: PackageFiles, release: string, needed: readonly string[] = [...INITRAMFS_MODULES, ...BOOT_MODULES]) {
    this.#input = input
    this.#prefix = input.files.has(`usr/lib/modules/${release}/modules.order`)
      ? `usr/lib/modules/${release}/`
      : `lib/modules/${release}/`
    for (const path of input.files.keys()) {
      if (path.startsWith(`${this.#prefix}kernel/`) && path.endsWith('.ko')) this.#paths.set(moduleName(path), path)
    }
    const missing = needed.filter((name) => !this.#paths.has(name))
    if (missing.length > 0)
      throw new Fault('failed', `assemble micro: kernel ${release} has no module ${missing.join(', ')} (as .ko)`)
  }

  /** Paths in loading order, each once, without those in `loaded`; a module that is built in or not in this kernel is left out. */
  withDependencies(names: readonly string[], loaded: readonly string[] = []): string[] {
    const order: string[] = []
    const visit = (name: string): void => {
      const path = this.#paths.get(name)
      if (path === undefined || order.includes(path) || loaded.includes(path)) return
      for (const next of this.#dependsOf(name)) visit(next)
      order.push(path)
    }
    for (const name of names) visit(name)
    return order
  }

  kept(): string[] {
    const wanted = [...this.#paths]
      .filter(([, path]) => KEPT_MODULES.test(path.slice(`${this.#prefix}kernel/`.length)))
      .map(([name]) => name)
    return this.withDependencies([...wanted, ...BOOT_MODULES, ...INITRAMFS_MODULES]).sort()
  }

  /** What `depmod` would write: modules.dep and modules.alias. */
  writeIndex(tree: TreeBuilder, release: string): void {
    const relative = (path: string): string => path.slice(this.#prefix.length)
    const kept = this.kept()
    const dep = kept.map((path) => {
      const before = this.withDependencies([moduleName(path)])
        .slice(0, -1)
        .reverse()
      return `${relative(path)}:${before.map((each) => ` ${relative(each)}`).join('')}\n`
    })
    const alias = kept.flatMap((path) =>
      modinfo(content(this.#input, path), 'alias').map((each) => `alias ${each} ${moduleName(path)}\n`),
    )
    tree.file(`usr/lib/modules/${release}/modules.dep`, dep.join(''))
    tree.file(`usr/lib/modules/${release}/modules.alias`, alias.join(''))
    tree.file(`usr/lib/modules/${release}/modules.symbols`, '')
    for (const name of ['modules.builtin', 'modules.order'])
      tree.file(`usr/lib/modules/${release}/${name}`, content(this.#input, this.#prefix + name))
  }

  #dependsOf(name: string): readonly string[] {
    const known = this.#depends.get(name)
    if (known) return known
    const path = this.#paths.get(name)
    const depends = path === undefined ? [] : moduleDepends(content(this.#input, path)).map((each) => each.replaceAll('-', '_'))
    this.#depends.set(name, depends)
    return depends
  }
}

const baseName = (path: string): string => path.slice(path.lastIndexOf('/') + 1)
const moduleName = (path: string): string => baseName(path).replace(/\.ko$/, '').replaceAll('-', '_')
const usrMerged = (path: string): string => (/^(?:bin|sbin|lib|lib64)\//.test(path) ? `usr/${path}` : path)

export function content(input: PackageFiles, path: string): Uint8Array {
  let name = path
  for (let hops = 0; hops < 8; hops += 1) {
    const file = input.files.get(name) ?? input.files.get(`usr/${name}`)
    if (!file) break
    if (file.kind === 'file') return file.content()
    name = file.target.startsWith('/') ? file.target.slice(1) : `${name.slice(0, name.lastIndexOf('/'))}/${file.target}`
  }
  throw new Fault('failed', `assemble micro: no file ${path} in the packages`)
}

function guest(input: MicroInput, path: string): { readonly mode: number; readonly content: Uint8Array } {
  const file = input.guest.get(path)
  if (!file) throw new Fault('failed', `assemble micro: no file guest/${path} in the project`)
  return file
}

function only(input: PackageFiles, pattern: RegExp, what: string): string {
  const found = [...input.files.keys()].filter((path) => pattern.test(path))
  if (found.length !== 1) throw new Fault('failed', `assemble micro: ${found.length} files like ${pattern.source}, want ${what}`)
  return found[0] as string // length was just checked
}
