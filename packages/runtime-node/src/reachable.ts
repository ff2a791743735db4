import { statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { faultOf, isErrno } from './errno.ts'

export interface Credentials {
  readonly uid: number
  readonly gid: number
  readonly groups?: readonly number[]
}

export type Reachability =
  | { readonly kind: 'reachable' }
  /** `path` is the first obstacle: a folder that may not be searched, or the thing itself. */
  | { readonly kind: 'blocked'; readonly path: string; readonly want: 'search' | 'read' | 'write' }
  | { readonly kind: 'missing'; readonly path: string }

const BITS = { search: 1, write: 2, read: 4 } as const

/**
 * Can a process with these credentials reach the path? Every folder above it must be searchable (path_resolution(7)), and the thing
 * itself must grant `access`. Judged by mode bits; access control lists are not read. Links are followed.
 */
export function reachable(path: string, who: Credentials, access: readonly ('search' | 'read' | 'write')[] = []): Reachability {
  const parents: string[] = []
  const whole = resolve(path)
  for (let folder = dirname(whole); ; folder = dirname(folder)) {
    parents.unshift(folder)
    if (folder === dirname(folder)) break
  }
  for (const folder of parents) {
    const obstacle = obstacleAt(folder, who, ['search'])
    if (obstacle) return obstacle
  }
  return obstacleAt(whole, who, access) ?? { kind: 'reachable' }
}

function obstacleAt(path: string, who: Credentials, access: readonly (keyof typeof BITS)[]): Reachability | null {
  let mode: number
  let uid: number
  let gid: number
  try {
    ;({ mode, uid, gid } = statSync(path))
  } catch (error) {
    if (isErrno(error, 'ENOENT') || isErrno(error, 'ENOTDIR')) return { kind: 'missing', path }
    throw faultOf(`look at ${path}`, error)
  }
  if (who.uid === 0) return null
  const shift = who.uid === uid ? 6 : who.gid === gid || who.groups?.includes(gid) ? 3 : 0
  for (const want of access) if (((mode >> shift) & BITS[want]) === 0) return { kind: 'blocked', path, want }
  return null
}
