import type { FaultCode } from '@typevisor/base'

/** The HTTP status of each fault (RFC 9110 section 15; 507 is RFC 4918, 499 is nginx's: nobody is there to read it). */
export const FAULT_STATUS = {
  invalid: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  conflict: 409,
  unsupported: 422,
  exhausted: 507,
  busy: 429,
  unavailable: 503,
  timeout: 504,
  aborted: 499,
  stale_fence: 409,
  failed: 502,
  internal: 500,
} as const satisfies Record<FaultCode, number>
