/** One operation at a time per key, in the order of asking. */
export class Locks<Key> {
  readonly #tails = new Map<Key, Promise<void>>()

  async run<T>(key: Key, signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const turn = this.#tails.get(key) ?? Promise.resolve()
    const done = Promise.withResolvers<void>()
    const tail = turn.then(() => done.promise)
    this.#tails.set(key, tail)
    try {
      await turn
      signal?.throwIfAborted()
      return await work()
    } finally {
      done.resolve()
      if (this.#tails.get(key) === tail) this.#tails.delete(key)
    }
  }
}
