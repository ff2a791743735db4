/**
 * The PHC string format of argon2id: `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH`, base64 without padding.
 * https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
 */
export interface ArgonParameters {
  readonly memoryKib: number
  readonly passCount: number
  readonly laneCount: number
}

export interface PhcString extends ArgonParameters {
  readonly salt: Uint8Array
  readonly hash: Uint8Array
}

/** Version of Argon2 in RFC 9106. */
const VERSION = 0x13
/** Nothing larger is computed, whatever the database holds: a wrong row must not take the machine's memory. */
const MEMORY_KIB_MAX = 1024 * 1024
const PASS_COUNT_MAX = 64
const LANE_COUNT_MAX = 16

const encode = (content: Uint8Array): string => btoa(String.fromCharCode(...content)).replaceAll('=', '')
const decode = (text: string): Uint8Array => Uint8Array.from(atob(text), (char) => char.charCodeAt(0))

export function formatPhc({ memoryKib, passCount, laneCount, salt, hash }: PhcString): string {
  return `$argon2id$v=${VERSION}$m=${memoryKib},t=${passCount},p=${laneCount}$${encode(salt)}$${encode(hash)}`
}

const PHC = /^\$argon2id\$v=19\$m=(\d{1,8}),t=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})$/

/** null for anything else than argon2id of version 19 within bounds. */
export function parsePhc(text: string): PhcString | null {
  const match = PHC.exec(text)
  if (!match) return null
  const [memoryKib, passCount, laneCount] = [Number(match[1]), Number(match[2]), Number(match[3])]
  if (memoryKib < 8 * laneCount || memoryKib > MEMORY_KIB_MAX) return null
  if (passCount < 1 || passCount > PASS_COUNT_MAX || laneCount < 1 || laneCount > LANE_COUNT_MAX) return null
  try {
    return { memoryKib, passCount, laneCount, salt: decode(match[4] ?? ''), hash: decode(match[5] ?? '') }
  } catch {
    return null // a base64 text of an impossible length
  }
}
