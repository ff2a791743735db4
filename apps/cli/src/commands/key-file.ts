/** Key files of encrypted volumes: 32 random bytes or more, or a text. Their content is what goes to a store, never their path. */
import { readFile } from 'node:fs/promises'
import { Fault } from '@typevisor/base'
import { fileFault } from '../file-fault.ts'

const KEY_FILE_BYTES_MIN = 8
const KEY_FILE_BYTES_MAX = 64 * 1024

/** @throws Fault `not_found`, `forbidden`, `invalid`, `failed`. */
export async function readKeyFile(path: string): Promise<Uint8Array> {
  const content = await readFile(path).catch((error: unknown) => {
    throw fileFault(`key file ${path}`, error)
  })
  if (content.length < KEY_FILE_BYTES_MIN || content.length > KEY_FILE_BYTES_MAX)
    throw new Fault(
      'invalid',
      `key file ${path}: got ${content.length} bytes, want ${KEY_FILE_BYTES_MIN} to ${KEY_FILE_BYTES_MAX}`,
    )
  return content
}
