/**
 * Images on a host's disk.
 *
 *   <folder>/micro/current -> 3f2a.../          a link, renamed into place: readers see the old image or the new one, whole
 *   <folder>/micro/3f2a.../kernel  kernel.efi  initrd  root.qcow2  image.json
 *   <folder>/.work-.../                          a build; its leavings are taken away by the next one
 *
 * A version's folder is named by its content's digest and never changed: clones and running guests hold its files. A version that is no
 * longer current is removed only when `inUse` says that nobody holds it.
 */
import { createHash } from 'node:crypto'
import { chmod, mkdir, mkdtemp, open, readdir, readFile, readlink, rename, rm, stat, symlink } from 'node:fs/promises'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { bytes, Fault, mib, toFault, type Clock, type Log } from '@typevisor/base'
import { parseImageName, type ImageName } from '@typevisor/model'
import { nodeCommandRunner, runChecked, type CommandRunner } from '@typevisor/storage'
import { assembleMicro, MICRO_PACKAGES, ROOT_DISK_BYTES, type MicroInput, type MicroParts } from './micro.ts'
import { fetchPackages, readFolders } from './node-debian.ts'
import { writeRootDisk } from './node-root-disk.ts'
import type { Image, ImageStore } from './ports.ts'

export interface ImageStoreOptions {
  /** Absolute. Must be reachable by the user that QEMU runs as: folders are made with mode 0755, files with 0644. */
  readonly folder: string
  /** Downloads and unpacked packages; may be shared by stores and thrown away at any time. */
  readonly cacheFolder: string
  readonly clock: Pick<Clock, 'now'>
  readonly log?: Log | undefined
  readonly runner?: CommandRunner | undefined
  /** Does anybody still hold a version's folder (a clone's backing file, a running guest's kernel)? Missing: everything is kept. */
  readonly inUse?: ((versionFolder: string) => Promise<boolean>) | undefined
}

type BuildOptions = NonNullable<Parameters<ImageStore['build']>[1]>
/** Changes with what a version's folder holds, so that equal inputs of an older program are built anew. */
const FORMAT = 2
const WORK = '.work-'
const WORK_MAX_AGE_MS = 3_600_000

export interface NodeImageStore extends ImageStore {
  /** Removes the versions that are not current and that nobody holds. */
  prune(name: ImageName): Promise<void>
}

export function createImageStore(options: ImageStoreOptions): NodeImageStore {
  const building = new Map<ImageName, Promise<Image>>()
  return {
    async list() {
      const names = await readdir(options.folder).catch(() => [])
      const images = await Promise.all(
        names
          .filter((name) => !name.startsWith('.'))
          .sort()
          .map((name) => readCurrent(options.folder, name)),
      )
      return images.filter((image) => image !== null)
    },
    get: (name) => readCurrent(options.folder, parseImageName(name)),
    async build(name, buildOptions = {}) {
      if (parseImageName(name) !== 'micro') throw new Fault('not_found', `build image ${name}: no such recipe, want micro`)
      // Two builds of one image at once would do the same work twice: the second waits, then finds everything made.
      const before = building.get(name)
      const work = (before ?? Promise.resolve()).then(
        () => buildMicro(name, options, buildOptions),
        () => buildMicro(name, options, buildOptions),
      )
      building.set(name, work)
      try {
        return await work
      } finally {
        if (building.get(name) === work) building.delete(name)
      }
    },
    prune: (name) => prune(options, join(options.folder, parseImageName(name))),
    async remove(name) {
      const home = join(options.folder, parseImageName(name))
      await rm(join(home, 'current'), { force: true })
      await prune(options, home)
    },
  }
}

async function buildMicro(name: ImageName, options: ImageStoreOptions, { signal, progress }: BuildOptions): Promise<Image> {
  const runner = options.runner ?? nodeCommandRunner()
  signal?.throwIfAborted()
  try {
    const home = join(options.folder, name)
    await mkdir(home, { recursive: true, mode: 0o755 })
    await sweep(options)
    const fetched = await fetchPackages(MICRO_PACKAGES, {
      runner,
      cacheFolder: options.cacheFolder,
      signal,
      progress: (fraction, message) => progress?.(fraction * 0.6, message),
    })
    progress?.(0.6, 'putting the image together')
    const versions = Object.fromEntries(fetched.packages.map((each) => [each.name, each.version]))
    const files = readFolders(fetched.folders)
    const parts = assembleMicro({
      files,
      guest: readGuest(),
      applets: await appletsOf(runner, fetched.folders, signal),
      versions,
      unpack,
    })
    const digest = digestOf(parts)
    const version = join(home, digest.slice(0, 32))
    if (!(await readManifest(version)))
      await makeVersion(version, name, parts, digest, versions, options, runner, { signal, progress })
    signal?.throwIfAborted()
    await switchTo(home, version)
    await prune(options, home)
    const image = await readCurrent(options.folder, name)
    if (image === null) throw new Fault('failed', `build image ${name}: it is gone, another process removed it`)
    progress?.(1, `${name} is there: ${version}`)
    options.log?.info('image.built', { image: name, digest, kernel: parts.kernelRelease })
    return image
  } catch (error) {
    if (signal?.aborted) throw toFault(signal.reason)
    if ((error as NodeJS.ErrnoException).code === 'ENOSPC')
      throw new Fault('exhausted', `build image ${name}: no space left in ${options.folder}`, { cause: error })
    throw error
  }
}

async function makeVersion(
  version: string,
  name: ImageName,
  parts: MicroParts,
  digest: string,
  versions: Readonly<Record<string, string>>,
  options: ImageStoreOptions,
  runner: CommandRunner,
  { signal, progress }: { signal: AbortSignal | undefined; progress: BuildOptions['progress'] | undefined },
): Promise<void> {
  const work = await mkdtemp(join(options.folder, WORK))
  try {
    await chmod(work, 0o755)
    await writeSynced(join(work, 'kernel'), parts.kernel.content)
    await writeSynced(join(work, 'kernel.efi'), parts.efiKernel)
    await writeSynced(join(work, 'initrd'), parts.initramfs)
    progress?.(0.7, 'making the root disk')
    const disk = join(work, 'root.qcow2')
    await writeRootDisk(parts.root, disk, { runner, workFolder: work, sizeBytes: ROOT_DISK_BYTES, signal })
    progress?.(0.95, 'writing')
    const image: Image = {
      name,
      title: 'Micro: a small Linux to begin with',
      digest: `sha256:${digest}`,
      builtAt: options.clock.now(),
      boot: {
        kind: 'kernel',
        kernelPath: 'kernel',
        efiKernelPath: 'kernel.efi',
        initrdPath: 'initrd',
        commandLine: parts.commandLine,
      },
      rootDisk: {
        path: 'root.qcow2',
        format: 'qcow2',
        virtualBytes: bytes(ROOT_DISK_BYTES),
        fileBytes: bytes((await stat(disk)).size),
      },
      minimum: { memoryBytes: mib(128), diskBytes: bytes(ROOT_DISK_BYTES) },
      defaultUser: 'root',
      contents: { kernel: parts.kernelRelease, ...versions },
    }
    await writeSynced(join(work, 'image.json'), new TextEncoder().encode(`${JSON.stringify(image, null, 2)}\n`))
    await syncFolder(work)
    signal?.throwIfAborted()
    await putInPlace(work, version)
    await syncFolder(join(version, '..'))
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

/** Another process may have made the same version meanwhile, and somebody may use it by now: then that one stays. */
async function putInPlace(work: string, version: string): Promise<void> {
  try {
    await rename(work, version)
  } catch (error) {
    if (!['ENOTEMPTY', 'EEXIST'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    if (await readManifest(version)) return
    await rm(version, { recursive: true, force: true }) // without a manifest it is no version
    await rename(work, version)
  }
}

async function switchTo(home: string, version: string): Promise<void> {
  const link = join(home, `.current-${process.pid}`)
  await rm(link, { force: true })
  await symlink(relative(home, version), link)
  await rename(link, join(home, 'current'))
  await syncFolder(home)
}

async function readCurrent(folder: string, name: string): Promise<Image | null> {
  const home = join(folder, name)
  const target = await readlink(join(home, 'current')).catch(() => null)
  return target === null || !/^[0-9a-f]{32}$/.test(target) ? null : readManifest(join(home, target))
}

/** The manifest with its paths made absolute; null where there is no whole version. */
async function readManifest(version: string): Promise<Image | null> {
  const text = await readFile(join(version, 'image.json'), 'utf8').catch(() => null)
  if (text === null) return null
  try {
    const image = JSON.parse(text) as Image // written by makeVersion, whole (it was renamed into place)
    if (image.boot.kind !== 'kernel') return image
    // An image of before has none.
    const efi = image.boot.efiKernelPath === undefined ? {} : { efiKernelPath: join(version, 'kernel.efi') }
    const boot = { ...image.boot, kernelPath: join(version, 'kernel'), ...efi, initrdPath: join(version, 'initrd') }
    return { ...image, boot, rootDisk: { ...image.rootDisk, path: join(version, 'root.qcow2') } }
  } catch (error) {
    throw new Fault('failed', `read ${version}/image.json: no JSON; build the image again`, { cause: error })
  }
}

async function prune(options: ImageStoreOptions, home: string): Promise<void> {
  if (!options.inUse) return
  const current = await readlink(join(home, 'current')).catch(() => null)
  for (const name of await readdir(home).catch(() => [])) {
    const version = join(home, name)
    if (!/^[0-9a-f]{32}$/.test(name) || name === current || (await options.inUse(version))) continue
    await rm(version, { recursive: true, force: true })
  }
}

/** What a build that was killed left behind. A build younger than an hour may be another process's. */
async function sweep(options: ImageStoreOptions): Promise<void> {
  for (const name of await readdir(options.folder)) {
    const path = join(options.folder, name)
    if (name.startsWith(WORK) && (await stat(path)).mtimeMs < options.clock.now() - WORK_MAX_AGE_MS)
      await rm(path, { recursive: true, force: true })
  }
}

/** Over everything that goes in, not over the disk's bytes: those depend on the host's mke2fs as well. */
function digestOf(parts: MicroParts): string {
  const hash = createHash('sha256').update(`typevisor image ${FORMAT}\n${parts.commandLine}\n`)
  const part = (label: string, content: Uint8Array): void => void hash.update(`${label}\0${content.byteLength}\n`).update(content)
  part('kernel', parts.kernel.content)
  part('initramfs', parts.initramfs)
  for (const [path, entry] of parts.root) {
    if (entry.kind === 'file') part(`file ${entry.mode} ${path}`, entry.content)
    else hash.update(`${entry.kind} ${entry.kind === 'link' ? entry.target : entry.mode} ${path}\n`)
  }
  return hash.digest('hex')
}

/** The project's own files of the image, which lie beside `src`. */
function readGuest(): MicroInput['guest'] {
  const folder = fileURLToPath(new URL('../guest', import.meta.url))
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
  return new Map(
    files.map((entry) => {
      const path = join(entry.parentPath, entry.name)
      const content = readFileSync(path)
      // A checkout or an npm package may lose the executable bit; a script says itself what it is.
      const script = content.subarray(0, 2).toString() === '#!'
      return [relative(folder, path), { mode: script || statSync(path).mode & 0o100 ? 0o755 : 0o644, content }] as const
    }),
  )
}

/** Asks the packaged busybox itself what it can do. */
async function appletsOf(runner: CommandRunner, folders: readonly string[], signal: AbortSignal | undefined): Promise<string[]> {
  const candidates = folders.flatMap((folder) => [join(folder, 'bin/busybox'), join(folder, 'usr/bin/busybox')])
  for (const path of candidates) {
    if (!(await stat(path).catch(() => null))) continue
    const { stdout } = await runChecked(runner, [path, '--list'], { signal })
    const misleading = new Set(['busybox', 'dpkg', 'dpkg-deb', 'rpm', 'rpm2cpio', 'linuxrc'])
    return new TextDecoder()
      .decode(stdout)
      .split('\n')
      .filter((name) => /^[a-z0-9_[-]+$/i.test(name) && !misleading.has(name))
      .sort()
  }
  throw new Fault('failed', 'assemble micro: no busybox in the packages')
}

const unpack: NonNullable<MicroInput['unpack']> = (packed, format) => {
  try {
    return format === 'gzip' ? gunzipSync(packed) : zstdDecompressSync(packed)
  } catch {
    return null // it stays a bzImage, which boots as well
  }
}

async function writeSynced(path: string, content: Uint8Array): Promise<void> {
  await using file = await open(path, 'wx', 0o644)
  await file.writeFile(content)
  await file.chmod(0o644)
  await file.sync()
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, 'r')
  await folder.sync()
}
