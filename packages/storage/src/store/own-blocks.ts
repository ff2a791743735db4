/** How many blocks of data and nodes the deletion of a volume or snapshot would give back: those that nobody else has. */
import { Fault } from '@typevisor/base'
import type { Entry } from './catalog.ts'
import { openDeadBlock } from './dead-list.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE, ENTRY_WORDS } from './format.ts'
import { hex, type StoreState } from './state.ts'
import { addressAt, entryAt, Node, type NodeEntry } from './tree.ts'

export interface CountBudget {
  /** Nodes and blocks of dead lists that may still be looked at; each may have to be read. */
  nodeCount: number
  readonly pause: () => Promise<void>
}

/** Nodes between two pauses. */
const PAUSE_EVERY = 64

class OverBudget extends Error {}

/**
 * Counted beside the load: what is written meanwhile may be in it or not. What is shared is not gone through, so that it costs as much as there
 * is to count: a node for each MiB.
 *
 * @returns null when the budget does not last. @throws Fault `failed` for a node that is damaged.
 */
export async function ownBlockCount(state: StoreState, entry: Entry, budget: CountBudget): Promise<number | null> {
  // It stays as a branch, with all that it has.
  if (entry.children.size > 1) return 0
  const [child] = entry.children
  const count = new Count(state, entry.ownedAfter, budget)
  try {
    return child ? await count.deadList(child) : await count.tree(entry)
  } catch (error) {
    if (error instanceof OverBudget) return null
    throw error
  }
}

class Count {
  readonly #state: StoreState
  readonly #ownedAfter: number
  readonly #budget: CountBudget

  constructor(state: StoreState, ownedAfter: number, budget: CountBudget) {
    this.#state = state
    this.#ownedAfter = ownedAfter
    this.#budget = budget
  }

  async tree({ tree }: Entry): Promise<number> {
    if (tree.dirtyRoot) return await this.#node(tree.dirtyRoot)
    return await this.#entry(tree.root)
  }

  /** What the child has let go of and the grandparent does not have. */
  async deadList({ dead }: Entry): Promise<number> {
    let count = dead.entries.filter(({ birth }) => birth > this.#ownedAfter).length
    for (let top = dead.top; top.address !== 0;) {
      await this.#spend()
      const { entries, previous } = openDeadBlock(await this.#read(top.address, top.checksum))
      count += entries.filter(({ birth }) => birth > this.#ownedAfter).length
      top = previous
    }
    return count
  }

  async #entry(entry: NodeEntry): Promise<number> {
    if (entry.address === 0 || entry.birth <= this.#ownedAfter) return 0
    const known = this.#state.cache.get(entry.address)
    if (known) return await this.#node(known)
    const content = await this.#read(entry.address, entry.checksum)
    // Not put into the cache: it would push out what is in use.
    return await this.#node(new Node(entry.level, entry.birth, 0, new Uint32Array(content.buffer)))
  }

  async #node(node: Node): Promise<number> {
    if (node.birth <= this.#ownedAfter) return 0
    await this.#spend()
    let count = 1
    for (let slot = 0; slot < ENTRIES_PER_NODE; slot += 1) {
      if (node.level === 0) {
        const word = slot * ENTRY_WORDS
        if (addressAt(node.words, word) !== 0 && (node.words[word + 2] as number) > this.#ownedAfter) count += 1
      } else {
        const child = node.children?.[slot]
        count += child ? await this.#node(child) : await this.#entry(entryAt(node, slot))
      }
    }
    return count
  }

  async #read(address: number, want: number): Promise<Uint8Array> {
    const { file, checksum } = this.#state.parts
    const content = new Uint8Array(BLOCK_BYTES)
    await file.read(address * BLOCK_BYTES, content)
    const found = checksum(content)
    if (found !== want) throw new Fault('failed', `block ${address}: checksum ${hex(found)}, want ${hex(want)}`)
    return content
  }

  async #spend(): Promise<void> {
    const { pause } = this.#budget
    if (this.#budget.nodeCount <= 0) throw new OverBudget()
    this.#budget.nodeCount -= 1
    if (this.#budget.nodeCount % PAUSE_EVERY === 0) await pause()
  }
}
