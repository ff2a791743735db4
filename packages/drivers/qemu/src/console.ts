/**
 * The serial console of one domain: a live stream for many, and the kept output.
 *
 *   guest ttyS0 --> QEMU --> console.log   every byte, by QEMU itself; each reader follows it by offset, at its own pace
 *   guest ttyS0 <-- QEMU <-- console.in    a named pipe; what many type is merged here
 *
 * Why no socket: QEMU 7.2 writes a byte twice into a chardev's `logfile` when the client of its socket dies while the guest talks (its
 * serial port takes a left-over EAGAIN for "try again"; seen with a guest that counts without a pause), and a client that hangs holds
 * up the guest. A file and a pipe have no client that could die.
 *
 * Invariants
 *   - The log's offsets are file offsets and count from the domain's first byte ever: QEMU appends over all runs, and trimming punches
 *     a hole at the front (the file becomes sparse), which moves nothing and loses no byte that is written meanwhile.
 *   - `console.json` says where the kept output begins; it is written before the hole is punched.
 *   - History and live output are the same file, so they join with no byte lost or repeated.
 * Failure paths: on a full disk QEMU drops what it cannot write, and the guest goes on. A guest that reads nothing fills the pipe: `busy`.
 */
import { Fault, millis, type Clock, type Log } from '@typevisor/base'
import type { ConsoleSlice, GuestStream } from '@typevisor/toolstack'
import type { HostFiles, PipeWriter } from './ports.ts'
import { numberOf, parseObject } from './read-json.ts'

const READER_COUNT_MAX = 64
const INPUT_SIZE_MAX = 1024 * 1024
const PIECE_SIZE = 65536
const BLOCK_SIZE = 4096
const PIPE_PAUSE = millis(10)
/** How long a guest may read nothing before its typist is told. */
const PIPE_LIMIT_MS = 5000
const POLL_WATCHED = millis(1000)
const POLL_UNWATCHED = millis(50)

export interface ConsoleHubOptions {
  readonly files: HostFiles
  readonly clock: Clock
  readonly paths: ConsoleLogPaths & { readonly consoleInput: string }
}

interface Reader {
  closed: boolean
  bell: PromiseWithResolvers<void>
}

export class ConsoleHub {
  readonly #options: ConsoleHubOptions
  readonly #readers = new Set<Reader>()
  #watcher: { close(): void } | null = null
  #pipe: Promise<PipeWriter> | null = null
  #inputTail: Promise<void> = Promise.resolve()
  #ended = false

  constructor(options: ConsoleHubOptions) {
    this.#options = options
  }

  /** @throws Fault `unavailable` when the domain has ended, `busy` when too many are open. */
  async open(fromOffset?: number): Promise<GuestStream> {
    if (this.#ended) throw new Fault('unavailable', 'console: the domain has ended')
    if (this.#readers.size >= READER_COUNT_MAX) throw new Fault('busy', `console: ${READER_COUNT_MAX} are open`)
    const { files, paths } = this.#options
    const reader: Reader = { closed: false, bell: Promise.withResolvers() }
    this.#readers.add(reader)
    this.#watcher ??= files.watch(paths.consoleLog, () => this.#ring())
    try {
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
    this.#release()
  }

  async *#follow(reader: Reader, startOffset: number): AsyncGenerator<Uint8Array, void, undefined> {
    const { files, clock, paths } = this.#options
    let offset = startOffset
    try {
      while (!reader.closed) {
        // Before reading: what comes meanwhile rings the new bell, and behind an end seen here nothing more comes.
        const wasLast = this.#ended
        reader.bell = Promise.withResolvers()
        const slice = await readConsoleLog(files, paths, offset, PIECE_SIZE)
        offset = slice.endOffset
        if (reader.closed) return
        if (slice.content.length > 0) yield slice.content
        else if (wasLast) return
        else {
          const rung = new AbortController()
          const timer = clock.sleep(this.#watcher ? POLL_WATCHED : POLL_UNWATCHED, { signal: rung.signal }).catch(() => {})
          await Promise.race([reader.bell.promise, timer])
          rung.abort()
        }
      }
    } finally {
      this.#drop(reader)
    }
  }

  /** One content after the other: what two type at once is not mixed within a content. */
  async #write(reader: Reader, content: Uint8Array): Promise<void> {
    if (content.length > INPUT_SIZE_MAX)
      throw new Fault('invalid', `console input: got ${content.length} bytes, want at most ${INPUT_SIZE_MAX}`)
    const turn = this.#inputTail
    const done = Promise.withResolvers<void>()
    this.#inputTail = done.promise
    try {
      await turn
      await this.#put(reader, content)
    } finally {
      done.resolve()
    }
  }

  async #put(reader: Reader, content: Uint8Array): Promise<void> {
    const { files, clock, paths } = this.#options
    let rest = content
    let lastTaken = clock.monotonic()
    while (rest.length > 0) {
      if (reader.closed || this.#ended) throw new Fault('unavailable', 'console: it is closed')
      this.#pipe ??= files.openPipe(paths.consoleInput)
      const pipe = this.#pipe
      try {
        const count = await (await pipe).write(rest)
        rest = rest.subarray(count)
        if (count > 0) lastTaken = clock.monotonic()
        else if (clock.monotonic() - lastTaken > PIPE_LIMIT_MS) {
          throw new Fault(
            'busy',
            `console input: the guest reads nothing; ${content.length - rest.length} of ${content.length} bytes are on their way`,
          )
        } else await clock.sleep(PIPE_PAUSE)
      } catch (error) {
        if (this.#pipe === pipe && !(error instanceof Fault && error.code === 'busy')) this.#pipe = null
        throw error
      }
    }
  }

  #ring(): void {
    for (const reader of this.#readers) reader.bell.resolve()
  }

  #drop(reader: Reader): void {
    reader.closed = true
    reader.bell.resolve()
    this.#readers.delete(reader)
    if (this.#readers.size === 0) this.#release()
  }

  #release(): void {
    this.#watcher?.close()
    this.#watcher = null
    const pipe = this.#pipe
    this.#pipe = null
    if (!pipe) return
    // After what is being written.
    void Promise.all([pipe, this.#inputTail])
      .then(([open]) => open.close())
      .catch(() => {})
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

export async function readConsoleLog(
  files: HostFiles,
  paths: ConsoleLogPaths,
  fromOffset: number,
  sizeMax: number,
): Promise<ConsoleSlice> {
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
  await files.replace(paths.consoleIndex, new TextEncoder().encode(`${JSON.stringify({ oldestOffset: next })}\n`), { sync: true })
  // From the very start, so that a hole missed by a crash between the two steps is made up for.
  if (!(await files.punchHole(paths.consoleLog, 0, next))) log.warn('qemu.console.hole_unsupported', { path: paths.consoleLog })
}
