/**
 * The first account: `admin` with a generated password, which is given back and stored nowhere but as its hash. Until somebody has signed
 * in by it, or set another one, every start makes a new one: whoever did not get to see it (the start failed, the process was killed,
 * the terminal was closed) starts again.
 */
import type { Clock, IdSource, Rng } from '@typevisor/base'
import { generatePassword, LOCAL_ACCOUNT_ID, type PasswordHasher } from '@typevisor/identity'
import type { Db } from './db/database.ts'

export const FIRST_ACCOUNT_NAME = 'admin'

export interface FirstStartOptions {
  readonly db: Db
  readonly hasher: PasswordHasher
  readonly clock: Clock
  readonly rng: Rng
  readonly ids: IdSource
}

/** null: somebody has been here before. */
export async function ensureFirstAccount(options: FirstStartOptions): Promise<{ name: string; password: string } | null> {
  const { db, hasher, clock, rng, ids } = options
  const accounts = await db
    .selectFrom('account')
    .select(['name', 'password_unused'])
    .where('id', '!=', LOCAL_ACCOUNT_ID)
    .orderBy('password_unused', 'desc')
    .limit(1)
    .execute()
  if (accounts[0]?.password_unused === false) return null
  const password = generatePassword(rng)
  const passwordHash = await hasher.hash(password)
  const written = await db
    .insertInto('account')
    .values({
      id: ids.next(),
      name: FIRST_ACCOUNT_NAME,
      role: 'admin',
      password_hash: passwordHash,
      password_unused: true,
      created_at: new Date(clock.now()),
    })
    .onConflict((conflict) =>
      conflict.column('name').doUpdateSet({ password_hash: passwordHash }).where('account.password_unused', '=', true),
    )
    .returning('id')
    .executeTakeFirst()
  return written ? { name: FIRST_ACCOUNT_NAME, password } : null
}
