/** A bounded queue of bytes for one reader, who gets all that waits as one piece. A reader too slow for `sizeMax` gets Fault `busy`. */
import { Fault } from '@typevisor/base'

export class ByteQueue implements AsyncIterable<Uint8Array> {
  readonly #sizeMax: number
  #parts: Uint8Array[] = []
  #sizeBytes = 0
  #closed = false
  #failure: unknown = undefined
  #wake: (() => void) | undefined

  constructor(sizeMax: number) {
    this.#sizeMax = sizeMax
  }

  get closed(): boolean {
    return this.#closed
  }

  /** False: the queue was full and is closed now; its reader gets what waits and then `busy`. */
  push(chunk: Uint8Array): boolean {
    if (this.#closed) return false
    if (this.#sizeBytes + chunk.length > this.#sizeMax) {
      this.close(new Fault('busy', `the reader is too slow: ${this.#sizeBytes} bytes wait`))
      return false
    }
    this.#parts.push(chunk)
    this.#sizeBytes += chunk.length
    this.#wake?.()
    return true
  }

  close(failure?: unknown): void {
    if (this.#closed) return
    this.#closed = true
    this.#failure = failure
    this.#wake?.()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    while (true) {
      if (this.#sizeBytes > 0) yield this.#take()
      else if (this.#closed) {
        if (this.#failure !== undefined) throw this.#failure
        return
      } else {
        await new Promise<void>((resolve) => (this.#wake = resolve))
        this.#wake = undefined
      }
    }
  }

  #take(): Uint8Array {
    const only = this.#parts.length === 1 ? this.#parts[0] : undefined
    const whole = only ?? new Uint8Array(this.#sizeBytes)
    if (!only) {
      let at = 0
      for (const part of this.#parts) {
        whole.set(part, at)
        at += part.length
      }
    }
    this.#parts = []
    this.#sizeBytes = 0
    return whole
  }
}
