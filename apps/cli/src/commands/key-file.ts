/** Key files of encrypted volumes: 32 random bytes or more, or a text. Their content is what goes to a store, never their path. */
import { readFile } from 'node:fs/promises'
import { Fault } from '@typevisor/base'

const KEY_FILE_BYTES_MAX = 64 * 1024

/** @throws Fault `not_found`, `invalid`, `failed`. */
export async function readKeyFile(path: string): Promise<Uint8Array> {
  let content: Uint8Array
  try {
    content = await readFile(path)
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Fault(code === 'ENOENT' ? 'not_found' : 'failed', `key file ${path}: ${message}`, { cause: error })
  }
  if (content.length > KEY_FILE_BYTES_MAX)
    throw new Fault('invalid', `key file ${path}: got ${content.length} bytes, want at most ${KEY_FILE_BYTES_MAX}`)
  return content
}
