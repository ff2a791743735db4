import type { Reply } from '@typevisor/api'
import { Fault } from '@typevisor/base'
import type { AccountRecord, Identity } from '@typevisor/identity'
import { addressKey } from '../http/names.ts'
import { callerOf, type Handlers } from '../http/handler.ts'

export const accountToWire = (account: AccountRecord): Reply<'account.create'> => ({
  id: account.id,
  name: account.name,
  role: account.role,
  createdAt: account.createdAt,
  disabled: account.disabled,
})

export function sessionHandlers(identity: Identity): Pick<Handlers, 'session.create' | 'session.get' | 'session.delete'> {
  return {
    'session.create': async (call) => {
      const request = { ...call.body, address: addressKey(call.address) }
      const { account, secret, csrfToken, expiresAt } = await identity.signIn(request, call.entry)
      call.setSession({ secret, expiresAt })
      return { account: accountToWire(account), csrfToken, expiresAt }
    },
    'session.get': async (call) => {
      const caller = callerOf(call)
      const account = await identity.accountById(caller.accountId)
      if (!account) throw new Fault('unauthenticated', 'session: the account is gone')
      return { account: accountToWire(account), csrfToken: caller.csrfToken, expiresAt: caller.expiresAt }
    },
    'session.delete': async (call) => {
      const caller = callerOf(call)
      if (caller.via !== 'session') throw new Fault('invalid', 'sign out: this is a token, which is revoked by token delete')
      await identity.signOut(caller, call.entry)
      call.setSession(null)
      return {}
    },
  }
}
