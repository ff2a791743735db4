import assert from 'node:assert/strict'
import { createHash, createHmac, randomBytes } from 'node:crypto'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { seededRng } from '@typevisor/sim'
import { generatePassword } from './password.ts'
import { formatPhc, parsePhc } from './phc.ts'
import type { SecretCrypto } from './ports.ts'
import { roleAllows, ROLES } from './roles.ts'
import { scopeAllows, scopesCover } from './scopes.ts'
import { bearerText, hashOfSecret, newBearer, newSecret, parseBearer } from './secrets.ts'

const crypto: SecretCrypto = {
  sha256: (content) => createHash('sha256').update(content).digest(),
  hmacSha256: (key, content) => createHmac('sha256', key).update(content).digest(),
  equal: (a, b) => Buffer.compare(a, b) === 0,
}
const rng = seededRng('secrets')

test('each role may do what the ones before it may, and no more', () => {
  for (const [index, have] of ROLES.entries())
    for (const [other, want] of ROLES.entries()) assert.equal(roleAllows(have, want), index >= other)
})

test('a scope allows its noun and verb; writing includes reading; a star is every noun', () => {
  const cases: [string[], string, boolean][] = [
    [['*'], 'host:write', true],
    [['*:read'], 'host:read', true],
    [['*:read'], 'host:write', false],
    [['*:write'], 'host:write', true],
    [['*:write'], 'host:read', true],
    [['instance:write'], 'instance:read', true],
    [['instance:read'], 'instance:write', false],
    [['instance:write'], 'host:read', false],
    [[], 'host:read', false],
    [['host:read', 'instance:write'], 'instance:write', true],
  ]
  for (const [scopes, wanted, allowed] of cases) assert.equal(scopeAllows(scopes, wanted), allowed, `${scopes} ${wanted}`)
})

test('what scopes cover allows nothing that they do not allow themselves', () => {
  const scope = fc.constantFrom('*', '*:read', '*:write', 'a:read', 'a:write', 'b:read', 'b:write')
  fc.assert(
    fc.property(fc.array(scope, { maxLength: 4 }), fc.array(scope, { minLength: 1, maxLength: 4 }), (have, given) => {
      if (!scopesCover(have, given)) return
      for (const wanted of ['a:read', 'a:write', 'b:read', 'b:write', 'c:read', 'c:write']) {
        if (scopeAllows(given, wanted)) assert.ok(scopeAllows(have, wanted), `${have} covers ${given}, which allows ${wanted}`)
      }
    }),
  )
})

test('a bearer is read back as it was made, and any other text is none', () => {
  const id = '01890b5a-7c3d-7abc-8def-0123456789ab'
  for (const kind of ['api', 'local', 'host'] as const) {
    const { text, hash } = newBearer(kind, id, rng, crypto)
    const parsed = parseBearer(text)
    assert.deepEqual([parsed?.kind, parsed?.id], [kind, id])
    assert.deepEqual(crypto.sha256(parsed?.secret ?? new Uint8Array()), hash)
    assert.equal(parsed && bearerText(parsed), text)
  }
  fc.assert(fc.property(fc.string(), (text) => parseBearer(text) === null))
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (text) => parseBearer(`tv_${text}`) === null))
})

test('a session secret has 256 bits and is stored as its hash only', () => {
  const { text, hash } = newSecret(rng, crypto)
  assert.equal(text.length, 43)
  assert.deepEqual(hashOfSecret(text, crypto), hash)
  assert.equal(hashOfSecret(`${text}=`, crypto), null)
  assert.equal(hashOfSecret('', crypto), null)
})

test('a PHC string is read back as it was written, and any other text is null', () => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 16, maxLength: 64 }),
      fc.uint8Array({ minLength: 16, maxLength: 64 }),
      fc.integer({ min: 8, max: 1024 * 1024 }),
      fc.integer({ min: 1, max: 64 }),
      (salt, hash, memoryKib, passCount) => {
        const value = { memoryKib, passCount, laneCount: 1, salt, hash }
        assert.deepEqual(parsePhc(formatPhc(value)), value)
      },
    ),
  )
  fc.assert(fc.property(fc.string(), (text) => parsePhc(text) === null))
  const hostile = ['m=99999999,t=2,p=1', 'm=19456,t=999,p=1', 'm=1,t=1,p=16', 'm=19456,t=0,p=1', 'm=19456,t=2,p=0']
  for (const parameters of hostile)
    assert.equal(parsePhc(`$argon2id$v=19$${parameters}$${'A'.repeat(22)}$${'A'.repeat(43)}`), null, parameters)
  assert.equal(parsePhc(`$argon2i$v=19$m=19456,t=2,p=1$${'A'.repeat(22)}$${'A'.repeat(43)}`), null)
})

test('generated passwords are long enough for the API, without letters that look alike, and never the same', () => {
  const real = {
    below: (bound: number) => randomBytes(4).readUInt32LE() % bound,
    bytes: (count: number) => new Uint8Array(randomBytes(count)),
  }
  const made = new Set(Array.from({ length: 200 }, () => generatePassword(real)))
  assert.equal(made.size, 200)
  for (const password of made) assert.match(password, /^(?:[a-km-np-z2-9]{5}-){3}[a-km-np-z2-9]{5}$/)
})
