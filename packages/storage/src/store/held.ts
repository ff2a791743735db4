/** Blocks that are free and must not be used again yet, since something on disk may still lead to them. */
export class Held {
  #blocks: number[] = []
  #groups = new Set<number>()

  get blocks(): readonly number[] {
    return this.#blocks
  }
  /** Groups whose room in the file can be given back when their blocks may be used again. */
  get groups(): ReadonlySet<number> {
    return this.#groups
  }

  push(block: number): void {
    this.#blocks.push(block)
  }
  pushGroup(group: number): void {
    this.#groups.add(group)
  }

  add({ blocks, groups }: Held): void {
    for (const block of blocks) this.#blocks.push(block)
    for (const group of groups) this.#groups.add(group)
  }

  /** All of it, which is not in here any more. */
  take(): Held {
    const taken = new Held()
    taken.#blocks = this.#blocks
    taken.#groups = this.#groups
    this.#blocks = []
    this.#groups = new Set()
    return taken
  }
}
