/**
 * qemu-guest-agent over its virtio-serial port: commands in the guest and its addresses.
 *
 *   host   0xff {"execute":"guest-sync-delimited","arguments":{"id":N}}      0xff makes the agent drop a half command
 *   guest  0xff {"return": N}                                                 and this side drop what came before
 *   host   {"execute":"guest-exec", ...}   guest {"return":{"pid":7}}         then guest-exec-status until `exited`
 *
 * The guest is not trusted: answers are bounded, parsed from unknown, and one that comes late is dropped by the next sync. One command
 * is under way at a time; a few wait; more are told `busy`. Nothing is sent before QEMU says that the guest has opened the port, so
 * that a guest which boots later does not run commands whose caller has long given up.
 *
 * What the agent cannot say is said as a shell says it: 127 for a program that is not there, 126 for one that cannot be executed, with the
 * agent's words as its error output.
 *
 * Reference: QEMU 7.2 qga/qapi-schema.json, qga/commands.c.
 */
import { Fault, joinBytes, millis, retryable, withDeadline, type Clock, type Json, type Millis } from '@typevisor/base'
import type { ExecResult, GuestAddress } from '@typevisor/model'
import type { ExecRequest } from '@typevisor/toolstack'
import { fromBase64, toBase64 } from './base64.ts'
import { LineFrames } from './line-frames.ts'
import type { ByteSocket, HostSockets } from './ports.ts'
import { excerpt, isObject, listOf, numberOf, objectOf, parseObject, textOf, type JsonObject } from './read-json.ts'

const ANSWER_SIZE_MAX = 64 * 1024 * 1024
const INPUT_SIZE_MAX = 4 * 1024 * 1024
const WAITING_COUNT_MAX = 16
const SYNC_LIMIT = millis(2000)
const COMMAND_LIMIT = millis(5000)
/** A guest under TCG makes its base64 of this in well under a second. */
const FILE_PIECE_SIZE = 256 * 1024
const FILE_LIMIT = millis(20_000)
/** What the last look at a program gets, however late it is. */
const STATUS_LIMIT_MS_MIN = 200
/** The answer that a program has ended brings all its output: 43 MiB of base64 at most, made by a guest under TCG. */
const STATUS_LIMIT_MS_MAX = 60_000
/** How long after its agent a guest may take to go down. */
const GOING_DOWN_LIMIT = millis(10_000)
/** Thawing is quick; what it may have to wait for is a freeze that is under way, with all that the guest had not written. */
const THAW_LIMIT = millis(10_000)
const THAW_LIMIT_MS = 30_000
const POLL_FIRST_MS = 5
const POLL_LAST_MS = 200
const DELIMITER = 0xff

export interface GuestAgentOptions {
  readonly sockets: HostSockets
  readonly path: string
  readonly clock: Clock
  /** Has the guest opened the port? */
  readonly isListening: (signal: AbortSignal) => Promise<boolean>
}

interface AgentCall {
  readonly limit?: Millis
  readonly signal?: AbortSignal | undefined
}

interface Connection {
  readonly socket: ByteSocket
  take: ((message: JsonObject) => void) | null
  fail: ((fault: Fault) => void) | null
  ended: boolean
}

export class GuestAgent {
  readonly #options: GuestAgentOptions
  #connection: Connection | null = null
  #tail: Promise<unknown> = Promise.resolve()
  #waitingCount = 0
  #syncId = 1
  #closed = false

  constructor(options: GuestAgentOptions) {
    this.#options = options
  }

  /** @throws Fault `unavailable` while nobody answers, `busy` when too many wait, `failed` with the agent's words. */
  async execute(
    command: string,
    args: { readonly [name: string]: Json | undefined } = {},
    options: AgentCall = {},
  ): Promise<unknown> {
    if (this.#closed) throw new Fault('unavailable', `guest agent ${command}: the domain has ended`)
    if (this.#waitingCount >= WAITING_COUNT_MAX)
      throw new Fault('busy', `guest agent ${command}: ${this.#waitingCount} commands wait`)
    this.#waitingCount += 1
    const turn = this.#tail
    const done = Promise.withResolvers<void>()
    this.#tail = done.promise
    try {
      await turn
      options.signal?.throwIfAborted()
      return await this.#once(command, args, options)
    } finally {
      this.#waitingCount -= 1
      done.resolve()
    }
  }

  /** `life`: aborted, with a Fault, when the guest in which the program runs is no more. */
  async exec(request: ExecRequest, signal?: AbortSignal, life?: AbortSignal): Promise<ExecResult> {
    const [path, ...arg] = request.argv
    if (path === undefined || path === '') throw new Fault('invalid', 'argv: got nothing, want a program and its arguments')
    const bad = request.argv.find((word) => word.includes('\0'))
    if (bad !== undefined) throw new Fault('invalid', `argv: got ${excerpt(bad)}, want no zero bytes`)
    const input = request.stdin ?? null
    if (input && input.length > INPUT_SIZE_MAX)
      throw new Fault('invalid', `stdin: got ${input.length} bytes, want at most ${INPUT_SIZE_MAX}`)
    const args = { path, arg, 'capture-output': true, ...(input ? { 'input-data': toBase64(input) } : {}) }
    const { clock } = this.#options
    const start = clock.monotonic()
    const either = signal && life ? AbortSignal.any([signal, life]) : (signal ?? life)
    const begun = await this.execute('guest-exec', args, { signal: either }).catch((error: unknown) => {
      const result = notExecuted(error)
      if (result) return result
      throw error
    })
    if (isExecResult(begun)) return begun
    const pid = numberOf(objectOf(begun)['pid'])
    if (pid === null) throw new Fault('failed', 'guest agent guest-exec: the answer has no pid')
    let pauseMs = POLL_FIRST_MS
    try {
      while (true) {
        const leftMs = request.timeoutMs - (clock.monotonic() - start)
        const limit = millis(Math.min(STATUS_LIMIT_MS_MAX, Math.max(STATUS_LIMIT_MS_MIN, leftMs)))
        const status = objectOf(await this.execute('guest-exec-status', { pid }, { signal: either, limit }))
        if (status['exited'] === true) return execResult(status)
        if (clock.monotonic() - start > request.timeoutMs) {
          throw new Fault('timeout', `exec ${excerpt(path)}: not ended in ${request.timeoutMs} ms`)
        }
        await clock.sleep(millis(Math.min(pauseMs, Math.max(1, request.timeoutMs - (clock.monotonic() - start) + 1))), {
          signal: either,
        })
        pauseMs = Math.min(pauseMs * 2, POLL_LAST_MS)
      }
    } catch (error) {
      // Its agent goes first when a guest goes down. In whatever runs there next the number is of another program, or of none.
      if (life && error instanceof Fault && error.code === 'unavailable') await endedWithin(clock, life)
      if (life?.aborted) throw life.reason
      if (error instanceof Fault && (error.code === 'unavailable' || error.code === 'failed')) throw error
      // Nobody waits for it any more. The agent has no command for this; that the guest has no `kill` is no news to the caller.
      void this.execute('guest-exec', { path: 'kill', arg: ['-KILL', String(pid)] }).catch(() => {})
      throw error
    }
  }

  /** @throws Fault `failed` when the guest has no file system that it could freeze. */
  async freeze(limit: Millis, signal?: AbortSignal): Promise<void> {
    // Frozen by whoever was cut off: it refuses to freeze again.
    if ((await this.execute('guest-fsfreeze-status', {}, { signal })) === 'frozen') await this.thaw(signal)
    try {
      const count = numberOf(await this.execute('guest-fsfreeze-freeze', {}, { limit, signal }))
      if (count === null || count === 0) throw new Fault('failed', 'guest agent guest-fsfreeze-freeze: no file system was frozen')
    } catch (error) {
      // What was asked for may happen yet. A caller that withdrew does not wait for it.
      const thawing = this.thaw().catch(() => {})
      if (!signal?.aborted) await thawing
      throw error
    }
  }

  /** `now` is asked when it is this command's turn. The agent sets the hardware's clock after the system's, by a program that not every guest has. */
  async setTime(now: () => number, signal?: AbortSignal): Promise<void> {
    await this.addresses(signal)
    await this.execute('guest-set-time', { time: now() * 1_000_000 }, { signal })
  }

  /** Insists: an agent that is still freezing answers only when it has. */
  async thaw(signal?: AbortSignal): Promise<void> {
    const { clock, isListening } = this.#options
    const end = clock.monotonic() + THAW_LIMIT_MS
    while (true) {
      try {
        await this.execute('guest-fsfreeze-thaw', {}, { signal, limit: THAW_LIMIT })
        return
      } catch (error) {
        const isOver = this.#closed || clock.monotonic() >= end || !retryable(error) || signal?.aborted === true
        if (isOver || !(await isListening(signal ?? new AbortController().signal))) throw error
        await clock.sleep(millis(POLL_LAST_MS), { signal })
      }
    }
  }

  async addresses(signal?: AbortSignal): Promise<GuestAddress[]> {
    return guestAddresses(await this.execute('guest-network-get-interfaces', {}, { signal }))
  }

  /** At most `sizeMax` bytes from `fromOffset`. The agent's handle is closed whatever happens. */
  async readFile(path: string, fromOffset: number, sizeMax: number, signal?: AbortSignal): Promise<Uint8Array> {
    return await this.#withFile(path, 'r', signal, async (handle) => {
      if (fromOffset > 0) await this.execute('guest-file-seek', { handle, offset: fromOffset, whence: 'set' }, { signal })
      const parts: Uint8Array[] = []
      let size = 0
      while (size < sizeMax) {
        const count = Math.min(FILE_PIECE_SIZE, sizeMax - size)
        const answer = objectOf(await this.execute('guest-file-read', { handle, count }, { signal, limit: FILE_LIMIT }))
        const content = base64(answer['buf-b64'], 'guest-file-read')
        parts.push(content)
        size += content.length
        if (answer['eof'] === true || content.length === 0) break
      }
      return joinBytes(parts)
    })
  }

  async writeFile(path: string, content: Uint8Array, append: boolean, signal?: AbortSignal): Promise<void> {
    await this.#withFile(path, append ? 'a' : 'w', signal, async (handle) => {
      for (let at = 0; at < content.length;) {
        const piece = toBase64(content.subarray(at, at + FILE_PIECE_SIZE))
        const answer = await this.execute('guest-file-write', { handle, 'buf-b64': piece }, { signal, limit: FILE_LIMIT })
        const count = numberOf(objectOf(answer)['count']) ?? 0
        if (count <= 0) throw new Fault('failed', `guest agent guest-file-write: ${excerpt(path)}: nothing was written`)
        at += count
      }
      await this.execute('guest-file-flush', { handle }, { signal, limit: FILE_LIMIT })
    })
  }

  async setPassword(username: string, password: string, signal?: AbortSignal): Promise<void> {
    const encoded = toBase64(new TextEncoder().encode(password))
    await this.execute('guest-set-user-password', { username, password: encoded, crypted: false }, { signal, limit: FILE_LIMIT })
  }

  async #withFile<T>(
    path: string,
    mode: string,
    signal: AbortSignal | undefined,
    work: (handle: number) => Promise<T>,
  ): Promise<T> {
    if (!path.startsWith('/') || path.includes('\0'))
      throw new Fault('invalid', `path: got ${excerpt(path)}, want an absolute path of the guest`)
    const handle = numberOf(await this.execute('guest-file-open', { path, mode }, { signal }))
    if (handle === null) throw new Fault('failed', 'guest agent guest-file-open: the answer is no handle')
    try {
      return await work(handle)
    } finally {
      await this.execute('guest-file-close', { handle }).catch(() => {})
    }
  }

  close(): void {
    this.#closed = true
    this.#disconnect(new Fault('unavailable', 'guest agent: the domain has ended'))
  }

  async #once(command: string, args: { readonly [name: string]: Json | undefined }, options: AgentCall): Promise<unknown> {
    const { clock, isListening } = this.#options
    const what = `guest agent ${command}`
    try {
      return await withDeadline(
        { limit: options.limit ?? COMMAND_LIMIT, clock, what, signal: options.signal },
        async (signal) => {
          if (!(await isListening(signal)))
            throw new Fault('unavailable', `${what}: no agent runs in the guest (it may still be booting)`)
          const connection = await this.#connect(signal)
          const answer = await this.#exchange(
            connection,
            JSON.stringify({ execute: command, arguments: args }),
            false,
            () => true,
            signal,
          )
          if (isObject(answer['error']))
            throw new Fault('failed', `${what}: ${textOf(answer['error']['desc']) ?? excerpt(answer['error'])}`)
          return answer['return']
        },
      )
    } catch (error) {
      // Whatever went wrong but the agent's own refusal: the stream may be out of step, so the next command begins with a sync.
      if (!(error instanceof Fault && error.code === 'failed')) this.#disconnect(new Fault('unavailable', `${what}: given up`))
      throw error
    }
  }

  async #connect(signal: AbortSignal): Promise<Connection> {
    if (this.#connection && !this.#connection.ended) return this.#connection
    const connection: Connection = {
      socket: await this.#options.sockets.connect(this.#options.path),
      take: null,
      fail: null,
      ended: false,
    }
    this.#connection = connection
    void this.#read(connection)
    const id = this.#syncId++
    const text = JSON.stringify({ execute: 'guest-sync-delimited', arguments: { id } })
    const limit = { limit: SYNC_LIMIT, clock: this.#options.clock, what: 'guest agent sync', signal }
    try {
      await withDeadline(limit, (inner) => this.#exchange(connection, text, true, (message) => message['return'] === id, inner))
    } catch (error) {
      if (error instanceof Fault && error.code === 'timeout')
        throw new Fault('unavailable', 'guest agent: it does not answer', { cause: error })
      throw error
    }
    return connection
  }

  async #exchange(
    connection: Connection,
    text: string,
    delimited: boolean,
    isMine: (message: JsonObject) => boolean,
    signal: AbortSignal,
  ): Promise<JsonObject> {
    const line = new TextEncoder().encode(`${delimited ? ' ' : ''}${text}\n`)
    if (delimited) line[0] = DELIMITER
    const answer = Promise.withResolvers<JsonObject>()
    answer.promise.catch(() => {})
    const abort = (): void => answer.reject(signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    connection.take = (message) => {
      if (isMine(message)) answer.resolve(message)
    }
    connection.fail = answer.reject
    try {
      // Aborted while the agent was looked for: the signal does not say it again.
      signal.throwIfAborted()
      if (connection.ended) throw new Fault('unavailable', 'guest agent: the channel was closed')
      await Promise.race([connection.socket.write(line), answer.promise])
      return await answer.promise
    } finally {
      connection.take = null
      connection.fail = null
      signal.removeEventListener('abort', abort)
    }
  }

  async #read(connection: Connection): Promise<void> {
    const frames = new LineFrames(ANSWER_SIZE_MAX)
    try {
      for await (const chunk of connection.socket.readable) {
        // 0xff is in no UTF-8 text: it marks the start of a sync's answer, and what came before it is of an older exchange.
        const mark = chunk.lastIndexOf(DELIMITER)
        if (mark !== -1) frames.reset()
        for (const frame of frames.feed(mark === -1 ? chunk : chunk.subarray(mark + 1))) {
          if (frame.kind === 'overlong')
            return this.#endOf(connection, new Fault('failed', `guest agent: an answer of more than ${ANSWER_SIZE_MAX} bytes`))
          const message = parseObject(frame.text)
          if (message) connection.take?.(message)
        }
      }
      this.#endOf(connection, new Fault('unavailable', 'guest agent: the channel was closed'))
    } catch (error) {
      this.#endOf(connection, new Fault('unavailable', 'guest agent: the channel broke', { cause: error }))
    }
  }

  #endOf(connection: Connection, fault: Fault): void {
    connection.ended = true
    connection.socket.close()
    connection.fail?.(fault)
    if (this.#connection === connection) this.#connection = null
  }

  #disconnect(fault: Fault): void {
    if (this.#connection) this.#endOf(this.#connection, fault)
  }
}

function base64(value: unknown, command = 'guest-exec-status'): Uint8Array {
  const text = textOf(value)
  if (text === null) return new Uint8Array(0)
  const content = fromBase64(text)
  if (!content) throw new Fault('failed', `guest agent ${command}: its content is no base64`)
  return content
}

/**
 * What the agent keeps of each output, GUEST_EXEC_MAX_OUTPUT of qga/commands.c. Agents before 7.2.20 and 10.0.4 set only the presence of
 * the flag and leave it false, so that as much as that counts as cut.
 */
const OUTPUT_SIZE_MAX = 16 * 1024 * 1024

function execResult(status: JsonObject): ExecResult {
  const [stdout, stderr] = [base64(status['out-data']), base64(status['err-data'])]
  return {
    exitCode: numberOf(status['exitcode']),
    signal: numberOf(status['signal']),
    stdout,
    stderr,
    truncated:
      status['out-truncated'] === true ||
      status['err-truncated'] === true ||
      Math.max(stdout.length, stderr.length) >= OUTPUT_SIZE_MAX,
  }
}

async function endedWithin(clock: Clock, life: AbortSignal): Promise<void> {
  await clock.sleep(GOING_DOWN_LIMIT, { signal: life }).catch(() => {})
}

const isExecResult = (value: unknown): value is ExecResult => isObject(value) && value['stdout'] instanceof Uint8Array

/** The words of GLib's g_spawn_async (glib/gspawn-posix.c), which ends with strerror's. */
const NOT_EXECUTED = /Failed to execute child process .*\((No such file or directory|Permission denied|Exec format error)\)/

/** null: that is not why. */
function notExecuted(error: unknown): ExecResult | null {
  const found = error instanceof Fault && error.code === 'failed' ? NOT_EXECUTED.exec(error.message) : null
  if (!found) return null
  return {
    exitCode: found[1] === 'No such file or directory' ? 127 : 126,
    signal: null,
    stdout: new Uint8Array(0),
    stderr: new TextEncoder().encode(`${found[0]}\n`),
    truncated: false,
  }
}

const INTERFACE_COUNT_MAX = 256

/** Reads what a guest claims; entries that make no sense are left out. */
export function guestAddresses(answer: unknown): GuestAddress[] {
  return listOf(answer)
    .slice(0, INTERFACE_COUNT_MAX)
    .flatMap((entry) => {
      const device = textOf(objectOf(entry)['name'])
      if (device === null) return []
      const addresses = listOf(objectOf(entry)['ip-addresses'])
        .slice(0, INTERFACE_COUNT_MAX)
        .flatMap((item) => {
          const { 'ip-address': address, 'ip-address-type': family, prefix } = objectOf(item)
          if ((family !== 'ipv4' && family !== 'ipv6') || textOf(address) === null || numberOf(prefix) === null) return []
          return [{ family, address: textOf(address) ?? '', prefixLength: numberOf(prefix) ?? 0 } as const]
        })
      return [{ device: device.slice(0, 64), mac: textOf(objectOf(entry)['hardware-address'])?.slice(0, 64) ?? null, addresses }]
    })
}
