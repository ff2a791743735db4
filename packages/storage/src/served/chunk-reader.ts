import { Fault } from '@typevisor/base'

/** Exact numbers of bytes out of chunks of any size. */
export class ChunkReader {
  readonly #chunks: AsyncIterator<Uint8Array>
  #left: Uint8Array = new Uint8Array(0)
  #takenBytes = 0

  constructor(chunks: AsyncIterable<Uint8Array>) {
    this.#chunks = chunks[Symbol.asyncIterator]()
  }

  /** They stay as they are, unless the source uses its chunks again. @throws Fault `invalid` when the chunks end before. */
  async take(lengthBytes: number, what: string): Promise<Uint8Array> {
    if (this.#left.length >= lengthBytes) return this.#cut(lengthBytes)
    const content = new Uint8Array(lengthBytes)
    let got = 0
    while (got < lengthBytes) {
      if (this.#left.length === 0 && (await this.isAtEnd()))
        throw new Fault('invalid', `stream: it ends after ${this.#takenBytes} bytes, in ${what}`)
      const part = this.#cut(Math.min(this.#left.length, lengthBytes - got))
      content.set(part, got)
      got += part.length
    }
    return content
  }

  async isAtEnd(): Promise<boolean> {
    while (this.#left.length === 0) {
      const { value, done } = await this.#chunks.next()
      if (done) return true
      // A Buffer's `slice` is no copy.
      this.#left = new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
    }
    return false
  }

  #cut(lengthBytes: number): Uint8Array {
    const part = this.#left.subarray(0, lengthBytes)
    this.#left = this.#left.subarray(lengthBytes)
    this.#takenBytes += lengthBytes
    return part
  }
}
