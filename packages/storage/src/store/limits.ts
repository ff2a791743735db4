/** What a volume may do in a second. It is kept in the catalog; whoever serves the volume holds it to it. */
import { Fault } from '@typevisor/base'

/** 0: no limit. */
export interface VolumeLimits {
  /** Reads, writes, discards and zeroings a second. */
  readonly iopsMax: number
  /** Bytes read and written a second. */
  readonly bytesPerSecondMax: number
  /** What a volume that did nothing may do at once: so many seconds' worth, at least a tenth of one. */
  readonly burstSeconds: number
}

const U32_MAX = 2 ** 32 - 1
/** The most of each. */
export const LIMITS_MAX = {
  iopsMax: U32_MAX,
  bytesPerSecondMax: Number.MAX_SAFE_INTEGER,
  burstSeconds: 86_400,
} as const satisfies Record<keyof VolumeLimits, number>

/** @throws Fault `invalid` naming each that is wrong. */
export function assertLimits(limits: VolumeLimits): void {
  const details = (Object.keys(LIMITS_MAX) as (keyof VolumeLimits)[]).flatMap((path) => {
    const [got, most] = [limits[path], LIMITS_MAX[path]]
    return Number.isInteger(got) && got >= 0 && got <= most
      ? []
      : [{ path, want: `a whole number from 0 (no limit) to ${most}`, got: String(got) }]
  })
  const [first] = details
  if (first) throw new Fault('invalid', `${first.path}: got ${first.got}, want ${first.want}`, { details })
}
