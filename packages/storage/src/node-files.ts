/** The edge: volume files of one real folder. */
import { constants } from 'node:fs'
import { access, chmod, chown, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { isAbsolute, join } from 'node:path'
import { Fault } from '@typevisor/base'
import type { VolumeFiles } from './ports.ts'

export interface NodeVolumeFilesOptions {
  /** Absolute; made when missing. */
  readonly folder: string
  /** Who shall own the volumes: the user that QEMU runs as. Missing: whoever runs this. */
  readonly owner?: { readonly uid: number; readonly gid: number } | undefined
}

export async function nodeVolumeFiles({ folder, owner }: NodeVolumeFilesOptions): Promise<VolumeFiles> {
  if (!isAbsolute(folder)) throw new Fault('invalid', `volume folder: got ${JSON.stringify(folder)}, want an absolute path`)
  await mkdir(folder, { recursive: true, mode: 0o711 })
  const at = (name: string): string => {
    if (name === '' || name === '.' || name === '..' || /[/\0]/.test(name))
      throw new Fault('invalid', `volume file: got ${JSON.stringify(name)}, want a plain name`)
    return join(folder, name)
  }
  return {
    path: at,
    async stat(name) {
      const there = await missing(stat(at(name)))
      return there === null ? null : { sizeBytes: there.size, allocatedBytes: there.blocks * 512 }
    },
    async exists(path) {
      return access(path, constants.R_OK).then(
        () => true,
        () => false,
      )
    },
    async write(name, content) {
      try {
        await using file = await open(at(name), 'wx', 0o600)
        await file.writeFile(content)
        await file.sync()
      } catch (error) {
        await rm(at(name), { force: true })
        throw spaceFault(error, at(name))
      }
    },
    async publish(from, to, mode) {
      const path = at(from)
      await chmod(path, mode)
      if (owner) await chown(path, owner.uid, owner.gid)
      await syncPath(path)
      await rename(path, at(to))
      await syncPath(folder)
    },
    async remove(name) {
      await rm(at(name), { force: true })
    },
    list: () => readdir(folder),
  }
}

async function syncPath(path: string): Promise<void> {
  try {
    await using file = await open(path, 'r')
    await file.sync()
  } catch (error) {
    throw spaceFault(error, path)
  }
}

async function missing<T>(promise: Promise<T>): Promise<T | null> {
  try {
    return await promise
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null // node's file functions throw errno errors
    throw error
  }
}

function spaceFault(error: unknown, path: string): unknown {
  const code = (error as NodeJS.ErrnoException).code
  return code === 'ENOSPC' || code === 'EDQUOT' ? new Fault('exhausted', `write ${path}: no space left`, { cause: error }) : error
}
