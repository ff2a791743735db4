/** One line on a terminal for what takes longer than a second; nothing where nobody looks. */
import { durationText } from './format.ts'

const BAR = 24
/** Below that nothing can be said of what is left. */
const FRACTION_MIN = 0.01

/** What is left, if it goes on as it went: in whole seconds, from a minute on in minutes. Nothing where that cannot be told. */
export function leftText(fraction: number | null, elapsedMs: number): string {
  if (fraction === null || fraction < FRACTION_MIN || fraction >= 1) return ''
  const leftMs = (elapsedMs * (1 - fraction)) / fraction
  const unitMs = leftMs < 60_000 ? 1000 : 60_000
  return `, about ${durationText(Math.ceil(leftMs / unitMs) * unitMs)} left`
}

export class Progress {
  readonly #title: string
  readonly #begin = performance.now()
  readonly #live = process.stderr.isTTY === true
  #shown = false

  constructor(title: string) {
    this.#title = title
  }

  show(step: string, fraction: number | null): void {
    if (!this.#live || performance.now() - this.#begin < 1000) return
    const filled = fraction === null ? 0 : Math.round(fraction * BAR)
    const bar = fraction === null ? '' : ` [${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}] ${Math.round(fraction * 100)} %`
    const elapsedMs = performance.now() - this.#begin
    const left = leftText(fraction, elapsedMs)
    process.stderr.write(`\r\x1b[K${this.#title}: ${step}${bar} ${Math.round(elapsedMs / 1000)} s${left}`)
    this.#shown = true
  }

  clear(): void {
    if (this.#shown) process.stderr.write('\r\x1b[K')
    this.#shown = false
  }

  [Symbol.dispose](): void {
    this.clear()
  }
}
