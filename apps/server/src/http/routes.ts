/**
 * The table's operations as routes. The way of every request:
 *
 *   host name --> rate limit --> who (identify) --> may they (permit) --> body --> parse --> handler --> answer
 *
 * The body is read after the caller is known, so that a stranger cannot make the server read one.
 *
 * What of it is in the audit log (each operation whose scope is `:write`; `audited.test.ts` walks them all):
 *   it changes the database      the handler takes `call.entry` and writes it in the transaction of the change: both are there or neither,
 *                                also when the server is killed between any two statements
 *   it changes nothing here      `call.begin` writes `begun` before the act, and its outcome comes afterwards: `begun` stays of what was cut
 *                                off (exec, consoles, the stop of the platform)
 *   it is refused or fails       written by itself before the answer; forbidden ones only of somebody who is signed in
 */
import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestHookHandler } from 'fastify'
import { Fault, millis, type Clock, type Log } from '@typevisor/base'
import { isLabel } from '@typevisor/model'
import { OPERATION_NAMES, OPERATIONS, parseInput, type OperationDefinition, type OperationName } from '@typevisor/api'
import type { AuditEntry, Caller } from '@typevisor/identity'
import type { AuditLog } from '../db/audit.ts'
import type { Outbox } from '../outbox.ts'
import {
  callerOfCredential,
  identify,
  isSecure,
  permit,
  sessionCookieName,
  type AuthenticateOptions,
  type Credential,
} from './authenticate.ts'
import { httpFault } from './errors.ts'
import { serveEvents } from './events.ts'
import type { Call, Handlers, HttpName, StreamName } from './handler.ts'
import { byteSocket } from './stream.ts'

export interface RouteOptions extends AuthenticateOptions {
  readonly handlers: Handlers
  readonly outbox: Outbox
  readonly audit: AuditLog
  readonly clock: Clock
  readonly log: Log
  /** WebSocket handlers at work: who closes the server waits for them. */
  readonly streams: Set<Promise<void>>
  /** Aborted when the server stops: long answers end. */
  readonly stopping: AbortSignal
  /** Tries to sign in that one address has a minute. */
  readonly signInsPerMinute: number
  /** How often a long stream asks whether its caller still may. */
  readonly recheckEveryMs: number
  readonly heartbeatEveryMs: number
  /** Replies are held to their schemas: for tests. */
  readonly checkReplies: boolean
}

/** What is known of a request as it goes through the hooks. */
interface Progress {
  caller: Caller | null
  credential: Credential | null
  auditResource: string | null
  auditName: string | null
  /** What the log has of this request: nothing, its change with its entry, the entry of an act that began, or its end. */
  logged: { readonly kind: 'nothing' | 'change' | 'end' } | { readonly kind: 'act'; readonly id: number }
}

const progressOf = new WeakMap<FastifyRequest, Progress>()
const progress = (request: FastifyRequest): Progress => {
  const known = progressOf.get(request) ?? {
    caller: null,
    credential: null,
    auditResource: null,
    auditName: null,
    logged: { kind: 'nothing' },
  }
  progressOf.set(request, known)
  return known
}

/** Bytes of the largest body: a command's input and a file are larger than any description. */
const BODY_BYTES_MAX = 1024 * 1024
const CONTENT_BODY_BYTES_MAX = 8 * 1024 * 1024
const CARRIES_CONTENT: ReadonlySet<OperationName> = new Set(['instance.exec', 'instance.file-put'])

/** Handlers of one table whose members differ by the operation's name: called with the call of that same name. */
type AnyHandler = (call: unknown, socket?: unknown) => Promise<unknown>

export function addRoutes(app: FastifyInstance, options: RouteOptions): void {
  for (const name of OPERATION_NAMES) addRoute(app, options, name)
}

function addRoute(app: FastifyInstance, options: RouteOptions, name: OperationName): void {
  const operation: OperationDefinition = OPERATIONS[name]
  const guard = async (request: FastifyRequest): Promise<void> => {
    try {
      const found = await identify(options, name, operation, request)
      if (!found) return
      const known = progress(request)
      known.caller = found.caller
      known.credential = found.credential
      permit(options, name, operation, request, found)
    } catch (error) {
      await auditRefusal(options, name, request, error)
      throw error
    }
  }
  // Before the guard, so that whoever is refused has been counted. The plugin puts its own hook last, where it finds the request counted.
  const limiter =
    name === 'session.create' ? app.rateLimit({ max: options.signInsPerMinute, timeWindow: 60_000 }) : app.rateLimit()
  const common: Common = {
    method: operation.method,
    url: operation.path,
    onRequest: [limiter, guard],
    bodyLimit: CARRIES_CONTENT.has(name) ? CONTENT_BODY_BYTES_MAX : BODY_BYTES_MAX,
  }
  if (operation.transport === 'stream') addStream(app, options, name as StreamName, common)
  else if (operation.transport === 'events') addEvents(app, options, common)
  else {
    const handler = options.handlers[name as HttpName] as AnyHandler
    app.route({
      ...common,
      handler: async (request, reply) => {
        const known = progress(request)
        const call = callOf(options, name, request, reply, known)
        try {
          const answer = await handler(call)
          await auditEnd(options, name, request, call.body, 'ok')
          if (options.checkReplies) operation.reply.parse(answer)
          return await reply.code(operation.status).send(answer)
        } catch (error) {
          await auditEnd(options, name, request, call.body, httpFault(error).fault.code)
          throw error
        }
      },
    })
  }
}

/** @throws Fault `invalid` for what the schemas refuse. */
function callOf<N extends OperationName>(
  options: RouteOptions,
  name: N,
  request: FastifyRequest,
  reply: FastifyReply,
  known: Progress,
  signal: AbortSignal = goneSignal(options, reply),
): Call<N> {
  const input = parseInput(name, { params: request.params, query: request.query, body: request.body })
  return {
    ...input,
    operation: name,
    caller: known.caller,
    address: request.ip,
    requestId: request.id,
    signal,
    ...auditOf(options, name, request, known, input.body),
    setSession: (session) => {
      const secure = isSecure(request)
      const cookie = sessionCookieName(request.host, secure)
      const attributes = { path: '/', httpOnly: true, sameSite: 'strict', secure } as const
      if (session) void reply.setCookie(cookie, session.secret, { ...attributes, expires: new Date(session.expiresAt) })
      else void reply.clearCookie(cookie, attributes)
    },
  }
}

/** Aborts when the client goes away before its answer is out, or the server stops. */
function goneSignal(options: RouteOptions, reply: FastifyReply): AbortSignal {
  const gone = new AbortController()
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort(new Fault('aborted', 'the client went away'))
  })
  return AbortSignal.any([gone.signal, options.stopping])
}

function auditOf<N extends OperationName>(
  options: RouteOptions,
  name: N,
  request: FastifyRequest,
  known: Progress,
  body: unknown,
): Pick<Call<N>, 'audit' | 'entry' | 'begin'> {
  const audit = (resource: string, resourceName: string | null): void => {
    known.auditResource = resource
    known.auditName = resourceName
  }
  return {
    audit,
    entry(resource, resourceName) {
      audit(resource, resourceName)
      known.logged = { kind: 'change' }
      return auditEntry(options, name, request, 'ok', body)
    },
    async begin(resource, resourceName) {
      audit(resource, resourceName)
      known.logged = { kind: 'act', id: await options.audit.begin(auditEntry(options, name, request, 'begun', body)) }
    },
  }
}

/** How a request ended, as far as the log does not have it. */
async function auditEnd(
  options: RouteOptions,
  name: OperationName,
  request: FastifyRequest,
  body: unknown,
  outcome: string,
): Promise<void> {
  const operation: OperationDefinition = OPERATIONS[name]
  const known = progress(request)
  const { logged } = known
  if (!operation.scope.endsWith(':write') || logged.kind === 'end') return
  known.logged = { kind: 'end' }
  if (logged.kind === 'act') {
    // It is done, whether or not its end can be written: then it stays `begun`.
    await options.audit.finish(logged.id, outcome).catch((error: unknown) => {
      options.log.error('audit.failed', { operation: name, requestId: request.id, reason: String(error) })
    })
    return
  }
  if (logged.kind === 'change' && outcome === 'ok') return
  if (outcome === 'ok') options.log.error('audit.forgotten', { operation: name, requestId: request.id })
  await options.audit.write(auditEntry(options, name, request, outcome, body))
}

/** Whoever signs in is not known yet: the name that was given, if it can be one (people type passwords into the wrong field). */
function accountTried(name: OperationName, body: unknown): string | null {
  if (name !== 'session.create' || typeof body !== 'object' || body === null) return null
  const { account } = body as { account?: unknown }
  return typeof account === 'string' && isLabel(account) ? account : null
}

/** Only of somebody who is signed in: strangers could fill the log. */
async function auditRefusal(options: RouteOptions, name: OperationName, request: FastifyRequest, error: unknown): Promise<void> {
  const known = progress(request)
  if (!known.caller || !(error instanceof Fault)) return
  known.logged = { kind: 'end' }
  await options.audit.write(auditEntry(options, name, request, error.code, null))
}

function auditEntry(
  options: RouteOptions,
  name: OperationName,
  request: FastifyRequest,
  outcome: string,
  body: unknown,
): AuditEntry {
  const known = progress(request)
  return {
    at: options.clock.now(),
    account: known.caller?.accountName ?? accountTried(name, body),
    via: known.caller?.via ?? 'none',
    operation: name,
    resource: known.auditResource,
    resourceName: known.auditName,
    outcome,
    address: request.ip,
    requestId: request.id,
  }
}

interface Common {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE'
  readonly url: string
  readonly onRequest: onRequestHookHandler[]
  readonly bodyLimit: number
}

function addStream(app: FastifyInstance, options: RouteOptions, name: StreamName, common: Common): void {
  const handler = options.handlers[name] as AnyHandler
  app.route({
    ...common,
    method: 'GET',
    // Input is refused while the client can still be given a status.
    preValidation: async (request) => {
      parseInput(name, { params: request.params, query: request.query, body: undefined })
    },
    handler: async () => {
      throw new Fault('invalid', 'headers.upgrade: got nothing, want websocket', {
        details: [{ path: 'headers.upgrade', want: 'websocket', got: 'nothing' }],
      })
    },
    wsHandler: async (socket, request) => {
      const known = progress(request)
      const gone = new AbortController()
      socket.on('close', () => gone.abort(new Fault('aborted', 'the client went away')))
      const revoked = watchCaller(options, known.credential, gone.signal)
      const signal = AbortSignal.any([gone.signal, options.stopping, revoked])
      const bytes = byteSocket(socket)
      signal.addEventListener(
        'abort',
        () => bytes.close(options.stopping.aborted ? { code: 'unavailable', message: 'the server stops' } : undefined),
        { once: true },
      )
      const running = serve()
      options.streams.add(running)
      await running.finally(() => options.streams.delete(running))

      async function serve(): Promise<void> {
        let outcome = 'ok'
        try {
          const input = parseInput(name, { params: request.params, query: request.query, body: undefined })
          await handler(
            {
              ...input,
              operation: name,
              caller: known.caller,
              address: request.ip,
              requestId: request.id,
              signal,
              ...auditOf(options, name, request, known, undefined),
              setSession: () => {},
            } satisfies Call<StreamName>,
            bytes,
          )
          bytes.close()
        } catch (error) {
          const { fault } = httpFault(error)
          outcome = fault.code
          if (fault.code === 'internal')
            options.log.error('stream.failed', { operation: name, requestId: request.id, reason: String(error) })
          bytes.close({
            code: fault.code,
            message: fault.code === 'internal' ? `a defect of the platform, request ${request.id}` : fault.message,
          })
        } finally {
          gone.abort()
          await auditEnd(options, name, request, undefined, outcome).catch((error: unknown) =>
            options.log.error('audit.failed', { operation: name, reason: String(error) }),
          )
        }
      }
    },
  })
}

function addEvents(app: FastifyInstance, options: RouteOptions, common: Common): void {
  app.route({
    ...common,
    handler: async (request, reply) => {
      const known = progress(request)
      const gone = new AbortController()
      reply.raw.once('close', () => gone.abort())
      const revoked = watchCaller(options, known.credential, gone.signal)
      const signal = AbortSignal.any([gone.signal, options.stopping, revoked])
      const call = callOf(options, 'event.stream', request, reply, known, signal)
      const lastEventId = request.headers['last-event-id']
      // A browser that comes back says so by the header; its URL still has the first `after`.
      const after = typeof lastEventId === 'string' && lastEventId !== '' ? lastEventId : call.query.after
      const events = options.outbox.subscribe({ after, signal })
      await serveEvents({ reply, events, signal, clock: options.clock, heartbeatEveryMs: options.heartbeatEveryMs })
      gone.abort()
      return reply
    },
  })
}

/** Aborts when the credential of a long stream does not hold any more: signed out, revoked, removed, over. */
function watchCaller(options: RouteOptions, credential: Credential | null, over: AbortSignal): AbortSignal {
  const revoked = new AbortController()
  const until = AbortSignal.any([over, options.stopping])
  const watch = async (): Promise<void> => {
    if (!credential) return
    while (!until.aborted) {
      await options.clock.sleep(millis(options.recheckEveryMs), { signal: until })
      if (!(await callerOfCredential(options, credential, true))) {
        revoked.abort(new Fault('unauthenticated', 'the session or token has ended'))
        return
      }
    }
  }
  watch().catch((error: unknown) => {
    // The end of the stream, or a database that is away: then the next check decides, and the stream's own reads say so.
    if (!until.aborted) {
      options.log.warn('stream.recheck-failed', { reason: error instanceof Error ? error.message : String(error) })
      revoked.abort(new Fault('unavailable', 'the session could not be checked'))
    }
  })
  return revoked.signal
}
