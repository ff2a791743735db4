/**
 * The typed client, for the portal, the command line and anybody's program: `client.call('instance.create', { body: { name: 'web-1' } })`.
 * What goes in and comes out is typed by the table; nothing of it but `ROUTE_DATA` is there at run time. Works where `fetch` is.
 *
 * Whatever goes wrong is a Fault: the server's own by its code; `unavailable` when nobody answers or the answer is none of ours; `aborted`
 * when the caller's signal says so.
 */
import { Fault, faultFromJson, retryable } from '@typevisor/base'
import type { Body, OperationName, Params, Query, Reply } from './table.ts'
import { ROUTE_DATA } from './generated/routes.ts'

type StreamOperation = 'instance.console' | 'instance.vnc'
export type CallOperation = Exclude<OperationName, StreamOperation | 'event.stream'>

type Part<K extends string, T> = [T] extends [undefined]
  ? {}
  : {} extends T
    ? { readonly [P in K]?: T }
    : { readonly [P in K]: T }
export type CallInput<N extends OperationName> = Part<'params', Params<N>> & Part<'query', Query<N>> & Part<'body', Body<N>>
export interface CallOptions {
  readonly signal?: AbortSignal | undefined
}
type CallArguments<N extends OperationName> =
  {} extends CallInput<N> ? [input?: CallInput<N>, options?: CallOptions] : [input: CallInput<N>, options?: CallOptions]

export type PlatformEvent = Reply<'event.stream'>

export interface ClientOptions {
  /** `http://127.0.0.1:8006`; a browser gives `location.origin`. */
  readonly baseUrl: string
  /** API token or local credential; a function where it may change. */
  readonly token?: string | (() => string | null)
  /** The session's CSRF token, where a cookie says who calls. */
  readonly csrf?: string | (() => string | null)
  readonly fetch?: typeof fetch
  /** How long to wait before an event stream is opened again; doubles up to 10 s. Default 500 ms. */
  readonly retryMs?: number
  /** A stream that says nothing for so long is taken for dead. The server says something every 15 s. Default 45 s. */
  readonly silenceMs?: number
}

export interface EventOptions {
  /** Go on after this sequence; left out: from now on. */
  readonly after?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** `open`: events flow; `waiting`: the stream is to be opened again, and why. */
  onState?(state: { kind: 'open' } | { kind: 'waiting'; fault: Fault }): void
}

export interface Client {
  /** @throws Fault */
  call<N extends CallOperation>(name: N, ...args: CallArguments<N>): Promise<Reply<N>>
  /**
   * Events from the server, at least once and in order; opened again after the last one seen when the connection breaks. Ends when the
   * signal aborts. @throws Fault for what no retry mends (signed out, not allowed, a wrong sequence).
   */
  events(options?: EventOptions): AsyncGenerator<PlatformEvent, void, undefined>
  /** Where to open a WebSocket, and the headers that a client which is no browser must send. */
  stream<N extends StreamOperation>(
    name: N,
    input: CallInput<N>,
  ): { readonly url: string; readonly headers: Readonly<Record<string, string>> }
}

interface AnyInput {
  readonly params?: Readonly<Record<string, unknown>>
  readonly query?: Readonly<Record<string, unknown>>
  readonly body?: unknown
}

/** The operation's path with its parameters and query, encoded. @throws Fault `invalid` when a parameter is missing. */
export function pathOf(name: OperationName, input: AnyInput): string {
  const path = ROUTE_DATA[name].path.replaceAll(/:(\w+)/g, (_, key: string) => {
    const value = input.params?.[key]
    // '.' and '..' would be taken for steps in the path, however they are encoded.
    if (value === undefined || value === '' || value === '.' || value === '..') {
      throw new Fault('invalid', `${name}: params.${key}: got ${JSON.stringify(value) ?? 'nothing'}, want a name or id`)
    }
    return encodeURIComponent(String(value))
  })
  const query = new URLSearchParams()
  for (const [key, value] of Object.entries(input.query ?? {})) if (value !== undefined) query.set(key, String(value))
  return query.size > 0 ? `${path}?${query}` : path
}

const valueOf = (source: string | (() => string | null) | undefined): string | null =>
  typeof source === 'function' ? source() : (source ?? null)

export function createClient(options: ClientOptions): Client {
  const baseUrl = options.baseUrl.replace(/\/+$/, '')
  const doFetch: typeof fetch = options.fetch ?? ((...args) => fetch(...args))

  const authorization = (): Record<string, string> => {
    const token = valueOf(options.token)
    return token === null ? {} : { authorization: `Bearer ${token}` }
  }

  async function request(
    name: OperationName,
    input: AnyInput,
    signal: AbortSignal | undefined,
    accept: string,
  ): Promise<Response> {
    const { method } = ROUTE_DATA[name]
    const csrf = method === 'GET' ? null : valueOf(options.csrf)
    const path = pathOf(name, input)
    let response: Response
    try {
      response = await doFetch(`${baseUrl}${path}`, {
        method,
        headers: {
          accept,
          ...authorization(),
          ...(csrf === null ? {} : { 'x-csrf-token': csrf }),
          ...(input.body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(input.body === undefined ? {} : { body: JSON.stringify(input.body) }),
        ...(signal ? { signal } : {}),
        credentials: 'same-origin',
        redirect: 'error',
      })
    } catch (error) {
      throw networkFault(name, baseUrl, error, signal)
    }
    if (!response.ok) throw await faultOf(name, response)
    return response
  }

  /** One connection's events; ends when the connection does. */
  async function* connection(
    after: string | undefined,
    signal: AbortSignal,
    alive: () => void,
    onOpen: () => void,
  ): AsyncGenerator<PlatformEvent> {
    const response = await request('event.stream', after === undefined ? {} : { query: { after } }, signal, 'text/event-stream')
    onOpen()
    if (!response.body) return
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    let rest = ''
    try {
      while (true) {
        const { value, done } = await reader.read()
        if (done) return
        alive()
        const blocks = `${rest}${value}`.split('\n\n')
        rest = blocks.pop() ?? ''
        for (const block of blocks) {
          const data = block.split('\n').flatMap((line) => (line.startsWith('data:') ? [line.slice(5).trimStart()] : []))
          if (data.length > 0) yield JSON.parse(data.join('\n')) as PlatformEvent // the server's own, by the table
        }
      }
    } finally {
      await reader.cancel().catch(() => {})
    }
  }

  return {
    async call(name, ...[input, callOptions]) {
      const response = await request(name, (input ?? {}) as AnyInput, callOptions?.signal, 'application/json')
      try {
        return (await response.json()) as never // the server holds its replies to the table
      } catch (error) {
        throw networkFault(name, baseUrl, error, callOptions?.signal)
      }
    },

    async *events({ after, signal, onState } = {}) {
      const silenceMs = options.silenceMs ?? 45_000
      const firstPauseMs = options.retryMs ?? 500
      let last = after
      let pauseMs = firstPauseMs
      while (true) {
        if (signal?.aborted) return
        const ended = new AbortController()
        const both = signal ? AbortSignal.any([ended.signal, signal]) : ended.signal
        const dead = (): void => ended.abort(new Fault('timeout', `events: nothing from ${baseUrl} in ${silenceMs} ms`))
        let watch = setTimeout(dead, silenceMs)
        const alive = (): void => {
          clearTimeout(watch)
          watch = setTimeout(dead, silenceMs)
        }
        let fault = new Fault('unavailable', `events: ${baseUrl} closed the stream`)
        try {
          for await (const event of connection(last, both, alive, () => onState?.({ kind: 'open' }))) {
            pauseMs = firstPauseMs
            last = event.sequence
            yield event
          }
        } catch (error) {
          fault = error instanceof Fault ? error : networkFault('event.stream', baseUrl, error, both)
          if (signal?.aborted) return
          if (!retryable(fault)) throw fault
        } finally {
          clearTimeout(watch)
          ended.abort()
        }
        if (signal?.aborted) return
        onState?.({ kind: 'waiting', fault })
        await pause(pauseMs, signal)
        pauseMs = Math.min(pauseMs * 2, 10_000)
      }
    },

    stream(name, input) {
      return { url: `${baseUrl.replace(/^http/, 'ws')}${pathOf(name, input as AnyInput)}`, headers: authorization() }
    },
  }
}

/** Resolves early when the signal aborts. */
function pause(durationMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', over)
      resolve()
    }
    const timer = setTimeout(over, durationMs)
    signal?.addEventListener('abort', over, { once: true })
  })
}

function networkFault(name: string, baseUrl: string, error: unknown, signal: AbortSignal | undefined): Fault {
  if (error instanceof Fault) return error
  if (signal?.aborted)
    return signal.reason instanceof Fault ? signal.reason : new Fault('aborted', `${name}: withdrawn`, { cause: error })
  const reason =
    error instanceof Error && error.cause instanceof Error
      ? error.cause.message
      : error instanceof Error
        ? error.message
        : String(error)
  return new Fault('unavailable', `${name}: ${baseUrl} does not answer${reason === '' ? '' : ` (${reason})`}`, { cause: error })
}

/** The server's Fault, or what a proxy in between makes of it. */
async function faultOf(name: string, response: Response): Promise<Fault> {
  const text = await response.text().catch(() => '')
  try {
    const { error } = JSON.parse(text) as { error?: unknown }
    if (error !== undefined) return faultFromJson(error)
  } catch {
    // Not ours: told below by its status.
  }
  const code =
    response.status === 401
      ? 'unauthenticated'
      : response.status === 403
        ? 'forbidden'
        : response.status === 404
          ? 'not_found'
          : 'unavailable'
  return new Fault(code, `${name}: ${response.url} answered ${response.status}, which is no answer of a Typevisor server`)
}
