/** A named pipe: mkfifo(3), which Node lacks. */
import { getSystemErrorMessage } from 'node:util'
import { Fault } from '@typevisor/base'
import { libc } from './libc.ts'

/**
 * Makes one that its owner alone reads and writes. False: it cannot be called here (koffi is missing), and the program `mkfifo` has to.
 * @throws Fault `failed` with the system's word.
 */
export function makeNamedPipe(path: string): boolean {
  const result = libc()?.mkfifo(path, 0o600)
  if (result === undefined) return false
  if (result < 0) throw new Fault('failed', `make the pipe ${path}: ${getSystemErrorMessage(result)}`)
  return true
}
