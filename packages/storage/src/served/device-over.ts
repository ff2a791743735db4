import type { BlockDevice, Extent, WriteOptions, ZeroOptions } from '@typevisor/base'

/** A disk that hands all on to another: whoever stands between says what it does otherwise. Its `now` is its own. */
export abstract class DeviceOver implements BlockDevice {
  protected readonly inner: BlockDevice

  constructor(inner: BlockDevice) {
    this.inner = inner
  }

  get sizeBytes(): number {
    return this.inner.sizeBytes
  }
  get readOnly(): boolean {
    return this.inner.readOnly
  }
  get blockBytesMin(): number {
    return this.inner.blockBytesMin
  }
  get blockBytesPreferred(): number {
    return this.inner.blockBytesPreferred
  }

  abstract read(offset: number, target: Uint8Array): Promise<void>
  abstract write(offset: number, source: Uint8Array, options?: WriteOptions): Promise<void>
  abstract trim(offset: number, lengthBytes: number, options?: WriteOptions): Promise<void>
  abstract zero(offset: number, lengthBytes: number, options?: ZeroOptions): Promise<void>
  flush(): Promise<void> {
    return this.inner.flush()
  }
  cache(offset: number, lengthBytes: number): Promise<void> {
    return this.inner.cache(offset, lengthBytes)
  }
  extents(offset: number, lengthBytes: number, countMax: number): Promise<readonly Extent[]> {
    return this.inner.extents(offset, lengthBytes, countMax)
  }
}
