import { Fault } from './fault.ts'

/**
 * A bounded queue between one or more writers and one reader. A writer that meets a full queue is told so at once
 * (`busy`); it never waits and nothing is dropped in silence.
 *
 *   writer --push--> [ . . . capacity ] --for await--> reader
 */
export class Channel<T> implements AsyncIterable<T> {
  readonly capacity: number
  readonly #items: T[] = []
  #closed = false
  #failure: unknown = undefined
  #wake: (() => void) | undefined

  constructor(capacity: number) {
    this.capacity = capacity
  }

  get size(): number {
    return this.#items.length
  }
  get closed(): boolean {
    return this.#closed
  }

  /** @throws Fault `busy` when full. After `close` it does nothing. */
  push(item: T): void {
    if (this.#closed) return
    if (this.#items.length >= this.capacity) throw new Fault('busy', `queue full: ${this.capacity} items wait`)
    this.#items.push(item)
    this.#wake?.()
  }

  /** Ends the reader after the items that wait; with `failure` the reader throws it then. */
  close(failure?: unknown): void {
    if (this.#closed) return
    this.#closed = true
    this.#failure = failure
    this.#wake?.()
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    while (true) {
      while (this.#items.length > 0) yield this.#items.shift() as T
      if (this.#closed) {
        if (this.#failure !== undefined) throw this.#failure
        return
      }
      await new Promise<void>((resolve) => (this.#wake = resolve))
      this.#wake = undefined
    }
  }
}
