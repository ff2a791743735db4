/**
 * The folder of an agent's sockets and records of processes, which must have short paths and go with a reboot.
 *
 *   /run/typevisor/agent-<hash of the data directory>/<domain>/...
 *   /run/typevisor/agent-<hash of the data directory>.of            names that data directory
 *
 * Two data directories never share one. The folder of a data directory that was removed is taken away by the next agent that starts, once
 * nothing of it runs.
 */
import { createHash } from 'node:crypto'
import { chmod, lstat, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { Fault, toFault, type Log } from '@typevisor/base'
import { isRoot } from '@typevisor/runtime-node'

/** With what a process that was killed while it wrote one has left. */
const OWNER_FILE = /^(agent-[0-9a-f]{12})\.of(?:\.\d+)?$/

export const runParent = (): string =>
  isRoot() ? '/run/typevisor' : (process.env['XDG_RUNTIME_DIR'] ?? `/tmp/typevisor-${process.getuid?.() ?? 0}`)

const ownerFileOf = (path: string): string => `${path}.of`

/** @throws Fault `forbidden` when another user has, or may write to, the folder above. */
export async function openRunFolder(parent: string, dataDir: string): Promise<string> {
  await ownFolder(parent)
  const path = join(parent, `agent-${createHash('sha256').update(resolve(dataDir)).digest('hex').slice(0, 12)}`)
  // Named first, and never half: an agent that starts meanwhile takes away what belongs to nobody.
  const name = ownerFileOf(path)
  await writeFile(`${name}.${process.pid}`, resolve(dataDir), { mode: 0o600 })
  await rename(`${name}.${process.pid}`, name)
  await mkdir(path, { recursive: true })
  await chmod(path, 0o711)
  return path
}

/** In a shared folder such as /tmp anybody may have made it first, and would own the sockets of our guests. */
async function ownFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o711 })
  const made = await lstat(path)
  if (!made.isDirectory() || made.uid !== process.geteuid?.() || (made.mode & 0o022) !== 0) {
    throw new Fault('forbidden', `run folder ${path}: it is not ours alone; remove it, or set XDG_RUNTIME_DIR`)
  }
}

const isThere = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    // One that cannot be looked at is not gone.
    (error: NodeJS.ErrnoException) => error.code !== 'ENOENT',
  )

/** `processesOf`: what runs with this pid file. Nothing here is worth a start that fails. */
export async function sweepRunFolders(
  parent: string,
  processesOf: (pidFile: string) => Promise<readonly unknown[]>,
  log: Log,
): Promise<void> {
  for (const name of await readdir(parent)) {
    const folder = OWNER_FILE.exec(name)?.[1]
    if (folder === undefined) continue
    const path = join(parent, folder)
    try {
      const dataDir = await readFile(join(parent, name), 'utf8')
      if (dataDir === '' || (await isThere(dataDir))) continue
      const domains = await readdir(path).catch(() => [])
      const running = await Promise.all(domains.map((domain) => processesOf(join(path, domain, 'qemu.pid'))))
      const isLive = running.some((processes) => processes.length > 0)
      if (!isLive) for (const each of [path, join(parent, name)]) await rm(each, { recursive: true, force: true })
      log.info(isLive ? 'host.orphans_left' : 'host.run_folder_swept', { folder: path, dataDir })
    } catch (error) {
      log.warn('host.run_folder_not_swept', { folder: path, reason: toFault(error).message })
    }
  }
}
