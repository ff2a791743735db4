/** What a volume has done since its server began to serve it. */
import type { Clock } from '@typevisor/base'
import { LatencyHistogram, type LatencyBucket } from './latency-histogram.ts'

export const OPERATIONS = ['read', 'write', 'flush', 'trim', 'zero'] as const
export type Operation = (typeof OPERATIONS)[number]

export interface OperationStatistics {
  /** With those that failed. */
  readonly count: number
  readonly bytes: number
  readonly errorCount: number
  /** From when the server has the request until the disk has done it, with the wait for a limit; not the network. */
  readonly latency: {
    readonly meanNs: number
    readonly p50Ns: number
    readonly p99Ns: number
    readonly maxNs: number
    readonly buckets: readonly LatencyBucket[]
  }
}

export interface VolumeStatisticsReport {
  readonly name: string
  /** Milliseconds since 1970. */
  readonly sinceAt: number
  readonly connectionCount: number
  /** Operations under way now, and the most that ever were. */
  readonly inFlightCount: number
  readonly inFlightCountMax: number
  /** Operations that a limit made wait, and for how long together. */
  readonly delayedCount: number
  readonly delayedMs: number
  readonly operations: Readonly<Record<Operation, OperationStatistics>>
}

/** Of one kind of operation. Plain fields: the device counts on every operation. */
export class OperationCounter {
  count = 0
  bytes = 0
  errorCount = 0
  readonly latency = new LatencyHistogram()

  report(): OperationStatistics {
    const { count, bytes, errorCount, latency } = this
    return {
      count,
      bytes,
      errorCount,
      latency: {
        meanNs: latency.meanNs,
        p50Ns: latency.percentileNs(50),
        p99Ns: latency.percentileNs(99),
        maxNs: latency.maxNs,
        buckets: latency.buckets(),
      },
    }
  }
}

export class VolumeStatistics {
  readonly clock: Clock
  readonly sinceAt: number
  readonly read = new OperationCounter()
  readonly write = new OperationCounter()
  readonly flush = new OperationCounter()
  readonly trim = new OperationCounter()
  readonly zero = new OperationCounter()
  inFlightCount = 0
  inFlightCountMax = 0

  constructor(clock: Clock) {
    this.clock = clock
    this.sinceAt = clock.now()
  }

  /** So many more are under way. */
  begin(count: number): void {
    this.inFlightCount += count
    if (this.inFlightCount > this.inFlightCountMax) this.inFlightCountMax = this.inFlightCount
  }

  operations(): Record<Operation, OperationStatistics> {
    return {
      read: this.read.report(),
      write: this.write.report(),
      flush: this.flush.report(),
      trim: this.trim.report(),
      zero: this.zero.report(),
    }
  }
}
