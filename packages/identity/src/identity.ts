/** Accounts, sessions and tokens over the ports, each in a file of its own: the only place that decides who somebody is. */
import { epochMillis, millis, type Clock, type EpochMillis, type IdSource, type Millis, type Rng } from '@typevisor/base'
import { accounts } from './accounts.ts'
import type { EntryOf } from './audit.ts'
import type { AccountRecord, IdentityStore, PasswordHasher, SecretCrypto, TokenRecord } from './ports.ts'
import type { Role } from './roles.ts'
import { sessions } from './sessions.ts'
import type { ThrottlePolicy } from './throttle.ts'
import { tokens } from './tokens.ts'
import { passwordTries } from './tries.ts'

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

/** What the parts are made of: the options, with a whole policy. */
export type IdentityParts = Omit<IdentityOptions, 'policy'> & { readonly policy: IdentityPolicy }

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

export function createIdentity(options: IdentityOptions): Identity {
  const { store, clock } = options
  const policy: IdentityPolicy = { ...DEFAULT_IDENTITY_POLICY, ...options.policy }
  const parts: IdentityParts = { ...options, policy }
  const tries = passwordTries(parts)
  return {
    ...sessions(parts, tries),
    ...accounts(parts, tries),
    ...tokens(parts),

    async prune() {
      const now = clock.now()
      await store.pruneSessions(now, epochMillis(now - policy.sessionIdleMs))
      await store.pruneAttempts(now)
    },
  }
}
