import type { VolumeLimits } from '../store/limits.ts'
import type { VolumeDescription } from '../store/store.ts'

export interface LimitCommands {
  /** Those that are left out stay as they are. */
  limit: { args: { name: string } & Partial<VolumeLimits>; answer: VolumeDescription }
}
