/** On which CPUs a thread may run: sched_setaffinity(2), which Node lacks. */
import { constants } from 'node:os'
import { Fault } from '@typevisor/base'
import { libc } from './libc.ts'

/** null: it can be set; else why not. */
export const whyNoAffinity = (): string | null =>
  libc() === null ? 'sched_setaffinity cannot be called here (koffi is missing)' : null

/**
 * False: there is no such thread.
 * @throws Fault `unsupported` without koffi, `forbidden` for another user's, `invalid` when it may run on none of the CPUs.
 */
export function setThreadAffinity(tid: number, cpus: readonly number[]): boolean {
  const c = libc()
  const what = `let thread ${tid} run on CPUs ${cpus.join(',')}`
  if (!c) throw new Fault('unsupported', `${what}: ${whyNoAffinity()}`)
  // The mask is of whole longs.
  const mask = new Uint8Array(8 * Math.max(1, Math.ceil((Math.max(0, ...cpus) + 1) / 64)))
  for (const cpu of cpus) mask[cpu >> 3] = (mask[cpu >> 3] ?? 0) | (1 << (cpu & 7))
  const result = c.schedSetAffinity(tid, mask)
  if (result === 0) return true
  if (result === -constants.errno.ESRCH) return false
  if (result === -constants.errno.EPERM) throw new Fault('forbidden', `${what}: it is of another user`)
  if (result === -constants.errno.EINVAL) throw new Fault('invalid', `${what}: it may use none of them here`)
  throw new Fault('failed', `${what}: errno ${-result}`)
}
