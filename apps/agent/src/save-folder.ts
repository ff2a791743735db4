/** Where a host keeps saved memory, core dumps and what firmware has written down: files of one folder, each of one domain. */
import { createHash } from 'node:crypto'
import { open, readdir, rename, rm, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Fault } from '@typevisor/base'
import type { SaveFolder } from '@typevisor/toolstack'

const READ_BYTES = 1024 * 1024
/** As the driver's own, beside what it is to be: `keepOnly` takes away both. */
const PARTIAL = '.partial'

/** `<domain>.<save's name, hashed>.save`, and what is put beside it while it is written. */
export const saveFolder = (folder: string): SaveFolder => ({
  pathOf: (id, save) => join(folder, `${id}.${createHash('sha256').update(save).digest('hex').slice(0, 16)}.save`),
  async keepOnly(id, paths) {
    for (const name of await readdir(folder)) {
      if (name.startsWith(`${id}.`) && !paths.includes(join(folder, name))) await rm(join(folder, name), { force: true })
    }
  },
  async freeBytes() {
    const { bavail, bsize } = await statfs(folder)
    return bavail * bsize
  },
  async *read(path) {
    const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'ENOENT' ? new Fault('not_found', `read ${path}: there is no such file`, { cause: error }) : error
    })
    try {
      while (true) {
        const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(READ_BYTES), 0, READ_BYTES)
        if (bytesRead === 0) return
        yield buffer.subarray(0, bytesRead)
      }
    } finally {
      await file.close()
    }
  },
  async write(path, content) {
    const partial = `${path}${PARTIAL}`
    let sizeBytes = 0
    try {
      const file = await open(partial, 'w', 0o600)
      try {
        for await (const chunk of content) {
          await file.writeFile(chunk)
          sizeBytes += chunk.length
        }
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(partial, path)
    } catch (error) {
      await rm(partial, { force: true })
      throw full(error) ? new Fault('exhausted', `write ${path}: no space left`, { cause: error }) : error
    }
    const parent = await open(dirname(path), 'r')
    try {
      await parent.sync()
    } finally {
      await parent.close()
    }
    return { sizeBytes }
  },
})

const full = (error: unknown): boolean => ['ENOSPC', 'EDQUOT'].includes((error as NodeJS.ErrnoException).code ?? '')
