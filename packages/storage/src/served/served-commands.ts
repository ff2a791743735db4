/** Commands about volumes as they are served: arguments and answer of each. */
import type { VolumeLimits } from '../store/limits.ts'
import type { VolumeDescription } from '../store/store.ts'
import type { VolumeStatisticsReport } from './volume-statistics.ts'

export interface ServedCommands {
  /** Those that are left out stay as they are. */
  limit: { args: { name: string } & Partial<VolumeLimits>; answer: VolumeDescription }
  /** Since the server began to serve it: of a volume that nobody has opened yet all is 0. */
  stats: { args: { name: string }; answer: VolumeStatisticsReport }
}
