/**
 * Cuts a byte stream into lines, as QMP and the guest agent speak. Bounded: a line that grows past `sizeMax` is dropped up to its
 * end and reported as `overlong`, so that a hostile peer costs at most `sizeMax` bytes.
 *
 *   feed(chunk) --> [{ kind: 'line', text }, { kind: 'overlong' }, ...]
 */
import { joinBytes } from '@typevisor/base'

export type Frame = { readonly kind: 'line'; readonly text: string } | { readonly kind: 'overlong' }

const NEWLINE = 0x0a

export class LineFrames {
  readonly #sizeMax: number
  readonly #decoder = new TextDecoder('utf-8', { fatal: false, ignoreBOM: true })
  #parts: Uint8Array[] = []
  #sizeBytes = 0
  #skipping = false

  constructor(sizeMax: number) {
    this.#sizeMax = sizeMax
  }

  feed(chunk: Uint8Array): Frame[] {
    const frames: Frame[] = []
    let start = 0
    while (start < chunk.length) {
      const end = chunk.indexOf(NEWLINE, start)
      const piece = chunk.subarray(start, end === -1 ? chunk.length : end)
      if (!this.#skipping) {
        this.#sizeBytes += piece.length
        if (this.#sizeBytes > this.#sizeMax) {
          frames.push({ kind: 'overlong' })
          this.reset()
          this.#skipping = true
        } else if (piece.length > 0) this.#parts.push(piece.slice())
      }
      if (end === -1) break
      if (!this.#skipping) frames.push({ kind: 'line', text: this.#take() })
      this.#skipping = false
      start = end + 1
    }
    return frames
  }

  /** Forgets a half line. */
  reset(): void {
    this.#parts = []
    this.#sizeBytes = 0
    this.#skipping = false
  }

  #take(): string {
    const whole = joinBytes(this.#parts)
    this.#parts = []
    this.#sizeBytes = 0
    return this.#decoder.decode(whole)
  }
}
