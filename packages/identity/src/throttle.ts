/**
 * The brake on guessing passwords. A try is counted for three keys before the password is looked at:
 *
 *   account+address   a person who mistypes, or one guesser at one account: few tries
 *   address           one guesser at many accounts: more
 *   account           many guessers at one account: many, so that a stranger cannot easily lock somebody out
 *
 * A key over its limit refuses until its window ends. A success takes the try back and forgets the pair.
 */
import { millis, type EpochMillis, type Millis } from '@typevisor/base'

export interface AttemptKey {
  readonly key: string
  readonly limit: number
}

export interface AttemptRecord {
  readonly key: string
  /** Tries in the window, this one among them. */
  readonly count: number
  readonly windowEndsAt: EpochMillis
}

export interface ThrottlePolicy {
  readonly windowMs: Millis
  readonly pairLimit: number
  readonly addressLimit: number
  readonly accountLimit: number
}

export function attemptKeys(account: string, address: string, policy: ThrottlePolicy): readonly AttemptKey[] {
  return [
    { key: `pair:${account}@${address}`, limit: policy.pairLimit },
    { key: `address:${address}`, limit: policy.addressLimit },
    { key: `account:${account}`, limit: policy.accountLimit },
  ]
}

export type ThrottleVerdict = { readonly kind: 'go' } | { readonly kind: 'wait'; readonly waitMs: Millis }

export function decide(keys: readonly AttemptKey[], records: readonly AttemptRecord[], now: EpochMillis): ThrottleVerdict {
  let waitMs = 0
  for (const { key, limit } of keys) {
    const record = records.find((candidate) => candidate.key === key)
    if (record && record.count > limit) waitMs = Math.max(waitMs, record.windowEndsAt - now, 1)
  }
  return waitMs > 0 ? { kind: 'wait', waitMs: millis(waitMs) } : { kind: 'go' }
}
