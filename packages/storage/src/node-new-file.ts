/** Files that are there when they are whole: until then they have another name, `.FILE.part-XXXXXXXX` beside it. */
import { access, constants, link, open, stat, unlink } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { randomUUID } from 'node:crypto'
import { Fault, type FaultCode } from '@typevisor/base'

/** What is left of a file name's 255 bytes beside `.` and `.part-XXXXXXXX`. */
const NAME_BYTES_MAX = 240

const CODES: Readonly<Record<string, FaultCode>> = {
  ENOENT: 'not_found',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
  ENOTDIR: 'invalid',
  ENAMETOOLONG: 'invalid',
}

/** An error of the operating system about a file, with the words for what it is. */
export function fileFault(what: string, error: unknown): Fault {
  if (error instanceof Fault) return error
  const { code, message } = error as NodeJS.ErrnoException
  return new Fault(CODES[code ?? ''] ?? 'failed', `${what}: ${message}`, { cause: error })
}

/**
 * Has `write` make the file `part`, which then gets its name. When that fails, or `write` does, nothing is left of it.
 *
 * @param what the words for the file in errors, such as `--output`.
 * @throws Fault `conflict` when it is there already, `invalid`, `not_found`, `forbidden` where it cannot be: before `write` is called. What `write` throws.
 */
export async function writeNewFile(what: string, path: string, write: (part: string) => Promise<void>): Promise<void> {
  const name = basename(path)
  if (name === '' || Buffer.byteLength(name) > NAME_BYTES_MAX)
    throw new Fault('invalid', `${what}: got ${JSON.stringify(path)}, want a name of 1 to ${NAME_BYTES_MAX} bytes`)
  const taken = (): Fault => new Fault('conflict', `${what}: ${path} is there already`)
  if (await stat(path).catch(() => null)) throw taken()
  const folder = dirname(resolve(path))
  await access(folder, constants.W_OK).catch((error: unknown) => {
    throw fileFault(`${what} ${path}`, error)
  })
  const part = join(folder, `.${name}.part-${randomUUID().slice(0, 8)}`)
  try {
    await write(part)
    const file = await open(part, 'r+')
    await file.sync().finally(() => file.close())
    await link(part, path).catch((error: NodeJS.ErrnoException) => {
      throw error.code === 'EEXIST' ? taken() : fileFault(`${what} ${path}`, error)
    })
  } finally {
    await unlink(part).catch(() => {}) // it may never have been made
  }
}
