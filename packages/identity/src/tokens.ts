/** API tokens: none may do more, or live longer, than who makes it. */
import { epochMillis, Fault } from '@typevisor/base'
import type { Identity, IdentityParts } from './identity.ts'
import type { TokenRecord } from './ports.ts'
import { scopesCover } from './scopes.ts'
import { newBearer, parseBearer } from './secrets.ts'

type Tokens = Pick<Identity, 'callerOfToken' | 'createToken' | 'revokeToken'>

export function tokens({ store, crypto, clock, rng, ids, policy }: IdentityParts): Tokens {
  return {
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
  }
}
