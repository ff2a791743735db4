import { readFileSync } from 'node:fs'

export interface SystemUser {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly home: string
}

/** A user of /etc/passwd (passwd(5)); null when there is none. Directories (LDAP) are not asked: a service's user is local. */
export const userByName = (name: string, passwd = readPasswd()): SystemUser | null =>
  passwd.find((user) => user.name === name) ?? null
export const userById = (uid: number, passwd = readPasswd()): SystemUser | null => passwd.find((user) => user.uid === uid) ?? null

export const isRoot = (): boolean => process.geteuid?.() === 0

function readPasswd(): SystemUser[] {
  try {
    return parsePasswd(readFileSync('/etc/passwd', 'utf8'))
  } catch {
    return []
  }
}

export function parsePasswd(content: string): SystemUser[] {
  const users: SystemUser[] = []
  for (const line of content.split('\n')) {
    const [name, , uid, gid, , home] = line.split(':')
    if (!name || name.startsWith('#') || !/^\d+$/.test(uid ?? '') || !/^\d+$/.test(gid ?? '')) continue
    users.push({ name, uid: Number(uid), gid: Number(gid), home: home ?? '/' })
  }
  return users
}
