/** The edge: one link a master, `<key> -> path of its base`, in a folder of their own. */
import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { access, mkdir, readdir, readlink, rm, stat, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import type { MasterRecords } from './nbd-volume-store.ts'

const KEY = /^[0-9a-f]{32}$/

export async function nodeMasterRecords(folder: string): Promise<MasterRecords> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const pathOf = (key: string): Promise<string | null> => orNull(readlink(join(folder, key)))
  return {
    pathOf,
    async keyOf(path) {
      if (!(await orNull(access(path, constants.R_OK).then(() => true)))) return null
      const { dev, ino, size, mtimeNs } = await stat(path, { bigint: true })
      return createHash('sha256').update(`${path}\0${dev}:${ino}:${size}:${mtimeNs}`).digest('hex').slice(0, 32)
    },
    async note(key, path) {
      if ((await pathOf(key)) === null) await symlink(path, join(folder, key))
    },
    list: async () => (await readdir(folder)).filter((name) => KEY.test(name)),
    remove: (key) => rm(join(folder, key), { force: true }),
  }
}

async function orNull<T>(promise: Promise<T>): Promise<T | null> {
  try {
    return await promise
  } catch (error) {
    if (['ENOENT', 'EACCES', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return null
    throw error
  }
}
