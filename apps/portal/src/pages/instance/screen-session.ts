/**
 * The life of a guest's screen on the page. Unlike the console there is nothing to catch up with: each connection is sent the whole
 * picture, so that what was missed meanwhile is not missed.
 *
 *   connecting --open--> open
 *      ^   |              |
 *      |   +--- close ----+--> waiting (0.5 s, 1 s, ... 10 s) --+
 *      |   |              |                                     |
 *      +---|--------------|-------------------------------------+
 *          |              +--> ended    the machine is off; `run` again when it is started
 *          +--> refused   there is no screen, or one may not see it: asking again would not help
 *
 * Pure but for the ports; noVNC and the browser's WebSocket come in through `ScreenPorts`.
 */
import { FAULTS, type FaultCode } from '@typevisor/base'
import { reconnectAfterMs } from '../../api/live.ts'

export type ScreenStatus =
  | { readonly kind: 'connecting' }
  | { readonly kind: 'open' }
  | { readonly kind: 'waiting'; readonly reason: string }
  | { readonly kind: 'ended'; readonly reason: string }
  | { readonly kind: 'refused'; readonly reason: string }

export interface ScreenHandlers {
  onOpen(): void
  /** `reason` as the server closed the stream: `code: message` of its fault, or empty. */
  onClose(reason: string): void
}

export interface ScreenPorts {
  connect(handlers: ScreenHandlers): { close(): void }
  status(status: ScreenStatus): void
  /** False: the machine is off, and there is nothing to connect to. */
  live(): boolean
  wait(ms: number, signal: AbortSignal): Promise<void>
  random(): number
}

/** `code: message` -> both; what is no fault of the platform has no code. */
export function closingOf(reason: string): { readonly code: FaultCode | null; readonly message: string } {
  const [, code = '', message = ''] = /^([a-z_]+): ([\s\S]*)$/.exec(reason) ?? []
  return Object.hasOwn(FAULTS, code)
    ? { code: code as FaultCode, message }
    : { code: null, message: reason === '' ? 'The connection is lost.' : reason }
}

/** What the guest's state decides is not among them: that changes without anybody asking. */
const FOR_GOOD: ReadonlySet<FaultCode | null> = new Set(['unsupported', 'forbidden', 'not_found', 'invalid'])

export class ScreenSession {
  readonly #ports: ScreenPorts
  readonly #stop = new AbortController()
  #connection: { close(): void } | null = null
  #wake: (() => void) | null = null

  constructor(ports: ScreenPorts) {
    this.#ports = ports
  }

  /** Ends when `close` is called, the machine is off, or the screen was refused for good. */
  async run(): Promise<void> {
    for (let attempt = 0; !this.#stop.signal.aborted; attempt += 1) {
      if (!this.#ports.live()) {
        this.#ports.status({ kind: 'ended', reason: 'The machine is off. Its screen is here when it runs.' })
        return
      }
      this.#ports.status({ kind: 'connecting' })
      const { code, message } = closingOf(
        await this.#visit(() => {
          attempt = 0
        }),
      )
      if (this.#stop.signal.aborted) return
      if (FOR_GOOD.has(code)) {
        this.#ports.status({ kind: 'refused', reason: message })
        return
      }
      if (!this.#ports.live()) continue
      this.#ports.status({ kind: 'waiting', reason: message })
      await this.#pause(reconnectAfterMs(attempt, this.#ports.random()))
    }
  }

  /** Cuts a wait short: the machine was started or stopped, or a person asked. */
  retry(): void {
    this.#wake?.()
  }

  close(): void {
    this.#stop.abort()
    this.#connection?.close()
    this.#wake?.()
  }

  async #visit(opened: () => void): Promise<string> {
    try {
      return await new Promise<string>((resolve) => {
        this.#connection = this.#ports.connect({
          onOpen: () => {
            opened()
            this.#ports.status({ kind: 'open' })
          },
          onClose: resolve,
        })
      })
    } catch (error) {
      return error instanceof Error ? error.message : String(error)
    } finally {
      this.#connection = null
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
