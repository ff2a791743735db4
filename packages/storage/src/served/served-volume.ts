/** What a volume has while it is served, one for all who have opened it. */
import { Fault, type BlockDevice, type Clock } from '@typevisor/base'
import type { VolumeLimits } from '../store/limits.ts'
import { LimitedDevice } from './limited-device.ts'
import { Limiter } from './limiter.ts'

export class ServedVolume {
  readonly limiter: Limiter
  connectionCount = 0

  constructor(clock: Clock, limits: VolumeLimits) {
    this.limiter = new Limiter(clock, limits)
  }

  /** The device for one more connection. `leave`: it has gone. `release`: nothing of it is under way any more. */
  open(inner: BlockDevice): { device: BlockDevice; leave: () => void; release: () => void } {
    const device = new LimitedDevice(inner, this.limiter)
    this.connectionCount += 1
    return {
      device,
      leave: () => device.abandon(new Fault('aborted', 'the connection has gone')),
      release: () => {
        this.connectionCount -= 1
      },
    }
  }
}
