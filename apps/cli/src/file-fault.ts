import { Fault } from '@typevisor/base'
import { faultOf } from '@typevisor/runtime-node'

const WRONG: ReadonlySet<unknown> = new Set(['EISDIR', 'ENOTDIR', 'ENAMETOOLONG', 'ELOOP'])

/** An error about a file that was named on the command line. What is none stays as it is. */
export function fileFault(what: string, error: unknown): unknown {
  const { code, message, syscall } = error as NodeJS.ErrnoException
  if (syscall === undefined || code === undefined) return error
  return WRONG.has(code) ? new Fault('invalid', `${what}: ${message}`, { cause: error }) : faultOf(what, error)
}
