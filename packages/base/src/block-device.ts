/** A disk as programs use one. What stands in front of another (a limit, a delay, a fault) is a `BlockDevice` too. */

export interface BlockDevice {
  readonly sizeBytes: number
  readonly readOnly: boolean
  /** Offsets and lengths are multiples of it (a power of two, 1 where any will do). */
  readonly blockBytesMin: number
  /** What costs least. */
  readonly blockBytesPreferred: number
  /** Fills `target` with what is there from `offset` on. */
  read(offset: number, target: Uint8Array): Promise<void>
  /** `source` must not change until it resolves. With `fua` it is safe from a power cut by then. */
  write(offset: number, source: Uint8Array, options?: WriteOptions): Promise<void>
  /** Resolves when every write that had resolved before the call is safe from a power cut. */
  flush(): Promise<void>
  /** Says that what is there is not wanted any more: a hint, after which zeros are read (`zero`'s hole). */
  trim(offset: number, lengthBytes: number, options?: WriteOptions): Promise<void>
  zero(offset: number, lengthBytes: number, options?: ZeroOptions): Promise<void>
  /** Gets it ready for reading: a hint. */
  cache(offset: number, lengthBytes: number): Promise<void>
  /** What is there, from `offset` on, without a gap, joined where alike; at most `countMax` and at least one, so perhaps not to the end. */
  extents(offset: number, lengthBytes: number, countMax: number): Promise<readonly Extent[]>
  /** The same without waiting, where it can be had: what a server asks first. */
  readonly now?: ImmediateBlockDevice
}

export interface WriteOptions {
  readonly fua?: boolean
}

export interface ZeroOptions extends WriteOptions {
  /** Keep the space, so that a later write does not run out of it. */
  readonly noHole?: boolean
  /** Fault `unsupported` rather than writing zeros one by one. */
  readonly fast?: boolean
}

/** `hole`: takes no space. `zero`: reads as zeros. */
export interface Extent {
  readonly lengthBytes: number
  readonly hole: boolean
  readonly zero: boolean
}

/** For hot loops: primitive arguments, nothing allocated. Whatever cannot be done at once is asked of the device itself. */
export interface ImmediateBlockDevice {
  /** Fills `target` from `targetStart` on. @returns false when it would have to wait: nothing was done. */
  read(offset: number, lengthBytes: number, target: Uint8Array, targetStart: number): boolean
  /** Takes a write in. It counts as done when `commit` has returned; until then `source` must not change. @returns false when it would have to wait: nothing was done. */
  write(offset: number, source: Uint8Array): boolean
  /** Whether a part of the range is a hole or zeros, so that asking for its extents pays. */
  hasHoles(offset: number, lengthBytes: number): boolean
  /** Carries out what `write` took in. @throws Fault when it could not: then none of it counts as done. */
  commit(): void
}
