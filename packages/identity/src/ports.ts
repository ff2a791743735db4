import type { EpochMillis } from '@typevisor/base'
import type { AuditEntry } from './audit.ts'
import type { Role } from './roles.ts'
import type { AttemptKey, AttemptRecord, ThrottlePolicy } from './throttle.ts'

export interface AccountRecord {
  readonly id: string
  readonly name: string
  readonly role: Role
  /** PHC string; null: nobody signs in to it by password. */
  readonly passwordHash: string | null
  readonly disabled: boolean
  readonly createdAt: EpochMillis
}

export interface SessionRecord {
  readonly id: string
  readonly accountId: string
  /** SHA-256 of the secret, 32 bytes. */
  readonly secretHash: Uint8Array
  readonly createdAt: EpochMillis
  readonly lastSeenAt: EpochMillis
  /** The session ends then, however busy it is. */
  readonly expiresAt: EpochMillis
  readonly address: string
}

export interface TokenRecord {
  readonly id: string
  readonly accountId: string
  readonly name: string
  readonly secretHash: Uint8Array
  readonly scopes: readonly string[]
  readonly createdAt: EpochMillis
  readonly expiresAt: EpochMillis | null
  readonly lastUsedAt: EpochMillis | null
}

/**
 * Where accounts, sessions, tokens and login tries live. Each call is atomic by itself, and `entry` is of it: written when, and only when,
 * the change is.
 */
export interface IdentityStore {
  accountByName(name: string): Promise<AccountRecord | null>
  accountById(id: string): Promise<AccountRecord | null>
  /** False when the name is taken; nothing is written then. */
  insertAccount(account: AccountRecord, entry: AuditEntry | null): Promise<boolean>
  /** Sets the hash and ends all sessions of the account but `keptSession`, both or neither. */
  setPassword(accountId: string, passwordHash: string, keptSession: string | null, entry: AuditEntry | null): Promise<void>
  /** Replaces `from` by `to` when `from` is still there: a stronger hash of the same password. Sessions go on. */
  upgradeHash(accountId: string, from: string, to: string): Promise<void>
  /** Removes the account with its sessions and tokens. `last-admin`: it is the last enabled admin with a password; nothing is removed. */
  deleteAccount(accountId: string, entry: AuditEntry | null): Promise<'deleted' | 'missing' | 'last-admin'>

  insertSession(session: SessionRecord, entry: AuditEntry | null): Promise<void>
  sessionByHash(secretHash: Uint8Array): Promise<{ session: SessionRecord; account: AccountRecord } | null>
  touchSession(id: string, at: EpochMillis): Promise<void>
  deleteSession(id: string, entry: AuditEntry | null): Promise<void>
  /** Removes sessions that are older than their end or were not used since `idleSince`; answers how many. */
  pruneSessions(now: EpochMillis, idleSince: EpochMillis): Promise<number>

  /** `taken`: this account has a token of this name. `full`: it has `limit` tokens. */
  insertToken(token: TokenRecord, limit: number, entry: AuditEntry | null): Promise<'inserted' | 'taken' | 'full'>
  tokenById(id: string): Promise<{ token: TokenRecord; account: AccountRecord } | null>
  touchToken(id: string, at: EpochMillis): Promise<void>
  /** Only a token of this account. False: there is none. */
  deleteToken(id: string, accountId: string, entry: AuditEntry | null): Promise<boolean>

  /** Counts one try for each key at once, starting a new window where the old one has run out; answers the records after it. */
  countAttempt(keys: readonly AttemptKey[], now: EpochMillis, policy: ThrottlePolicy): Promise<readonly AttemptRecord[]>
  /** Takes back what `countAttempt` counted for one successful try; `forget` drops the key altogether. */
  settleAttempt(keys: readonly { key: string; forget: boolean }[]): Promise<void>
  pruneAttempts(before: EpochMillis): Promise<number>
}

/** argon2id at the edge: `apps/server` has it by node:crypto. Both are slow on purpose. @throws Fault `busy` when too many wait. */
export interface PasswordHasher {
  hash(password: string): Promise<string>
  verify(password: string, passwordHash: string): Promise<boolean>
  /** The hash was made with other parameters than `hash` uses now. */
  outdated(passwordHash: string): boolean
}

export interface SecretCrypto {
  sha256(content: Uint8Array): Uint8Array
  hmacSha256(key: Uint8Array, content: Uint8Array): Uint8Array
  /** Takes the same time wherever the two differ. Unequal lengths are unequal. */
  equal(a: Uint8Array, b: Uint8Array): boolean
}
