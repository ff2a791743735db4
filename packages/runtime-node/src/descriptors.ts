/** Open files handed to another process over a unix socket: sendmsg(2) with SCM_RIGHTS, which Node lacks. */
import { constants } from 'node:os'
import { Fault } from '@typevisor/base'
import { libc } from './libc.ts'

/** null: they can be; else why not. */
export const whyNoDescriptors = (): string | null => (libc() === null ? 'sendmsg cannot be called here (koffi is missing)' : null)

/**
 * Sends what the socket takes now of `content`, and with its first byte a copy of `descriptor`, which stays the caller's. Never waits.
 * @returns how many bytes went; 0: the socket takes none now, and the descriptor has not gone either.
 * @throws Fault `unsupported` without koffi, `unavailable` when the other side has gone.
 */
export function sendDescriptor(socket: number, content: Uint8Array, descriptor: number): number {
  const c = libc()
  if (!c) throw new Fault('unsupported', `send a descriptor: ${whyNoDescriptors()}`)
  const result = c.sendDescriptor(socket, content, descriptor)
  if (result >= 0) return result
  if (result === -constants.errno.EAGAIN) return 0
  if (result === -constants.errno.EPIPE || result === -constants.errno.ECONNRESET)
    throw new Fault('unavailable', 'send a descriptor: the other side has closed the connection')
  throw new Fault('failed', `send a descriptor: errno ${-result}`)
}
