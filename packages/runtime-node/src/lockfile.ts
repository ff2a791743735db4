import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { dirname } from 'node:path'
import { Fault } from '@typevisor/base'
import { faultOf } from './errno.ts'
import { makeFolder } from './folder.ts'
import { libc, LOCK_EX_NB, LOCK_SH_NB } from './libc.ts'
import { processIdentity, type ProcessIdentity } from './process.ts'

export interface LockFile extends Disposable {
  readonly path: string
}

/**
 * Takes a lock that goes with this process: the kernel lets go of it at our death, however we die (flock(2)), so there are no stale
 * locks. The file stays and names who held it last.
 * Its folder is made where there is none.
 * @throws Fault `conflict`, naming the pid of the holder; as `makeFolder`; `unsupported` where the C library cannot be called.
 */
export function lockFile(path: string): LockFile {
  const c = libc()
  if (!c) throw new Fault('unsupported', `lock ${path}: flock cannot be called here (koffi is missing)`)
  let fd: number
  makeFolder(dirname(path))
  try {
    fd = openSync(path, 'a+', 0o600)
  } catch (error) {
    throw faultOf(`lock ${path}`, error)
  }
  const result = c.flock(fd, LOCK_EX_NB)
  if (result !== 0) {
    closeSync(fd)
    if (result !== -constants.errno.EWOULDBLOCK) throw new Fault('failed', `lock ${path}: errno ${-result}`)
    throw new Fault('conflict', `${dirname(path)} is in use by process ${readFileSync(path, 'ascii').trim() || '(unknown)'}`)
  }
  ftruncateSync(fd)
  writeSync(fd, `${process.pid}\n`)
  return { path, [Symbol.dispose]: () => closeSync(fd) }
}

/** Who holds the lock now; null when nobody does, or it cannot be told. */
export function lockHolder(path: string): ProcessIdentity | null {
  const c = libc()
  if (!c) return null
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch {
    return null
  }
  try {
    if (c.flock(fd, LOCK_SH_NB) !== -constants.errno.EWOULDBLOCK) return null
    return processIdentity(Number(readFileSync(path, 'ascii').trim()))
  } finally {
    closeSync(fd)
  }
}
