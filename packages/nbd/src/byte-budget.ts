/**
 * A bound of bytes over many connections.
 *
 *   claim --there is room, nobody waits before--> granted --lower--> the next in line is told
 *         --else--> in line, first come first served
 *
 * A claim is for the whole of a request, before any of it is held; so who was granted one needs no other to come to its end, and nobody
 * waits for who waits. What is granted may still depend on a client that takes its replies or sends the rest of a payload: `isWaitedFor`
 * tells whoever has a clock that such a one is in the way.
 */
import { Fault } from '@typevisor/base'
import { PAYLOAD_BYTES_MAX } from './wire.ts'

/** What one request can take: a read that has to wait is held twice, as it comes from the device and as a reply. */
const REQUEST_BYTES_MAX = 2 * PAYLOAD_BYTES_MAX
const LIMIT_BYTES = 512 * 1024 * 1024

export class ByteBudget {
  readonly limitBytes: number
  usedBytes = 0
  readonly line = new Set<ByteShare>()
  #telling = false

  /** @throws Fault `invalid` for a limit that one request could exceed. */
  constructor(limitBytes: number = LIMIT_BYTES) {
    if (!(limitBytes >= REQUEST_BYTES_MAX))
      throw new Fault('invalid', `bytes of all connections: got ${limitBytes}, want at least ${REQUEST_BYTES_MAX}`)
    this.limitBytes = limitBytes
  }

  get isWaitedFor(): boolean {
    return this.line.size > 0
  }

  /** Tells the first in line, later: who gives back may be in the middle of something. */
  tell(): void {
    if (this.#telling || this.line.size === 0) return
    this.#telling = true
    queueMicrotask(() => {
      this.#telling = false
      const [first] = this.line
      first?.onTurn()
    })
  }
}

/** One connection's. */
export class ByteShare {
  readonly #budget: ByteBudget
  /** It may be granted what it claimed: claim again. */
  readonly onTurn: () => void
  claimedBytes = 0

  constructor(budget: ByteBudget, onTurn: () => void) {
    this.#budget = budget
    this.onTurn = onTurn
  }

  /** Raises the claim to `countBytes` in all. @returns false when it is not its turn yet. */
  claim(countBytes: number): boolean {
    const more = countBytes - this.claimedBytes
    if (more <= 0) return true
    const budget = this.#budget
    const [first] = budget.line
    if ((first !== undefined && first !== this) || budget.usedBytes + more > budget.limitBytes) {
      budget.line.add(this)
      return false
    }
    budget.line.delete(this)
    budget.usedBytes += more
    this.claimedBytes = countBytes
    budget.tell()
    return true
  }

  lower(countBytes: number): void {
    const less = this.claimedBytes - countBytes
    if (less <= 0) return
    this.#budget.usedBytes -= less
    this.claimedBytes = countBytes
    this.#budget.tell()
  }

  /** It claims no more. */
  leaveLine(): void {
    if (this.#budget.line.delete(this)) this.#budget.tell()
  }
}
