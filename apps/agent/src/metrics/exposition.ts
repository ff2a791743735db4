/**
 * Prometheus' text format 0.0.4: families of samples as one text.
 *
 *   # HELP typevisor_hosts Hosts that the server knows.
 *   # TYPE typevisor_hosts gauge
 *   typevisor_hosts{state="connected"} 3
 *
 * Pure. Names follow https://prometheus.io/docs/practices/naming: base units, `_total` for counters, `_seconds`, `_bytes`; a test has
 * `promtool check metrics` look at all of them.
 *
 * Reference: https://prometheus.io/docs/instrumenting/exposition_formats
 */

export type Labels = Readonly<Record<string, string>>

export interface MetricSample {
  readonly labels: Labels
  readonly value: number
  /** Of a histogram: which of its series. */
  readonly series?: 'bucket' | 'sum' | 'count'
}

export interface MetricFamily {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  /** None: the family is left out. */
  readonly samples: readonly MetricSample[]
}

export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

const escapeHelp = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
const escapeLabel = (text: string): string => escapeHelp(text).replaceAll('"', '\\"')

function numberText(value: number): string {
  if (Number.isNaN(value)) return 'NaN'
  if (value === Infinity) return '+Inf'
  return value === -Infinity ? '-Inf' : String(value)
}

function sampleText(name: string, { labels, value, series }: MetricSample): string {
  const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escapeLabel(text)}"`)
  return `${name}${series ? `_${series}` : ''}${pairs.length > 0 ? `{${pairs.join(',')}}` : ''} ${numberText(value)}\n`
}

export function exposition(families: readonly MetricFamily[]): string {
  let text = ''
  for (const { name, help, type, samples } of families) {
    if (samples.length === 0) continue
    text += `# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n`
    for (const sample of samples) text += sampleText(name, sample)
  }
  return text
}

/** Counts of what was observed, in buckets by upper bound; the labels' values are few. */
export class Histogram {
  readonly #bounds: readonly number[]
  readonly #rows = new Map<string, { readonly labels: Labels; readonly counts: number[]; sum: number; count: number }>()

  /** `bounds` rising; the bucket without a bound is added. */
  constructor(bounds: readonly number[]) {
    this.#bounds = bounds
  }

  observe(labels: Labels, value: number): void {
    const key = JSON.stringify(labels)
    const row = this.#rows.get(key) ?? { labels, counts: this.#bounds.map(() => 0), sum: 0, count: 0 }
    this.#rows.set(key, row)
    const bucket = this.#bounds.findIndex((bound) => value <= bound)
    if (bucket >= 0) row.counts[bucket] = (row.counts[bucket] ?? 0) + 1
    row.sum += value
    row.count += 1
  }

  samples(): MetricSample[] {
    return [...this.#rows.values()].flatMap(({ labels, counts, sum, count }) => {
      let below = 0
      const buckets = this.#bounds.map((bound, index): MetricSample => {
        below += counts[index] ?? 0
        return { series: 'bucket', labels: { ...labels, le: numberText(bound) }, value: below }
      })
      return [
        ...buckets,
        { series: 'bucket', labels: { ...labels, le: '+Inf' }, value: count },
        { series: 'sum', labels, value: sum },
        { series: 'count', labels, value: count },
      ]
    })
  }
}

/** What only grows, by labels whose values are few. */
export class Counter {
  readonly #rows = new Map<string, { readonly labels: Labels; value: number }>()

  add(labels: Labels, amount = 1): void {
    const key = JSON.stringify(labels)
    const row = this.#rows.get(key) ?? { labels, value: 0 }
    this.#rows.set(key, row)
    row.value += amount
  }

  samples(): MetricSample[] {
    return [...this.#rows.values()]
  }
}
