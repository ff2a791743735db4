const PAUSE_MS_MIN = 100
const PAUSE_MS_MAX = 30_000

/**
 * The pause after the n-th failure: doubling from 0.1 s to 30 s, spread over [half, whole] so that sagas which failed together do not
 * come back together. The spread comes from the key, not from a random number: the same run replays the same pauses.
 */
export function retryPauseMs(key: string, failureCount: number): number {
  const whole = Math.min(PAUSE_MS_MIN * 2 ** Math.max(failureCount - 1, 0), PAUSE_MS_MAX)
  return Math.round(whole * (0.5 + 0.5 * unitHash(`${key}#${failureCount}`)))
}

/** FNV-1a (32 bit) with a final mix, scaled into [0, 1). */
function unitHash(text: string): number {
  let hash = 0x811c9dc5
  for (let index = 0; index < text.length; index += 1) hash = Math.imul(hash ^ text.charCodeAt(index), 0x01000193)
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32
}
