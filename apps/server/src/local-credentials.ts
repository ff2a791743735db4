/**
 * The local credential: `credentials.json` in the data directory, readable by its owner alone, holds the server's address and a bearer
 * of an admin, so that the command line on the same machine needs no password. Made anew at each start; the old one ends with the
 * process that made it, since only its hash is kept, and only in memory.
 */
import { chmod, open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { IdSource, Rng } from '@typevisor/base'
import { LOCAL_ACCOUNT_ID, LOCAL_ACCOUNT_NAME, newBearer, parseBearer, type Caller, type SecretCrypto } from '@typevisor/identity'

export const CREDENTIALS_FILE = 'credentials.json'

export interface LocalCredentials {
  /** The text of the file's `token`. */
  readonly token: string
  /** null: it is not this server's local credential. */
  callerOf(bearer: string): Caller | null
  /** Writes the file, atomically, mode 0600. */
  /** `certificate`: what the server shows by TLS (PEM), so that local clients can know it by itself, whoever signed it. */
  write(dataPath: string, url: string, certificate?: string): Promise<void>
  /** Removes the file if it still is this server's. */
  remove(dataPath: string): Promise<void>
}

export function createLocalCredentials(rng: Rng, crypto: SecretCrypto, ids: IdSource): LocalCredentials {
  const id = ids.next()
  const { text, hash } = newBearer('local', id, rng, crypto)
  const caller: Caller = {
    accountId: LOCAL_ACCOUNT_ID,
    accountName: LOCAL_ACCOUNT_NAME,
    role: 'admin',
    scopes: ['*'],
    via: 'local',
    credentialId: id,
    csrfToken: null,
    expiresAt: null,
  }
  return {
    token: text,
    callerOf(bearer) {
      const parsed = parseBearer(bearer)
      return parsed?.kind === 'local' && parsed.id === id && crypto.equal(crypto.sha256(parsed.secret), hash) ? caller : null
    },
    async write(dataPath, url, certificate) {
      const path = join(dataPath, CREDENTIALS_FILE)
      const draftPath = `${path}.${id}`
      const file = await open(draftPath, 'wx', 0o600)
      try {
        await file.writeFile(`${JSON.stringify({ url, token: text, pid: process.pid, certificate }, null, 2)}\n`)
        await file.sync()
      } finally {
        await file.close()
      }
      await chmod(draftPath, 0o600) // whatever the umask made of it
      await rename(draftPath, path)
    },
    async remove(dataPath) {
      const path = join(dataPath, CREDENTIALS_FILE)
      const content = await readFile(path, 'utf8').catch(() => '')
      if (content.includes(text)) await rm(path, { force: true })
    },
  }
}
