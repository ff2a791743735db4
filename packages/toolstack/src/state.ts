/** From what a driver sees to what a domain is. One pure function, for live events and for adoption. */
import type { DomainState, DomainStateKind } from '@typevisor/model'
import { unreachable } from '@typevisor/base'
import type { DriverState } from './ports.ts'

/**
 * The state that `seen` means for a domain that was thought to be `known`; null: nothing to change.
 * A domain with no process that was thought stopped or saved is just that.
 */
export function stateFromDriver(known: DomainStateKind, seen: DriverState): DomainState | null {
  switch (seen.kind) {
    case 'running':
      return known === 'running' ? null : { kind: 'running' }
    case 'paused':
      return known === 'paused' ? null : { kind: 'paused', cause: seen.cause }
    case 'powered-off':
      return known === 'stopped' ? null : { kind: 'stopped', cause: seen.cause, detail: null }
    case 'crashed':
      return known === 'crashed' ? null : { kind: 'crashed', cause: seen.cause, detail: seen.detail }
    case 'gone':
      // It powered off, and its process went with that.
      if (seen.cause === 'guest') return known === 'stopped' ? null : { kind: 'stopped', cause: 'guest', detail: null }
      return known === 'stopped' || known === 'saved' || known === 'crashed'
        ? null
        : { kind: 'crashed', cause: seen.cause, detail: seen.detail }
    default:
      return unreachable(seen)
  }
}

/** A stopped or saved domain has no process; one that is found (a start cut short) is ended by whoever finishes or undoes that start. */
export const holdsProcess = (kind: DomainStateKind): boolean => kind === 'running' || kind === 'paused' || kind === 'crashed'
