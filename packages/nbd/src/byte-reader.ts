import { Fault } from '@typevisor/base'

/**
 * Bytes as they come, taken as they are asked for: for the slow part of a conversation. One taker at a time. What has come and was not asked
 * for is bounded by who feeds it (`waitingBytes`).
 */
export class ByteReader {
  #chunks: Uint8Array[] = []
  #waitingBytes = 0
  #wanted = 0
  #wake: (() => void) | null = null
  #ended = false

  get waitingBytes(): number {
    return this.#waitingBytes
  }

  push(chunk: Uint8Array): void {
    if (chunk.length === 0 || this.#ended) return
    // A plain view: `slice` of Node's Buffer does not copy.
    this.#chunks.push(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length))
    this.#waitingBytes += chunk.length
    if (this.#waitingBytes >= this.#wanted) this.#wakeUp()
  }

  /** No more will come. */
  end(): void {
    this.#ended = true
    this.#wakeUp()
  }

  /** @throws Fault `aborted` when the bytes end before. */
  async take(countBytes: number): Promise<Uint8Array> {
    while (this.#waitingBytes < countBytes) {
      if (this.#ended) throw new Fault('aborted', `the connection ended: got ${this.#waitingBytes} bytes, want ${countBytes}`)
      this.#wanted = countBytes
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    this.#waitingBytes -= countBytes
    const first = this.#chunks[0]
    if (first && first.length >= countBytes) {
      if (first.length === countBytes) this.#chunks.shift()
      else this.#chunks[0] = first.subarray(countBytes)
      return first.subarray(0, countBytes)
    }
    const whole = new Uint8Array(countBytes)
    let at = 0
    while (at < countBytes) {
      // There are enough: they were counted.
      const chunk = this.#chunks[0] as Uint8Array
      const part = chunk.subarray(0, countBytes - at)
      whole.set(part, at)
      at += part.length
      if (part.length === chunk.length) this.#chunks.shift()
      else this.#chunks[0] = chunk.subarray(part.length)
    }
    return whole
  }

  /** Takes and forgets, without holding more than a chunk. */
  async skip(countBytes: number): Promise<void> {
    let left = countBytes
    while (left > 0) {
      const part = Math.min(left, Math.max(this.#waitingBytes, 1))
      await this.take(part)
      left -= part
    }
  }

  /** All that is there now. */
  drain(): Uint8Array[] {
    const chunks = this.#chunks
    this.#chunks = []
    this.#waitingBytes = 0
    return chunks
  }

  #wakeUp(): void {
    const wake = this.#wake
    this.#wake = null
    this.#wanted = 0
    wake?.()
  }
}
