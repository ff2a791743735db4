/**
 * Who calls: `Authorization: Bearer` (API token or local credential) or the session cookie. Where a cookie is what says so, a change
 * must also carry the session's CSRF token in `x-csrf-token`, and a page that asks must be this server's own.
 */
import type { FastifyRequest } from 'fastify'
import { Fault } from '@typevisor/base'
import type { OperationDefinition } from '@typevisor/api'
import { roleAllows, scopeAllows, type Caller, type Identity, type SecretCrypto } from '@typevisor/identity'
import type { LocalCredentials } from '../local-credentials.ts'
import { sameOrigin } from './names.ts'

export interface AuthenticateOptions {
  readonly identity: Identity
  readonly local: LocalCredentials | null
  readonly crypto: SecretCrypto
  /** Other origins whose pages may call with a cookie: `https://cloud.example.org`. */
  readonly trustedOrigins: readonly string[]
}

/** A name a port: cookies do not tell ports apart, and two clouds on one machine must not sign each other out. */
export function sessionCookieName(hostHeader: string | undefined, secure: boolean): string {
  const port = /:(\d{1,5})$/.exec(hostHeader ?? '')?.[1]
  return `${secure ? '__Host-' : ''}typevisor_session${port ? `_${port}` : ''}`
}

export interface Credential {
  readonly kind: 'bearer' | 'cookie'
  readonly text: string
}

/** By TLS, here or at a proxy that is trusted to say so. */
export const isSecure = (request: FastifyRequest): boolean => request.protocol === 'https'

/** @throws Fault `unauthenticated` for a header that is no bearer. */
export function credentialOf(request: FastifyRequest): Credential | null {
  const header = request.headers.authorization
  if (header !== undefined) {
    const match = /^Bearer +([A-Za-z0-9._~+/=-]{1,512}) *$/i.exec(header)
    if (!match?.[1]) throw new Fault('unauthenticated', 'headers.authorization: want Bearer and a token')
    return { kind: 'bearer', text: match[1] }
  }
  const cookie = request.cookies[sessionCookieName(request.host, isSecure(request))]
  return cookie === undefined ? null : { kind: 'cookie', text: cookie }
}

/** `quiet`: only asks whether it still holds, as open streams do; it does not keep a session alive. */
export async function callerOfCredential(
  options: AuthenticateOptions,
  credential: Credential,
  quiet = false,
): Promise<Caller | null> {
  const { identity, local } = options
  if (credential.kind === 'cookie') return identity.callerOfSession(credential.text, { quiet })
  return local?.callerOf(credential.text) ?? (await identity.callerOfToken(credential.text, { quiet }))
}

const UNSAFE = new Set(['POST', 'PATCH', 'PUT', 'DELETE'])

/**
 * The caller of an operation with what showed it, or null where anybody may call it.
 * @throws Fault `unauthenticated`, or `forbidden` for a page of another site.
 */
export async function identify(
  options: AuthenticateOptions,
  name: string,
  operation: OperationDefinition,
  request: FastifyRequest,
): Promise<{ caller: Caller; credential: Credential } | null> {
  if (operation.role === 'none') {
    // Signing in sets a cookie: another site's page must not sign its visitor in as somebody else.
    if (UNSAFE.has(operation.method)) checkOrigin(options, request)
    return null
  }
  const credential = credentialOf(request)
  if (!credential) throw new Fault('unauthenticated', `${name}: sign in, or send Authorization: Bearer with a token`)
  const caller = await callerOfCredential(options, credential)
  if (!caller) {
    const reason = credential.kind === 'cookie' ? 'the session has ended, sign in again' : 'the token is unknown or has ended'
    throw new Fault('unauthenticated', `${name}: ${reason}`)
  }
  return { caller, credential }
}

/** Whether this caller may do this, this way. @throws Fault `forbidden` naming what is missing. */
export function permit(
  options: AuthenticateOptions,
  name: string,
  operation: OperationDefinition,
  request: FastifyRequest,
  { caller, credential }: { caller: Caller; credential: Credential },
): void {
  if (credential.kind === 'cookie') {
    // A WebSocket carries no header of ours, so the browser's own Origin is asked for; it always sends one.
    if (operation.transport === 'stream') checkOrigin(options, request, true)
    if (UNSAFE.has(operation.method)) {
      checkOrigin(options, request)
      checkCsrf(request, caller, options.crypto, name)
    }
  }
  authorize(name, operation, caller)
}

function checkOrigin(options: AuthenticateOptions, request: FastifyRequest, required = false): void {
  const { origin } = request.headers
  const own = origin === undefined ? !required : sameOrigin(origin, request.host, isSecure(request), options.trustedOrigins)
  if (!own) {
    const got = origin === undefined ? 'nothing' : JSON.stringify(origin.slice(0, 100))
    throw new Fault('forbidden', `headers.origin: got ${got}, want this server's own`)
  }
}

function checkCsrf(request: FastifyRequest, caller: Caller, crypto: SecretCrypto, name: string): void {
  const header = request.headers['x-csrf-token']
  const encoder = new TextEncoder()
  const given = encoder.encode(typeof header === 'string' ? header : '')
  if (caller.csrfToken === null || !crypto.equal(given, encoder.encode(caller.csrfToken))) {
    throw new Fault(
      'forbidden',
      `${name}: headers.x-csrf-token: got ${header === undefined ? 'nothing' : 'another one'}, want the session's csrfToken`,
    )
  }
}

export function authorize(name: string, operation: OperationDefinition, caller: Caller): void {
  if (operation.role !== 'none' && !roleAllows(caller.role, operation.role)) {
    throw new Fault('forbidden', `${name}: want role ${operation.role}, ${caller.accountName} is ${caller.role}`)
  }
  if (!scopeAllows(caller.scopes, operation.scope)) {
    throw new Fault('forbidden', `${name}: want scope ${operation.scope}, the token has ${caller.scopes.join(' ')}`)
  }
}
