/** A byte socket whose other end is the test: what the code writes arrives as lines, what the test sends is read. For `testing.ts`. */
import { Fault } from '@typevisor/base'
import type { ByteSocket } from './ports.ts'

export class SocketDouble implements ByteSocket {
  readonly written: string[] = []
  closed = false
  /** Called with each whole line. */
  onLine: (line: string) => void = () => {}
  #chunks: Uint8Array[] = []
  #half = ''
  #wake: (() => void) | null = null

  readonly readable: AsyncIterable<Uint8Array> = { [Symbol.asyncIterator]: () => this.#read() }

  async write(content: Uint8Array): Promise<void> {
    if (this.closed) throw new Fault('unavailable', 'closed')
    this.#half += new TextDecoder('latin1').decode(content)
    const lines = this.#half.split('\n')
    this.#half = lines.pop() ?? ''
    for (const line of lines) {
      this.written.push(line)
      this.onLine(line)
    }
  }

  /** An object becomes a line of JSON. */
  send(content: Uint8Array | string | object): void {
    const isBytes = content instanceof Uint8Array
    const text = isBytes ? '' : typeof content === 'string' ? content : `${JSON.stringify(content)}\n`
    this.#chunks.push(isBytes ? content : new TextEncoder().encode(text))
    this.#wake?.()
  }

  async end(): Promise<void> {}

  close(): void {
    this.closed = true
    this.#wake?.()
  }

  async *#read(): AsyncGenerator<Uint8Array, void, undefined> {
    while (true) {
      const chunk = this.#chunks.shift()
      if (chunk) yield chunk
      else if (this.closed) return
      else await new Promise<void>((resolve) => (this.#wake = resolve))
    }
  }
}
