import { Fault, toFault, type FaultCode } from '@typevisor/base'

const CODES: Readonly<Record<string, FaultCode>> = {
  ENOSPC: 'exhausted',
  EDQUOT: 'exhausted',
  EFBIG: 'exhausted',
  EMFILE: 'exhausted',
  ENFILE: 'exhausted',
  ENOMEM: 'exhausted',
  ENOENT: 'not_found',
  ESRCH: 'not_found',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
  EROFS: 'forbidden',
  EEXIST: 'conflict',
  EBUSY: 'busy',
  EAGAIN: 'busy',
  ECONNREFUSED: 'unavailable',
  ECONNRESET: 'unavailable',
  EPIPE: 'unavailable',
  EIO: 'failed',
  ENOSYS: 'unsupported',
  EOPNOTSUPP: 'unsupported',
}

export const isErrno = (error: unknown, code: string): boolean =>
  error instanceof Error && (error as NodeJS.ErrnoException).code === code

/** An error of the operating system as a Fault: `append to /var/lib/x: no space left on device (ENOSPC)`. */
export function faultOf(action: string, error: unknown): Fault {
  if (error instanceof Fault) return error
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  const known = code === undefined ? undefined : CODES[code]
  if (known === undefined)
    return code === undefined ? toFault(error) : new Fault('failed', `${action}: ${(error as Error).message}`, { cause: error })
  return new Fault(known, `${action}: ${(error as Error).message}`, { cause: error })
}
