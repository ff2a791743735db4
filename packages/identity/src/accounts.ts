/** Accounts and their passwords. */
import { Fault } from '@typevisor/base'
import type { Identity, IdentityParts } from './identity.ts'
import { LOCAL_ACCOUNT_ID } from './local-account.ts'
import type { AccountRecord } from './ports.ts'
import { roleAllows } from './roles.ts'
import type { PasswordTries } from './tries.ts'

type Accounts = Pick<Identity, 'account' | 'accountById' | 'createAccount' | 'setPassword' | 'deleteAccount'>

export function accounts({ store, hasher, clock, ids }: IdentityParts, tries: PasswordTries): Accounts {
  const mustFind = async (name: string): Promise<AccountRecord> => {
    const account = await store.accountByName(name)
    if (!account) throw new Fault('not_found', `account ${name}: there is none`)
    return account
  }

  return {
    account: (name) => store.accountByName(name),
    accountById: (id) => store.accountById(id),

    async createAccount({ name, role, password }, entry) {
      const account: AccountRecord = {
        id: ids.next(),
        name,
        role,
        passwordHash: await hasher.hash(password),
        disabled: false,
        createdAt: clock.now(),
      }
      if (!(await store.insertAccount(account, entry(account.id, name))))
        throw new Fault('conflict', `make account ${name}: there is one of this name`)
      return account
    },

    async setPassword(caller, { name, password, currentPassword, address }, entry) {
      const own = caller.accountName === name
      // Somebody else's account is not looked up before this: a viewer learns no names here.
      if (!own && !roleAllows(caller.role, 'admin'))
        throw new Fault('forbidden', `set password of ${name}: only an admin may, or ${name}`)
      const account = await mustFind(name)
      if (account.id === LOCAL_ACCOUNT_ID) {
        throw new Fault('forbidden', `set password of ${name}: it is used by the credentials file only and has no password`)
      }
      if (own) await tries.assertKnows(account, currentPassword, address)
      const passwordHash = await hasher.hash(password)
      const keptSession = own && caller.via === 'session' ? caller.credentialId : null
      await store.setPassword(account.id, passwordHash, keptSession, entry(account.id, name))
      return { ...account, passwordHash }
    },

    async deleteAccount(name, entry) {
      const account = await mustFind(name)
      if (account.id === LOCAL_ACCOUNT_ID)
        throw new Fault('conflict', `remove account ${name}: the platform's own command line uses it`)
      const outcome = await store.deleteAccount(account.id, entry(account.id, name))
      if (outcome === 'missing') throw new Fault('not_found', `account ${name}: there is none`)
      if (outcome === 'last-admin')
        throw new Fault('conflict', `remove account ${name}: it is the last admin; make another one first`)
      return account
    },
  }
}
