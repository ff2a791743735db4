/**
 * The serial console of one domain: a live stream for many, and the kept output.
 *
 *   guest ttyS0 --> QEMU chardev --+--> console.log   every byte, always, by QEMU itself --> read by offset, by each reader at its pace
 *                                  +--> console.sock  one client: this hub. Its output only says that the log has grown; input goes here
 *
 * Invariants
 *   - The log's offsets are file offsets and count from the domain's first byte ever: QEMU appends over all runs, and trimming punches
 *     a hole at the front (the file becomes sparse), which moves nothing and loses no byte that is written meanwhile.
 *   - `console.json` says where the kept output begins; it is written before the hole is punched.
 *   - Every reader reads the log, so history and live output join with no byte lost or repeated, and a slow reader holds up nobody.
 *   - The hub is connected only while somebody has a console open: a caller that hangs cannot hold up a guest that nobody looks at.
 * Failure paths: a full disk stops the log and with it the live output (QEMU drops what it cannot log); the guest goes on.
 */
import { Fault, millis, type Clock, type Log } from '@typevisor/base'
import type { ConsoleSlice, GuestStream } from '@typevisor/toolstack'
import type { ByteSocket, HostFiles, HostSockets } from './ports.ts'
import { numberOf, parseObject } from './read-json.ts'

const READER_COUNT_MAX = 64
const INPUT_SIZE_MAX = 1024 * 1024
const PIECE_SIZE = 65536
const BLOCK_SIZE = 4096
/** QEMU writes to the socket a moment before it writes to the log. */
const LAG_POLL = millis(2)
const LAG_LIMIT_MS = 100
/** What was logged just before the socket was connected has rung no bell. */
const IDLE_POLL_FIRST_MS = 25
const IDLE_POLL_LAST_MS = 1000

export interface ConsoleHubOptions {
  readonly files: HostFiles
  readonly sockets: HostSockets
  readonly clock: Clock
  readonly paths: ConsoleLogPaths & { readonly console: string }
}

interface Reader {
  closed: boolean
  bell: PromiseWithResolvers<void>
}

export class ConsoleHub {
  readonly #options: ConsoleHubOptions
  readonly #readers = new Set<Reader>()
  #socket: Promise<ByteSocket> | null = null
  /** The log has at least this size, or will in a moment. */
  #sizeExpected = 0
  #ended = false

  constructor(options: ConsoleHubOptions) {
    this.#options = options
  }

  /** @throws Fault `unavailable` when the domain has no console now, `busy` when too many are open. */
  async open(fromOffset?: number): Promise<GuestStream> {
    if (this.#ended) throw new Fault('unavailable', 'console: the domain has ended')
    if (this.#readers.size >= READER_COUNT_MAX) throw new Fault('busy', `console: ${READER_COUNT_MAX} are open`)
    const reader: Reader = { closed: false, bell: Promise.withResolvers() }
    this.#readers.add(reader)
    try {
      await this.#connect()
      const { files, paths } = this.#options
      const startOffset = fromOffset ?? (await files.size(paths.consoleLog)) ?? 0
      return {
        readable: { [Symbol.asyncIterator]: () => this.#follow(reader, startOffset) },
        write: (content) => this.#write(reader, content),
        close: () => this.#drop(reader),
      }
    } catch (error) {
      this.#drop(reader)
      throw error
    }
  }

  /** Ends all readers after what is left in the log. */
  close(): void {
    this.#ended = true
    this.#ring()
    this.#disconnect()
  }

  async *#follow(reader: Reader, startOffset: number): AsyncGenerator<Uint8Array, void, undefined> {
    const { files, paths } = this.#options
    let offset = startOffset
    let idleMs = IDLE_POLL_FIRST_MS
    try {
      while (!reader.closed) {
        // Read before looking: what comes between the two rings the new bell, and an end seen here has nothing behind it.
        const wasLast = this.#ended
        reader.bell = Promise.withResolvers()
        const slice = await readConsoleLog(files, paths, offset, PIECE_SIZE)
        offset = slice.endOffset
        if (slice.content.length > 0) {
          idleMs = IDLE_POLL_FIRST_MS
          if (!reader.closed) yield slice.content
        } else if (wasLast) return
        else if (!reader.closed) idleMs = await this.#wait(reader, offset, idleMs)
      }
    } finally {
      this.#drop(reader)
    }
  }

  /** Until the log may have grown. Answers how long to wait the next time. */
  async #wait(reader: Reader, offset: number, idleMs: number): Promise<number> {
    const { clock } = this.#options
    if (offset < this.#sizeExpected && idleMs < LAG_LIMIT_MS) {
      await clock.sleep(LAG_POLL)
      return idleMs + LAG_POLL
    }
    const rung = new AbortController()
    const timer = clock.sleep(millis(idleMs), { signal: rung.signal }).catch(() => {})
    await Promise.race([reader.bell.promise, timer])
    rung.abort()
    return Math.min(idleMs * 2, IDLE_POLL_LAST_MS)
  }

  async #write(reader: Reader, content: Uint8Array): Promise<void> {
    if (reader.closed || this.#ended) throw new Fault('unavailable', 'console: it is closed')
    if (content.length > INPUT_SIZE_MAX) throw new Fault('invalid', `console input: got ${content.length} bytes, want at most ${INPUT_SIZE_MAX}`)
    await (await this.#connect()).write(content)
  }

  #connect(): Promise<ByteSocket> {
    if (!this.#socket) {
      const { files, sockets, paths } = this.#options
      const socket = files.size(paths.consoleLog).then((size) => {
        this.#sizeExpected = size ?? 0
        return sockets.connect(paths.console)
      })
      this.#socket = socket
      socket.then(
        (open) => void this.#pump(open, socket),
        () => this.#forget(socket),
      )
    }
    return this.#socket
  }

  async #pump(socket: ByteSocket, promise: Promise<ByteSocket>): Promise<void> {
    try {
      for await (const chunk of socket.readable) {
        this.#sizeExpected += chunk.length
        this.#ring()
        if (this.#readers.size === 0) break
      }
    } catch {
      // The next write connects again; readers go on by the log.
    }
    socket.close()
    this.#forget(promise)
  }

  #ring(): void {
    for (const reader of this.#readers) reader.bell.resolve()
  }

  #drop(reader: Reader): void {
    reader.closed = true
    reader.bell.resolve()
    this.#readers.delete(reader)
    if (this.#readers.size === 0) this.#disconnect()
  }

  #disconnect(): void {
    const socket = this.#socket
    if (!socket) return
    this.#forget(socket)
    socket.then(
      (open) => open.close(),
      () => {},
    )
  }

  #forget(socket: Promise<ByteSocket>): void {
    if (this.#socket === socket) this.#socket = null
  }
}

export interface ConsoleLogPaths {
  readonly consoleLog: string
  readonly consoleIndex: string
}

/** Where the kept output begins. */
export async function oldestOffset(files: HostFiles, paths: ConsoleLogPaths): Promise<number> {
  const content = await files.read(paths.consoleIndex, 0, BLOCK_SIZE)
  if (!content) return 0
  const offset = numberOf(parseObject(new TextDecoder().decode(content))?.['oldestOffset'])
  return offset !== null && Number.isSafeInteger(offset) && offset > 0 ? offset : 0
}

export async function readConsoleLog(files: HostFiles, paths: ConsoleLogPaths, fromOffset: number, sizeMax: number): Promise<ConsoleSlice> {
  const size = (await files.size(paths.consoleLog)) ?? 0
  let start = Math.min(Math.max(fromOffset, await oldestOffset(files, paths)), size)
  let content = (await files.read(paths.consoleLog, start, Math.min(sizeMax, size - start))) ?? new Uint8Array(0)
  // Trimmed while it was read: what lies before the new beginning may be zeros.
  const oldest = await oldestOffset(files, paths)
  if (oldest > start) {
    content = content.subarray(Math.min(oldest - start, content.length))
    start = oldest
  }
  return { startOffset: start, endOffset: start + content.length, content }
}

/** Keeps the log's space near `keepBytes`: trims when a quarter more is there. */
export async function trimConsoleLog(files: HostFiles, paths: ConsoleLogPaths, keepBytes: number, log: Log): Promise<void> {
  const size = await files.size(paths.consoleLog)
  if (size === null) return
  const oldest = await oldestOffset(files, paths)
  if (size - oldest <= keepBytes * 1.25) return
  const next = Math.floor((size - keepBytes) / BLOCK_SIZE) * BLOCK_SIZE
  if (next <= oldest) return
  await files.replace(paths.consoleIndex, new TextEncoder().encode(`${JSON.stringify({ oldestOffset: next })}\n`))
  // From the very start, so that a hole missed by a crash between the two steps is made up for.
  if (!(await files.punchHole(paths.consoleLog, 0, next))) log.warn('qemu.console.hole_unsupported', { path: paths.consoleLog })
}
