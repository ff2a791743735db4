import type { EpochMillis } from '@typevisor/base'
import type { DomainCause, DomainDump, DomainStateKind } from './domain.ts'
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
  /** That its policy for crashes had made. */
  readonly dump?: DomainDump
}

/** What of a host has a state of its own beside its domains. */
export type HostPart = 'volume-server' | 'space'

/** Why a volume server is there or not. */
export type VolumeServerCause =
  | 'started'
  | 'found' // it was there before the agent
  | 'ended' // by itself, or by a signal; how is in `detail`
  | 'hung' // it did not answer any more and was ended
  | 'upgrade' // it made way for one of the agent's version
  | 'stopped' // with the agent, as nothing was attached
  | 'failed' // none can be started; its last words are in `detail`
  | 'unknown' // another one is there than was known, and nobody watched

/** Why a threshold counts now: of the store's own capacity or of the file system that it lies on. */
export type SpaceCause = 'store' | 'host'

/** How full the volumes' store is, as its watch tells: `over 80 %`. */
export const spaceState = (warningPercent: number | null): string =>
  warningPercent === null ? 'enough' : `over ${warningPercent} %`

/** What a part of a host went through. In one order with the transitions of domains, and kept and told as those are. */
export interface HostEvent {
  readonly sequence: number
  readonly at: EpochMillis
  readonly part: HostPart
  /** null: nothing was known of it. `serving` or `away`; of space, `spaceState`. */
  readonly from: string | null
  readonly to: string
  readonly cause: VolumeServerCause | SpaceCause
  readonly detail: string | null
  readonly reconstructed: boolean
  /** Of a volume server its `pid`, `startedAt` and `version`; of space `usedBytes` and `availableBytes`. */
  readonly facts: Readonly<Record<string, string | number>>
}

/** All that an agent tells, in the order of `sequence`. */
export type AgentEvent = DomainEvent | HostEvent
export const isHostEvent = (event: AgentEvent): event is HostEvent => 'part' in event
