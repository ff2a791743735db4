/** Passwords as they are tried: counted before they are looked at, and the same work whether or not there is an account. */
import { Fault } from '@typevisor/base'
import type { IdentityParts } from './identity.ts'
import type { AccountRecord } from './ports.ts'
import { newSecret } from './secrets.ts'
import { attemptKeys, decide } from './throttle.ts'

export interface PasswordTries {
  /** `passed` is called when the password was right. @throws Fault `busy` after too many. */
  count(what: string, name: string, address: string): Promise<{ passed: () => Promise<void> }>
  /** Whether it is the account's; null and what cannot sign in cost the same work and never match. */
  matches(password: string, passwordHash: string | null): Promise<boolean>
  /** @throws Fault `forbidden` naming the field, `busy`. */
  assertKnows(account: AccountRecord, password: string | undefined, address: string): Promise<void>
}

export function passwordTries({ store, hasher, crypto, clock, rng, policy }: IdentityParts): PasswordTries {
  /** What is verified where there is no account: the same work, and it never matches. Made once, when first needed. */
  let decoy: Promise<string> | undefined
  const decoyHash = (): Promise<string> => {
    decoy ??= hasher.hash(newSecret(rng, crypto).text).catch((error: unknown) => {
      decoy = undefined
      throw error
    })
    return decoy
  }

  const count = async (what: string, name: string, address: string): Promise<{ passed: () => Promise<void> }> => {
    const now = clock.now()
    const keys = attemptKeys(name, address, policy.throttle)
    const verdict = decide(keys, await store.countAttempt(keys, now, policy.throttle), now)
    if (verdict.kind === 'wait') {
      const waitSeconds = Math.ceil(verdict.waitMs / 1000)
      throw new Fault('busy', `${what}: too many tries, wait ${waitSeconds} s`, { cause: { retryAfterSeconds: waitSeconds } })
    }
    return { passed: () => store.settleAttempt(keys.map(({ key }) => ({ key, forget: key.startsWith('pair:') }))) }
  }

  const matches = async (password: string, passwordHash: string | null): Promise<boolean> =>
    (await hasher.verify(password, passwordHash ?? (await decoyHash()))) && passwordHash !== null

  const assertKnows = async (account: AccountRecord, password: string | undefined, address: string): Promise<void> => {
    const refuse = (got: string): Fault => {
      const detail = { path: 'body.currentPassword', want: `the password of ${account.name} until now`, got }
      return new Fault('forbidden', `set password of ${account.name}: ${detail.path}: got ${got}, want ${detail.want}`, {
        details: [detail],
      })
    }
    if (password === undefined) throw refuse('nothing')
    const attempt = await count(`set password of ${account.name}`, account.name, address)
    if (!(await matches(password, account.passwordHash))) throw refuse('another one')
    await attempt.passed()
  }

  return { count, matches, assertKnows }
}
