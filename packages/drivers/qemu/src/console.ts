/**
 * The serial console of one domain: a live stream for many, and the kept output.
 *
 *   guest ttyS0 --> QEMU chardev --+--> console.log   every byte, always, by QEMU itself
 *                                  +--> console.sock  one client: this hub --+--> reader 1
 *                                                                           +--> reader 2
 *
 * Invariants
 *   - The log's offsets are file offsets and count from the domain's first byte ever: QEMU appends over all runs, and trimming punches
 *     a hole at the front (the file becomes sparse), which moves nothing and loses no byte that is written meanwhile.
 *   - `console.json` says where the kept output begins; it is written before the hole is punched.
 *   - The hub is connected only while somebody has a console open: a caller that hangs cannot hold up a guest that nobody looks at.
 */
import { Fault, type Log } from '@typevisor/base'
import type { ConsoleSlice, GuestStream } from '@typevisor/toolstack'
import { ByteQueue } from './byte-queue.ts'
import type { ByteSocket, HostFiles, HostSockets } from './ports.ts'
import { numberOf, parseObject } from './read-json.ts'

const READER_SIZE_MAX = 4 * 1024 * 1024
const READER_COUNT_MAX = 64
const INPUT_SIZE_MAX = 1024 * 1024
const BLOCK_SIZE = 4096

export class ConsoleHub {
  readonly #sockets: HostSockets
  readonly #path: string
  readonly #readers = new Set<ByteQueue>()
  #socket: Promise<ByteSocket> | null = null
  #closed = false

  constructor(sockets: HostSockets, path: string) {
    this.#sockets = sockets
    this.#path = path
  }

  /** @throws Fault `unavailable` when the domain has no console now, `busy` when too many are open. */
  async open(): Promise<GuestStream> {
    if (this.#closed) throw new Fault('unavailable', 'console: the domain has ended')
    if (this.#readers.size >= READER_COUNT_MAX) throw new Fault('busy', `console: ${READER_COUNT_MAX} are open`)
    const queue = new ByteQueue(READER_SIZE_MAX)
    this.#readers.add(queue)
    try {
      await this.#connect()
    } catch (error) {
      this.#drop(queue)
      throw error
    }
    return {
      readable: queue,
      write: async (content) => {
        if (queue.closed) throw new Fault('unavailable', 'console: it is closed')
        if (content.length > INPUT_SIZE_MAX) throw new Fault('invalid', `console input: got ${content.length} bytes, want at most ${INPUT_SIZE_MAX}`)
        await (await this.#connect()).write(content)
      },
      close: () => this.#drop(queue),
    }
  }

  /** Ends all readers after what they have in their queues. */
  close(): void {
    this.#closed = true
    for (const reader of this.#readers) this.#drop(reader)
  }

  #connect(): Promise<ByteSocket> {
    if (!this.#socket) {
      const socket = this.#sockets.connect(this.#path)
      this.#socket = socket
      socket.then(
        (open) => void this.#pump(open, socket),
        () => this.#forget(socket),
      )
    }
    return this.#socket
  }

  async #pump(socket: ByteSocket, promise: Promise<ByteSocket>): Promise<void> {
    let failure: unknown = undefined
    try {
      for await (const chunk of socket.readable) {
        for (const reader of this.#readers) if (!reader.push(chunk)) this.#readers.delete(reader)
        if (this.#readers.size === 0) break
      }
    } catch (error) {
      failure = new Fault('unavailable', 'console: the connection to QEMU broke', { cause: error })
    }
    socket.close()
    if (this.#socket !== promise) return
    this.#forget(promise)
    for (const reader of this.#readers) reader.close(failure)
    this.#readers.clear()
  }

  #drop(queue: ByteQueue): void {
    queue.close()
    this.#readers.delete(queue)
    if (this.#readers.size > 0 || !this.#socket) return
    const socket = this.#socket
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
