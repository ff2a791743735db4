/** `volume stats`: what a volume has done, with a picture of how long it took. */
import { formatBytes } from '@typevisor/base'
import { OPERATIONS, type OperationStatistics, type VolumeStatisticsReport } from '@typevisor/storage'
import { durationText } from '../format.ts'
import { age, renderTable } from '../table.ts'
import type { VolumeVerb } from './volume-verb.ts'

const BAR_WIDTH = 32
const EIGHTHS = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const
const FULL = '█'

/** `850 ns`, `4.1 µs`, `12 ms`: two digits that say something. */
export function latencyText(ns: number): string {
  const units = [
    [1e9, 's'],
    [1e6, 'ms'],
    [1e3, 'µs'],
  ] as const
  for (const [size, unit] of units)
    if (ns >= size * 0.9995) return `${Number((ns / size).toPrecision(ns < size * 100 ? 2 : 3))} ${unit}`
  return `${Math.round(ns)} ns`
}

/** A bar of `share` of the whole width; what is more than nothing is seen. */
export function bar(share: number, width: number): string {
  const eighths = Math.max(share > 0 ? 1 : 0, Math.round(share * width * 8))
  return (FULL.repeat(Math.floor(eighths / 8)) + (eighths % 8 > 0 ? EIGHTHS[eighths % 8] : '')).padEnd(width)
}

const PLURALS = { read: 'reads', write: 'writes', flush: 'flushes', trim: 'discards', zero: 'zeroings' } as const

/** A row for each doubling of the time, from the first that holds something to the last. */
function picture({ count, latency }: OperationStatistics): string[] {
  const rows = new Map<number, number>()
  for (const { toNs, count: inBucket } of latency.buckets) {
    const doubling = Math.max(0, Math.ceil(Math.log2(toNs / 1000) - 1e-9))
    rows.set(doubling, (rows.get(doubling) ?? 0) + inBucket)
  }
  const total = [...rows.values()].reduce((sum, value) => sum + value, 0)
  const most = Math.max(...rows.values())
  if (count === 0 || total === 0) return []
  const [first, last] = [Math.min(...rows.keys()), Math.max(...rows.keys())]
  return Array.from({ length: last - first + 1 }, (_, index) => {
    const value = rows.get(first + index) ?? 0
    const share = (100 * value) / total
    const percent = value === 0 ? '' : share < 0.1 ? '< 0.1 %' : `${share.toFixed(1)} %`
    return `  below ${latencyText(1000 * 2 ** (first + index)).padStart(6)}  ${bar(value / most, BAR_WIDTH)} ${percent.padStart(7)}`.trimEnd()
  })
}

export function renderStatistics(report: VolumeStatisticsReport, now: number, width: number): string {
  const { name, connectionCount, inFlightCount, inFlightCountMax, delayedCount, delayedMs, operations } = report
  const connections = `${connectionCount} ${connectionCount === 1 ? 'connection' : 'connections'}`
  const shown = OPERATIONS.filter((each) => operations[each].count > 0 || each === 'read' || each === 'write')
  const table = renderTable(
    shown,
    [
      { title: 'OPERATION', value: (each) => PLURALS[each] },
      { title: 'COUNT', value: (each) => String(operations[each].count), right: true },
      { title: 'BYTES', value: (each) => (each === 'flush' ? '-' : formatBytes(operations[each].bytes)), right: true },
      { title: 'ERRORS', value: (each) => String(operations[each].errorCount), right: true },
      ...(
        [
          ['MEAN', 'meanNs'],
          ['P50', 'p50Ns'],
          ['P99', 'p99Ns'],
          ['MAX', 'maxNs'],
        ] as const
      ).map(([title, key]) => ({
        title,
        value: (each: (typeof OPERATIONS)[number]) =>
          operations[each].count === 0 ? '-' : latencyText(operations[each].latency[key]),
        right: true,
      })),
    ],
    width,
  )
  return [
    `${name}: ${connections}, ${inFlightCount} under way, ${inFlightCountMax} at most; counted for ${age(report.sinceAt, now)}`,
    ...(delayedCount > 0
      ? [`its limit made ${delayedCount} operations wait, ${durationText(delayedMs / delayedCount)} on average`]
      : []),
    '',
    table,
    ...shown.flatMap((each) => {
      const rows = picture(operations[each])
      return rows.length === 0 ? [] : ['', `${PLURALS[each]} by how long they took`, ...rows]
    }),
  ].join('\n')
}

export const STATISTICS_VERBS: Readonly<Record<string, VolumeVerb>> = {
  stats: {
    usage: 'typevisor volume stats NAME --dir DIR',
    words: [1, 1],
    wantsServer: 'statistics are those of the server, since it began to serve the volume',
    async run(call, [name = ''], _flags, terminal, json) {
      const report = await call('stats', { name })
      terminal.out(json ? JSON.stringify(report) : renderStatistics(report, Date.now(), terminal.width))
    },
  },
}
