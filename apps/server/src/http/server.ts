/** The HTTP server: Fastify with the table's routes, the portal's files and what every answer carries. */
import { readFile } from 'node:fs/promises'
import type { AddressInfo } from 'node:net'
import { isIPv6 } from 'node:net'
import cookie from '@fastify/cookie'
import rateLimit from '@fastify/rate-limit'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyError, type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import { Fault, millis, type Clock, type IdSource, type Log } from '@typevisor/base'
import { OPERATIONS, openApiDocument, type OperationDefinition } from '@typevisor/api'
import type { Identity, SecretCrypto } from '@typevisor/identity'
import type { AuditLog } from '../db/audit.ts'
import type { LocalCredentials } from '../local-credentials.ts'
import type { Outbox } from '../outbox.ts'
import { parseJsonBody } from './body.ts'
import { errorReply, httpFault } from './errors.ts'
import type { Handlers } from './handler.ts'
import { addressKey, nameAllowed } from './names.ts'
import { isSecure, type AuthenticateOptions } from './authenticate.ts'
import { addPortal, isPage, NO_PORTAL_PAGE, sendPage } from './portal.ts'
import { addRoutes } from './routes.ts'
import { FAULT_STATUS } from './status.ts'

export interface HttpLimits {
  /** Requests that one address (IPv6: one /64) has a minute. */
  readonly requestsPerMinute: number
  readonly signInsPerMinute: number
  readonly recheckEveryMs: number
  readonly heartbeatEveryMs: number
}

export const DEFAULT_HTTP_LIMITS: HttpLimits = {
  requestsPerMinute: 30_000,
  signInsPerMinute: 30,
  recheckEveryMs: 30_000,
  heartbeatEveryMs: 15_000,
}

export interface HttpServerOptions {
  readonly handlers: Handlers
  readonly identity: Identity
  readonly local: LocalCredentials | null
  readonly crypto: SecretCrypto
  readonly audit: AuditLog
  readonly outbox: Outbox
  readonly clock: Clock
  readonly ids: IdSource
  readonly log: Log
  readonly version: string
  /** Default 127.0.0.1. */
  readonly host?: string
  /** 0: any free one. */
  readonly port: number
  /** Names besides localhost by which the server may be called. Addresses always may. */
  readonly names?: readonly string[]
  readonly trustedOrigins?: readonly string[]
  /** Addresses or networks (`10.0.0.0/8`) of reverse proxies, whose X-Forwarded-For, -Proto and -Host are believed. Nobody else's are. */
  readonly trustedProxies?: readonly string[]
  readonly tls?: { readonly certPath: string; readonly keyPath: string }
  /** Folder of the built portal; null: none. */
  readonly portalPath: string | null
  readonly limits?: Partial<HttpLimits>
  /** Replies are held to their schemas: for tests. */
  readonly checkReplies?: boolean
  /** Told of each answer of the table's operations, streams left out. */
  readonly onAnswer?: (answer: { readonly operation: string; readonly status: number; readonly seconds: number }) => void
  /** Adds routes that are not of the table (the agents' WebSocket). They get the host check, rate limit and error answers, but authenticate themselves. */
  readonly extend?: (app: FastifyInstance, access: AuthenticateOptions) => void | Promise<void>
}

export interface HttpServer extends AsyncDisposable {
  readonly app: FastifyInstance
  /** Where it really listens: `http://127.0.0.1:8006`. */
  readonly url: string
  readonly port: number
  /** Ends open streams, lets running requests finish, then closes. */
  close(): Promise<void>
}

/** Scripts only from here, nothing in frames. Styles inline: the component library and the terminal set them on elements. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self' 'unsafe-inline'",
  "img-src 'self' data: blob:",
  "font-src 'self' data:",
  "connect-src 'self'",
  "manifest-src 'self'",
  "worker-src 'self' blob:",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join('; ')

const SECURITY_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy': CONTENT_SECURITY_POLICY,
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'same-origin',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), microphone=(), geolocation=()',
}

/** How long a closing server waits for the clients and handlers of its WebSockets, whose signal is aborted. */
const STREAM_END_LIMIT_MS = 3000
const REQUEST_TIMEOUT_MS = 60_000
const PARAM_LENGTH_MAX = 1024
/** One message of a WebSocket; an agent's may hold the whole output of a command. All senders are authenticated before the first. */
const SOCKET_PAYLOAD_BYTES_MAX = 64 * 1024 * 1024

/** Builds the server and listens. @throws Fault `conflict` when the port is taken, `invalid` for an address that is not here. */
export async function createHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const stopping = new AbortController()
  const streams = new Set<Promise<void>>()
  const app = await build(options, stopping.signal, streams)
  const host = options.host ?? '127.0.0.1'
  try {
    await app.listen({ host, port: options.port })
  } catch (error) {
    await app.close()
    throw listenFault(error, host, options.port)
  }
  const { port } = app.server.address() as AddressInfo // listening on TCP
  const shown = host === '0.0.0.0' ? '127.0.0.1' : host === '::' ? '::1' : host
  let closing: Promise<void> | undefined
  const close = (): Promise<void> => {
    stopping.abort(new Fault('unavailable', 'the server stops'))
    return (closing ??= (async () => {
      const over = new AbortController()
      // A client that does not answer our close is not waited for.
      const limit = options.clock.sleep(millis(STREAM_END_LIMIT_MS), { signal: over.signal }).then(
        () => app.websocketServer.clients.forEach((client) => client.terminate()),
        () => {},
      )
      await app.close()
      await Promise.race([Promise.allSettled(streams), limit])
      over.abort()
    })())
  }
  return {
    app,
    port,
    url: `${options.tls ? 'https' : 'http'}://${isIPv6(shown) ? `[${shown}]` : shown}:${port}`,
    close,
    [Symbol.asyncDispose]: close,
  }
}

function listenFault(error: unknown, host: string, port: number): unknown {
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  if (code === 'EADDRINUSE')
    return new Fault('conflict', `listen on ${host}:${port}: the port is in use; another one by --port`, { cause: error })
  if (code === 'EACCES')
    return new Fault('forbidden', `listen on ${host}:${port}: not allowed; a port from 1024 on needs no rights`, { cause: error })
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND')
    return new Fault('invalid', `listen on ${host}:${port}: no address of this machine`, { cause: error })
  return error
}

async function build(options: HttpServerOptions, stopping: AbortSignal, streams: Set<Promise<void>>): Promise<FastifyInstance> {
  const { ids, tls } = options
  const limits = { ...DEFAULT_HTTP_LIMITS, ...options.limits }
  const common = {
    logger: false,
    trustProxy: options.trustedProxies && options.trustedProxies.length > 0 ? [...options.trustedProxies] : false,
    genReqId: () => ids.next(),
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: 'idle',
    return503OnClosing: true,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: PARAM_LENGTH_MAX },
    frameworkErrors: (error: FastifyError, request: FastifyRequest, reply: FastifyReply) =>
      void answerError(options, error, request, reply),
    clientErrorHandler: (error: NodeJS.ErrnoException, socket: import('node:net').Socket) => refuseConnection(error, socket),
  } as const
  const app = (tls
    ? Fastify({ ...common, https: { cert: await readPem(tls.certPath), key: await readPem(tls.keyPath), minVersion: 'TLSv1.2' } })
    : Fastify(common)) as unknown as FastifyInstance // the same but for the type of its socket

  addRequestChecks(app, options.names ?? [])
  const { onAnswer } = options
  if (onAnswer)
    app.addHook('onResponse', async ({ method, routeOptions: { url } }, { statusCode, elapsedTime }) => {
      const operation = OPERATION_OF.get(`${method} ${url ?? ''}`)
      if (operation !== undefined) onAnswer({ operation, status: statusCode, seconds: elapsedTime / 1000 })
    })
  app.setErrorHandler((error, request, reply) => answerError(options, error, request, reply))

  addJsonParser(app)
  await app.register(cookie)
  await addRateLimit(app, limits.requestsPerMinute)
  await app.register(websocket, { options: { maxPayload: SOCKET_PAYLOAD_BYTES_MAX } })

  addRoutes(app, {
    ...options,
    trustedOrigins: options.trustedOrigins ?? [],
    stopping,
    streams,
    signInsPerMinute: limits.signInsPerMinute,
    recheckEveryMs: limits.recheckEveryMs,
    heartbeatEveryMs: limits.heartbeatEveryMs,
    checkReplies: options.checkReplies ?? false,
  })
  addOpenApi(app, options.version)
  await options.extend?.(app, { ...options, trustedOrigins: options.trustedOrigins ?? [] })

  await addPortalAndRest(app, options.portalPath)
  await app.ready()
  return app
}

/** What every answer carries, and by which names the server may be called. */
function addRequestChecks(app: FastifyInstance, names: readonly string[]): void {
  app.addHook('onRequest', async (request, reply) => {
    reply.headers(SECURITY_HEADERS).header('x-request-id', request.id)
    if (isSecure(request)) reply.header('strict-transport-security', 'max-age=31536000')
    if (request.url.startsWith('/api/')) reply.header('cache-control', 'no-store')
    if (!nameAllowed(request.host, names)) {
      const got = JSON.stringify(request.host.slice(0, 100))
      throw new Fault(
        'forbidden',
        `headers.host: got ${got}, want an address of this server, localhost or a name it was given by --name`,
      )
    }
    checkQuery(request.url)
  })
}

/** JSON is the only body. */
function addJsonParser(app: FastifyInstance): void {
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_request, content, done) => {
    try {
      done(null, parseJsonBody(content as Buffer))
    } catch (error) {
      done(error as Error)
    }
  })
}

async function addRateLimit(app: FastifyInstance, requestsPerMinute: number): Promise<void> {
  await app.register(rateLimit, {
    global: true,
    max: requestsPerMinute,
    timeWindow: 60_000,
    keyGenerator: (request) => addressKey(request.ip),
    errorResponseBuilder: (_request, context) => {
      const retryAfterSeconds = Math.ceil(context.ttl / 1000)
      return new Fault('busy', `too many requests: ${context.max} a minute are allowed, wait ${retryAfterSeconds} s`, {
        cause: { retryAfterSeconds },
      })
    },
  })
}

/** Made when it is first asked for. */
function addOpenApi(app: FastifyInstance, version: string): void {
  let document: string | undefined
  app.get('/api/v1/openapi.json', (_request, reply) => {
    document ??= JSON.stringify(openApiDocument({ version: version, statusOf }))
    return reply.type('application/json').send(document)
  })
}

/** The portal's files, and an answer for what is neither a file nor of the API. */
async function addPortalAndRest(app: FastifyInstance, portalPath: string | null): Promise<void> {
  const hasPortal = await addPortal(app, portalPath)
  app.setNotFoundHandler({ preHandler: app.rateLimit() }, (request, reply) => {
    if (isPage(request))
      return hasPortal
        ? sendPage(reply)
        : reply
            .code(request.url === '/' ? 200 : 404)
            .type('text/html')
            .send(NO_PORTAL_PAGE)
    const [path = ''] = request.url.split('?')
    const methods = methodsOf(path)
    if (methods.length > 0) {
      const detail = { path: 'method', want: methods.join(' or '), got: request.method.slice(0, 20) }
      const fault = new Fault('invalid', `method: got ${detail.got}, want ${detail.want}`, { details: [detail] })
      return reply.code(405).header('allow', methods.join(', ')).send(errorReply(fault, request.id))
    }
    throw new Fault('not_found', `${request.method.slice(0, 20)} ${path.slice(0, 200)}: there is no such thing here`)
  })
}

const statusOf = (code: string): number => (FAULT_STATUS as Readonly<Record<string, number>>)[code] ?? FAULT_STATUS.internal

/** The router refuses paths of wrong encodings; queries it would take as they are. */
function checkQuery(url: string): void {
  const start = url.indexOf('?')
  if (start < 0) return
  try {
    decodeURIComponent(url.slice(start))
  } catch (error) {
    const detail = { path: 'query', want: 'valid percent encodings of UTF-8', got: JSON.stringify(url.slice(start, start + 100)) }
    throw new Fault('invalid', `query: got ${detail.got}, want ${detail.want}`, { details: [detail], cause: error })
  }
}

const ROUTE_PATTERNS: readonly { readonly pattern: RegExp; readonly method: string }[] = Object.values<OperationDefinition>(
  OPERATIONS,
).map(({ path, method }) => ({ pattern: new RegExp(`^${path.replaceAll(/:\w+/g, '[^/]+')}$`), method }))

const OPERATION_OF = new Map(
  Object.entries<OperationDefinition>(OPERATIONS)
    .filter(([, { transport }]) => transport === undefined)
    .map(([name, { method, path }]) => [`${method} ${path}`, name]),
)

const methodsOf = (path: string): string[] => [
  ...new Set(ROUTE_PATTERNS.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method)),
]

async function readPem(path: string): Promise<Buffer> {
  try {
    return await readFile(path)
  } catch (error) {
    throw new Fault('invalid', `TLS: read ${path}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}

function answerError(options: HttpServerOptions, error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const { fault, status, headers } = httpFault(error)
  if (fault.code === 'internal') {
    options.log.error('http.defect', {
      requestId: request.id,
      method: request.method,
      url: request.url.slice(0, 300),
      reason: fault.message,
      stack: error instanceof Error ? error.stack : undefined,
    })
  } else if (status >= 500)
    // The caller was told; a guest without an agent or a full disk is no news of the server's own.
    options.log.debug('http.failed', {
      requestId: request.id,
      url: request.url.slice(0, 300),
      code: fault.code,
      reason: fault.message,
    })
  // A body that was not read to its end would be taken for the next request.
  if (status === 413) reply.header('connection', 'close')
  return reply.code(status).headers(headers).type('application/json').send(errorReply(fault, request.id))
}

/** What is no HTTP never becomes a request. */
function refuseConnection(error: NodeJS.ErrnoException, socket: import('node:net').Socket): void {
  if (error.code === 'ECONNRESET' || socket.destroyed || !socket.writable) {
    socket.destroy()
    return
  }
  const [status, text] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? ['431 Request Header Fields Too Large', 'headers: got more than 16384 bytes, want less']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? ['408 Request Timeout', 'request: it did not come to its end in time']
        : ['400 Bad Request', 'request: got something else, want HTTP/1.1']
  const body = JSON.stringify({ error: { code: 'invalid', message: text }, requestId: '' })
  socket.end(
    `HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  )
}
