import assert from 'node:assert/strict'
import { createHash, createHmac } from 'node:crypto'
import { test } from 'node:test'
import { epochMillis, Fault, millis } from '@typevisor/base'
import { seededRng, sequentialIds, virtualClock } from '@typevisor/sim'
import { unrecorded, type EntryOf } from './audit.ts'
import { createIdentity, type Caller, type IdentityPolicy } from './identity.ts'
import { LOCAL_ACCOUNT_ID } from './local-account.ts'
import type { PasswordHasher, SecretCrypto } from './ports.ts'
import { csrfTokenOf } from './secrets.ts'
import { identityStoreConformance, memoryIdentityStore } from './testing.ts'

identityStoreConformance('memory store', async () => ({ store: memoryIdentityStore(), [Symbol.asyncDispose]: async () => {} }))

const crypto: SecretCrypto = {
  sha256: (content) => createHash('sha256').update(content).digest(),
  hmacSha256: (key, content) => createHmac('sha256', key).update(content).digest(),
  equal: (a, b) => Buffer.compare(a, b) === 0,
}

/** argon2id itself is tested where it lives, in the server; here its calls are counted. */
function countingHasher(): PasswordHasher & { verified: string[]; version: number } {
  return {
    verified: [],
    version: 1,
    async hash(password) {
      return `${this.version}:${password}`
    },
    async verify(password, passwordHash) {
      this.verified.push(passwordHash)
      return passwordHash.slice(2) === password
    },
    outdated(passwordHash) {
      return !passwordHash.startsWith(`${this.version}:`)
    },
  }
}

function setUp(policy: Partial<IdentityPolicy> = {}) {
  const clock = virtualClock()
  const hasher = countingHasher()
  const store = memoryIdentityStore()
  const identity = createIdentity({ store, hasher, crypto, clock, rng: seededRng('identity'), ids: sequentialIds(1000), policy })
  const signIn = (account = 'ada', password = 'a long password', address = '10.0.0.1') =>
    identity.signIn({ account, password, address }, unrecorded)
  return { clock, hasher, store, identity, signIn }
}

const rejectsWith = (code: string, work: Promise<unknown>): Promise<void> =>
  assert.rejects(work, (error) => error instanceof Fault && error.code === code)
const ada = { name: 'ada', role: 'operator', password: 'a long password' } as const
const root: Caller = {
  accountId: LOCAL_ACCOUNT_ID,
  accountName: 'local',
  role: 'admin',
  scopes: ['*'],
  via: 'local',
  credentialId: 'x',
  csrfToken: null,
  expiresAt: null,
}

test('whoever signs in is the caller of the session until signing out', async () => {
  const { identity, signIn } = setUp()
  await identity.createAccount(ada, unrecorded)
  const { secret, csrfToken } = await signIn()
  const caller = await identity.callerOfSession(secret)
  assert.equal(caller?.accountName, 'ada')
  assert.equal(caller.role, 'operator')
  assert.equal(caller.csrfToken, csrfToken)
  assert.equal(csrfToken, csrfTokenOf(secret, crypto))
  await identity.signOut(caller, unrecorded)
  assert.equal(await identity.callerOfSession(secret), null)
})

test('a wrong password, an unknown account, a disabled one and the local one cost one verification each and get the same words', async () => {
  const { identity, store, hasher, signIn } = setUp()
  await identity.createAccount(ada, unrecorded)
  await store.insertAccount(
    {
      id: 'd',
      name: 'dora',
      role: 'viewer',
      passwordHash: '1:a long password',
      disabled: true,
      createdAt: root.expiresAt ?? (0 as never),
    },
    null,
  )
  const words = new Set<string>()
  for (const [account, password] of [
    ['ada', 'wrong'],
    ['nobody', 'wrong'],
    ['dora', 'a long password'],
    ['local', ''],
  ] as const) {
    const before = hasher.verified.length
    await assert.rejects(
      signIn(account, password),
      (error) => error instanceof Fault && error.code === 'unauthenticated' && !!words.add(error.message),
    )
    assert.equal(hasher.verified.length, before + 1, account)
  }
  assert.equal(words.size, 1)
})

test('the try after the limit is refused before the password is looked at, right or wrong, and the window ends', async () => {
  const { identity, hasher, clock, signIn } = setUp({
    throttle: { windowMs: millis(60_000), pairLimit: 3, addressLimit: 100, accountLimit: 100 },
  })
  await identity.createAccount(ada, unrecorded)
  for (let count = 0; count < 3; count += 1) await rejectsWith('unauthenticated', signIn('ada', 'wrong'))
  const before = hasher.verified.length
  await rejectsWith('busy', signIn())
  assert.equal(hasher.verified.length, before)
  await signIn('ada', 'a long password', '10.0.0.2')
  await clock.advance(60_000)
  await signIn()
})

test('guesses at the same time do not slip through: no more than the limit are verified', async () => {
  const { identity, hasher, signIn } = setUp({
    throttle: { windowMs: millis(60_000), pairLimit: 3, addressLimit: 100, accountLimit: 100 },
  })
  await identity.createAccount(ada, unrecorded)
  await Promise.allSettled(Array.from({ length: 50 }, () => signIn('ada', 'wrong')))
  assert.equal(hasher.verified.length, 3)
})

test('one address that guesses at many accounts is stopped, and one account guessed at from many addresses', async () => {
  const { identity, signIn } = setUp({ throttle: { windowMs: millis(60_000), pairLimit: 100, addressLimit: 4, accountLimit: 6 } })
  await identity.createAccount(ada, unrecorded)
  for (let count = 0; count < 4; count += 1) await rejectsWith('unauthenticated', signIn(`someone-${count}`, 'wrong'))
  await rejectsWith('busy', signIn('someone-9', 'wrong'))
  for (let count = 0; count < 6; count += 1) await rejectsWith('unauthenticated', signIn('ada', 'wrong', `10.1.0.${count}`))
  await rejectsWith('busy', signIn('ada', 'wrong', '10.2.0.1'))
})

test('signing in many times rightly is never taken for guessing', async () => {
  const { identity, signIn } = setUp({ throttle: { windowMs: millis(60_000), pairLimit: 2, addressLimit: 2, accountLimit: 2 } })
  await identity.createAccount(ada, unrecorded)
  for (let count = 0; count < 10; count += 1) await signIn()
})

test('a session ends when it was idle too long, and at its age however busy it is', async () => {
  const { identity, clock, signIn } = setUp({
    sessionIdleMs: millis(1000),
    sessionLifetimeMs: millis(5000),
    touchEveryMs: millis(100),
  })
  await identity.createAccount(ada, unrecorded)
  const idle = await signIn()
  await clock.advance(999)
  assert.ok(await identity.callerOfSession(idle.secret))
  await clock.advance(1000)
  assert.equal(await identity.callerOfSession(idle.secret), null)
  const busy = await signIn()
  for (let count = 0; count < 9; count += 1) {
    await clock.advance(500)
    assert.ok(await identity.callerOfSession(busy.secret), String(count))
  }
  await clock.advance(500)
  assert.equal(await identity.callerOfSession(busy.secret), null)
  await identity.prune()
})

test('asking quietly whether a session holds does not keep it alive', async () => {
  const { identity, clock, signIn } = setUp({ sessionIdleMs: millis(1000), touchEveryMs: millis(100) })
  await identity.createAccount(ada, unrecorded)
  const { secret } = await signIn()
  await clock.advance(600)
  assert.ok(await identity.callerOfSession(secret, { quiet: true }))
  await clock.advance(600)
  assert.equal(await identity.callerOfSession(secret), null)
})

test('a new password ends the sessions and is the one that works', async () => {
  const { identity, signIn } = setUp()
  await identity.createAccount(ada, unrecorded)
  const { secret } = await signIn()
  const caller = await identity.callerOfSession(secret)
  assert.ok(caller)
  const other = await signIn()
  const request = { name: 'ada', password: 'another long one', currentPassword: ada.password, address: '10.0.0.1' }
  await identity.setPassword(caller, request, unrecorded)
  assert.ok(await identity.callerOfSession(secret), 'who set it stays signed in')
  assert.equal(await identity.callerOfSession(other.secret), null)
  await rejectsWith('unauthenticated', signIn())
  await signIn('ada', 'another long one')
  await identity.setPassword(root, { name: 'ada', password: 'what the admin says', address: '10.0.0.1' }, unrecorded)
  assert.equal(await identity.callerOfSession(secret), null)
})

test('who does not know the password until now does not set another one, with a session or a token, and guesses are counted', async () => {
  const { identity, signIn } = setUp({
    throttle: { windowMs: millis(60_000), pairLimit: 3, addressLimit: 100, accountLimit: 100 },
  })
  await identity.createAccount(ada, unrecorded)
  const session = await identity.callerOfSession((await signIn()).secret)
  assert.ok(session)
  const made = await identity.createToken(session, { name: 'ci', scopes: ['*'] }, unrecorded)
  const token = await identity.callerOfToken(made.secret)
  assert.ok(token)
  const set = (caller: Caller, currentPassword?: string) =>
    identity.setPassword(caller, { name: 'ada', password: 'the hijackers own', currentPassword, address: '10.0.0.9' }, unrecorded)
  for (const caller of [session, token]) {
    await assert.rejects(
      set(caller),
      (error) => error instanceof Fault && error.code === 'forbidden' && error.details?.[0]?.path === 'body.currentPassword',
    )
  }
  for (let count = 0; count < 3; count += 1) await rejectsWith('forbidden', set(session, `guess ${count}`))
  await rejectsWith('busy', set(session, ada.password))
  await signIn()
})

test('only an admin sets the password of somebody else, and nobody that of the local account', async () => {
  const { identity, signIn } = setUp()
  await identity.createAccount(ada, unrecorded)
  await identity.createAccount({ name: 'bob', role: 'operator', password: 'bob has a password' }, unrecorded)
  const caller = await identity.callerOfSession((await signIn()).secret)
  assert.ok(caller)
  const given = { password: 'x'.repeat(12), address: '10.0.0.1' }
  await rejectsWith('forbidden', identity.setPassword(caller, { name: 'bob', ...given }, unrecorded))
  await rejectsWith('forbidden', identity.setPassword(caller, { name: 'nobody', ...given }, unrecorded))
  await identity.setPassword(root, { name: 'bob', ...given }, unrecorded)
  await rejectsWith('not_found', identity.setPassword(root, { name: 'nobody', ...given }, unrecorded))
  await rejectsWith('forbidden', identity.setPassword(root, { name: 'local', ...given }, unrecorded))
})

test('a password hashed with older parameters is hashed anew when its owner signs in', async () => {
  const { identity, hasher, store, signIn } = setUp()
  await identity.createAccount(ada, unrecorded)
  hasher.version = 2
  await signIn()
  assert.equal((await store.accountByName('ada'))?.passwordHash, '2:a long password')
})

test('a token acts for its account within its scopes, until it is revoked, over or its account is gone', async () => {
  const { identity, clock } = setUp()
  await identity.createAccount({ name: 'root', role: 'admin', password: 'a long password' }, unrecorded)
  const made = await identity.createToken(
    root,
    { name: 'ci', scopes: ['instance:read'], expiresAt: clock.now() + 1000 },
    unrecorded,
  )
  const caller = await identity.callerOfToken(made.secret)
  assert.deepEqual([caller?.accountName, caller?.scopes, caller?.via], ['local', ['instance:read'], 'token'])
  await clock.advance(1000)
  assert.equal(await identity.callerOfToken(made.secret), null)
  const second = await identity.createToken(root, { name: 'second', scopes: ['*'] }, unrecorded)
  await rejectsWith('not_found', identity.revokeToken({ ...root, accountId: 'other' }, second.token.id, unrecorded))
  await identity.revokeToken(root, second.token.id, unrecorded)
  assert.equal(await identity.callerOfToken(second.secret), null)
  for (const text of ['', 'tv_', second.secret.slice(0, -1), `${second.secret}x`, second.secret.replace('tv_', 'tvh_')])
    assert.equal(await identity.callerOfToken(text), null)
})

test('a token makes no token that may do more or lives longer than itself', async () => {
  const { identity, clock } = setUp()
  const narrow: Caller = {
    ...root,
    via: 'token',
    scopes: ['instance:write', 'token:write'],
    expiresAt: (clock.now() + 1000) as never,
  }
  await rejectsWith(
    'forbidden',
    identity.createToken(narrow, { name: 'a', scopes: ['*'], expiresAt: clock.now() + 500 }, unrecorded),
  )
  await rejectsWith(
    'forbidden',
    identity.createToken(narrow, { name: 'a', scopes: ['host:read'], expiresAt: clock.now() + 500 }, unrecorded),
  )
  await rejectsWith('forbidden', identity.createToken(narrow, { name: 'a', scopes: ['instance:read'] }, unrecorded))
  await rejectsWith(
    'forbidden',
    identity.createToken(narrow, { name: 'a', scopes: ['instance:read'], expiresAt: clock.now() + 2000 }, unrecorded),
  )
  await identity.createToken(narrow, { name: 'a', scopes: ['instance:read'], expiresAt: clock.now() + 500 }, unrecorded)
  await rejectsWith(
    'conflict',
    identity.createToken(narrow, { name: 'a', scopes: ['instance:read'], expiresAt: clock.now() + 500 }, unrecorded),
  )
  await rejectsWith('invalid', identity.createToken(root, { name: 'b', scopes: ['*'], expiresAt: clock.now() }, unrecorded))
})

test('the last admin and the local account are not removed', async () => {
  const { identity } = setUp()
  await identity.createAccount({ name: 'root', role: 'admin', password: 'a long password' }, unrecorded)
  await rejectsWith('conflict', identity.deleteAccount('root', unrecorded))
  await rejectsWith('conflict', identity.deleteAccount('local', unrecorded))
  await rejectsWith('not_found', identity.deleteAccount('nobody', unrecorded))
  await identity.createAccount({ name: 'second', role: 'admin', password: 'a long password' }, unrecorded)
  await identity.deleteAccount('root', unrecorded)
})

test('the entry of a change goes to the store with it; what is refused brings none', async () => {
  const { identity, store } = setUp()
  const entry: EntryOf = (resource, resourceName) => ({
    at: epochMillis(0),
    account: 'root',
    via: 'local',
    operation: 'test',
    resource,
    resourceName,
    outcome: 'ok',
    address: null,
    requestId: 'r',
  })
  const { id } = await identity.createAccount(ada, entry)
  await rejectsWith('conflict', identity.createAccount(ada, entry))
  const { token } = await identity.createToken(root, { name: 'ci', scopes: ['*'] }, entry)
  await rejectsWith('conflict', identity.createToken(root, { name: 'ci', scopes: ['*'] }, entry))
  await rejectsWith('not_found', identity.revokeToken(root, 'none', entry))
  assert.deepEqual(
    store.entries.map(({ resource, resourceName }) => [resource, resourceName]),
    [
      [id, 'ada'],
      [token.id, 'ci'],
    ],
  )
})
