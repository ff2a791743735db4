/** What a store stands on: one file, or one block device. */

/** Zlib's CRC-32 of `content`, going on from `start`. */
export type Checksum = (content: Uint8Array, start?: number) => number

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
  close(): Promise<void>
}
