import { sql } from 'kysely'
import type { Reply } from '@typevisor/api'
import type { Identity, TokenRecord } from '@typevisor/identity'
import type { Db } from '../db/database.ts'
import { tokenFromRow } from '../db/identity-store.ts'
import { pageOf, searchPatterns } from '../db/paging.ts'
import { callerOf, type Handlers } from '../http/handler.ts'

const tokenToWire = (token: TokenRecord, account: string): Reply<'token.create'>['token'] => ({
  id: token.id,
  name: token.name,
  account,
  scopes: [...token.scopes],
  createdAt: token.createdAt,
  expiresAt: token.expiresAt,
  lastUsedAt: token.lastUsedAt,
})

export function tokenHandlers(db: Db, identity: Identity): Pick<Handlers, 'token.list' | 'token.create' | 'token.delete'> {
  return {
    'token.list': async (call) => {
      const { accountId, accountName } = callerOf(call)
      const { search, cursor, limit } = call.query
      const patterns = searchPatterns(search)
      let rows = db.selectFrom('token').selectAll('token').where('account_id', '=', accountId)
      if (patterns.length > 0) rows = rows.where(sql<boolean>`token.name LIKE ALL (${patterns})`)
      return pageOf({
        rows,
        keys: [{ column: 'token.name', kind: 'text', read: (row) => row.name }],
        order: 'asc',
        context: ['token', accountId, search],
        cursor,
        limit,
        toItem: (row) => tokenToWire(tokenFromRow(row), accountName),
      })
    },
    'token.create': async (call) => {
      const caller = callerOf(call)
      const { token, secret } = await identity.createToken(caller, call.body, call.entry)
      return { token: tokenToWire(token, caller.accountName), secret }
    },
    'token.delete': async (call) => {
      call.audit(call.params.token, null)
      await identity.revokeToken(callerOf(call), call.params.token, call.entry)
      return {}
    },
  }
}
