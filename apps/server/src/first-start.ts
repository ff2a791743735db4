/** The first account: `admin` with a generated password, which is given back once and stored nowhere but as its hash. */
import { Fault, type Rng } from '@typevisor/base'
import { generatePassword, LOCAL_ACCOUNT_ID, type Identity } from '@typevisor/identity'
import type { Db } from './db/database.ts'

export const FIRST_ACCOUNT_NAME = 'admin'

/** null: somebody has been here before (or another server of the same database is just doing it). */
export async function ensureFirstAccount(
  db: Db,
  identity: Identity,
  rng: Rng,
): Promise<{ name: string; password: string } | null> {
  const present = await db.selectFrom('account').select('id').where('id', '!=', LOCAL_ACCOUNT_ID).limit(1).executeTakeFirst()
  if (present) return null
  const password = generatePassword(rng)
  try {
    await identity.createAccount({ name: FIRST_ACCOUNT_NAME, role: 'admin', password })
    return { name: FIRST_ACCOUNT_NAME, password }
  } catch (error) {
    if (error instanceof Fault && error.code === 'conflict') return null
    throw error
  }
}
