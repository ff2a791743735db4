/**
 * The real host: QEMU, qcow2 files, images from Debian packages. As root guests run as `typevisor-qemu`, a user with no rights but its
 * files'; what that user cannot reach is refused by the driver with the reason.
 */
import { createHash } from 'node:crypto'
import { chmod, lstat, mkdir } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { Fault } from '@typevisor/base'
import { createNodeHost, createQemuDriver } from '@typevisor/driver-qemu'
import { createImageStore, withBuildProcess } from '@typevisor/image'
import { bootId, isRoot, processIdentity, signalProcess, spawnDetached, userByName, waitForExit } from '@typevisor/runtime-node'
import { nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'
import { saveFolder, type HostOptions, type HostParts } from './host-parts.ts'

const GUEST_USER = 'typevisor-qemu'

/** Sockets must have short paths and go with a reboot; two data directories never share one. */
function runDirOf(dataDir: string): string {
  const name = `agent-${createHash('sha256').update(resolve(dataDir)).digest('hex').slice(0, 12)}`
  if (isRoot()) return join('/run/typevisor', name)
  return join(process.env['XDG_RUNTIME_DIR'] ?? `/tmp/typevisor-${process.getuid?.() ?? 0}`, name)
}

/** In a shared folder such as /tmp anybody may have made it first, and would own the sockets of our guests. */
async function ownFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o711 })
  const made = await lstat(path)
  if (!made.isDirectory() || made.uid !== process.geteuid?.() || (made.mode & 0o022) !== 0) {
    throw new Fault('forbidden', `run folder ${path}: it is not ours alone; remove it, or set XDG_RUNTIME_DIR`)
  }
}

async function folder(path: string, mode: number): Promise<string> {
  await mkdir(path, { recursive: true })
  await chmod(path, mode)
  return path
}

export async function qemuParts(options: HostOptions): Promise<HostParts> {
  const { dataDir, clock, ids, log } = options
  const user = isRoot() ? userByName(GUEST_USER) : null
  if (isRoot() && !user) log.warn('host.no_guest_user', { user: GUEST_USER, consequence: 'guests run as root' })
  const owner = user ? { uid: user.uid, gid: user.gid } : null
  const runDir = runDirOf(dataDir)
  await ownFolder(dirname(runDir))
  await folder(runDir, 0o711)
  const cacheFolder = isRoot()
    ? '/var/cache/typevisor'
    : join(process.env['XDG_CACHE_HOME'] ?? join(process.env['HOME'] ?? '/', '.cache'), 'typevisor')
  await mkdir(cacheFolder, { recursive: true })
  const imagesFolder = await folder(join(dataDir, 'images'), 0o755)
  const images = withBuildProcess(createImageStore({ folder: imagesFolder, cacheFolder, clock, log }), {
    folder: imagesFolder,
    cacheFolder,
  })
  const volumes = qcow2VolumeStore({
    files: await nodeVolumeFiles({ folder: await folder(join(dataDir, 'volumes'), 0o711), ...(owner ? { owner } : {}) }),
    runner: nodeCommandRunner(),
    log,
  })
  const driver = createQemuDriver({
    dataDir: await folder(join(dataDir, 'domains'), 0o711),
    runDir,
    host: createNodeHost({ bootId, spawnDetached, processIdentity, waitForExit, signalProcess }),
    clock,
    ids,
    log,
    user: owner,
    // QEMU is handed what lies here, and nothing that a foreign image's header names elsewhere.
    diskFolders: [join(dataDir, 'volumes'), join(dataDir, 'images')],
  })
  return { driver, volumes, images, saves: saveFolder(await folder(join(dataDir, 'saves'), 0o700)) }
}
