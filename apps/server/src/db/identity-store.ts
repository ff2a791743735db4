/** The identity store in PostgreSQL. Passes the conformance suite of `@typevisor/identity/testing`. */
import { sql, type Selectable } from 'kysely'
import { epochMillis } from '@typevisor/base'
import type { AccountRecord, IdentityStore, SessionRecord, TokenRecord } from '@typevisor/identity'
import { recordEntryIn } from './audit.ts'
import type { Db } from './database.ts'
import type { AccountTable, SessionTable, TokenTable } from './schema.ts'

export const accountFromRow = (row: Selectable<AccountTable>): AccountRecord => ({
  id: row.id,
  name: row.name,
  role: row.role,
  passwordHash: row.password_hash,
  disabled: row.disabled,
  createdAt: epochMillis(row.created_at.getTime()),
})

const sessionFromRow = (row: Selectable<SessionTable>): SessionRecord => ({
  id: row.id,
  accountId: row.account_id,
  secretHash: row.secret_hash,
  createdAt: epochMillis(row.created_at.getTime()),
  lastSeenAt: epochMillis(row.last_seen_at.getTime()),
  expiresAt: epochMillis(row.expires_at.getTime()),
  address: row.address,
})

const timeOrNull = (time: Date | null) => (time === null ? null : epochMillis(time.getTime()))

export const tokenFromRow = (row: Selectable<TokenTable>): TokenRecord => ({
  id: row.id,
  accountId: row.account_id,
  name: row.name,
  secretHash: row.secret_hash,
  scopes: row.scopes,
  createdAt: epochMillis(row.created_at.getTime()),
  expiresAt: timeOrNull(row.expires_at),
  lastUsedAt: timeOrNull(row.last_used_at),
})

/** The account of a session or token, read with it: every request asks. */
const OWNER = [
  'account.name as owner_name',
  'account.role as owner_role',
  'account.password_hash as owner_password_hash',
  'account.disabled as owner_disabled',
  'account.created_at as owner_created_at',
] as const

const ownerFromRow = (row: {
  account_id: string
  owner_name: string
  owner_role: AccountRecord['role']
  owner_password_hash: string | null
  owner_disabled: boolean
  owner_created_at: Date
}): AccountRecord => ({
  id: row.account_id,
  name: row.owner_name,
  role: row.owner_role,
  passwordHash: row.owner_password_hash,
  disabled: row.owner_disabled,
  createdAt: epochMillis(row.owner_created_at.getTime()),
})

export function postgresIdentityStore(db: Db): IdentityStore {
  const accountById = async (id: string): Promise<AccountRecord | null> => {
    const row = await db.selectFrom('account').selectAll().where('id', '=', id).executeTakeFirst()
    return row ? accountFromRow(row) : null
  }
  return {
    accountById,
    async accountByName(name) {
      // A name that no account can have is not sent: PostgreSQL refuses \0 and what is no UTF-8.
      if (name.includes('\0') || !name.isWellFormed()) return null
      const row = await db.selectFrom('account').selectAll().where('name', '=', name).executeTakeFirst()
      return row ? accountFromRow(row) : null
    },
    async insertAccount(account, entry) {
      return db.transaction().execute(async (tx) => {
        const inserted = await tx
          .insertInto('account')
          .values({
            id: account.id,
            name: account.name,
            role: account.role,
            password_hash: account.passwordHash,
            disabled: account.disabled,
            created_at: new Date(account.createdAt),
          })
          .onConflict((conflict) => conflict.column('name').doNothing())
          .returning('id')
          .executeTakeFirst()
        if (!inserted) return false
        await recordEntryIn(tx, entry)
        return true
      })
    },
    async setPassword(accountId, passwordHash, keptSession, entry) {
      await db.transaction().execute(async (tx) => {
        await tx
          .updateTable('account')
          .set({ password_hash: passwordHash, password_unused: false })
          .where('id', '=', accountId)
          .execute()
        let ended = tx.deleteFrom('session').where('account_id', '=', accountId)
        if (keptSession !== null) ended = ended.where('id', '!=', keptSession)
        await ended.execute()
        await recordEntryIn(tx, entry)
      })
    },
    async upgradeHash(accountId, from, to) {
      await db
        .updateTable('account')
        .set({ password_hash: to })
        .where('id', '=', accountId)
        .where('password_hash', '=', from)
        .execute()
    },
    async deleteAccount(accountId, entry) {
      return db.transaction().execute(async (tx) => {
        // Two admins who remove each other at the same time: one of them waits here, then is the last.
        await sql`LOCK TABLE account IN SHARE ROW EXCLUSIVE MODE`.execute(tx)
        const account = await tx.selectFrom('account').select(['id', 'role']).where('id', '=', accountId).executeTakeFirst()
        if (!account) return 'missing' as const
        if (account.role === 'admin') {
          const other = await tx
            .selectFrom('account')
            .select('id')
            .where('role', '=', 'admin')
            .where('id', '!=', accountId)
            .where('disabled', '=', false)
            .where('password_hash', 'is not', null)
            .limit(1)
            .executeTakeFirst()
          if (!other) return 'last-admin' as const
        }
        await tx.deleteFrom('account').where('id', '=', accountId).execute()
        await recordEntryIn(tx, entry)
        return 'deleted' as const
      })
    },

    async insertSession(session, entry) {
      await db.transaction().execute(async (tx) => {
        await tx
          .insertInto('session')
          .values({
            id: session.id,
            account_id: session.accountId,
            secret_hash: Buffer.from(session.secretHash),
            created_at: new Date(session.createdAt),
            last_seen_at: new Date(session.lastSeenAt),
            expires_at: new Date(session.expiresAt),
            address: session.address,
          })
          .execute()
        // From the first sign-in on the password is somebody's: no start makes another one (`first-start.ts`).
        await tx
          .updateTable('account')
          .set({ password_unused: false })
          .where('id', '=', session.accountId)
          .where('password_unused', '=', true)
          .execute()
        await recordEntryIn(tx, entry)
      })
    },
    async sessionByHash(secretHash) {
      const row = await db
        .selectFrom('session')
        .innerJoin('account', 'account.id', 'session.account_id')
        .selectAll('session')
        .select(OWNER)
        .where('session.secret_hash', '=', Buffer.from(secretHash))
        .executeTakeFirst()
      return row ? { session: sessionFromRow(row), account: ownerFromRow(row) } : null
    },
    async touchSession(id, at) {
      await db
        .updateTable('session')
        .set({ last_seen_at: new Date(at) })
        .where('id', '=', id)
        .where('last_seen_at', '<', new Date(at))
        .execute()
    },
    async deleteSession(id, entry) {
      await db.transaction().execute(async (tx) => {
        await tx.deleteFrom('session').where('id', '=', id).execute()
        await recordEntryIn(tx, entry)
      })
    },
    async pruneSessions(now, idleSince) {
      const result = await db
        .deleteFrom('session')
        .where((where) => where.or([where('expires_at', '<=', new Date(now)), where('last_seen_at', '<=', new Date(idleSince))]))
        .executeTakeFirst()
      return Number(result.numDeletedRows)
    },

    async insertToken(token, limit, entry) {
      return db.transaction().execute(async (tx) => {
        // The account's row is the lock under which its tokens are counted.
        await tx.selectFrom('account').select('id').where('id', '=', token.accountId).forUpdate().execute()
        const { count } = await tx
          .selectFrom('token')
          .select(sql<number>`count(*)`.as('count'))
          .where('account_id', '=', token.accountId)
          .executeTakeFirstOrThrow()
        const inserted = await tx
          .insertInto('token')
          .values({
            id: token.id,
            account_id: token.accountId,
            name: token.name,
            secret_hash: Buffer.from(token.secretHash),
            scopes: [...token.scopes],
            created_at: new Date(token.createdAt),
            expires_at: token.expiresAt === null ? null : new Date(token.expiresAt),
          })
          .onConflict((conflict) => conflict.columns(['account_id', 'name']).doNothing())
          .returning('id')
          .executeTakeFirst()
        if (!inserted) return 'taken' as const
        if (count < limit) {
          await recordEntryIn(tx, entry)
          return 'inserted' as const
        }
        await tx.deleteFrom('token').where('id', '=', token.id).execute()
        return 'full' as const
      })
    },
    async tokenById(id) {
      const row = await db
        .selectFrom('token')
        .innerJoin('account', 'account.id', 'token.account_id')
        .selectAll('token')
        .select(OWNER)
        .where('token.id', '=', id)
        .executeTakeFirst()
      return row ? { token: tokenFromRow(row), account: ownerFromRow(row) } : null
    },
    async touchToken(id, at) {
      await db
        .updateTable('token')
        .set({ last_used_at: new Date(at) })
        .where('id', '=', id)
        .execute()
    },
    async deleteToken(id, accountId, entry) {
      return db.transaction().execute(async (tx) => {
        const result = await tx.deleteFrom('token').where('id', '=', id).where('account_id', '=', accountId).executeTakeFirst()
        if (result.numDeletedRows === 0n) return false
        await recordEntryIn(tx, entry)
        return true
      })
    },

    async countAttempt(keys, now, policy) {
      const endsAt = new Date(now + policy.windowMs)
      // One statement, sorted: parallel tries wait for each other and cannot deadlock. What is over its limit is not counted on.
      const sorted = [...keys].sort((a, b) => (a.key < b.key ? -1 : 1))
      const rows = await db
        .insertInto('login_attempt')
        .values(sorted.map(({ key }) => ({ key: storable(key), count: 1, window_ends_at: endsAt })))
        .onConflict((conflict) =>
          conflict.column('key').doUpdateSet({
            count: sql`CASE WHEN login_attempt.window_ends_at <= ${new Date(now)} THEN 1 ELSE least(login_attempt.count + 1, 1000000) END`,
            window_ends_at: sql`CASE WHEN login_attempt.window_ends_at <= ${new Date(now)} THEN ${endsAt} ELSE login_attempt.window_ends_at END`,
          }),
        )
        .returningAll()
        .execute()
      return keys.flatMap(({ key }) => {
        const row = rows.find((candidate) => candidate.key === storable(key))
        return row ? [{ key, count: row.count, windowEndsAt: epochMillis(row.window_ends_at.getTime()) }] : []
      })
    },
    async settleAttempt(keys) {
      const forgotten = keys.filter((entry) => entry.forget).map((entry) => storable(entry.key))
      const kept = keys.filter((entry) => !entry.forget).map((entry) => storable(entry.key))
      if (forgotten.length > 0) await db.deleteFrom('login_attempt').where('key', 'in', forgotten).execute()
      if (kept.length > 0) {
        await db
          .updateTable('login_attempt')
          .set({ count: sql`greatest(count - 1, 0)` })
          .where('key', 'in', kept)
          .execute()
      }
    },
    async pruneAttempts(before) {
      const result = await db.deleteFrom('login_attempt').where('window_ends_at', '<=', new Date(before)).executeTakeFirst()
      return Number(result.numDeletedRows)
    },
  }
}

/** Keys hold what somebody typed as an account name: kept to what a text column takes. */
const storable = (key: string): string => key.replaceAll('\0', '\u2400').toWellFormed().slice(0, 300)
