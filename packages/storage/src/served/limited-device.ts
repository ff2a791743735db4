/** A disk held to its volume's limits. Flushes and hints pass: they are no work of the guest's that could be put off. */
import { Fault, type BlockDevice, type ImmediateBlockDevice, type WriteOptions, type ZeroOptions } from '@typevisor/base'
import { DeviceOver } from './device-over.ts'
import type { Limiter } from './limiter.ts'

export class LimitedDevice extends DeviceOver {
  readonly #limiter: Limiter
  readonly now?: ImmediateBlockDevice

  constructor(inner: BlockDevice, limiter: Limiter) {
    super(inner)
    this.#limiter = limiter
    if (inner.now) this.now = immediate(inner.now, limiter)
  }

  /** What of it still waits is not carried out any more. */
  abandon(reason: Fault): void {
    this.#limiter.abandon(this, reason)
  }

  read(offset: number, target: Uint8Array): Promise<void> {
    return this.#held(target.length, () => this.inner.read(offset, target))
  }
  write(offset: number, source: Uint8Array, options?: WriteOptions): Promise<void> {
    return this.#held(source.length, () => this.inner.write(offset, source, options))
  }
  trim(offset: number, lengthBytes: number, options?: WriteOptions): Promise<void> {
    return this.#held(0, () => this.inner.trim(offset, lengthBytes, options))
  }
  zero(offset: number, lengthBytes: number, options?: ZeroOptions): Promise<void> {
    return this.#held(0, () => this.inner.zero(offset, lengthBytes, options))
  }

  #held(lengthBytes: number, work: () => Promise<void>): Promise<void> {
    return this.#limiter.isOn ? this.#limiter.pass(this, lengthBytes).then(work) : work()
  }
}

/** Without limits one field is looked at, no more. */
const immediate = (now: ImmediateBlockDevice, limiter: Limiter): ImmediateBlockDevice => ({
  read(offset, lengthBytes, target, targetStart) {
    if (!limiter.isOn) return now.read(offset, lengthBytes, target, targetStart)
    if (!limiter.mayPass() || !now.read(offset, lengthBytes, target, targetStart)) return false
    limiter.charge(lengthBytes)
    return true
  },
  write(offset, source) {
    if (!limiter.isOn) return now.write(offset, source)
    if (!limiter.mayPass() || !now.write(offset, source)) return false
    limiter.charge(source.length)
    return true
  },
  hasHoles: (offset, lengthBytes) => now.hasHoles(offset, lengthBytes),
  commit: () => now.commit(),
})
