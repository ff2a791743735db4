/** The identity store in memory, and the suite that every identity store passes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { epochMillis, millis, type EpochMillis } from '@typevisor/base'
import { LOCAL_ACCOUNT_ID, LOCAL_ACCOUNT_NAME } from './local-account.ts'
import type { AuditEntry } from './audit.ts'
import type { AccountRecord, IdentityStore, SessionRecord, TokenRecord } from './ports.ts'
import type { AttemptRecord, ThrottlePolicy } from './throttle.ts'

const sameBytes = (a: Uint8Array, b: Uint8Array): boolean => a.length === b.length && a.every((byte, index) => byte === b[index])

const removeWhere = <T>(from: Map<string, T>, matches: (item: T) => boolean): number => {
  const found = [...from].filter(([, item]) => matches(item))
  for (const [key] of found) from.delete(key)
  return found.length
}

export function memoryIdentityStore(): IdentityStore & { readonly entries: readonly AuditEntry[] } {
  const accounts = new Map<string, AccountRecord>()
  const sessions = new Map<string, SessionRecord>()
  const tokens = new Map<string, TokenRecord>()
  const attempts = new Map<string, { count: number; windowEndsAt: EpochMillis }>()
  const entries: AuditEntry[] = []
  const record = (entry: AuditEntry | null): void => {
    if (entry) entries.push(entry)
  }
  accounts.set(LOCAL_ACCOUNT_ID, {
    id: LOCAL_ACCOUNT_ID,
    name: LOCAL_ACCOUNT_NAME,
    role: 'admin',
    passwordHash: null,
    disabled: false,
    createdAt: epochMillis(0),
  })
  const byName = (name: string): AccountRecord | null => [...accounts.values()].find((account) => account.name === name) ?? null
  const change = (id: string, fields: Partial<AccountRecord>): void => {
    const account = accounts.get(id)
    if (account) accounts.set(id, { ...account, ...fields })
  }
  return {
    entries,
    accountByName: async (name) => byName(name),
    accountById: async (id) => accounts.get(id) ?? null,
    async insertAccount(account, entry) {
      if (byName(account.name)) return false
      accounts.set(account.id, account)
      record(entry)
      return true
    },
    async setPassword(accountId, passwordHash, keptSession, entry) {
      change(accountId, { passwordHash })
      removeWhere(sessions, (session) => session.accountId === accountId && session.id !== keptSession)
      record(entry)
    },
    async upgradeHash(accountId, from, to) {
      if (accounts.get(accountId)?.passwordHash === from) change(accountId, { passwordHash: to })
    },
    async deleteAccount(accountId, entry) {
      const account = accounts.get(accountId)
      if (!account) return 'missing'
      const others = [...accounts.values()].filter(
        (other) => other.id !== accountId && other.role === 'admin' && !other.disabled && other.passwordHash !== null,
      )
      if (account.role === 'admin' && others.length === 0) return 'last-admin'
      accounts.delete(accountId)
      removeWhere(sessions, (session) => session.accountId === accountId)
      removeWhere(tokens, (token) => token.accountId === accountId)
      record(entry)
      return 'deleted'
    },
    async insertSession(session, entry) {
      record(entry)
      sessions.set(session.id, session)
    },
    async sessionByHash(secretHash) {
      const session = [...sessions.values()].find((candidate) => sameBytes(candidate.secretHash, secretHash))
      const account = session && accounts.get(session.accountId)
      return session && account ? { session, account } : null
    },
    async touchSession(id, at) {
      const session = sessions.get(id)
      if (session && session.lastSeenAt < at) sessions.set(id, { ...session, lastSeenAt: at })
    },
    async deleteSession(id, entry) {
      record(entry)
      sessions.delete(id)
    },
    pruneSessions: async (now, idleSince) =>
      removeWhere(sessions, (session) => session.expiresAt <= now || session.lastSeenAt <= idleSince),
    async insertToken(token, limit, entry) {
      const own = [...tokens.values()].filter((other) => other.accountId === token.accountId)
      if (own.some((other) => other.name === token.name)) return 'taken'
      if (own.length >= limit) return 'full'
      tokens.set(token.id, token)
      record(entry)
      return 'inserted'
    },
    async tokenById(id) {
      const token = tokens.get(id)
      const account = token && accounts.get(token.accountId)
      return token && account ? { token, account } : null
    },
    async touchToken(id, at) {
      const token = tokens.get(id)
      if (token) tokens.set(id, { ...token, lastUsedAt: at })
    },
    async deleteToken(id, accountId, entry) {
      if (tokens.get(id)?.accountId !== accountId) return false
      record(entry)
      return tokens.delete(id)
    },
    async countAttempt(keys, now, policy) {
      return keys.map(({ key }): AttemptRecord => {
        const known = attempts.get(key)
        const record =
          known && known.windowEndsAt > now
            ? { ...known, count: known.count + 1 }
            : { count: 1, windowEndsAt: epochMillis(now + policy.windowMs) }
        attempts.set(key, record)
        return { key, ...record }
      })
    },
    async settleAttempt(keys) {
      for (const { key, forget } of keys) {
        const known = attempts.get(key)
        if (forget) attempts.delete(key)
        else if (known) attempts.set(key, { ...known, count: Math.max(0, known.count - 1) })
      }
    },
    pruneAttempts: async (before) => removeWhere(attempts, (attempt) => attempt.windowEndsAt <= before),
  }
}

const at = (count: number): EpochMillis => epochMillis(1_800_000_000_000 + count)
const id = (count: number): string => `00000000-0000-7000-8000-${count.toString(16).padStart(12, '0')}`
const hash = (fill: number): Uint8Array => new Uint8Array(32).fill(fill)

const account = (count: number, fields: Partial<AccountRecord> = {}): AccountRecord => ({
  id: id(count),
  name: `account-${count}`,
  role: 'operator',
  passwordHash: 'hash',
  disabled: false,
  createdAt: at(0),
  ...fields,
})
const session = (count: number, accountId: string, fields: Partial<SessionRecord> = {}): SessionRecord => ({
  id: id(count),
  accountId,
  secretHash: hash(count % 256),
  createdAt: at(0),
  lastSeenAt: at(0),
  expiresAt: at(1000),
  address: '127.0.0.1',
  ...fields,
})
const token = (count: number, accountId: string, fields: Partial<TokenRecord> = {}): TokenRecord => ({
  id: id(count),
  accountId,
  name: `token-${count}`,
  secretHash: hash(count % 256),
  scopes: ['instance:read', '*:write'],
  createdAt: at(0),
  expiresAt: null,
  lastUsedAt: null,
  ...fields,
})

/** Every store keeps these. `make` gives a store with nothing in it but the local account. */
export function identityStoreConformance(name: string, make: () => Promise<{ store: IdentityStore } & AsyncDisposable>): void {
  const policy: ThrottlePolicy = { windowMs: millis(1000), pairLimit: 3, addressLimit: 5, accountLimit: 9 }
  const it = (title: string, work: (store: IdentityStore) => Promise<void>): void => {
    test(`${name}: ${title}`, async () => {
      await using made = await make()
      await work(made.store)
    })
  }

  it('the local account is there from the first, without a password', async (store) => {
    const local = await store.accountByName(LOCAL_ACCOUNT_NAME)
    assert.equal(local?.id, LOCAL_ACCOUNT_ID)
    assert.equal(local.passwordHash, null)
    assert.equal(local.role, 'admin')
  })

  it('an account comes back as it was put in, by id and by name', async (store) => {
    const record = account(100, { role: 'viewer', disabled: true })
    assert.equal(await store.insertAccount(record, null), true)
    assert.deepEqual(await store.accountById(record.id), record)
    assert.deepEqual(await store.accountByName(record.name), record)
    assert.equal(await store.accountByName('nobody'), null)
    assert.equal(await store.accountByName('nul\0'), null)
    assert.equal(await store.accountByName('\uD800'), null)
  })

  it('a name is taken once, also when many want it at the same time', async (store) => {
    const answers = await Promise.all(
      [100, 101, 102, 103].map((count) => store.insertAccount(account(count, { name: 'same' }), null)),
    )
    assert.equal(answers.filter(Boolean).length, 1)
  })

  it('a new password ends the sessions of that account and of no other', async (store) => {
    for (const count of [100, 101]) {
      await store.insertAccount(account(count), null)
      await store.insertSession(session(count + 100, id(count)), null)
    }
    await store.insertSession(session(202, id(100)), null)
    await store.setPassword(id(100), 'another', id(202), null)
    assert.equal((await store.accountById(id(100)))?.passwordHash, 'another')
    assert.equal(await store.sessionByHash(hash(200)), null)
    assert.ok(await store.sessionByHash(hash(201)))
  })

  it('a stronger hash replaces only the one that it was made from', async (store) => {
    await store.insertAccount(account(100, { passwordHash: 'old' }), null)
    await store.upgradeHash(id(100), 'other', 'wrong')
    assert.equal((await store.accountById(id(100)))?.passwordHash, 'old')
    await store.upgradeHash(id(100), 'old', 'new')
    assert.equal((await store.accountById(id(100)))?.passwordHash, 'new')
  })

  it('an account goes with its sessions and tokens', async (store) => {
    await store.insertAccount(account(100), null)
    await store.insertSession(session(110, id(100)), null)
    await store.insertToken(token(120, id(100)), 10, null)
    assert.equal(await store.deleteAccount(id(100), null), 'deleted')
    assert.equal(await store.deleteAccount(id(100), null), 'missing')
    assert.equal(await store.sessionByHash(hash(110)), null)
    assert.equal(await store.tokenById(id(120)), null)
  })

  it('of two admins who remove each other at the same time one stays', async (store) => {
    await store.insertAccount(account(100, { role: 'admin' }), null)
    await store.insertAccount(account(101, { role: 'admin' }), null)
    const answers = await Promise.all([store.deleteAccount(id(100), null), store.deleteAccount(id(101), null)])
    assert.deepEqual(answers.toSorted(), ['deleted', 'last-admin'])
  })

  it('an admin who is disabled or has no password does not count as another admin', async (store) => {
    await store.insertAccount(account(100, { role: 'admin' }), null)
    await store.insertAccount(account(101, { role: 'admin', disabled: true }), null)
    await store.insertAccount(account(102, { role: 'admin', passwordHash: null }), null)
    assert.equal(await store.deleteAccount(id(100), null), 'last-admin')
  })

  it('a session comes back as it was put in, is touched forward only, and is removed', async (store) => {
    await store.insertAccount(account(100), null)
    const record = session(110, id(100))
    await store.insertSession(record, null)
    await store.touchSession(record.id, at(50))
    await store.touchSession(record.id, at(20))
    const found = await store.sessionByHash(record.secretHash)
    assert.deepEqual(
      { ...found?.session, secretHash: [...(found?.session.secretHash ?? [])] },
      { ...record, lastSeenAt: at(50), secretHash: [...record.secretHash] },
    )
    assert.equal(found?.account.id, id(100))
    await store.deleteSession(record.id, null)
    assert.equal(await store.sessionByHash(record.secretHash), null)
  })

  it('sessions that are over or were not used are pruned, others stay', async (store) => {
    await store.insertAccount(account(100), null)
    await store.insertSession(session(110, id(100), { expiresAt: at(100), lastSeenAt: at(99) }), null)
    await store.insertSession(session(111, id(100), { lastSeenAt: at(10) }), null)
    await store.insertSession(session(112, id(100), { lastSeenAt: at(90) }), null)
    assert.equal(await store.pruneSessions(at(100), at(50)), 2)
    assert.ok(await store.sessionByHash(hash(112)))
  })

  it('a token comes back as it was put in; its name is taken within its account only; the limit holds', async (store) => {
    await store.insertAccount(account(100), null)
    await store.insertAccount(account(101), null)
    const record = token(110, id(100), { expiresAt: at(77) })
    assert.equal(await store.insertToken(record, 2, null), 'inserted')
    const found = await store.tokenById(record.id)
    assert.deepEqual(
      { ...found?.token, secretHash: [...(found?.token.secretHash ?? [])] },
      { ...record, secretHash: [...record.secretHash] },
    )
    assert.equal(await store.insertToken(token(111, id(100), { name: record.name }), 2, null), 'taken')
    assert.equal(await store.insertToken(token(112, id(101), { name: record.name }), 2, null), 'inserted')
    const answers = await Promise.all([113, 114, 115].map((count) => store.insertToken(token(count, id(100)), 2, null)))
    assert.deepEqual(answers.toSorted(), ['full', 'full', 'inserted'])
    await store.touchToken(record.id, at(60))
    assert.equal((await store.tokenById(record.id))?.token.lastUsedAt, at(60))
  })

  it('only the account that owns a token removes it', async (store) => {
    await store.insertAccount(account(100), null)
    await store.insertAccount(account(101), null)
    await store.insertToken(token(110, id(100)), 10, null)
    assert.equal(await store.deleteToken(id(110), id(101), null), false)
    assert.equal(await store.deleteToken(id(110), id(100), null), true)
    assert.equal(await store.deleteToken(id(110), id(100), null), false)
  })

  it('tries at the same time are all counted, and a window that is over starts anew', async (store) => {
    const keys = [
      { key: 'pair:a', limit: 3 },
      { key: 'address:b', limit: 5 },
    ]
    const answers = await Promise.all(Array.from({ length: 8 }, () => store.countAttempt(keys, at(0), policy)))
    assert.deepEqual(
      answers.map((records) => records.find((record) => record.key === 'pair:a')?.count).toSorted(),
      [1, 2, 3, 4, 5, 6, 7, 8],
    )
    assert.ok(answers.every((records) => records.every((record) => record.windowEndsAt === at(1000))))
    const [later] = await store.countAttempt([{ key: 'pair:a', limit: 3 }], at(1000), policy)
    assert.deepEqual(later, { key: 'pair:a', count: 1, windowEndsAt: at(2000) })
  })

  it('a success takes its own try back and forgets the pair', async (store) => {
    const keys = [
      { key: 'pair:a', limit: 3 },
      { key: 'address:b', limit: 5 },
    ]
    await store.countAttempt(keys, at(0), policy)
    await store.countAttempt(keys, at(0), policy)
    await store.settleAttempt([
      { key: 'pair:a', forget: true },
      { key: 'address:b', forget: false },
    ])
    assert.deepEqual(
      (await store.countAttempt(keys, at(1), policy)).map((record) => record.count),
      [1, 2],
    )
    assert.equal(await store.pruneAttempts(at(5000)), 2)
  })

  it('what somebody types as an account name is counted whatever it holds', async (store) => {
    const keys = [{ key: `pair:\0\uD800${'x'.repeat(5000)}`, limit: 3 }]
    await store.countAttempt(keys, at(0), policy)
    assert.equal((await store.countAttempt(keys, at(0), policy))[0]?.count, 2)
  })
}
