/**
 * What a volume has while it is served, one for all who have opened it.
 *
 *   connection ── counted ── limited ── the volume's device
 */
import { Fault, type BlockDevice, type Clock } from '@typevisor/base'
import type { Opening } from '../store/lease.ts'
import type { VolumeLimits } from '../store/limits.ts'
import { CountedDevice } from './counted-device.ts'
import { LimitedDevice } from './limited-device.ts'
import { Limiter } from './limiter.ts'
import { VolumeStatistics, type VolumeStatisticsReport } from './volume-statistics.ts'

export class ServedVolume {
  readonly limiter: Limiter
  readonly #statistics: VolumeStatistics
  connectionCount = 0
  /** Who waits for a connection to end. */
  #waiting: (() => void)[] = []

  constructor(clock: Clock, limits: VolumeLimits) {
    this.limiter = new Limiter(clock, limits)
    this.#statistics = new VolumeStatistics(clock)
  }

  /** The device for one more connection. `leave`: it has gone. `release`: nothing of it is under way any more. */
  open(inner: BlockDevice, opening: Opening): { device: BlockDevice; leave: () => void; release: () => void } {
    const limited = new LimitedDevice(inner, this.limiter)
    this.connectionCount += 1
    return {
      device: new CountedDevice(limited, this.#statistics),
      leave: () => {
        opening.end()
        limited.abandon(new Fault('aborted', 'the connection has gone'))
      },
      release: () => {
        this.connectionCount -= 1
        const waiting = this.#waiting
        this.#waiting = []
        for (const go of waiting) go()
      },
    }
  }

  /** Resolves when no connection has it open. */
  async unused(): Promise<void> {
    while (this.connectionCount > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  report(name: string): VolumeStatisticsReport {
    const { sinceAt, inFlightCount, inFlightCountMax } = this.#statistics
    const { delayedCount, delayedMs } = this.limiter
    const { connectionCount } = this
    return {
      ...{ name, sinceAt, connectionCount, inFlightCount, inFlightCountMax, delayedCount, delayedMs },
      operations: this.#statistics.operations(),
    }
  }
}
