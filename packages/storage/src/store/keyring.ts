/** The keys of a store's encrypted volumes: those that were unwrapped, by their wrapping. A volume, its snapshots and clones share one. */
import { Fault, type Rng } from '@typevisor/base'
import type { Catalog } from './catalog.ts'
import { KEY_BYTES } from './format.ts'
import type { BlockCipher, VolumeCrypto, WrappedKey } from './ports.ts'

export class Keyring {
  readonly #crypto: VolumeCrypto | null
  readonly #rng: Rng
  readonly #catalog: Catalog
  readonly #ciphers = new Map<string, BlockCipher>()

  constructor(parts: { readonly crypto?: VolumeCrypto; readonly rng: Rng }, catalog: Catalog) {
    this.#crypto = parts.crypto ?? null
    this.#rng = parts.rng
    this.#catalog = catalog
  }

  /** null: not encrypted, or locked. */
  cipherFor(key: WrappedKey | null): BlockCipher | null {
    return key && (this.#ciphers.get(wrappingOf(key)) ?? null)
  }

  /** A new volume's key. */
  make(secret: Uint8Array): Promise<WrappedKey> {
    return this.#wrap(this.#rng.bytes(KEY_BYTES), secret)
  }

  /** @returns whether the key file is the one. */
  async unlock(key: WrappedKey, secret: Uint8Array): Promise<boolean> {
    const volumeKey = await this.#need().unwrap(key, secret)
    if (volumeKey) this.#add(key, volumeKey)
    return volumeKey !== null
  }

  /** The same volume key for another key file. null: `secret` is not the one that it is wrapped with. */
  async rewrap(key: WrappedKey, secret: Uint8Array, nextSecret: Uint8Array): Promise<WrappedKey | null> {
    const volumeKey = await this.#need().unwrap(key, secret)
    return volumeKey && this.#wrap(volumeKey, nextSecret)
  }

  async #wrap(volumeKey: Uint8Array, secret: Uint8Array): Promise<WrappedKey> {
    const key = await this.#need().wrap(volumeKey, secret, (count) => this.#rng.bytes(count))
    this.#add(key, volumeKey)
    return key
  }

  #add(key: WrappedKey, volumeKey: Uint8Array): void {
    this.#ciphers.set(wrappingOf(key), this.#need().cipher(volumeKey))
    for (const entry of this.#catalog.entries()) entry.cipher ??= this.cipherFor(entry.record.key)
  }

  #need(): VolumeCrypto {
    if (!this.#crypto)
      throw new Fault('unsupported', 'store: it was opened without a crypto port, so encrypted volumes stay locked')
    return this.#crypto
  }
}

/** Different wherever the keys, or what they are wrapped with, are. */
export const wrappingOf = ({ nonce, tag, wrapped }: WrappedKey): string => [...nonce, ...tag, ...wrapped].join()
