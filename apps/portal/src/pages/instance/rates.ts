/** Counters become rates: the difference of two readings over the time between them. */
import type { Reply } from '@typevisor/api'

export type Statistics = Reply<'instance.statistics'>

export interface Rates {
  readonly at: number
  /** Of all virtual processors, 0 to 1. */
  readonly cpuShare: number | null
  readonly residentBytes: number | null
  readonly readBytesPerSecond: number
  readonly writeBytesPerSecond: number
  readonly receiveBytesPerSecond: number | null
  readonly transmitBytesPerSecond: number | null
}

/** How many readings a chart shows: three minutes of one every three seconds. */
export const HISTORY_COUNT = 60

const sum = (values: readonly (number | null)[]): number | null => {
  const known = values.filter((value) => value !== null)
  return known.length === 0 ? null : known.reduce((total, value) => total + value, 0)
}

/** null: a first reading, or counters that began anew (the machine was started again). */
export function ratesBetween(before: Statistics | undefined, now: Statistics, vcpuCount: number): Rates | null {
  if (before === undefined) return null
  const seconds = (now.at - before.at) / 1000
  if (seconds <= 0) return null
  const perSecond = (read: (statistics: Statistics) => number | null): number | null => {
    const last = read(before)
    const next = read(now)
    return last === null || next === null ? null : (next - last) / seconds
  }
  const cpu = perSecond((each) => (each.cpuTimeNs === null ? null : each.cpuTimeNs / 1e9))
  const rates = {
    at: now.at,
    cpuShare: cpu === null ? null : cpu / vcpuCount,
    residentBytes: now.residentBytes,
    readBytesPerSecond: perSecond((each) => sum(each.disks.map((disk) => disk.readBytes)) ?? 0) ?? 0,
    writeBytesPerSecond: perSecond((each) => sum(each.disks.map((disk) => disk.writeBytes)) ?? 0) ?? 0,
    receiveBytesPerSecond: perSecond((each) => sum(each.nics.map((nic) => nic.receiveBytes))),
    transmitBytesPerSecond: perSecond((each) => sum(each.nics.map((nic) => nic.transmitBytes))),
  }
  const anew = [rates.cpuShare, rates.readBytesPerSecond, rates.writeBytesPerSecond, rates.receiveBytesPerSecond].some(
    (rate) => rate !== null && rate < 0,
  )
  return anew ? null : { ...rates, cpuShare: rates.cpuShare === null ? null : Math.min(1, rates.cpuShare) }
}

/** Of one virtual processor: of its time, from 0 to 1. */
export interface VcpuRates {
  readonly index: number
  readonly share: number | null
  /** It could have run, and no CPU was free. */
  readonly waitShare: number | null
}
/** What one request took on average; null: there was none, or it is not counted. */
export interface DiskRates {
  readonly name: string
  readonly readLatencyMs: number | null
  readonly writeLatencyMs: number | null
}
export interface PartRates {
  readonly vcpus: readonly VcpuRates[]
  readonly disks: readonly DiskRates[]
}

type Counter = number | null | undefined
const grown = (before: Counter, now: Counter): number | null =>
  typeof before === 'number' && typeof now === 'number' ? now - before : null

/** Of what is there in both readings; of nothing when the counters began anew. */
export function partsBetween(before: Statistics | undefined, now: Statistics): PartRates {
  const ns = before === undefined ? 0 : (now.at - before.at) * 1e6
  if (before === undefined || ns <= 0 || (grown(before.cpuTimeNs, now.cpuTimeNs) ?? 0) < 0) return { vcpus: [], disks: [] }
  const share = (left: Counter, right: Counter): number | null => {
    const time = grown(left, right)
    return time === null ? null : Math.min(1, Math.max(0, time / ns))
  }
  const latency = (time: number | null, count: number | null): number | null =>
    time === null || count === null || count <= 0 ? null : time / count / 1e6
  return {
    vcpus: now.vcpus.flatMap((vcpu) => {
      const old = before.vcpus.find(({ index }) => index === vcpu.index)
      if (!old) return []
      const { index, cpuTimeNs, waitTimeNs } = vcpu
      return [{ index, share: share(old.cpuTimeNs, cpuTimeNs), waitShare: share(old.waitTimeNs, waitTimeNs) }]
    }),
    disks: now.disks.flatMap((disk) => {
      const old = before.disks.find(({ name }) => name === disk.name)
      if (!old) return []
      return [
        {
          name: disk.name,
          readLatencyMs: latency(grown(old.readTimeNs, disk.readTimeNs), grown(old.readCount, disk.readCount)),
          writeLatencyMs: latency(grown(old.writeTimeNs, disk.writeTimeNs), grown(old.writeCount, disk.writeCount)),
        },
      ]
    }),
  }
}

export interface StatisticsHistory {
  readonly last: Statistics | undefined
  readonly rates: readonly Rates[]
  /** Of the newest reading. */
  readonly parts: PartRates
}

export const NO_HISTORY: StatisticsHistory = { last: undefined, rates: [], parts: { vcpus: [], disks: [] } }

export function withReading(history: StatisticsHistory, reading: Statistics, vcpuCount: number): StatisticsHistory {
  if (history.last?.at === reading.at) return history
  const rates = ratesBetween(history.last, reading, vcpuCount)
  return {
    last: reading,
    parts: partsBetween(history.last, reading),
    rates: rates === null ? (history.last === undefined ? [] : history.rates) : [...history.rates, rates].slice(-HISTORY_COUNT),
  }
}

/** SVG points of a line in a box; gaps where nothing is known are left out. `most` is the value at the top. */
export function linePoints(
  values: readonly (number | null)[],
  box: { width: number; height: number; most: number; count: number },
): string {
  const step = box.width / Math.max(1, box.count - 1)
  const first = box.count - values.length
  return values
    .map((value, index) =>
      value === null
        ? null
        : `${((first + index) * step).toFixed(1)},${(box.height - Math.min(1, value / (box.most || 1)) * box.height).toFixed(1)}`,
    )
    .filter((point) => point !== null)
    .join(' ')
}
