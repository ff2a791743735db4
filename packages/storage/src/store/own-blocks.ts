/** How many blocks of data and nodes the deletion of a volume or snapshot would give back: those that nobody else has. And how many it leads to. */
import type { Entry } from './catalog.ts'
import { openDeadBlock, type DeadEntry } from './dead-list.ts'
import { BLOCK_BYTES, ENTRIES_PER_NODE } from './format.ts'
import type { ProvenPlace, StoreState } from './state.ts'
import { addressAt, entryAt, Node, NODE_WORDS, type Geometry, type NodeEntry } from './tree.ts'

export interface CountBudget {
  /** Nodes and blocks of dead lists that may still be looked at; each may have to be read. */
  nodeCount: number
  readonly pause: () => Promise<void>
}

/** Nodes between two pauses. */
const PAUSE_EVERY = 64

class OverBudget extends Error {}

/** Births after it are all that there are. */
const NO_EPOCH = -1

/** Blocks that it takes up, with its second copy. */
const placesOf = ({ copy }: { readonly copy: number }): number => (copy === 0 ? 1 : 2)

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
  const count = new Count(state, entry, entry.ownedAfter, true, budget)
  try {
    return child ? await count.deadList(child) : await count.tree(entry)
  } catch (error) {
    if (error instanceof OverBudget) return null
    throw error
  }
}

/** Blocks of data that an entry's tree leads to, whoever else has them. Nothing writes it meanwhile. @throws Fault `failed` for a node that is damaged. */
export async function storedBlockCount(state: StoreState, entry: Entry, pause: () => Promise<void>): Promise<number> {
  return new Count(state, entry, NO_EPOCH, false, { nodeCount: Number.MAX_SAFE_INTEGER, pause }).tree(entry)
}

class Count {
  readonly #state: StoreState
  readonly #ownedAfter: number
  readonly #countsNodes: boolean
  readonly #geometry: Geometry
  readonly #budget: CountBudget

  constructor(state: StoreState, { tree }: Entry, ownedAfter: number, countsNodes: boolean, budget: CountBudget) {
    this.#state = state
    this.#ownedAfter = ownedAfter
    this.#countsNodes = countsNodes
    this.#geometry = tree.geometry
    this.#budget = budget
  }

  async tree({ tree }: Entry): Promise<number> {
    if (tree.dirtyRoot) return await this.#node(tree.dirtyRoot)
    return await this.#entry(tree.root)
  }

  /** What the child has let go of and the grandparent does not have. */
  async deadList({ dead }: Entry): Promise<number> {
    let count = this.#ownOf(dead.entries)
    for (let top = dead.top; top.address !== 0;) {
      await this.#spend()
      const { entries, previous } = openDeadBlock(await this.#read({ ...top, copy: 0 }, 'dead list'))
      count += this.#ownOf(entries)
      top = previous
    }
    return count
  }

  #ownOf(entries: readonly DeadEntry[]): number {
    return entries.reduce((sum, entry) => (entry.birth > this.#ownedAfter ? sum + placesOf(entry.node ?? entry) : sum), 0)
  }

  async #entry(entry: NodeEntry): Promise<number> {
    if (entry.address === 0 || entry.birth <= this.#ownedAfter) return 0
    const known = this.#state.cache.get(entry.address)
    if (known) return await this.#node(known)
    const content = await this.#read(entry, 'node')
    // Not put into the cache: it would push out what is in use.
    const node = new Node(entry.level, entry.birth, 0, new Uint32Array(content.buffer))
    node.copy = entry.copy
    return await this.#node(node)
  }

  async #node(node: Node): Promise<number> {
    if (node.birth <= this.#ownedAfter) return 0
    await this.#spend()
    let count = this.#countsNodes ? placesOf(node) : 0
    if (node.level === 0) return count + this.#dataOf(node)
    for (let slot = 0; slot < ENTRIES_PER_NODE; slot += 1) {
      const child = node.children?.get(slot)
      count += child ? await this.#node(child) : await this.#entry(entryAt(node, slot))
    }
    return count
  }

  #dataOf({ words }: Node): number {
    let count = 0
    for (let word = 0; word < NODE_WORDS; word += this.#geometry.entryWords)
      if (addressAt(words, word) !== 0 && (words[word + 2] as number) > this.#ownedAfter) count += 1
    return count
  }

  async #read(place: ProvenPlace, what: string): Promise<Uint8Array> {
    const content = new Uint8Array(BLOCK_BYTES)
    await this.#state.parts.file.read(place.address * BLOCK_BYTES, content)
    return this.#state.proven(place, content, what)
  }

  async #spend(): Promise<void> {
    const { pause } = this.#budget
    if (this.#budget.nodeCount <= 0) throw new OverBudget()
    this.#budget.nodeCount -= 1
    if (this.#budget.nodeCount % PAUSE_EVERY === 0) await pause()
  }
}
