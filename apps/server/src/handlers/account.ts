import { sql } from 'kysely'
import type { Identity } from '@typevisor/identity'
import type { Db } from '../db/database.ts'
import { accountFromRow } from '../db/identity-store.ts'
import { pageOf, searchPatterns } from '../db/paging.ts'
import { addressKey } from '../http/names.ts'
import { callerOf, type Handlers } from '../http/handler.ts'
import { accountToWire } from './session.ts'

type AccountHandlers = Pick<Handlers, 'account.list' | 'account.create' | 'account.password' | 'account.delete'>

export function accountHandlers(db: Db, identity: Identity): AccountHandlers {
  return {
    'account.list': async ({ query }) => {
      const patterns = searchPatterns(query.search)
      let rows = db.selectFrom('account').selectAll('account')
      if (patterns.length > 0) rows = rows.where(sql<boolean>`account.name LIKE ALL (${patterns})`)
      return pageOf({
        rows,
        keys: [{ column: 'account.name', kind: 'text', read: (row) => row.name }],
        order: 'asc',
        context: ['account', query.search],
        cursor: query.cursor,
        limit: query.limit,
        toItem: (row) => accountToWire(accountFromRow(row)),
      })
    },
    'account.create': async (call) => {
      const account = await identity.createAccount(call.body, call.entry)
      return accountToWire(account)
    },
    'account.password': async (call) => {
      const request = { ...call.body, name: call.params.account, address: addressKey(call.address) }
      const account = await identity.setPassword(callerOf(call), request, call.entry)
      return accountToWire(account)
    },
    'account.delete': async (call) => {
      await identity.deleteAccount(call.params.account, call.entry)
      return {}
    },
  }
}
