/**
 * Who may do what: accounts, sessions, API tokens, roles and scopes, and the brake on guessing passwords.
 *
 *   password --> signIn --> session secret (cookie)  --+
 *                           API token (Bearer)        -+--> Caller { account, role, scopes } --> allows(role, scope)
 *                           local credential (file)   -+
 *
 * Invariants, each with its test:
 *   - no secret is stored: sessions and tokens are kept as SHA-256 of 256 random bits, passwords as argon2id (PHC string);
 *   - an unknown, disabled or passwordless account costs the same time as a wrong password, and answers the same words;
 *   - tries are counted before the password is looked at, so that parallel guesses cannot slip through;
 *   - a token can never make a token that may do more than itself;
 *   - a session ends by idleness, by age, by signing out, and when the password of its account changes by another one than itself;
 *   - nobody sets their own password who does not know the one until now;
 *   - a change and its audit entry are written together (`audit.ts`).
 *
 * What fails, and how: `unauthenticated` (wrong credentials), `busy` (too many tries; says when to come back), `forbidden`,
 * `conflict` (a name is taken, the last admin), `not_found`.
 *
 * Not here: HTTP, cookies, SQL, argon2 itself. They come in through `ports.ts`; `testing.ts` has the store in memory and the
 * conformance suite that every store passes.
 *
 * References: OWASP Password Storage, Session Management and CSRF Prevention cheat sheets; RFC 9106 (Argon2); the PHC string format.
 */
export { unrecorded, type AuditEntry, type EntryOf } from './audit.ts'
export { attemptKeys, decide, type AttemptKey, type AttemptRecord, type ThrottlePolicy } from './throttle.ts'
export { bearerText, csrfTokenOf, newBearer, newSecret, parseBearer, type Bearer, type BearerKind } from './secrets.ts'
export {
  createIdentity,
  DEFAULT_IDENTITY_POLICY,
  type Caller,
  type Identity,
  type IdentityOptions,
  type IdentityPolicy,
  type SignedIn,
} from './identity.ts'
export { LOCAL_ACCOUNT_ID, LOCAL_ACCOUNT_NAME } from './local-account.ts'
export { formatPhc, parsePhc, type ArgonParameters, type PhcString } from './phc.ts'
export type { AccountRecord, IdentityStore, PasswordHasher, SecretCrypto, SessionRecord, TokenRecord } from './ports.ts'
export { generatePassword } from './password.ts'
export { isRole, roleAllows, ROLES, type Role } from './roles.ts'
export { scopeAllows, scopesCover } from './scopes.ts'
