/** The edge that makes a file tree a disk: mke2fs fills the file system without mounting it, debugfs gives every file to root, qemu-img packs it. */
import { chmod, mkdir, mkdtemp, open, rm, symlink, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault } from '@typevisor/base'
import { runChecked, type CommandRunner } from '@typevisor/storage'
import type { Tree } from './tree.ts'

export interface RootDiskOptions {
  readonly runner: CommandRunner
  /** Where intermediate files may lie; cleaned up in any case. */
  readonly workFolder: string
  readonly sizeBytes: number
  readonly signal?: AbortSignal | undefined
}

/** Equal trees make equal disks: these take the place of chance and the clock. */
const FILE_SYSTEM_UUID = '7d3b1c5e-0f5a-4c57-9a52-5c1f6d1e0a01'
const HASH_SEED = '7d3b1c5e-0f5a-4c57-9a52-5c1f6d1e0a02'
const FIXED_SECONDS = 1_600_000_000

/**
 * Writes `tree` as ext4 into a qcow2 file at `path` (synced). Needs no privilege.
 * @throws Fault `exhausted` without space, `failed` with the tool's words.
 */
export async function writeRootDisk(tree: Tree, path: string, options: RootDiskOptions): Promise<void> {
  const { runner, signal } = options
  const work = await mkdtemp(join(options.workFolder, 'disk-'))
  try {
    const staged = join(work, 'tree')
    const raw = join(work, 'root.raw')
    await stage(tree, staged)
    await writeFile(raw, '')
    await truncate(raw, options.sizeBytes)
    const environment = {
      env: { E2FSPROGS_FAKE_TIME: String(FIXED_SECONDS), MKE2FS_CONFIG: '/dev/null', MKE2FS_DEVICE_SECTSIZE: '512' },
      signal,
    }
    const extended = `hash_seed=${HASH_SEED},root_owner=0:0,lazy_itable_init=0,nodiscard`
    const features =
      'has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr'
    await runChecked(
      runner,
      [
        'mke2fs',
        '-q',
        '-F',
        '-b',
        '4096',
        '-I',
        '256',
        '-i',
        '16384',
        '-m',
        '1',
        '-O',
        `none,${features}`,
        '-J',
        'size=4',
        '-L',
        'root',
        '-U',
        FILE_SYSTEM_UUID,
        '-E',
        extended,
        '-d',
        staged,
        raw,
      ],
      environment,
    )
    const script = join(work, 'owners')
    await writeFile(script, ownersScript(tree))
    const set = await runChecked(runner, ['debugfs', '-w', '-f', script, raw], environment)
    const complaint = set.stderr.split('\n').find((line) => line !== '' && !line.startsWith('debugfs '))
    if (complaint !== undefined) throw new Fault('failed', `debugfs: ${complaint}`)
    await runChecked(
      runner,
      [
        'qemu-img',
        'convert',
        '-q',
        '-f',
        'raw',
        '-O',
        'qcow2',
        '-o',
        'lazy_refcounts=off,preallocation=off',
        `file:${raw}`,
        `file:${path}`,
      ],
      { signal },
    )
    await chmod(path, 0o644)
    await using file = await open(path, 'r')
    await file.sync()
  } catch (error) {
    await rm(path, { force: true })
    throw (error as NodeJS.ErrnoException).code === 'ENOSPC'
      ? new Fault('exhausted', `make the root disk: no space left in ${options.workFolder}`, { cause: error })
      : error
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

async function stage(tree: Tree, folder: string): Promise<void> {
  await mkdir(folder)
  for (const [path, entry] of tree) {
    const target = join(folder, path)
    switch (entry.kind) {
      case 'folder':
        await mkdir(target)
        await chmod(target, entry.mode)
        break
      case 'file':
        await writeFile(target, entry.content)
        await chmod(target, entry.mode)
        break
      case 'link':
        await symlink(entry.target, target)
        break
      case 'character-device':
        throw new Fault('failed', `make the root disk: ${path} is a device, and devtmpfs makes those`)
    }
  }
}

function ownersScript(tree: Tree): string {
  const time = new Date(FIXED_SECONDS * 1000).toISOString().replace(/[-T:]|\..*/g, '')
  const paths = ['/', '/lost+found', ...[...tree.keys()].map((path) => `/${path}`)]
  return paths
    .flatMap((path) => [
      ...['uid', 'gid'].map((field) => `sif "${path}" ${field} 0`),
      ...['atime', 'ctime', 'mtime', 'crtime'].map((field) => `sif "${path}" ${field} ${time}`),
    ])
    .join('\n')
    .concat('\n')
}
