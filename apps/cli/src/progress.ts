/** One line on a terminal for what takes longer than a second; nothing where nobody looks. */
const BAR = 24

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
    const seconds = Math.round((performance.now() - this.#begin) / 1000)
    process.stderr.write(`\r\x1b[K${this.#title}: ${step}${bar} ${seconds} s`)
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
