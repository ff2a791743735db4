import { assert } from '@typevisor/base'
import type { CommitAnswer, SagaStore, SagaTransition } from './ports.ts'

interface Waiting {
  readonly transition: SagaTransition
  readonly resolve: (answer: CommitAnswer) => void
  readonly reject: (error: unknown) => void
}

/**
 * Joins the transitions of many sagas into groups: while one group is being committed the next one gathers, so that the cost of
 * a sync or a round trip is shared by all that came meanwhile.
 */
export class GroupCommitter {
  readonly #store: SagaStore
  readonly #groupCountMax: number
  #waiting: Waiting[] = []
  #running = false

  constructor(store: SagaStore, groupCountMax: number) {
    this.#store = store
    this.#groupCountMax = groupCountMax
  }

  /** Rejects when it is unknown whether the transition was written. */
  commit(transition: SagaTransition): Promise<CommitAnswer> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ transition, resolve, reject })
      if (!this.#running) void this.#run()
    })
  }

  async #run(): Promise<void> {
    this.#running = true
    // Sagas that were resumed together end their steps together: they get one turn of the microtask queue to join.
    await null
    while (this.#waiting.length > 0) {
      const group = this.#waiting.splice(0, this.#groupCountMax)
      try {
        const answers = await this.#store.commit(group.map(({ transition }) => transition))
        assert(answers.length === group.length, `${answers.length} answers for ${group.length} transitions`)
        group.forEach(({ resolve }, index) => resolve(answers[index] as CommitAnswer))
      } catch (error) {
        for (const { reject } of group) reject(error)
      }
    }
    this.#running = false
  }
}
