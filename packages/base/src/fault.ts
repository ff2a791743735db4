/**
 * Every expected failure of the platform, as a closed table. Services, agents, CLI and portal share it: what may be
 * tried again is decided here and nowhere else.
 */
export const FAULTS = {
  invalid: { retryable: false, means: 'the caller sent something that cannot be taken' },
  unauthenticated: { retryable: false, means: 'nobody is signed in, or the credentials are wrong' },
  forbidden: { retryable: false, means: 'signed in, but not allowed' },
  not_found: { retryable: false, means: 'no such thing' },
  conflict: { retryable: false, means: 'the thing is not in a state in which this can be done' },
  unsupported: { retryable: false, means: 'this driver or host cannot do this' },
  exhausted: { retryable: false, means: 'space, memory or a quota is used up' },
  busy: { retryable: true, means: 'a queue is full, or another operation holds the thing' },
  unavailable: { retryable: true, means: 'a part that is needed does not answer now' },
  timeout: { retryable: true, means: 'a time limit ran out; what was asked may still happen' },
  aborted: { retryable: true, means: 'the caller withdrew' },
  stale_fence: { retryable: false, means: 'a newer owner has taken over this operation' },
  failed: { retryable: false, means: 'the part that was asked says it failed, for its own reason' },
  internal: { retryable: false, means: 'a defect of the platform' },
} as const satisfies Record<string, { retryable: boolean; means: string }>

export type FaultCode = keyof typeof FAULTS

/** One field that is wrong: where it is, what would be right, what was there. */
export interface FaultDetail {
  readonly path: string
  readonly want: string
  readonly got: string
}

export interface FaultJson {
  readonly code: FaultCode
  readonly message: string
  readonly details?: readonly FaultDetail[]
}

export interface FaultOptions {
  readonly details?: readonly FaultDetail[]
  readonly cause?: unknown
}

/** An expected failure. `message` may be shown to the caller; what must stay inside goes into `cause`. */
export class Fault extends Error {
  override name = 'Fault'
  readonly code: FaultCode
  readonly details: readonly FaultDetail[]

  constructor(code: FaultCode, message: string, options: FaultOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.details = options.details ?? []
  }

  toJSON(): FaultJson {
    return { code: this.code, message: this.message, ...(this.details.length > 0 ? { details: this.details } : {}) }
  }
}

/** A field that cannot be taken as it is: the message and the detail say the same. `what` begins the message. */
export const fieldFault = (
  { path, want, got }: FaultDetail,
  { code = 'invalid', what }: { readonly code?: FaultCode; readonly what?: string } = {},
): Fault =>
  new Fault(code, `${what === undefined ? '' : `${what}: `}${path}: got ${got}, want ${want}`, { details: [{ path, want, got }] })

export const retryable = (error: unknown): boolean => error instanceof Fault && FAULTS[error.code].retryable

/** A Fault stays what it is; an abort becomes `aborted`; anything else is a defect and becomes `internal`. */
export function toFault(error: unknown): Fault {
  if (error instanceof Fault) return error
  if (error instanceof Error && (error.name === 'AbortError' || error.name === 'TimeoutError')) {
    return new Fault(error.name === 'TimeoutError' ? 'timeout' : 'aborted', error.message, { cause: error })
  }
  return new Fault('internal', error instanceof Error ? error.message : String(error), { cause: error })
}

const isFaultCode = (code: unknown): code is FaultCode => typeof code === 'string' && Object.hasOwn(FAULTS, code)

/** Reads a fault back from the wire; what is no fault becomes `internal`. */
export function faultFromJson(json: unknown): Fault {
  if (typeof json !== 'object' || json === null) return new Fault('internal', `no fault: ${JSON.stringify(json)}`)
  const { code, message, details } = json as { code?: unknown; message?: unknown; details?: unknown }
  return new Fault(isFaultCode(code) ? code : 'internal', typeof message === 'string' ? message : 'no message', {
    details: Array.isArray(details) ? (details as FaultDetail[]) : [],
  })
}
