import { mkdirSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { Fault } from '@typevisor/base'
import { faultOf, isErrno } from './errno.ts'

/**
 * Makes a folder for its owner alone, and those above it, where they are not there. Node's recursive `mkdir` never ends where a folder above is
 * there and takes none (/proc).
 * @throws Fault `invalid` when something else is there, `forbidden` without permission, `not_found` where there can be none, and others.
 */
export function makeFolder(path: string): void {
  const folder = resolve(path)
  const parent = dirname(folder)
  try {
    const found = statSync(folder, { throwIfNoEntry: false })
    if (found?.isDirectory()) return
    if (found) throw new Fault('invalid', `${path}: it is no folder`)
    if (parent !== folder) makeFolder(parent)
    mkdirSync(folder, { mode: 0o700 })
  } catch (error) {
    // Another made it.
    if (isErrno(error, 'EEXIST') && statSync(folder, { throwIfNoEntry: false })?.isDirectory()) return
    if (isErrno(error, 'ENAMETOOLONG')) throw new Fault('invalid', `${path}: the path is too long`, { cause: error })
    throw faultOf(`make folder ${path}`, error)
  }
}
