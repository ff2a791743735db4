/**
 * QEMU's monitor: JSON objects in lines over a unix socket. One client may be connected at a time.
 *
 *   QEMU    {"QMP": {"version": ...}}                      greeting
 *   client  {"execute": "qmp_capabilities", "id": 1}
 *   client  {"execute": "stop", "id": 2}
 *   QEMU    {"return": {}, "id": 2}  |  {"error": {"class": ..., "desc": ...}, "id": 2}  |  {"event": "STOP", "timestamp": ...}
 *
 * Every command has a time limit and fails as `timeout` with its name; the late answer is dropped by its id and the connection stays
 * usable. What cannot be understood is counted and skipped: nothing that the peer sends makes the reader throw. Events go into a
 * bounded queue; when it is full the connection is closed with `busy`, since a gap must never go unnoticed: the owner connects again
 * and asks for the state.
 *
 * Reference: QEMU 7.2 docs/interop/qmp-spec.txt. Out-of-band execution is not used.
 */
import { Channel, Fault, millis, withDeadline, type Clock, type Json, type Millis } from '@typevisor/base'
import { LineFrames } from './line-frames.ts'
import type { ByteSocket } from './ports.ts'
import { excerpt, isObject, numberOf, objectOf, parseObject, textOf, type JsonObject } from './read-json.ts'

export interface QmpEvent {
  readonly name: string
  readonly content: JsonObject
}

export interface QmpVersion {
  readonly text: string
}

export interface QmpCallOptions {
  readonly limit?: Millis
  readonly signal?: AbortSignal | undefined
  /** Out of band: answered also while QEMU's main loop stands still. Of a monitor that was opened with `oob`, and few commands. */
  readonly oob?: boolean
  /** An open file that goes with the command; it stays the caller's. */
  readonly descriptor?: number | undefined
}

const LINE_SIZE_MAX = 16 * 1024 * 1024
const EVENT_COUNT_MAX = 1024
const PENDING_COUNT_MAX = 64
export const QMP_LIMIT_DEFAULT = millis(5000)

interface Pending {
  readonly command: string
  readonly resolve: (value: unknown) => void
  readonly reject: (fault: Fault) => void
}

export class QmpClient {
  readonly events: Channel<QmpEvent>
  /** Resolves, never rejects, when the connection is over. */
  readonly closed: Promise<void>
  readonly #socket: ByteSocket
  readonly #clock: Clock
  readonly #pending = new Map<number, Pending>()
  readonly #greeting = Promise.withResolvers<QmpVersion>()
  readonly #limit: Millis
  #nextId = 1
  #ended: Fault | null = null
  #version = 'unknown'
  #skippedCount = 0

  private constructor(socket: ByteSocket, clock: Clock, limit: Millis, eventCountMax: number) {
    this.#socket = socket
    this.#clock = clock
    this.#limit = limit
    this.events = new Channel(eventCountMax)
    this.#greeting.promise.catch(() => {})
    this.closed = this.#read()
  }

  /** Waits for the greeting and leaves negotiation mode. The socket is closed when that fails. */
  static async open(
    socket: ByteSocket,
    options: {
      clock: Clock
      limit?: Millis
      greetingLimit?: Millis
      eventCountMax?: number
      oob?: boolean
      signal?: AbortSignal | undefined
    },
  ): Promise<QmpClient> {
    const limit = options.limit ?? QMP_LIMIT_DEFAULT
    const client = new QmpClient(socket, options.clock, limit, options.eventCountMax ?? EVENT_COUNT_MAX)
    try {
      client.#version = (
        await withDeadline(
          { limit: options.greetingLimit ?? limit, clock: options.clock, what: 'QMP greeting', signal: options.signal },
          () => client.#greeting.promise,
        )
      ).text
      await client.execute('qmp_capabilities', options.oob ? { enable: ['oob'] } : {}, { signal: options.signal })
      return client
    } catch (error) {
      client.close()
      throw error
    }
  }

  /** e.g. `7.2.22`. */
  get version(): string {
    return this.#version
  }
  /** Lines that were no QMP. */
  get skippedCount(): number {
    return this.#skippedCount
  }
  get isOpen(): boolean {
    return this.#ended === null
  }

  /**
   * @returns what QEMU returned, unread.
   * @throws Fault `failed` with QEMU's own words, `unsupported` for an unknown command, `not_found` for an unknown device, `timeout`
   * naming the command, `unavailable` when the connection is over, `busy` when too many commands wait.
   */
  async execute(
    command: string,
    args: { readonly [name: string]: Json | undefined } = {},
    options: QmpCallOptions = {},
  ): Promise<unknown> {
    if (this.#ended) throw new Fault('unavailable', `QMP ${command}: ${this.#ended.message}`, { cause: this.#ended })
    if (this.#pending.size >= PENDING_COUNT_MAX)
      throw new Fault('busy', `QMP ${command}: ${this.#pending.size} commands wait for an answer`)
    const id = this.#nextId++
    const deadline = { limit: options.limit ?? this.#limit, clock: this.#clock, what: `QMP ${command}`, signal: options.signal }
    const answer = Promise.withResolvers<unknown>()
    answer.promise.catch(() => {})
    this.#pending.set(id, { command, resolve: answer.resolve, reject: answer.reject })
    try {
      return await withDeadline(deadline, async (signal) => {
        const aborted = new Promise<never>((_, reject) =>
          signal.addEventListener('abort', () => reject(signal.reason), { once: true }),
        )
        aborted.catch(() => {})
        const line = new TextEncoder().encode(
          `${JSON.stringify({ [options.oob ? 'exec-oob' : 'execute']: command, arguments: args, id })}\n`,
        )
        await Promise.race([this.#write(line, command, options.descriptor), aborted])
        return await Promise.race([answer.promise, aborted])
      })
    } finally {
      this.#pending.delete(id)
    }
  }

  async #write(line: Uint8Array, command: string, descriptor: number | undefined): Promise<void> {
    if (descriptor === undefined) return await this.#socket.write(line)
    if (!this.#socket.writeWith) throw new Fault('unsupported', `QMP ${command}: descriptors cannot be sent to this monitor`)
    await this.#socket.writeWith(line, descriptor)
  }

  close(): void {
    this.#end(new Fault('unavailable', 'the monitor connection was closed'))
  }

  async #read(): Promise<void> {
    const frames = new LineFrames(LINE_SIZE_MAX)
    let reason = 'QEMU closed the monitor'
    try {
      for await (const chunk of this.#socket.readable) {
        for (const frame of frames.feed(chunk)) {
          if (frame.kind === 'line') this.#take(frame.text)
          else this.#skippedCount += 1
        }
        if (this.#ended) return
      }
    } catch (error) {
      reason = `the monitor cannot be read: ${error instanceof Error ? error.message : String(error)}`
    }
    this.#end(new Fault('unavailable', reason))
  }

  #take(line: string): void {
    if (this.#ended || line.trim() === '') return
    const message = parseObject(line)
    if (!message) {
      this.#skippedCount += 1
      return
    }
    if (isObject(message['QMP'])) {
      const version = objectOf(objectOf(message['QMP']['version'])['qemu'])
      const text = [version['major'], version['minor'], version['micro']].map((part) => numberOf(part) ?? '?').join('.')
      return this.#greeting.resolve({ text })
    }
    const name = textOf(message['event'])
    if (name !== null) return this.#queue({ name, content: objectOf(message['data']) })
    const pending = this.#pending.get(numberOf(message['id']) ?? -1)
    if (!pending) this.#skippedCount += 1
    else if (isObject(message['error'])) pending.reject(faultOf(pending.command, message['error']))
    else if ('return' in message) pending.resolve(message['return'])
    else this.#skippedCount += 1
  }

  #queue(event: QmpEvent): void {
    try {
      this.events.push(event)
    } catch {
      this.#end(new Fault('busy', `${this.events.capacity} monitor events wait to be read`))
    }
  }

  #end(reason: Fault): void {
    if (this.#ended) return
    this.#ended = reason
    this.#socket.close()
    this.#greeting.reject(reason)
    for (const { command, reject } of this.#pending.values())
      reject(new Fault('unavailable', `QMP ${command}: ${reason.message}`))
    this.#pending.clear()
    this.events.close()
  }
}

function faultOf(command: string, error: JsonObject): Fault {
  const kind = textOf(error['class'])
  const code = kind === 'CommandNotFound' ? 'unsupported' : kind === 'DeviceNotFound' ? 'not_found' : 'failed'
  return new Fault(code, `QMP ${command}: ${textOf(error['desc']) ?? excerpt(error)}`)
}
