/**
 * Every error that can reach a client, as a Fault and a status. What the HTTP library and the socket refuse becomes `invalid` with the part
 * named; what is nobody's fault but ours becomes `internal` without a word of its inside, which goes to the log.
 */
import type { FastifyError } from 'fastify'
import { Fault, toFault, type FaultDetail, type FaultJson } from '@typevisor/base'
import { faultOfPg } from '@typevisor/runtime-node'
import { FAULT_STATUS } from './status.ts'

export interface HttpFault {
  readonly fault: Fault
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
}

const refuse = (path: string, want: string, got: string, status = 400): HttpFault => {
  const detail: FaultDetail = { path, want, got }
  return { fault: new Fault('invalid', `${path}: got ${got}, want ${want}`, { details: [detail] }), status, headers: {} }
}

/** Error codes of Fastify that a client can bring about: https://fastify.dev/docs/latest/Reference/Errors/ */
const LIBRARY: Readonly<Record<string, (error: FastifyError) => HttpFault>> = {
  FST_ERR_BAD_URL: () => refuse('url', 'a path with valid percent encodings', 'another', 400),
  FST_ERR_CTP_BODY_TOO_LARGE: () => refuse('body', 'a smaller body', 'more than this operation takes', 413),
  FST_ERR_CTP_INVALID_MEDIA_TYPE: () => refuse('headers.content-type', 'application/json', 'another', 415),
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: () => refuse('headers.content-length', 'the length of the body', 'another'),
  FST_ERR_CTP_EMPTY_JSON_BODY: () => refuse('body', 'JSON', 'nothing'),
  FST_ERR_CTP_INVALID_JSON_BODY: () => refuse('body', 'JSON', 'another text'),
  FST_ERR_MAX_PARAM_LENGTH: () => refuse('params', 'at most 1024 characters', 'more', 414),
  FST_ERR_ASYNC_CONSTRAINT: () => refuse('url', 'a known path', 'another'),
}

/** Input that no schema refused and that PostgreSQL cannot hold: \0, what is no UTF-8, a number or a time out of range. */
const DATABASE_REFUSES = new Set(['22021', '22P05', '22003', '22008'])
const SQLSTATE = /^[0-9A-Z]{5}$/
/** Errors of sockets, which here only the database has. */
const CONNECTION = new Set(['ECONNREFUSED', 'ECONNRESET', 'ENOENT', 'EPIPE', 'ETIMEDOUT'])

const codeOf = (error: unknown): string | undefined => {
  const code = typeof error === 'object' && error !== null ? (error as { code?: unknown }).code : undefined
  return typeof code === 'string' ? code : undefined
}

export function httpFault(error: unknown): HttpFault {
  const code = codeOf(error)
  if (error instanceof Fault) {
    if (error.code === 'internal' && DATABASE_REFUSES.has(codeOf(error.cause) ?? ''))
      return refuse('request', 'text and numbers that can be stored', 'others')
    return answerOf(error)
  }
  const known = code === undefined ? undefined : LIBRARY[code]
  if (known) return known(error as FastifyError)
  if (code !== undefined && DATABASE_REFUSES.has(code)) return refuse('request', 'text and numbers that can be stored', 'others')
  // A database that takes no connections now (ALLOW_CONNECTIONS off, a template).
  if (code === '55000') return answerOf(new Fault('unavailable', 'the database does not answer now', { cause: error }))
  // What the database says of its tables is not the client's business.
  if (code !== undefined && SQLSTATE.test(code)) return answerOf(publicFault(faultOfPg(error)))
  if (code !== undefined && CONNECTION.has(code))
    return answerOf(new Fault('unavailable', 'the database does not answer now', { cause: error }))
  const status = statusOf(error)
  if (status !== undefined) return refusedByLibrary(status)
  if (code === 'ERR_STREAM_PREMATURE_CLOSE') return answerOf(new Fault('aborted', 'the client went away', { cause: error }))
  if (
    error instanceof Error &&
    /timeout exceeded when trying to connect|Connection terminated|Cannot use a pool after/.test(error.message)
  ) {
    return answerOf(new Fault('unavailable', 'the database does not answer now', { cause: error }))
  }
  return answerOf(toFault(error))
}

/** What a plugin refuses of a request (a path out of the portal's folder) carries the status it means. */
const statusOf = (error: unknown): number | undefined => {
  const status = typeof error === 'object' && error !== null ? (error as { statusCode?: unknown }).statusCode : undefined
  return typeof status === 'number' && status >= 400 && status < 500 ? status : undefined
}

function refusedByLibrary(status: number): HttpFault {
  if (status === 403) return answerOf(new Fault('forbidden', 'url: got a path that is not served, want another'))
  if (status === 404) return answerOf(new Fault('not_found', 'url: there is no such thing here'))
  return refuse('request', 'a request that can be answered', 'another', status)
}

const answerOf = (fault: Fault): HttpFault => ({ fault, status: FAULT_STATUS[fault.code], headers: retryHeaders(fault) })

function publicFault(fault: Fault): Fault {
  const words = {
    unavailable: 'the database does not answer now',
    busy: 'the database is busy, try again',
    exhausted: 'the database has no room left',
    conflict: 'it conflicts with what is stored',
  }
  const message = Object.hasOwn(words, fault.code) ? words[fault.code as keyof typeof words] : fault.message
  return new Fault(fault.code, message, { cause: fault.cause })
}

/** `busy` may say in its cause when to come back. */
function retryHeaders(fault: Fault): Record<string, string> {
  const seconds =
    typeof fault.cause === 'object' && fault.cause !== null
      ? (fault.cause as { retryAfterSeconds?: unknown }).retryAfterSeconds
      : undefined
  if (typeof seconds === 'number') return { 'retry-after': String(seconds) }
  return fault.code === 'busy' || fault.code === 'unavailable' ? { 'retry-after': '1' } : {}
}

export interface ErrorReply {
  error: FaultJson
  requestId: string
}

/** What the client is told. The inside of a defect stays in the log, under the request's id. */
export function errorReply(fault: Fault, requestId: string): ErrorReply {
  if (fault.code !== 'internal') return { error: fault.toJSON(), requestId }
  return { error: { code: 'internal', message: `a defect of the platform; its log has request ${requestId}` }, requestId }
}
