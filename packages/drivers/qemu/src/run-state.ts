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
 *     (nospace)                       paused/disk-full
 *
 * A guest that waits for room is let go on every few seconds to try (`trying`). It is told to run only when it does: RESUME, and a STOP for
 * the same reason, are no transitions then.
 */
import type { DriverState } from '@typevisor/toolstack'
import type { QmpEvent } from './qmp.ts'
import { listOf, objectOf, textOf } from './read-json.ts'

export interface Watch {
  readonly state: DriverState
  /** What the next STOP will mean. */
  readonly hint: DriverState | null
  /** A power-off was asked for, and the guest was not reset since. */
  readonly shutdownAsked: boolean
  /** QEMU stops and resumes processors by itself while it saves; those are no transitions. */
  readonly saving: boolean
  /** It waited for room on its disk and was let go on, and nobody knows yet whether there is. */
  readonly trying: boolean
}

export interface Step {
  readonly watch: Watch
  readonly report: 'state' | 'reset' | null
}

export const watchFrom = (state: DriverState): Watch => ({
  state,
  hint: null,
  shutdownAsked: false,
  saving: false,
  trying: false,
})

export const PAUSE_REQUESTED: DriverState = { kind: 'paused', cause: 'requested' }
const RUNNING: DriverState = { kind: 'running' }
const IO_ERROR: DriverState = { kind: 'paused', cause: 'io-error' }
const DISK_FULL: DriverState = { kind: 'paused', cause: 'disk-full' }

export const sameState = (a: DriverState, b: DriverState): boolean =>
  a.kind === b.kind && ('cause' in a ? a.cause : null) === ('cause' in b ? b.cause : null)

const stay = (watch: Watch): Step => ({ watch, report: null })
function enter(watch: Watch, state: DriverState): Step {
  const next = { ...watch, state, hint: null }
  return sameState(watch.state, state) ? stay(next) : { watch: next, report: 'state' }
}

/** Something happens to the guest, which therefore runs: it had room. */
function expect(watch: Watch, hint: DriverState): Step {
  if (!watch.trying) return stay({ ...watch, hint })
  const { watch: next, report } = enter({ ...watch, trying: false }, RUNNING)
  return { watch: { ...next, hint }, report }
}

export function step(watch: Watch, event: QmpEvent): Step {
  switch (event.name) {
    case 'SHUTDOWN': {
      const hint = shutdownHint(watch, textOf(event.content['reason']))
      return hint ? expect(watch, hint) : stay(watch)
    }
    case 'GUEST_PANICKED': {
      const info = event.content['info'] === undefined ? null : JSON.stringify(event.content['info']).slice(0, 500)
      return expect(watch, { kind: 'crashed', cause: 'guest-panic', detail: info ?? 'the guest told pvpanic' })
    }
    case 'BLOCK_IO_ERROR':
      if (event.content['action'] !== 'stop') return stay(watch)
      if (event.content['nospace'] !== true) return expect(watch, IO_ERROR)
      // Of requests under way together some may fail for worse.
      return stay({ ...watch, hint: watch.hint && sameState(watch.hint, IO_ERROR) ? IO_ERROR : DISK_FULL })
    case 'WATCHDOG':
      return event.content['action'] === 'pause' ? expect(watch, { kind: 'paused', cause: 'watchdog' }) : stay(watch)
    case 'STOP':
      if (watch.saving && watch.hint === null) return stay(watch)
      return enter({ ...watch, trying: false }, watch.hint ?? { kind: 'paused', cause: 'unknown' })
    case 'RESUME':
      if (watch.saving || watch.trying) return stay({ ...watch, hint: watch.trying ? null : watch.hint })
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

/** What stopped a guest of status `io-error`, of the answer to `query-block`: a disk that failed otherwise is the worse reason. */
export function stateOfDisks(answer: unknown): DriverState {
  const reasons = new Set(listOf(answer).map((disk) => textOf(objectOf(disk)['io-status'])))
  return reasons.has('nospace') && !reasons.has('failed') ? DISK_FULL : IO_ERROR
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
      return IO_ERROR
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
