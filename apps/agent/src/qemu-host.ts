/**
 * The real host: QEMU, volumes of a volume server, images from Debian packages. As root guests run as `typevisor-qemu`, a user with no rights but its
 * files', and where there is no such user not at all; what that user cannot reach is refused by the driver with the reason.
 */
import { chmod, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '@typevisor/base'
import { createNodeHost, createQemuDriver } from '@typevisor/driver-qemu'
import { createImageStore, withBuildProcess } from '@typevisor/image'
import {
  bootId,
  isRoot,
  makeNamedPipe,
  processIdentity,
  sendDescriptor,
  setThreadAffinity,
  signalProcess,
  spawnDetached,
  userByName,
  waitForExit,
  whyNoAffinity,
  type SystemUser,
} from '@typevisor/runtime-node'
import {
  nbdVolumeStore,
  nodeCommandRunner,
  nodeMasterRecords,
  nodeVolumeFiles,
  openImage,
  openServed,
  qcow2VolumeStore,
} from '@typevisor/storage'
import type { Toolstack } from '@typevisor/toolstack'
import { cacheFolder } from './cache-folder.ts'
import { mediaFolder, MIGRATION_ADDRESS, type HostOptions, type HostParts } from './host-parts.ts'
import { startCarrier } from './migration/carrier.ts'
import { openRunFolder, runParent, sweepRunFolders } from './run-folder.ts'
import { saveFolder } from './save-folder.ts'
import { attachedDriver } from './volumes/attached-driver.ts'
import { leaseHolder } from './volumes/holder.ts'
import { keepVolumeServer } from './volumes/keeper.ts'
import { watchVolumeServer } from './volumes/watch.ts'

const GUEST_USER = 'typevisor-qemu'

async function folder(path: string, mode: number): Promise<string> {
  await mkdir(path, { recursive: true })
  await chmod(path, mode)
  return path
}

/** @throws Fault `unsupported` where it is missing, or is root itself: what breaks out of a guest would own the machine. */
function guestUser(): SystemUser {
  const user = userByName(GUEST_USER)
  if (user && user.uid !== 0) return user
  const missing = user ? `the user ${GUEST_USER} is root itself` : `there is no user ${GUEST_USER}`
  throw new Fault(
    'unsupported',
    `guests are not run as root, and ${missing}; this makes it: useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin ${GUEST_USER}`,
  )
}

export async function qemuParts(options: HostOptions): Promise<HostParts> {
  const { dataDir, version, clock, ids, log } = options
  const user = isRoot() ? guestUser() : null
  const owner = user ? { uid: user.uid, gid: user.gid } : null
  const processes = {
    bootId,
    spawnDetached,
    processIdentity,
    waitForExit,
    signalProcess,
    setThreadAffinity,
    whyNoAffinity,
    sendDescriptor,
    makeNamedPipe,
  }
  const host = createNodeHost(processes)
  const runDir = await openRunFolder(runParent(), dataDir)
  await sweepRunFolders(runParent(), (pidFile) => host.processes.findByArguments(['-pidfile', pidFile]), log)
  const cache = cacheFolder()
  await mkdir(cache, { recursive: true })
  const imagesFolder = await folder(join(dataDir, 'images'), 0o755)
  // Before the toolstack says what it holds, all is held.
  let holders: Pick<Toolstack, 'holdsFiles'> = { holdsFiles: async () => true }
  const inUse = (folder: string) => holders.holdsFiles(folder)
  const images = withBuildProcess(createImageStore({ folder: imagesFolder, cacheFolder: cache, clock, log, inUse }), {
    folder: imagesFolder,
    cacheFolder: cache,
  })
  await using building = new AsyncDisposableStack()
  const disksFolder = await folder(join(dataDir, 'disks'), 0o700)
  // In a folder that anybody may pass through; a socket itself is its owner's.
  const socketFolder = await folder(join(runDir, 'nbd'), 0o711)
  const socketPathOf = (volume: string): string => join(socketFolder, `${volume}.sock`)
  const holder = await leaseHolder(join(dataDir, 'holder'), ids)
  const watch = watchVolumeServer({ clock, log })
  const server = keepVolumeServer({ dir: disksFolder, version, clock, log, holder, owner, watcher: watch })
  building.defer(() => server.close())
  const runner = nodeCommandRunner()
  const files = qcow2VolumeStore({
    files: await nodeVolumeFiles({ folder: await folder(join(dataDir, 'volumes'), 0o711), ...(owner ? { owner } : {}) }),
    runner,
    openFile: (path, format) => openImage(runner, path, format),
    log,
  })
  const masters = await nodeMasterRecords(join(disksFolder, 'masters'))
  const connect = (exportName: string) => openServed(disksFolder, exportName)
  const volumes = nbdVolumeStore({ call: server.call, holder, files, masters, runner, socketPathOf, connect, clock, log })
  const qemu = createQemuDriver({
    dataDir: await folder(join(dataDir, 'domains'), 0o711),
    runDir,
    host,
    clock,
    ids,
    log,
    user: owner,
    carry: startCarrier({ address: options.migrationAddress ?? MIGRATION_ADDRESS, clock }),
    netbootFolder: await folder(join(dataDir, 'netboot'), 0o755),
    // QEMU is handed what lies here, and nothing that a foreign image's header names elsewhere.
    diskFolders: [join(dataDir, 'volumes'), join(dataDir, 'images')],
  })
  building.defer(() => qemu.close())
  const driver = attachedDriver({ driver: qemu, volumes: server, leases: volumes.leases, socketPathOf, log })
  const saves = saveFolder(await folder(join(dataDir, 'saves'), 0o700))
  const media = mediaFolder(await folder(join(dataDir, 'media'), 0o755))
  building.move()
  return {
    driver,
    media,
    volumes,
    images,
    saves,
    heldBy(toolstack) {
      holders = toolstack
      watch.noteIn(toolstack)
    },
    volumeServer: () => watch.status(),
    lastNotes: () => (server.isIdle ? watch.stops() : watch.close()),
    close: () => server.close(),
  }
}
