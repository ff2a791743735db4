/**
 * From what QEMU says to what the port says, as pure functions.
 *
 * A machine is watched by folding its events: QEMU tells the reason first (SHUTDOWN, GUEST_PANICKED, BLOCK_IO_ERROR) and stops the
 * virtual processors after it (STOP), so the reason is kept as a hint until then. What nobody watched is worked out of `query-status`
 * and the last state that was written down: `unknown` when these do not know.
 *
 *   SHUTDOWN(guest) --hint--> STOP => powered-off/guest        stop asked --hint--> STOP => paused/requested
 *   GUEST_PANICKED  --hint--> STOP => crashed/guest-panic      RESUME => running     RESET => (state stays) reset
 *   BLOCK_IO_ERROR  --hint--> STOP => paused/io-error          SUSPEND => paused/guest   WAKEUP => running
 */
import type { DriverState } from '@typevisor/toolstack'
import type { QmpEvent } from './qmp.ts'
import { textOf } from './read-json.ts'

export interface Watch {
  readonly state: DriverState
  /** What the next STOP will mean. */
  readonly hint: DriverState | null
  /** A power-off was asked for, and the guest was not reset since. */
  readonly shutdownAsked: boolean
  /** QEMU stops and resumes processors by itself while it saves; those are no transitions. */
  readonly saving: boolean
}

export interface Step {
  readonly watch: Watch
  readonly report: 'state' | 'reset' | null
}

export const watchFrom = (state: DriverState): Watch => ({ state, hint: null, shutdownAsked: false, saving: false })

export const PAUSE_REQUESTED: DriverState = { kind: 'paused', cause: 'requested' }
const RUNNING: DriverState = { kind: 'running' }

export const sameState = (a: DriverState, b: DriverState): boolean =>
  a.kind === b.kind && ('cause' in a ? a.cause : null) === ('cause' in b ? b.cause : null)

const stay = (watch: Watch): Step => ({ watch, report: null })
function enter(watch: Watch, state: DriverState): Step {
  const next = { ...watch, state, hint: null }
  return sameState(watch.state, state) ? stay(next) : { watch: next, report: 'state' }
}

export function step(watch: Watch, event: QmpEvent): Step {
  switch (event.name) {
    case 'SHUTDOWN':
      return stay({ ...watch, hint: shutdownHint(watch, textOf(event.content['reason'])) ?? watch.hint })
    case 'GUEST_PANICKED': {
      const info = event.content['info'] === undefined ? null : JSON.stringify(event.content['info']).slice(0, 500)
      return stay({ ...watch, hint: { kind: 'crashed', cause: 'guest-panic', detail: info ?? 'the guest told pvpanic' } })
    }
    case 'BLOCK_IO_ERROR':
      return event.content['action'] === 'stop' ? stay({ ...watch, hint: { kind: 'paused', cause: 'io-error' } }) : stay(watch)
    case 'WATCHDOG':
      return event.content['action'] === 'pause' ? stay({ ...watch, hint: { kind: 'paused', cause: 'watchdog' } }) : stay(watch)
    case 'STOP':
      if (watch.saving && watch.hint === null) return stay(watch)
      return enter(watch, watch.hint ?? { kind: 'paused', cause: 'unknown' })
    case 'RESUME':
      if (watch.saving) return stay(watch)
      return enter(watch, RUNNING)
    case 'SUSPEND':
      return enter(watch, { kind: 'paused', cause: 'guest' })
    case 'WAKEUP':
      return enter(watch, RUNNING)
    case 'RESET':
      return { watch: { ...watch, shutdownAsked: false }, report: 'reset' }
    default:
      return stay(watch)
  }
}

/** QEMU 7.2 qapi/run-state.json, ShutdownCause. null: this reason does not end in a stop of its own. */
function shutdownHint(watch: Watch, reason: string | null): DriverState | null {
  switch (reason) {
    case 'guest-shutdown':
      return { kind: 'powered-off', cause: watch.shutdownAsked ? 'requested' : 'guest' }
    case 'guest-panic':
      return { kind: 'crashed', cause: 'guest-panic', detail: null }
    case 'guest-reset':
    case 'host-qmp-system-reset':
    case 'subsystem-reset':
    case 'snapshot-load':
    case 'host-qmp-quit':
    case 'host-signal':
      return null
    default:
      return { kind: 'powered-off', cause: 'unknown' }
  }
}

/**
 * `status` of `query-status` (qapi/run-state.json, RunState). Where it does not tell the cause, the first of `known` that is of the same
 * kind does: what is expected to come, then what was told last.
 */
export function stateOfRunState(status: string, ...known: readonly (DriverState | null)[]): DriverState {
  const state = plainState(status)
  if (!('cause' in state) || state.cause !== 'unknown') return state
  return known.find((one) => one?.kind === state.kind) ?? state
}

function plainState(status: string): DriverState {
  switch (status) {
    case 'running':
    case 'finish-migrate':
    case 'save-vm':
    case 'colo':
      return RUNNING
    case 'prelaunch':
    case 'inmigrate':
    case 'restore-vm':
      return PAUSE_REQUESTED
    case 'paused':
    case 'postmigrate':
    case 'debug':
      return { kind: 'paused', cause: 'unknown' }
    case 'suspended':
      return { kind: 'paused', cause: 'guest' }
    case 'io-error':
      return { kind: 'paused', cause: 'io-error' }
    case 'watchdog':
      return { kind: 'paused', cause: 'watchdog' }
    case 'shutdown':
      return { kind: 'powered-off', cause: 'unknown' }
    case 'guest-panicked':
      return { kind: 'crashed', cause: 'guest-panic', detail: null }
    case 'internal-error':
      return { kind: 'crashed', cause: 'unknown', detail: 'QEMU reports an internal error of its accelerator' }
    default:
      return { kind: 'paused', cause: 'unknown' }
  }
}
