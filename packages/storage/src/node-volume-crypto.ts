/**
 * Encryption of volumes with Node's OpenSSL.
 *
 *   key file --HKDF or scrypt--> wrapping key --AES-256-GCM--> volume key --HKDF--> encryption key, authentication key
 *
 * A block is sealed by SIV (Rogaway and Shrimpton, Deterministic Authenticated-Encryption, 2006): SIV = the first 16 bytes of
 * HMAC-SHA-256(authentication key, epoch || block || flags || plain text), ciphertext = AES-256-CTR(encryption key, SIV). docs/volumes.md says against
 * what that helps, and against what not.
 */
import { createCipheriv, createDecipheriv, createHmac, createSecretKey, hkdfSync, scrypt, type KeyObject } from 'node:crypto'
import { Fault } from '@typevisor/base'
import { BLOCK_BYTES, KEY_BYTES, KEY_NONCE_BYTES, KEY_SALT_BYTES, KEY_TAG_BYTES, SIV_BYTES } from './store/format.ts'
import type { BlockCipher, VolumeCrypto, WrappedKey } from './store/ports.ts'

const SECRET_BYTES_MIN = 8
/** OWASP Password Storage Cheat Sheet: N = 2^17, r = 8, p = 1. */
const SCRYPT_COST = 17
const SCRYPT_R = 8
/** A record with more asks for more memory than any of ours. */
const SCRYPT_COST_MAX = 20

export interface NodeVolumeCryptoOptions {
  /** log2 of scrypt's N for keys that are wrapped; tests need not wait for it. */
  readonly scryptCost?: number
}

export function nodeVolumeCrypto({ scryptCost = SCRYPT_COST }: NodeVolumeCryptoOptions = {}): VolumeCrypto {
  return {
    async wrap(volumeKey, secret, random) {
      if (secret.length < SECRET_BYTES_MIN)
        throw new Fault('invalid', `key file: got ${secret.length} bytes, want at least ${SECRET_BYTES_MIN}`)
      const kind = isRandom(secret) ? 'hkdf' : 'scrypt'
      const cost = kind === 'scrypt' ? scryptCost : 0
      const salt = random(KEY_SALT_BYTES)
      const nonce = random(KEY_NONCE_BYTES)
      const wrapping = createCipheriv('aes-256-gcm', await wrappingKey({ kind, cost, salt }, secret), nonce)
      const wrapped = new Uint8Array(wrapping.setAAD(WRAP_LABEL).update(volumeKey))
      wrapping.final()
      return { kind, cost, salt, nonce, tag: new Uint8Array(wrapping.getAuthTag()), wrapped }
    },
    async unwrap(key, secret) {
      const { nonce, tag, wrapped } = key
      // Another kind of key file cannot be the one.
      if ((key.kind === 'hkdf') !== isRandom(secret)) return null
      const unwrapping = createDecipheriv('aes-256-gcm', await wrappingKey(key, secret), nonce, { authTagLength: KEY_TAG_BYTES })
      const volumeKey = new Uint8Array(unwrapping.setAAD(WRAP_LABEL).setAuthTag(tag).update(wrapped))
      try {
        unwrapping.final()
        return volumeKey
      } catch {
        return null
      }
    },
    cipher: (volumeKey) => new SivCipher(volumeKey),
  }
}

const WRAP_LABEL = Buffer.from('typevisor volume key')
const derive = (secret: Uint8Array, salt: Uint8Array, label: string): KeyObject =>
  createSecretKey(Buffer.from(hkdfSync('sha256', secret, salt, `typevisor volume: ${label}`, KEY_BYTES)))

/** Whether a key file is random bytes, long enough to be a key. A text is guessed at more easily. */
function isRandom(secret: Uint8Array): boolean {
  if (secret.length < KEY_BYTES) return false
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(secret)
    return /[^\P{Cc}\t\r\n]/u.test(text)
  } catch {
    return true
  }
}

async function wrappingKey(
  { kind, cost, salt }: Pick<WrappedKey, 'kind' | 'cost' | 'salt'>,
  secret: Uint8Array,
): Promise<KeyObject> {
  if (kind === 'hkdf') return derive(secret, salt, 'wrapping')
  if (cost < 1 || cost > SCRYPT_COST_MAX)
    throw new Fault('failed', `volume key: got scrypt cost ${cost}, want 1 to ${SCRYPT_COST_MAX}`)
  const N = 2 ** cost
  // A line end is an editor's, not the passphrase's.
  const text = Buffer.from(
    Buffer.from(secret)
      .toString('latin1')
      .replace(/\r?\n$/, ''),
    'latin1',
  )
  return new Promise((resolve, reject) => {
    scrypt(text, salt, KEY_BYTES, { N, r: SCRYPT_R, p: 1, maxmem: 2 * 128 * N * SCRYPT_R }, (error, key) =>
      error ? reject(new Fault('failed', `scrypt: ${error.message}`, { cause: error })) : resolve(createSecretKey(key)),
    )
  })
}

class SivCipher implements BlockCipher {
  readonly #encryptionKey: KeyObject
  readonly #authenticationKey: KeyObject
  /** What goes into a SIV before the block: epoch, block (64 bits), flags. */
  readonly #place = Buffer.alloc(16)

  constructor(volumeKey: Uint8Array) {
    this.#encryptionKey = derive(volumeKey, new Uint8Array(0), 'encryption')
    this.#authenticationKey = derive(volumeKey, new Uint8Array(0), 'authentication')
  }

  seal(
    block: number,
    birth: number,
    flags: number,
    plain: Uint8Array,
    target: Uint8Array,
    start: number,
    siv: Uint8Array,
    sivStart: number,
  ): void {
    const tag = this.#tagOf(block, birth, flags, plain)
    siv.set(tag, sivStart)
    target.set(createCipheriv('aes-256-ctr', this.#encryptionKey, tag).update(plain), start)
  }

  open(
    block: number,
    birth: number,
    flags: number,
    target: Uint8Array,
    start: number,
    siv: Uint8Array,
    sivStart: number,
  ): boolean {
    const want = siv.subarray(sivStart, sivStart + SIV_BYTES)
    const content = target.subarray(start, start + BLOCK_BYTES)
    content.set(createDecipheriv('aes-256-ctr', this.#encryptionKey, want).update(content))
    return this.#tagOf(block, birth, flags, content).equals(want)
  }

  #tagOf(block: number, birth: number, flags: number, plain: Uint8Array): Buffer {
    this.#place.writeUInt32LE(birth, 0)
    this.#place.writeUIntLE(block, 4, 6)
    this.#place.writeUInt32LE(flags, 12)
    return createHmac('sha256', this.#authenticationKey).update(this.#place).update(plain).digest().subarray(0, SIV_BYTES)
  }
}
