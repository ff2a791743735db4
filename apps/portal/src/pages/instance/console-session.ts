/**
 * The life of one console on the page: which byte comes next, and what to do when the connection ends. No byte is shown twice and none
 * is skipped in silence: each connection begins at the offset after the last byte shown, and what the host no longer keeps is said.
 *
 *   locating --(log says where the kept output begins)--> connecting --open--> open
 *      ^                                                      |                 |
 *      +------------- waiting (0.5 s, 1 s, ... 10 s) <--------+---- close ------+
 *      |
 *      +-- reading --> ended   the machine is off: its kept output is shown, read-only
 *
 * Pure but for the ports; xterm.js and the browser's WebSocket come in through `ConsolePorts`.
 */
import { reconnectAfterMs } from '../../api/live.ts'

export type ConsoleStatus =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'open' }
  | { readonly kind: 'waiting'; readonly reason: string; readonly attempt: number }
  | { readonly kind: 'ended'; readonly reason: string }

export interface ConsoleSlice {
  readonly startOffset: number
  readonly endOffset: number
  readonly content: Uint8Array
}

export interface ConsoleSocket {
  send(content: Uint8Array): void
  close(): void
}

export interface SocketHandlers {
  onOpen(): void
  onBytes(content: Uint8Array): void
  onClose(reason: string): void
}

export interface ConsolePorts {
  /** Kept output from an offset; `startOffset` is greater than asked when the host no longer keeps what was asked for. */
  readLog(from: number, limit: number, signal: AbortSignal): Promise<ConsoleSlice>
  connect(from: number, handlers: SocketHandlers): ConsoleSocket
  show(content: Uint8Array): void
  /** A line of the portal's own between the guest's. */
  note(text: string): void
  status(status: ConsoleStatus): void
  /** False: the machine is off, and there is nothing to connect to. */
  live(): boolean
  wait(ms: number, signal: AbortSignal): Promise<void>
  random(): number
}

const LOG_READ_BYTES = 1_048_576
/** Keys kept while the connection is being made. */
const MOST_PENDING = 64

export class ConsoleSession {
  readonly #ports: ConsolePorts
  readonly #stop = new AbortController()
  #offset = 0
  #socket: ConsoleSocket | null = null
  #pending: Uint8Array[] = []
  #visiting = false
  #wake: (() => void) | null = null

  constructor(ports: ConsolePorts) {
    this.#ports = ports
  }

  /** Offset after the last byte shown. */
  get offset(): number {
    return this.#offset
  }

  /** Ends when `close` is called or the machine is off and all its kept output is shown. */
  async run(): Promise<void> {
    let attempt = 0
    while (!this.#stop.signal.aborted) {
      this.#ports.status({ kind: 'connecting' })
      this.#visiting = true
      const reason = await this.#visit(() => {
        attempt = 0
      })
      this.#visiting = false
      this.#pending = []
      if (this.#stop.signal.aborted) return
      if (!this.#ports.live()) {
        const failure = await this.#readKept()
        if (failure === null) {
          this.#ports.status({ kind: 'ended', reason: 'The machine is off. This is what it said.' })
          return
        }
      }
      this.#ports.status({ kind: 'waiting', reason, attempt })
      await this.#pause(reconnectAfterMs(attempt, this.#ports.random()))
      attempt += 1
    }
  }

  /** Keys typed. While the connection is being made a few are kept; what is typed into a lost one is not sent into a later guest. */
  type(content: Uint8Array): void {
    if (this.#socket !== null) this.#socket.send(content)
    else if (this.#visiting && this.#pending.length < MOST_PENDING) this.#pending.push(content)
  }

  /** Cuts a wait short: the machine was started, the network came back, a person asked. */
  retry(): void {
    this.#wake?.()
  }

  close(): void {
    this.#stop.abort()
    this.#socket?.close()
    this.#wake?.()
  }

  /** One connection from begin to end; gives the reason why it ended. */
  async #visit(opened: () => void): Promise<string> {
    if (!this.#ports.live()) return 'The machine is off.'
    try {
      await this.#locate()
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
    if (this.#stop.signal.aborted) return 'closed'
    return await new Promise<string>((resolve) => {
      const socket = this.#ports.connect(this.#offset, {
        onOpen: () => {
          opened()
          this.#socket = socket
          for (const content of this.#pending.splice(0)) socket.send(content)
          this.#ports.status({ kind: 'open' })
        },
        onBytes: (content) => {
          this.#offset += content.length
          this.#ports.show(content)
        },
        onClose: (reason) => {
          this.#socket = null
          resolve(reason)
        },
      })
      this.#stop.signal.addEventListener('abort', () => {
        socket.close()
        resolve('closed')
      })
    })
  }

  /** Finds the first byte that can still be had; at the first connection that is where the kept output begins. */
  async #locate(): Promise<void> {
    const { startOffset } = await this.#ports.readLog(this.#offset, 1, this.#stop.signal)
    this.#moveTo(startOffset)
  }

  #moveTo(startOffset: number): void {
    if (startOffset > this.#offset && this.#offset > 0) {
      this.#ports.note(
        `${(startOffset - this.#offset).toLocaleString('en')} bytes came while this page was away and are no longer kept`,
      )
    }
    this.#offset = Math.max(this.#offset, startOffset)
  }

  async #readKept(): Promise<string | null> {
    try {
      for (;;) {
        const slice = await this.#ports.readLog(this.#offset, LOG_READ_BYTES, this.#stop.signal)
        this.#moveTo(slice.startOffset)
        if (slice.content.length === 0) return null
        this.#offset = slice.startOffset + slice.content.length
        this.#ports.show(slice.content)
      }
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    }
  }

  async #pause(ms: number): Promise<void> {
    const woken = new AbortController()
    this.#wake = () => woken.abort()
    try {
      await this.#ports.wait(ms, AbortSignal.any([woken.signal, this.#stop.signal]))
    } catch {
      // Woken early: that is what it is for.
    } finally {
      this.#wake = null
    }
  }
}
