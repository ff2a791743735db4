/** Accounts, sessions and tokens over the ports: the only place that decides who somebody is. */
import { epochMillis, Fault, millis, type Clock, type EpochMillis, type IdSource, type Millis, type Rng } from '@typevisor/base'
import type { EntryOf } from './audit.ts'
import type { AccountRecord, IdentityStore, PasswordHasher, SecretCrypto, TokenRecord } from './ports.ts'
import { roleAllows, type Role } from './roles.ts'
import { scopesCover } from './scopes.ts'
import { csrfTokenOf, hashOfSecret, newBearer, newSecret, parseBearer } from './secrets.ts'
import { attemptKeys, decide, type ThrottlePolicy } from './throttle.ts'

/** The account behind the local credential: the machine's own user. It has no password and is never removed. */
export const LOCAL_ACCOUNT_ID = '00000000-0000-7000-8000-000000010ca1'
export const LOCAL_ACCOUNT_NAME = 'local'

/** Who calls. `local`: the machine's own user, by the credentials file in the data directory. */
export interface Caller {
  readonly accountId: string
  readonly accountName: string
  readonly role: Role
  readonly scopes: readonly string[]
  readonly via: 'session' | 'token' | 'local'
  /** Id of the session or token. */
  readonly credentialId: string
  /** What the portal must send with every change; null where no cookie is involved. */
  readonly csrfToken: string | null
  readonly expiresAt: EpochMillis | null
}

export interface IdentityPolicy {
  readonly sessionIdleMs: Millis
  readonly sessionLifetimeMs: Millis
  /** Last use is written at most so often. */
  readonly touchEveryMs: Millis
  readonly tokenCountMax: number
  readonly throttle: ThrottlePolicy
}

const MINUTE = 60_000
export const DEFAULT_IDENTITY_POLICY: IdentityPolicy = {
  sessionIdleMs: millis(8 * 60 * MINUTE),
  sessionLifetimeMs: millis(7 * 24 * 60 * MINUTE),
  touchEveryMs: millis(MINUTE),
  tokenCountMax: 100,
  throttle: { windowMs: millis(15 * MINUTE), pairLimit: 8, addressLimit: 60, accountLimit: 200 },
}

export interface IdentityOptions {
  readonly store: IdentityStore
  readonly hasher: PasswordHasher
  readonly crypto: SecretCrypto
  readonly clock: Clock
  readonly rng: Rng
  readonly ids: IdSource
  readonly policy?: Partial<IdentityPolicy>
}

export interface SignedIn {
  readonly account: AccountRecord
  /** Goes into the cookie; kept nowhere. */
  readonly secret: string
  readonly csrfToken: string
  readonly expiresAt: EpochMillis
  readonly sessionId: string
}

export interface Identity {
  /** @throws Fault `unauthenticated` (never saying which part was wrong) or `busy` (too many tries). */
  signIn(request: { account: string; password: string; address: string }, entry: EntryOf): Promise<SignedIn>
  signOut(caller: Caller, entry: EntryOf): Promise<void>
  /** The caller behind a session cookie; null: there is no such session, or it has ended. `quiet`: this is not a use of it. */
  callerOfSession(secret: string, options?: { quiet?: boolean }): Promise<Caller | null>
  /** The caller behind an API token (`tv_...`); null: no such token, or it has ended. */
  callerOfToken(bearer: string, options?: { quiet?: boolean }): Promise<Caller | null>

  account(name: string): Promise<AccountRecord | null>
  accountById(id: string): Promise<AccountRecord | null>
  /** @throws Fault `conflict` when the name is taken. */
  createAccount(request: { name: string; role: Role; password: string }, entry: EntryOf): Promise<AccountRecord>
  /**
   * Ends the sessions of the account, but not the one that asks. Whoever sets the password of their own account shows that they know the one
   * until now: a session or token that somebody else got hold of does not take the account over. Wrong ones count as tries to sign in.
   * @throws Fault `forbidden` unless it is the caller's own or the caller is an admin, or naming `body.currentPassword`; `not_found`; `busy`.
   */
  setPassword(
    caller: Caller,
    request: { name: string; password: string; currentPassword?: string | undefined; address: string },
    entry: EntryOf,
  ): Promise<AccountRecord>
  /** @throws Fault `not_found`; `conflict` for the last admin and the local account. */
  deleteAccount(name: string, entry: EntryOf): Promise<AccountRecord>

  /** @throws Fault `forbidden` when the caller may do less than the token would, `conflict` when the name is taken, `exhausted`, `invalid`. */
  createToken(
    caller: Caller,
    request: { name: string; scopes: readonly string[]; expiresAt?: number | undefined },
    entry: EntryOf,
  ): Promise<{ token: TokenRecord; secret: string }>
  /** @throws Fault `not_found`. */
  revokeToken(caller: Caller, id: string, entry: EntryOf): Promise<void>

  /** Removes what has ended. Safe at any time, on any number of servers. */
  prune(): Promise<void>
}

/** The same words whatever was wrong. */
const wrong = (): Fault => new Fault('unauthenticated', 'sign in: the account or the password is wrong')

export function createIdentity(options: IdentityOptions): Identity {
  const { store, hasher, crypto, clock, rng, ids } = options
  const policy: IdentityPolicy = { ...DEFAULT_IDENTITY_POLICY, ...options.policy }

  /** What is verified where there is no account: the same work, and it never matches. Made once, when first needed. */
  let decoy: Promise<string> | undefined
  const decoyHash = (): Promise<string> => {
    decoy ??= hasher.hash(newSecret(rng, crypto).text).catch((error: unknown) => {
      decoy = undefined
      throw error
    })
    return decoy
  }

  const mustFind = async (name: string): Promise<AccountRecord> => {
    const account = await store.accountByName(name)
    if (!account) throw new Fault('not_found', `account ${name}: there is none`)
    return account
  }

  /** Counts a try before the password is looked at; `passed` is called when it was right. @throws Fault `busy` after too many. */
  const countTry = async (what: string, name: string, address: string): Promise<{ passed: () => Promise<void> }> => {
    const now = clock.now()
    const keys = attemptKeys(name, address, policy.throttle)
    const verdict = decide(keys, await store.countAttempt(keys, now, policy.throttle), now)
    if (verdict.kind === 'wait') {
      const waitSeconds = Math.ceil(verdict.waitMs / 1000)
      throw new Fault('busy', `${what}: too many tries, wait ${waitSeconds} s`, { cause: { retryAfterSeconds: waitSeconds } })
    }
    return { passed: () => store.settleAttempt(keys.map(({ key }) => ({ key, forget: key.startsWith('pair:') }))) }
  }

  /** @throws Fault `forbidden` naming the field, `busy`. */
  const assertKnows = async (account: AccountRecord, password: string | undefined, address: string): Promise<void> => {
    const refuse = (got: string): Fault => {
      const detail = { path: 'body.currentPassword', want: `the password of ${account.name} until now`, got }
      return new Fault('forbidden', `set password of ${account.name}: ${detail.path}: got ${got}, want ${detail.want}`, {
        details: [detail],
      })
    }
    if (password === undefined) throw refuse('nothing')
    const attempt = await countTry(`set password of ${account.name}`, account.name, address)
    if (account.passwordHash === null || !(await hasher.verify(password, account.passwordHash))) throw refuse('another one')
    await attempt.passed()
  }

  return {
    async signIn({ account: name, password, address }, entry) {
      const now = clock.now()
      const attempt = await countTry('sign in', name, address)
      const account = await store.accountByName(name)
      const usable = account !== null && account.passwordHash !== null && !account.disabled ? account.passwordHash : null
      const matches = await hasher.verify(password, usable ?? (await decoyHash()))
      if (!account || usable === null || !matches) throw wrong()
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

    async callerOfToken(text, { quiet = false } = {}) {
      const bearer = parseBearer(text)
      if (bearer?.kind !== 'api') return null
      const found = await store.tokenById(bearer.id)
      // The hash is compared even where there is no row, so that the time says nothing about which ids exist.
      const matches = crypto.equal(found?.token.secretHash ?? new Uint8Array(32), crypto.sha256(bearer.secret))
      if (!found || !matches) return null
      const { token, account } = found
      const now = clock.now()
      if (account.disabled || (token.expiresAt !== null && now >= token.expiresAt)) return null
      if (!quiet && (token.lastUsedAt === null || now - token.lastUsedAt >= policy.touchEveryMs))
        await store.touchToken(token.id, now)
      return {
        accountId: account.id,
        accountName: account.name,
        role: account.role,
        scopes: token.scopes,
        via: 'token',
        credentialId: token.id,
        csrfToken: null,
        expiresAt: token.expiresAt,
      }
    },

    account: (name) => store.accountByName(name),
    accountById: (id) => store.accountById(id),

    async createAccount({ name, role, password }, entry) {
      const account: AccountRecord = {
        id: ids.next(),
        name,
        role,
        passwordHash: await hasher.hash(password),
        disabled: false,
        createdAt: clock.now(),
      }
      if (!(await store.insertAccount(account, entry(account.id, name))))
        throw new Fault('conflict', `make account ${name}: there is one of this name`)
      return account
    },

    async setPassword(caller, { name, password, currentPassword, address }, entry) {
      const own = caller.accountName === name
      // Somebody else's account is not looked up before this: a viewer learns no names here.
      if (!own && !roleAllows(caller.role, 'admin'))
        throw new Fault('forbidden', `set password of ${name}: only an admin may, or ${name}`)
      const account = await mustFind(name)
      if (account.id === LOCAL_ACCOUNT_ID) {
        throw new Fault('forbidden', `set password of ${name}: it is used by the credentials file only and has no password`)
      }
      if (own) await assertKnows(account, currentPassword, address)
      const passwordHash = await hasher.hash(password)
      const keptSession = own && caller.via === 'session' ? caller.credentialId : null
      await store.setPassword(account.id, passwordHash, keptSession, entry(account.id, name))
      return { ...account, passwordHash }
    },

    async deleteAccount(name, entry) {
      const account = await mustFind(name)
      if (account.id === LOCAL_ACCOUNT_ID)
        throw new Fault('conflict', `remove account ${name}: the platform's own command line uses it`)
      const outcome = await store.deleteAccount(account.id, entry(account.id, name))
      if (outcome === 'missing') throw new Fault('not_found', `account ${name}: there is none`)
      if (outcome === 'last-admin')
        throw new Fault('conflict', `remove account ${name}: it is the last admin; make another one first`)
      return account
    },

    async createToken(caller, { name, scopes, expiresAt }, entry) {
      const now = clock.now()
      if (expiresAt !== undefined && expiresAt <= now) {
        const detail = { path: 'body.expiresAt', want: `a time after ${now}`, got: String(expiresAt) }
        throw new Fault('invalid', `${detail.path}: got ${detail.got}, want ${detail.want}`, { details: [detail] })
      }
      if (!scopesCover(caller.scopes, scopes)) {
        throw new Fault(
          'forbidden',
          `make token ${name}: want at most the scopes that you have (${caller.scopes.join(' ')}), got ${scopes.join(' ')}`,
        )
      }
      const endsAt = expiresAt ?? null
      // A token made by a token that ends must not outlive it.
      if (caller.via === 'token' && caller.expiresAt !== null && (endsAt === null || endsAt > caller.expiresAt)) {
        throw new Fault(
          'forbidden',
          `make token ${name}: it would outlive the token that asks, which ends at ${caller.expiresAt}`,
        )
      }
      const id = ids.next()
      const secret = newBearer('api', id, rng, crypto)
      const token: TokenRecord = {
        id,
        accountId: caller.accountId,
        name,
        secretHash: secret.hash,
        scopes,
        createdAt: now,
        expiresAt: endsAt === null ? null : epochMillis(endsAt),
        lastUsedAt: null,
      }
      const outcome = await store.insertToken(token, policy.tokenCountMax, entry(id, name))
      if (outcome === 'taken') throw new Fault('conflict', `make token ${name}: you have one of this name`)
      if (outcome === 'full')
        throw new Fault('exhausted', `make token ${name}: you have ${policy.tokenCountMax} tokens, which is the limit`)
      return { token, secret: secret.text }
    },

    async revokeToken(caller, id, entry) {
      if (!(await store.deleteToken(id, caller.accountId, entry(id, null))))
        throw new Fault('not_found', `token ${id}: you have none of this id`)
    },

    async prune() {
      const now = clock.now()
      await store.pruneSessions(now, epochMillis(now - policy.sessionIdleMs))
      await store.pruneAttempts(now)
    },
  }
}
