/** What a store stands on: one file, or one block device; and what makes of blocks what nobody else can read. */

/** Zlib's CRC-32 of `content`, going on from `start`. */
export type Checksum = (content: Uint8Array, start?: number) => number

/** What the file system has for a file: bytes that are still free, and those that the file has already, holes not counted. */
export interface HostSpace {
  readonly availableBytes: number
  readonly allocatedBytes: number
}

export interface StoreFile {
  /** Bytes that can be read now; a file grows when it is written behind its end. */
  readonly sizeBytes: number
  /** The most it can ever have. */
  readonly capacityBytes: number
  /** Fills `target` from `start` on with `lengthBytes`, if that takes no waiting for the disk. @returns false when it would: nothing was done. What lies behind the end reads as zeros. */
  readNow(position: number, target: Uint8Array, start: number, lengthBytes: number): boolean
  /** The same, however long it takes, with everything standing still meanwhile. @throws Fault `failed` with the kernel's word. */
  readBlocking(position: number, target: Uint8Array, start: number, lengthBytes: number): void
  read(position: number, target: Uint8Array): Promise<void>
  /** Hands the parts to the kernel, one behind the other: they outlive this process, not a power cut. @throws Fault `exhausted` without space, `failed` otherwise; a part of it may have been written then. */
  write(position: number, parts: readonly Uint8Array[]): void
  /** Resolves when all that was written before the call is safe from a power cut. */
  sync(): Promise<void>
  /** Room for a range, so that writing to it later does not fail for want of space. Where that cannot be had for sure it does nothing. @throws Fault `exhausted` without space. */
  allocate(position: number, lengthBytes: number): void
  /** Gives the room of a range back, where that can be done; it reads as zeros then, or as before. */
  punch(position: number, lengthBytes: number): void
  /** Left out, or null: what the file can have it has already, as a block device. */
  hostSpace?(): Promise<HostSpace | null>
  close(): Promise<void>
}

/** A volume's key as it lies in the store: under a key that comes of a key file. */
export interface WrappedKey {
  /** `hkdf`: the key file is random bytes. `scrypt`: it is a text, and its strength may be small. */
  readonly kind: 'hkdf' | 'scrypt'
  /** `scrypt`: log2 of N; 0 otherwise. */
  readonly cost: number
  readonly salt: Uint8Array
  readonly nonce: Uint8Array
  readonly tag: Uint8Array
  readonly wrapped: Uint8Array
}

/** Blocks of one volume, sealed and opened: the SIV construction, so there is no nonce to be kept. */
export interface BlockCipher {
  /**
   * `plain`, a block, becomes `target` from `start` on; its SIV goes into `siv` from `sivStart` on, in bytes. What is sealed is the block at
   * this place, of this epoch and with these flags: elsewhere it does not open.
   */
  seal(
    block: number,
    birth: number,
    flags: number,
    plain: Uint8Array,
    target: Uint8Array,
    start: number,
    siv: Uint8Array,
    sivStart: number,
  ): void
  /** Opens a block where it lies. @returns false when it is not what was sealed there; `target` has nothing of use then. */
  open(block: number, birth: number, flags: number, target: Uint8Array, start: number, siv: Uint8Array, sivStart: number): boolean
}

export interface VolumeCrypto {
  /** `secret`: what is in the key file. @throws Fault `invalid` when that is too little. */
  wrap(volumeKey: Uint8Array, secret: Uint8Array, random: (byteCount: number) => Uint8Array): Promise<WrappedKey>
  /** null: it is another key file's, or damaged. */
  unwrap(key: WrappedKey, secret: Uint8Array): Promise<Uint8Array | null>
  cipher(volumeKey: Uint8Array): BlockCipher
}

export interface Compressor {
  compress(content: Uint8Array): Uint8Array
  /** @throws Fault `failed` when it is not what `compress` made of at most `sizeBytes`. */
  expand(content: Uint8Array, sizeBytes: number): Uint8Array
}
