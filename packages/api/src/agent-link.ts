/**
 * One end of the agent's wire each: `serveAgent` at the agent, `connectAgent` at the server. Both are handed a socket that
 * gives and takes whole messages (text: JSON; binary: stream frames), so that tests join them without a network.
 *
 * Bounds: requests under way, bytes waiting in the socket, events waiting to be acknowledged. What is over is refused as `busy`; a peer
 * that breaks the protocol is cut off.
 */
import { Channel, Fault, faultFromJson, toFault, type Log } from '@typevisor/base'
import type { DomainEvent, DomainId } from '@typevisor/model'
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

const frame = (stream: number, content: Uint8Array): Uint8Array => {
  const message = new Uint8Array(4 + content.length)
  new DataView(message.buffer).setUint32(0, stream, true)
  message.set(content, 4)
  return message
}
const unframe = (message: Uint8Array): { stream: number; content: Uint8Array } | null =>
  message.length < 4
    ? null
    : { stream: new DataView(message.buffer, message.byteOffset, message.byteLength).getUint32(0, true), content: message.subarray(4) }

function parseMessage<T extends { type: string }>(text: string): T {
  const message: unknown = JSON.parse(text)
  if (typeof message !== 'object' || message === null || typeof (message as { type?: unknown }).type !== 'string') {
    throw new Fault('invalid', `agent wire: got ${text.slice(0, 80)}, want a message with a type`)
  }
  return message as T
}

/** The agent's end: answers until the connection ends. */
export async function serveAgent(agent: AgentPort, socket: MessageSocket, log: Log): Promise<void> {
  const calls = new Map<number, AbortController>()
  const streams = new Map<number, AgentStream>()
  const ending = new AbortController()
  const send = (message: FromAgent) => socket.send(JSON.stringify(message))

  const answer = async (message: Extract<ToAgent, { type: 'request' }>): Promise<void> => {
    const { id, method, params } = message
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
    let fault: Fault | null = null
    try {
      if (streams.size >= STREAMS_MAX) throw new Fault('busy', `agent: ${STREAMS_MAX} streams are open`)
      const stream = await agent.openStream(kind, domain, { fromOffset, signal: ending.signal })
      streams.set(number, stream)
      send({ type: 'stream.opened', stream: number })
      for await (const content of stream.readable) {
        if (socket.waitingBytes > WAITING_BYTES_MAX) throw new Fault('busy', 'the other end reads too slowly')
        socket.send(frame(number, content))
      }
    } catch (error) {
      fault = toFault(error)
    } finally {
      streams.get(number)?.close()
      streams.delete(number)
      if (!ending.signal.aborted) send({ type: 'stream.closed', stream: number, fault: fault?.toJSON() ?? null })
    }
  }

  const tellEvents = async (after: number): Promise<void> => {
    for await (const event of agent.events(after, { signal: ending.signal })) send({ type: 'event', event })
  }

  send({ type: 'hello', hello: agent.hello })
  try {
    for await (const incoming of socket.incoming) {
      if (typeof incoming !== 'string') {
        const part = unframe(incoming)
        const stream = part && streams.get(part.stream)
        if (part && stream) void stream.write(part.content).catch(() => stream.close())
        continue
      }
      const message = parseMessage<ToAgent>(incoming)
      switch (message.type) {
        case 'welcome':
          void tellEvents(message.after).catch((error: unknown) => {
            log.warn('agent.events_cut', { error: toFault(error).message })
            socket.close('events cut')
          })
          break
        case 'request':
          void answer(message)
          break
        case 'withdraw':
          calls.get(message.id)?.abort(new Fault('aborted', 'the caller withdrew'))
          break
        case 'acknowledge':
          await agent.acknowledge(message.sequence)
          break
        case 'stream.open':
          void openStream(message)
          break
        case 'stream.close':
          streams.get(message.stream)?.close()
          break
        case 'refused':
          throw faultFromJson(message.fault)
      }
    }
  } finally {
    ending.abort(new Fault('unavailable', 'the connection to the server ended'))
    for (const stream of streams.values()) stream.close()
    socket.close()
  }
}

interface Waiting {
  readonly resolve: (result: unknown) => void
  readonly reject: (fault: Fault) => void
  readonly progress: ((fraction: number, message: string) => void) | undefined
}

/** The server's end. Resolves when the agent has said hello; `closed` when the connection is over. @throws Fault `unavailable`, or `invalid` for another protocol. */
export async function connectAgent(socket: MessageSocket): Promise<AgentPort & { readonly closed: Promise<void> }> {
  const remote = new RemoteAgent(socket)
  await remote.ready
  return remote
}

class RemoteAgent implements AgentPort {
  readonly ready: Promise<void>
  readonly closed: Promise<void>
  readonly #socket: MessageSocket
  readonly #waiting = new Map<number, Waiting>()
  readonly #streams = new Map<number, { queue: Channel<Uint8Array>; opened: (fault: Fault | null) => void }>()
  readonly #events = new Channel<DomainEvent>(EVENT_QUEUE)
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
    if (this.#waiting.size >= REQUESTS_MAX) return Promise.reject(new Fault('busy', `agent: ${REQUESTS_MAX} requests are under way`))
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

  async *events(after: number, options: { signal: AbortSignal }): AsyncGenerator<DomainEvent, void, undefined> {
    const stop = () => this.#events.close()
    options.signal.addEventListener('abort', stop, { once: true })
    this.#send({ type: 'welcome', after })
    yield* this.#events
  }

  async acknowledge(sequence: number): Promise<void> {
    this.#send({ type: 'acknowledge', sequence })
  }

  async openStream(kind: StreamKind, domain: DomainId, options: StreamOptions = {}): Promise<AgentStream> {
    if (this.#over) throw this.#over
    const number = this.#next++
    const queue = new Channel<Uint8Array>(STREAM_QUEUE)
    const opened = Promise.withResolvers<void>()
    this.#streams.set(number, { queue, opened: (fault) => (fault ? opened.reject(fault) : opened.resolve()) })
    this.#send({ type: 'stream.open', stream: number, kind, domain, fromOffset: options.fromOffset })
    const close = () => {
      if (!this.#streams.delete(number)) return
      queue.close()
      this.#send({ type: 'stream.close', stream: number })
    }
    options.signal?.addEventListener('abort', close, { once: true })
    await opened.promise
    return {
      readable: queue,
      write: async (content) => {
        if (this.#over) throw this.#over
        this.#socket.send(frame(number, content))
      },
      close,
    }
  }

  #send(message: ToAgent): void {
    if (!this.#over) this.#socket.send(JSON.stringify(message))
  }

  async #read(ready: () => void): Promise<void> {
    for await (const incoming of this.#socket.incoming) {
      if (typeof incoming === 'string') this.#take(parseMessage<FromAgent>(incoming), ready)
      else {
        const part = unframe(incoming)
        const stream = part && this.#streams.get(part.stream)
        if (part && stream) this.#feed(part.stream, stream.queue, part.content)
      }
    }
  }

  #feed(number: number, queue: Channel<Uint8Array>, content: Uint8Array): void {
    try {
      queue.push(content.slice())
    } catch (error) {
      queue.close(error)
      this.#streams.delete(number)
      this.#send({ type: 'stream.close', stream: number })
    }
  }

  #take(message: FromAgent, ready: () => void): void {
    switch (message.type) {
      case 'hello':
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
        stream?.queue.close(fault ?? undefined)
        return
      }
    }
  }

  #end(fault: Fault): void {
    this.#over = fault
    for (const waiting of this.#waiting.values()) waiting.reject(fault)
    this.#waiting.clear()
    for (const stream of this.#streams.values()) {
      stream.opened(fault)
      stream.queue.close(fault)
    }
    this.#streams.clear()
    this.#events.close()
    this.#socket.close()
  }
}
