/** Signing in and out, and who is behind a session's cookie. */
import { epochMillis, Fault } from '@typevisor/base'
import type { Identity, IdentityParts } from './identity.ts'
import { csrfTokenOf, hashOfSecret, newSecret } from './secrets.ts'
import type { PasswordTries } from './tries.ts'

/** The same words whatever was wrong. */
const wrong = (): Fault => new Fault('unauthenticated', 'sign in: the account or the password is wrong')

type Sessions = Pick<Identity, 'signIn' | 'signOut' | 'callerOfSession'>

export function sessions({ store, hasher, crypto, clock, rng, ids, policy }: IdentityParts, tries: PasswordTries): Sessions {
  return {
    async signIn({ account: name, password, address }, entry) {
      const now = clock.now()
      const attempt = await tries.count('sign in', name, address)
      const account = await store.accountByName(name)
      const usable = account !== null && account.passwordHash !== null && !account.disabled ? account.passwordHash : null
      if (!(await tries.matches(password, usable)) || !account || usable === null) throw wrong()
      if (hasher.outdated(usable)) await store.upgradeHash(account.id, usable, await hasher.hash(password))
      await attempt.passed()
      const secret = newSecret(rng, crypto)
      const expiresAt = epochMillis(now + policy.sessionLifetimeMs)
      const sessionId = ids.next()
      const session = {
        id: sessionId,
        accountId: account.id,
        secretHash: secret.hash,
        createdAt: now,
        lastSeenAt: now,
        expiresAt,
        address,
      }
      await store.insertSession(session, entry(account.id, account.name))
      return { account, secret: secret.text, csrfToken: csrfTokenOf(secret.text, crypto), expiresAt, sessionId }
    },

    signOut: (caller, entry) => store.deleteSession(caller.credentialId, entry(caller.accountId, caller.accountName)),

    async callerOfSession(secret, { quiet = false } = {}) {
      const hash = hashOfSecret(secret, crypto)
      const found = hash && (await store.sessionByHash(hash))
      if (!found || !crypto.equal(found.session.secretHash, hash)) return null
      const { session, account } = found
      const now = clock.now()
      if (account.disabled || now >= session.expiresAt || now - session.lastSeenAt >= policy.sessionIdleMs) return null
      if (!quiet && now - session.lastSeenAt >= policy.touchEveryMs) await store.touchSession(session.id, now)
      return {
        accountId: account.id,
        accountName: account.name,
        role: account.role,
        scopes: ['*'],
        via: 'session',
        credentialId: session.id,
        csrfToken: csrfTokenOf(secret, crypto),
        expiresAt: session.expiresAt,
      }
    },
  }
}
