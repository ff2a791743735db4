/** What the exit code of `typevisor` says; documented in docs/cli.md. */
import type { FaultCode } from '@typevisor/base'

export const EXIT = {
  ok: 0,
  failed: 1,
  usage: 2,
  notFound: 3,
  conflict: 4,
  denied: 5,
  unavailable: 6,
  timeout: 7,
  truncated: 125,
  interrupted: 130,
} as const

const BY_FAULT: Readonly<Record<FaultCode, number>> = {
  invalid: EXIT.usage,
  unauthenticated: EXIT.denied,
  forbidden: EXIT.denied,
  not_found: EXIT.notFound,
  conflict: EXIT.conflict,
  unsupported: EXIT.failed,
  exhausted: EXIT.failed,
  busy: EXIT.unavailable,
  unavailable: EXIT.unavailable,
  timeout: EXIT.timeout,
  aborted: EXIT.failed,
  stale_fence: EXIT.conflict,
  failed: EXIT.failed,
  internal: EXIT.failed,
}
export const exitCodeOf = (code: FaultCode): number => BY_FAULT[code]
