/**
 * Who did what. The entry of a change is written in the transaction of the change: there is no change without its entry, whatever is killed
 * when. So whoever changes something is given an `EntryOf` and hands what it makes to the store, with the change.
 */
import type { EpochMillis } from '@typevisor/base'

export interface AuditEntry {
  readonly at: EpochMillis
  readonly account: string | null
  readonly via: 'session' | 'token' | 'local' | 'none'
  readonly operation: string
  readonly resource: string | null
  /** As it was then: it outlives the thing. */
  readonly resourceName: string | null
  /** `ok`, the fault's code, or `begun` for what is under way or was cut off. */
  readonly outcome: string
  readonly address: string | null
  readonly requestId: string
}

/** Makes the entry of a change, once it is known what it is about. null: nobody asked for it by the API. */
export type EntryOf = (resource: string, resourceName: string | null) => AuditEntry | null

/** For what the platform does by itself, and for tests. */
export const unrecorded: EntryOf = () => null
