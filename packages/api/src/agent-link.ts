/**
 * One end of the agent's wire each: `serveAgent` at the agent, `connectAgent` at the server. Both are handed a socket that
 * gives and takes whole messages (text: JSON; binary: stream frames), so that tests join them without a network.
 *
 * Bounds: requests under way, bytes waiting in the socket, events waiting to be acknowledged. What is over is refused as `busy`; a peer
 * that breaks the protocol is cut off.
 */
import { Channel, Fault, faultFromJson, seconds, toFault, withDeadline, type Clock, type Log } from '@typevisor/base'
import { isHostEvent, type AgentEvent, type DomainId } from '@typevisor/model'
import {
  AGENT_PROTOCOL,
  type AgentHello,
  type AgentMethod,
  type AgentParams,
  type AgentPort,
  type AgentReply,
  type AgentStream,
  type FromAgent,
  type StreamKind,
  type StreamOptions,
  type ToAgent,
} from './agent-wire.ts'

export interface MessageSocket {
  /** Ends when the connection does. */
  readonly incoming: AsyncIterable<string | Uint8Array>
  send(message: string | Uint8Array): void
  /** Bytes that wait to be sent. */
  readonly waitingBytes: number
  close(reason?: string): void
}

const REQUESTS_MAX = 1024
const STREAMS_MAX = 256
const STREAM_QUEUE = 4096
const EVENT_QUEUE = 65_536
const WAITING_BYTES_MAX = 16 * 1024 * 1024
/** A console's kept output comes as one piece; the wire's messages are bounded. */
const FRAME_BYTES_MAX = 1024 * 1024

const frame = (stream: number, content: Uint8Array): Uint8Array => {
  const message = new Uint8Array(4 + content.length)
  new DataView(message.buffer).setUint32(0, stream, true)
  message.set(content, 4)
  return message
}
const unframe = (message: Uint8Array): { stream: number; content: Uint8Array } | null =>
  message.length < 4
    ? null
    : {
        stream: new DataView(message.buffer, message.byteOffset, message.byteLength).getUint32(0, true),
        content: message.subarray(4),
      }

const whole = (value: unknown): boolean => typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
const word = (value: unknown): boolean => typeof value === 'string'
const thing = (value: unknown): boolean => typeof value === 'object' && value !== null && !Array.isArray(value)
const list = (value: unknown): boolean => Array.isArray(value)
const any = (): boolean => true
const isFaultJson = (value: unknown): boolean =>
  thing(value) && word((value as Record<string, unknown>)['code']) && word((value as Record<string, unknown>)['message'])
const orNone = (check: (value: unknown) => boolean) => (value: unknown) => value === undefined || value === null || check(value)

type Shape<M extends { type: string }> = {
  readonly [T in M['type']]: { readonly [F in Exclude<keyof Extract<M, { type: T }>, 'type'>]-?: (value: unknown) => boolean }
}

const TO_AGENT: Shape<ToAgent> = {
  request: { id: whole, method: word, params: thing },
  withdraw: { id: whole },
  acknowledge: { sequence: whole },
  'stream.open': { stream: whole, kind: (kind) => kind === 'console' || kind === 'vnc', domain: word, fromOffset: orNone(whole) },
  'stream.close': { stream: whole },
  welcome: { after: whole, takesParts: (value) => value === undefined || typeof value === 'boolean' },
  refused: { fault: isFaultJson },
}

const records = (value: unknown): boolean => Array.isArray(value) && value.every(thing)
const isHello = (value: unknown): boolean => {
  if (!thing(value)) return false
  const { protocol, name, images, domains, sequence, journalId } = value as Record<string, unknown>
  // Another protocol may look otherwise; it is refused by its number.
  return (
    typeof protocol === 'number' &&
    (protocol !== AGENT_PROTOCOL ||
      (word(name) && records(images) && records(domains) && whole(sequence) && orNone(word)(journalId)))
  )
}
const isEvent = (value: unknown): boolean => {
  if (!thing(value)) return false
  const { sequence, at, part, facts, domain, name, from, to, cause, detail } = value as Record<string, unknown>
  if (part !== undefined)
    return whole(sequence) && whole(at) && [part, to, cause].every(word) && [from, detail].every(orNone(word)) && thing(facts)
  return whole(sequence) && whole(at) && [domain, name, cause].every(word) && [from, to, detail].every(orNone(word))
}

const FROM_AGENT: Shape<FromAgent> = {
  hello: { hello: isHello },
  reply: { id: whole, result: any },
  fault: { id: whole, fault: isFaultJson },
  progress: { id: whole, fraction: (value) => typeof value === 'number', message: word },
  event: { event: isEvent },
  images: { images: list },
  'stream.opened': { stream: whole },
  'stream.closed': { stream: whole, fault: orNone(isFaultJson) },
}

/** @throws Fault `invalid` for whatever the other end, of this protocol, cannot have sent. */
function parseMessage<M extends { type: string }>(text: string, shape: Shape<M>): M {
  const wrong = (want: string) => new Fault('invalid', `agent wire: got ${JSON.stringify(text.slice(0, 80))}, want ${want}`)
  let message: unknown
  try {
    message = JSON.parse(text)
  } catch (error) {
    throw new Fault('invalid', wrong('JSON').message, { cause: error })
  }
  if (!thing(message)) throw wrong('a message')
  const fields = message as Record<string, unknown>
  const { type } = fields
  if (typeof type !== 'string' || !Object.hasOwn(shape, type)) throw wrong(`a type of ${Object.keys(shape).join(', ')}`)
  for (const [name, check] of Object.entries<(value: unknown) => boolean>(shape[type as M['type']])) {
    if (!check(fields[name])) throw wrong(`another ${name} of ${type}`)
  }
  return fields as unknown as M // its type and every field of it were looked at
}

interface OpenStream {
  readonly closing: AbortController
  stream: AgentStream | null
  waitingBytes: number
}

/**
 * The agent's end: answers until the connection ends. `onWelcome`: the server has taken the agent in.
 * @throws Fault of the server, when it refuses the agent.
 */
export async function serveAgent(agent: AgentPort, socket: MessageSocket, log: Log, onWelcome?: () => void): Promise<void> {
  const calls = new Map<number, AbortController>()
  /** `stream` is null until it is open; it may be closed before. */
  const streams = new Map<number, OpenStream>()
  let welcomed = false
  const ending = new AbortController()
  const send = (message: FromAgent) => socket.send(JSON.stringify(message))

  const answer = async (message: Extract<ToAgent, { type: 'request' }>): Promise<void> => {
    const { id, method, params } = message
    if (calls.has(id)) throw new Fault('invalid', `agent wire: request ${id} is under way already`)
    if (calls.size >= REQUESTS_MAX) {
      send({ type: 'fault', id, fault: new Fault('busy', `agent: ${REQUESTS_MAX} requests are under way`).toJSON() })
      return
    }
    const call = new AbortController()
    calls.set(id, call)
    const signal = AbortSignal.any([call.signal, ending.signal])
    const progress = (fraction: number, text: string) => send({ type: 'progress', id, fraction, message: text })
    try {
      const result = await agent.call(method, params as AgentParams<AgentMethod>, { signal, progress })
      if (!ending.signal.aborted) send({ type: 'reply', id, result: result as unknown })
    } catch (error) {
      if (!ending.signal.aborted) send({ type: 'fault', id, fault: toFault(error).toJSON() })
    } finally {
      calls.delete(id)
    }
  }

  const openStream = async (message: Extract<ToAgent, { type: 'stream.open' }>): Promise<void> => {
    const { stream: number, kind, domain, fromOffset } = message
    if (streams.has(number)) throw new Fault('invalid', `agent wire: stream ${number} is open already`)
    let fault: Fault | null = null
    const closing = new AbortController()
    const entry: OpenStream = { closing, stream: null, waitingBytes: 0 }
    const isFull = streams.size >= STREAMS_MAX
    if (!isFull) streams.set(number, entry)
    try {
      if (isFull) throw new Fault('busy', `agent: ${STREAMS_MAX} streams are open`)
      const stream = await agent.openStream(kind, domain, {
        fromOffset,
        signal: AbortSignal.any([closing.signal, ending.signal]),
      })
      entry.stream = stream
      if (closing.signal.aborted || ending.signal.aborted) return
      send({ type: 'stream.opened', stream: number })
      for await (const content of stream.readable) {
        for (let at = 0; at < content.length; at += FRAME_BYTES_MAX) {
          if (socket.waitingBytes > WAITING_BYTES_MAX) throw new Fault('busy', 'the other end reads too slowly')
          socket.send(frame(number, content.subarray(at, at + FRAME_BYTES_MAX)))
        }
      }
    } catch (error) {
      fault = closing.signal.aborted ? null : toFault(error)
    } finally {
      entry.stream?.close()
      if (!isFull) streams.delete(number)
      if (!ending.signal.aborted) send({ type: 'stream.closed', stream: number, fault: fault?.toJSON() ?? null })
    }
  }

  const tellEvents = async (after: number, takesParts: boolean): Promise<void> => {
    for await (const event of agent.events(after, { signal: ending.signal }))
      if (takesParts || !isHostEvent(event)) send({ type: 'event', event })
  }

  /** What the guest does not take waits here, up to a bound. */
  const write = (open: OpenStream, stream: AgentStream, content: Uint8Array) => {
    open.waitingBytes += content.length
    if (open.waitingBytes > WAITING_BYTES_MAX) return stream.close()
    stream.write(content).then(
      () => (open.waitingBytes -= content.length),
      () => stream.close(),
    )
  }

  let broken: unknown
  const cut = (error: unknown) => {
    broken = error
    socket.close(toFault(error).message)
  }

  send({ type: 'hello', hello: agent.hello })
  try {
    for await (const incoming of socket.incoming) {
      if (typeof incoming !== 'string') {
        const part = unframe(incoming)
        const open = part && streams.get(part.stream)
        if (part && open?.stream) write(open, open.stream, part.content)
        continue
      }
      if (broken) throw broken
      const message = parseMessage(incoming, TO_AGENT)
      switch (message.type) {
        case 'welcome':
          if (welcomed) throw new Fault('invalid', 'agent wire: welcomed twice')
          welcomed = true
          onWelcome?.()
          void tellEvents(message.after, message.takesParts ?? false).catch((error: unknown) => {
            log.warn('agent.events_cut', { error: toFault(error).message })
            socket.close('events cut')
          })
          break
        case 'request':
          void answer(message).catch(cut)
          break
        case 'withdraw':
          calls.get(message.id)?.abort(new Fault('aborted', 'the caller withdrew'))
          break
        case 'acknowledge':
          await agent.acknowledge(message.sequence)
          break
        case 'stream.open':
          void openStream(message).catch(cut)
          break
        case 'stream.close':
          streams.get(message.stream)?.closing.abort(new Fault('aborted', 'the other end closed the stream'))
          streams.get(message.stream)?.stream?.close()
          break
        case 'refused':
          throw faultFromJson(message.fault)
      }
    }
  } finally {
    ending.abort(new Fault('unavailable', 'the connection to the server ended'))
    for (const { stream } of streams.values()) stream?.close()
    socket.close()
  }
}

interface RemoteStream {
  readonly queue: Channel<Uint8Array>
  readonly opened: (fault: Fault | null) => void
  readonly forget: () => void
  waitingBytes: number
}

interface Waiting {
  readonly resolve: (result: unknown) => void
  readonly reject: (fault: Fault) => void
  readonly progress: ((fraction: number, message: string) => void) | undefined
}

/** An agent says hello at once; a peer that does not holds a connection for nothing. */
const HELLO_LIMIT = seconds(10)

/**
 * The server's end. Resolves when the agent has said hello; `closed` when the connection is over.
 * @throws Fault `unavailable`, `timeout` when it does not say hello (the connection is cut then), or `invalid` for another protocol.
 */
export async function connectAgent(socket: MessageSocket, clock: Clock): Promise<AgentPort & { readonly closed: Promise<void> }> {
  const remote = new RemoteAgent(socket)
  try {
    await withDeadline({ limit: HELLO_LIMIT, clock, what: 'agent: hello' }, () => remote.ready)
  } catch (error) {
    remote.cut(toFault(error))
    throw error
  }
  return remote
}

async function* taken(stream: RemoteStream): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const content of stream.queue) {
    stream.waitingBytes -= content.length
    yield content
  }
}

class RemoteAgent implements AgentPort {
  readonly ready: Promise<void>
  readonly closed: Promise<void>
  readonly #socket: MessageSocket
  readonly #waiting = new Map<number, Waiting>()
  readonly #streams = new Map<number, RemoteStream>()
  readonly #events = new Channel<AgentEvent>(EVENT_QUEUE)
  #hello: AgentHello | null = null
  #over: Fault | null = null
  #next = 1

  constructor(socket: MessageSocket) {
    this.#socket = socket
    const hello = Promise.withResolvers<void>()
    this.ready = hello.promise
    this.closed = this.#read(hello.resolve).then(
      () => this.#end(new Fault('unavailable', 'the agent went away')),
      (error: unknown) => this.#end(toFault(error)),
    )
    void this.closed.then(() => hello.reject(this.#over ?? new Fault('unavailable', 'the agent went away before it said hello')))
    hello.promise.catch(() => {})
  }

  get hello(): AgentHello {
    if (!this.#hello) throw new Fault('unavailable', 'the agent has not said hello')
    return this.#hello
  }

  call<M extends AgentMethod>(
    method: M,
    params: AgentParams<M>,
    options: { signal?: AbortSignal | undefined; progress?: ((fraction: number, message: string) => void) | undefined } = {},
  ): Promise<AgentReply<M>> {
    const { signal, progress } = options
    if (this.#over) return Promise.reject(this.#over)
    if (signal?.aborted) return Promise.reject(toFault(signal.reason))
    if (this.#waiting.size >= REQUESTS_MAX)
      return Promise.reject(new Fault('busy', `agent: ${REQUESTS_MAX} requests are under way`))
    const id = this.#next++
    return new Promise<unknown>((resolve, reject) => {
      const withdraw = () => {
        this.#waiting.delete(id)
        this.#send({ type: 'withdraw', id })
        reject(toFault(signal?.reason))
      }
      const end = () => signal?.removeEventListener('abort', withdraw)
      signal?.addEventListener('abort', withdraw, { once: true })
      this.#waiting.set(id, {
        progress,
        resolve: (result) => (end(), resolve(result)),
        reject: (fault) => (end(), reject(fault)),
      })
      this.#send({ type: 'request', id, method, params })
    }) as Promise<AgentReply<M>> // the agent's end is typed by the same table
  }

  async *events(after: number, options: { signal: AbortSignal }): AsyncGenerator<AgentEvent, void, undefined> {
    const stop = () => this.#events.close()
    options.signal.addEventListener('abort', stop, { once: true })
    if (options.signal.aborted) stop()
    this.#send({ type: 'welcome', after, takesParts: true })
    yield* this.#events
  }

  async acknowledge(sequence: number): Promise<void> {
    this.#send({ type: 'acknowledge', sequence })
  }

  async openStream(kind: StreamKind, domain: DomainId, options: StreamOptions = {}): Promise<AgentStream> {
    const { signal } = options
    if (this.#over) throw this.#over
    signal?.throwIfAborted()
    if (this.#streams.size >= STREAMS_MAX) throw new Fault('busy', `agent: ${STREAMS_MAX} streams are open`)
    const number = this.#next++
    const queue = new Channel<Uint8Array>(STREAM_QUEUE)
    const opened = Promise.withResolvers<void>()
    // Never rejected while nobody waits: the stream may end as soon as it is open.
    opened.promise.catch(() => {})
    const forget = () => signal?.removeEventListener('abort', abort)
    const stream: RemoteStream = {
      queue,
      forget,
      waitingBytes: 0,
      opened: (fault) => (fault ? opened.reject(fault) : opened.resolve()),
    }
    this.#streams.set(number, stream)
    this.#send({ type: 'stream.open', stream: number, kind, domain, fromOffset: options.fromOffset })
    const close = () => {
      if (!this.#streams.delete(number)) return
      forget()
      queue.close()
      this.#send({ type: 'stream.close', stream: number })
    }
    const abort = () => {
      close()
      opened.reject(toFault(signal?.reason))
    }
    signal?.addEventListener('abort', abort, { once: true })
    await opened.promise
    return {
      readable: taken(stream),
      write: async (content) => {
        if (this.#over) throw this.#over
        if (!this.#streams.has(number)) throw new Fault('aborted', 'the stream is closed')
        if (this.#socket.waitingBytes > WAITING_BYTES_MAX) throw new Fault('busy', 'the agent reads too slowly')
        for (let at = 0; at < content.length; at += FRAME_BYTES_MAX)
          this.#socket.send(frame(number, content.subarray(at, at + FRAME_BYTES_MAX)))
      },
      close,
    }
  }

  #send(message: ToAgent): void {
    if (!this.#over) this.#socket.send(JSON.stringify(message))
  }

  async #read(ready: () => void): Promise<void> {
    for await (const incoming of this.#socket.incoming) {
      if (typeof incoming === 'string') this.#take(parseMessage(incoming, FROM_AGENT), ready)
      else {
        const part = unframe(incoming)
        const stream = part && this.#streams.get(part.stream)
        if (part && stream) this.#feed(part.stream, stream, part.content)
      }
    }
  }

  #feed(number: number, stream: RemoteStream, content: Uint8Array): void {
    try {
      stream.waitingBytes += content.length
      if (stream.waitingBytes > WAITING_BYTES_MAX) throw new Fault('busy', `more than ${WAITING_BYTES_MAX} bytes wait to be read`)
      stream.queue.push(content.slice())
    } catch (error) {
      stream.queue.close(error)
      stream.forget()
      this.#streams.delete(number)
      this.#send({ type: 'stream.close', stream: number })
    }
  }

  #take(message: FromAgent, ready: () => void): void {
    switch (message.type) {
      case 'hello':
        if (this.#hello) throw new Fault('invalid', 'agent wire: it said hello twice')
        if (message.hello.protocol !== AGENT_PROTOCOL) {
          throw new Fault('invalid', `agent: it speaks protocol ${message.hello.protocol}, want ${AGENT_PROTOCOL}`)
        }
        this.#hello = message.hello
        ready()
        return
      case 'images':
        if (this.#hello) this.#hello = { ...this.#hello, images: message.images }
        return
      case 'reply':
        this.#waiting.get(message.id)?.resolve(message.result)
        this.#waiting.delete(message.id)
        return
      case 'fault':
        this.#waiting.get(message.id)?.reject(faultFromJson(message.fault))
        this.#waiting.delete(message.id)
        return
      case 'progress':
        this.#waiting.get(message.id)?.progress?.(message.fraction, message.message)
        return
      case 'event':
        this.#events.push(message.event)
        return
      case 'stream.opened':
        this.#streams.get(message.stream)?.opened(null)
        return
      case 'stream.closed': {
        const stream = this.#streams.get(message.stream)
        this.#streams.delete(message.stream)
        const fault = message.fault ? faultFromJson(message.fault) : null
        stream?.opened(fault ?? new Fault('unavailable', 'the stream ended'))
        stream?.forget()
        stream?.queue.close(fault ?? undefined)
        return
      }
    }
  }

  cut(fault: Fault): void {
    this.#end(fault)
  }

  #end(fault: Fault): void {
    this.#over ??= fault
    for (const waiting of this.#waiting.values()) waiting.reject(fault)
    this.#waiting.clear()
    for (const stream of this.#streams.values()) {
      stream.opened(fault)
      stream.forget()
      stream.queue.close(fault)
    }
    this.#streams.clear()
    this.#events.close()
    this.#socket.close()
  }
}
