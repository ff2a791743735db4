/**
 * Secrets that a machine keeps: 256 random bits each, so that a plain SHA-256 of them is enough to store.
 *
 *   tv_<id>_<secret>    API token         tvl_<id>_<secret>   local credential of one server's life
 *   tvh_<id>_<secret>   an agent's token (host)
 *
 * `<id>` is the row's UUID without dashes: the row is found by it, and the secret is compared in constant time. The prefix lets
 * scanners of leaked secrets find them.
 */
import type { Rng } from '@typevisor/base'
import type { SecretCrypto } from './ports.ts'

const SECRET_BYTES = 32
const PREFIX = { api: 'tv', local: 'tvl', host: 'tvh' } as const
export type BearerKind = keyof typeof PREFIX

export interface Bearer {
  readonly kind: BearerKind
  readonly id: string
  readonly secret: Uint8Array
}

const toBase64Url = (content: Uint8Array): string =>
  btoa(String.fromCharCode(...content))
    .replaceAll('+', '-')
    .replaceAll('/', '_')
    .replaceAll('=', '')
const fromBase64Url = (text: string): Uint8Array =>
  Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0))

/** A new random secret and what of it may be stored. */
export function newSecret(rng: Rng, crypto: SecretCrypto): { readonly text: string; readonly hash: Uint8Array } {
  const secret = rng.bytes(SECRET_BYTES)
  return { text: toBase64Url(secret), hash: crypto.sha256(secret) }
}

/** null when the text is no secret of ours; its hash otherwise. */
export function hashOfSecret(text: string, crypto: SecretCrypto): Uint8Array | null {
  return /^[A-Za-z0-9_-]{43}$/.test(text) ? crypto.sha256(fromBase64Url(text)) : null
}

export function bearerText({ kind, id, secret }: Bearer): string {
  return `${PREFIX[kind]}_${id.replaceAll('-', '')}_${toBase64Url(secret)}`
}

/** A new bearer text for the row `id`, and the hash to store with the row. */
export function newBearer(
  kind: BearerKind,
  id: string,
  rng: Rng,
  crypto: SecretCrypto,
): { readonly text: string; readonly hash: Uint8Array } {
  const secret = rng.bytes(SECRET_BYTES)
  return { text: bearerText({ kind, id, secret }), hash: crypto.sha256(secret) }
}

const BEARER = /^(tv|tvl|tvh)_([0-9a-f]{8})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{4})([0-9a-f]{12})_([A-Za-z0-9_-]{43})$/

export function parseBearer(text: string): Bearer | null {
  const match = BEARER.exec(text)
  if (!match) return null
  const kind = (Object.keys(PREFIX) as BearerKind[]).find((candidate) => PREFIX[candidate] === match[1])
  if (!kind) return null
  return { kind, id: match.slice(2, 7).join('-'), secret: fromBase64Url(match[7] ?? '') }
}

/**
 * The CSRF token of a session: one way from the secret in the HttpOnly cookie, which a script of another site can neither read nor
 * compute. Nothing has to be stored for it, and it ends with the session.
 */
export function csrfTokenOf(sessionSecret: string, crypto: SecretCrypto): string {
  return toBase64Url(crypto.hmacSha256(new TextEncoder().encode(sessionSecret), new TextEncoder().encode('typevisor csrf 1')))
}

/** Compares two texts in constant time, by their hashes: their lengths may differ. */
export function textsEqual(a: string, b: string, crypto: SecretCrypto): boolean {
  const encoder = new TextEncoder()
  return crypto.equal(crypto.sha256(encoder.encode(a)), crypto.sha256(encoder.encode(b)))
}
