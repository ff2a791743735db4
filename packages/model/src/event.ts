import type { EpochMillis } from '@typevisor/base'
import type { DomainCause, DomainStateKind } from './domain.ts'
import type { DomainId } from './ids.ts'

/**
 * A state transition of a domain, reported at least once with its cause. `sequence` grows by one per toolstack (host) and is
 * durable: a reader that reconnects asks for what follows the last one it has.
 */
export interface DomainEvent {
  readonly sequence: number
  readonly at: EpochMillis
  readonly domain: DomainId
  readonly name: string
  readonly from: DomainStateKind | null
  /** null: the domain is gone. */
  readonly to: DomainStateKind | null
  readonly cause: DomainCause
  readonly detail: string | null
  /** True when nobody watched and the transition was worked out afterwards; `at` is then when it was found. */
  readonly reconstructed: boolean
}
