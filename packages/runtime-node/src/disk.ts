import { mkdirSync } from 'node:fs'
import { open, readdir, readFile, rename, rm, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { Fault, type AppendFile, type Disk } from '@typevisor/base'
import { faultOf, isErrno } from './errno.ts'

/** What a `replace` that did not end leaves behind; never listed, overwritten by the next one. */
const TEMPORARY = /\.replace-tmp$/

/**
 * The `Disk` port over one folder, made (mode 0700) when missing. Content goes through fdatasync; a new name and a rename also
 * through fsync of the folder, without which a crash may forget the name.
 */
export function nodeDisk(folder: string): Disk {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const pathOf = (action: string, name: string): string => {
    if (!/^[^/\\\0]+$/.test(name) || name === '.' || name === '..' || TEMPORARY.test(name)) {
      throw new Fault('invalid', `${action} file ${JSON.stringify(name)}: want a plain name`)
    }
    return join(folder, name)
  }
  const syncFolder = async (): Promise<void> => {
    await using handle = await open(folder, 'r')
    await handle.sync()
  }
  const attempt = async <T>(action: string, work: () => Promise<T>): Promise<T> => {
    try {
      return await work()
    } catch (error) {
      throw faultOf(action, error)
    }
  }

  return {
    async read(name) {
      const path = pathOf('read', name)
      return attempt(`read ${path}`, async () => {
        try {
          return new Uint8Array(await readFile(path))
        } catch (error) {
          if (isErrno(error, 'ENOENT')) return null
          throw error
        }
      })
    },
    async open(name) {
      const path = pathOf('open', name)
      return attempt(`open ${path}`, async () => {
        let made = false
        let handle: FileHandle
        try {
          handle = await open(path, 'ax', 0o600)
          made = true
        } catch (error) {
          if (!isErrno(error, 'EEXIST')) throw error
          handle = await open(path, 'a')
        }
        if (made) await syncFolder()
        return new NodeAppendFile(path, handle, (await handle.stat()).size)
      })
    },
    async replace(name, content) {
      const path = pathOf('replace', name)
      await attempt(`replace ${path}`, async () => {
        const temporary = `${path}.replace-tmp`
        {
          await using handle = await open(temporary, 'w', 0o600)
          await handle.writeFile(content)
          await handle.datasync()
        }
        await rename(temporary, path)
        await syncFolder()
      })
    },
    async remove(name) {
      const path = pathOf('remove', name)
      await attempt(`remove ${path}`, () => rm(path, { force: true }))
    },
    async list() {
      return attempt(`list ${folder}`, async () => {
        const entries = await readdir(folder, { withFileTypes: true })
        return entries
          .filter((entry) => entry.isFile() && !TEMPORARY.test(entry.name))
          .map((entry) => entry.name)
          .sort()
      })
    },
  }
}

class NodeAppendFile implements AppendFile {
  readonly #path: string
  readonly #handle: FileHandle
  #sizeBytes: number
  #turn: Promise<unknown> = Promise.resolve()

  constructor(path: string, handle: FileHandle, sizeBytes: number) {
    this.#path = path
    this.#handle = handle
    this.#sizeBytes = sizeBytes
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  append(content: Uint8Array): Promise<void> {
    const copy = content.slice()
    return this.#inTurn('append to', async () => {
      let written = 0
      while (written < copy.length) {
        const { bytesWritten } = await this.#handle.write(copy, written, copy.length - written)
        written += bytesWritten
        this.#sizeBytes += bytesWritten
      }
    })
  }

  sync(): Promise<void> {
    return this.#inTurn('sync', () => this.#handle.datasync())
  }

  truncate(sizeBytes: number): Promise<void> {
    return this.#inTurn('truncate', async () => {
      await this.#handle.truncate(sizeBytes)
      this.#sizeBytes = sizeBytes
    })
  }

  close(): Promise<void> {
    return this.#inTurn('close', () => this.#handle.close())
  }

  /** In the order of asking: a file opened for appending has one end. */
  #inTurn(action: string, work: () => Promise<void>): Promise<void> {
    const done = this.#turn.then(work).catch((error: unknown) => {
      throw faultOf(`${action} ${this.#path}`, error)
    })
    this.#turn = done.catch(() => {})
    return done
  }
}
