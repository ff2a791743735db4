import { after } from 'node:test'
import { identityStoreConformance } from '@typevisor/identity/testing'
import { stopTestPostgres, testDatabase } from '../testing.ts'
import { postgresIdentityStore } from './identity-store.ts'

after(stopTestPostgres)

identityStoreConformance('PostgreSQL store', async () => {
  const database = await testDatabase()
  return { store: postgresIdentityStore(database.db), [Symbol.asyncDispose]: () => database.close() }
})
