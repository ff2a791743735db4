import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Fault } from '@typevisor/base'
import { createIdentity, formatPhc, parsePhc, unrecorded } from '@typevisor/identity'
import { postgresIdentityStore } from './db/identity-store.ts'
import { ensureFirstAccount } from './first-start.ts'
import { createLocalCredentials, CREDENTIALS_FILE } from './local-credentials.ts'
import { argonHasher, ARGON_PARAMETERS, nodeSecretCrypto } from './secrets.ts'
import { stopTestPostgres, testClock, testDatabase, testIds, testRng } from './testing.ts'

after(stopTestPostgres)

test('a password is kept as argon2id with the parameters of OWASP and verified from its PHC string', async () => {
  const hasher = argonHasher()
  const hash = await hasher.hash('correct horse battery')
  assert.match(hash, /^\$argon2id\$v=19\$m=19456,t=2,p=1\$/)
  assert.equal(await hasher.verify('correct horse battery', hash), true)
  assert.equal(await hasher.verify('correct horse batterz', hash), false)
  assert.notEqual(await hasher.hash('correct horse battery'), hash)
  assert.equal(hasher.outdated(hash), false)
  assert.equal(argonHasher({ parameters: { ...ARGON_PARAMETERS, passCount: 3 } }).outdated(hash), true)
})

test('the reference implementation of Argon2 verifies here: its own test vector', async () => {
  // https://github.com/P-H-C/phc-winner-argon2 test.c: argon2id, v=19, m=65536, t=2, p=1, "password", "somesalt"
  const hash = Buffer.from('09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7', 'hex')
  const phc = formatPhc({ memoryKib: 65_536, passCount: 2, laneCount: 1, salt: Buffer.from('somesalt'), hash })
  assert.ok(parsePhc(phc))
  assert.equal(await argonHasher().verify('password', phc), true)
})

test('the same password typed on another keyboard is the same: composed and decomposed letters', async () => {
  const hasher = argonHasher({ parameters: { memoryKib: 64, passCount: 1, laneCount: 1 } })
  assert.equal(await hasher.verify('Zu\u0308rich am See', await hasher.hash('Z\u00fcrich am See')), true)
})

test('more passwords at once than can wait are refused as busy, and all others are answered', async () => {
  const hasher = argonHasher({
    parallelCountMax: 2,
    waitingCountMax: 3,
    parameters: { memoryKib: 64, passCount: 1, laneCount: 1 },
  })
  const answers = await Promise.allSettled(Array.from({ length: 9 }, () => hasher.hash('x')))
  const refused = answers.filter((answer) => answer.status === 'rejected')
  assert.equal(refused.length, 4)
  assert.ok(refused.every((answer) => answer.reason instanceof Fault && answer.reason.code === 'busy'))
  await hasher.hash('free again')
})

test('the local credential is readable by its owner alone, made anew at each start, and removed only by its own server', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-cred-'))
  try {
    const [first, second] = [1, 2].map(() => createLocalCredentials(testRng, nodeSecretCrypto, testIds))
    assert.ok(first && second)
    await first.write(folder, 'http://127.0.0.1:1')
    await second.write(folder, 'http://127.0.0.1:2')
    const path = join(folder, CREDENTIALS_FILE)
    assert.equal((await stat(path)).mode & 0o777, 0o600)
    const content = JSON.parse(await readFile(path, 'utf8')) as { url: string; token: string }
    assert.equal(content.url, 'http://127.0.0.1:2')
    assert.equal(second.callerOf(content.token)?.role, 'admin')
    assert.equal(first.callerOf(content.token), null)
    assert.equal(second.callerOf(content.token.replace('tvl_', 'tv_')), null)
    await first.remove(folder)
    await stat(path)
    await second.remove(folder)
    await assert.rejects(stat(path))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

test('starts make one admin, whatever number of them at once, with one password that opens, and none after the first sign-in', async () => {
  await using database = await testDatabase()
  const hasher = argonHasher({ parameters: { memoryKib: 64, passCount: 1, laneCount: 1 } })
  const parts = { hasher, clock: testClock, rng: testRng, ids: testIds }
  const identity = createIdentity({ ...parts, store: postgresIdentityStore(database.db), crypto: nodeSecretCrypto })
  const start = () => ensureFirstAccount({ ...parts, db: database.db })
  const answers = await Promise.all([1, 2, 3].map(start))
  const signIns = await Promise.allSettled(
    answers.map((answer) => identity.signIn({ account: 'admin', password: answer?.password ?? '', address: 'here' }, unrecorded)),
  )
  const opened = signIns.filter((signIn) => signIn.status === 'fulfilled')
  assert.equal(opened.length, 1)
  assert.equal(opened[0]?.value.account.role, 'admin')
  assert.equal(await start(), null)
})
