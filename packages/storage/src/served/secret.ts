import { Fault } from '@typevisor/base'

/** The content of a key file, which came in base64. @throws Fault `invalid`, which does not say what was there. */
export function secretOf(base64: string): Uint8Array {
  try {
    return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0))
  } catch {
    throw new Fault('invalid', `secret: got ${base64.length} characters that are not base64`)
  }
}
