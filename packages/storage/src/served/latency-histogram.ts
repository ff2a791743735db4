/**
 * How long operations took: buckets that grow with what they hold, eight to each doubling, so that a value is known within an eighth of
 * itself from a microsecond to two minutes. Adding allocates nothing.
 *
 *   units of 62.5 ns    0 1 2 ... 15 | 16 18 20 ... 30 | 32 36 ... 60 | 64 ...      16 units are a microsecond
 */
const UNITS_PER_MS = 16_000
const LINEAR_COUNT = 16
const PER_DOUBLING_SHIFT = 3
const PER_DOUBLING = 1 << PER_DOUBLING_SHIFT
const LINEAR_BITS = 4
const UNITS_MAX = 2 ** 31 - 1
const BUCKET_COUNT = LINEAR_COUNT + (31 - LINEAR_BITS) * PER_DOUBLING

export interface LatencyBucket {
  /** From, and to but not with. */
  readonly fromNs: number
  readonly toNs: number
  readonly count: number
}

export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKET_COUNT)
  #count = 0
  #sumMs = 0
  #maxMs = 0

  /** `weight`: how many it stands for. */
  add(durationMs: number, weight = 1): void {
    const units = Math.max(0, Math.min(UNITS_MAX, durationMs * UNITS_PER_MS)) | 0
    let index = units
    if (units >= LINEAR_COUNT) {
      const power = 31 - Math.clz32(units)
      index =
        LINEAR_COUNT + (power - LINEAR_BITS) * PER_DOUBLING + ((units >>> (power - PER_DOUBLING_SHIFT)) & (PER_DOUBLING - 1))
    }
    this.#counts[index] = (this.#counts[index] as number) + weight // the largest index is the last one
    this.#count += weight
    this.#sumMs += durationMs * weight
    if (durationMs > this.#maxMs) this.#maxMs = durationMs
  }

  get count(): number {
    return this.#count
  }
  get maxNs(): number {
    return Math.round(this.#maxMs * 1e6)
  }
  get meanNs(): number {
    return this.#count === 0 ? 0 : Math.round((this.#sumMs / this.#count) * 1e6)
  }

  /** What so many of a hundred stayed below: the upper edge of the bucket, never more than the longest. 0 when there is none. */
  percentileNs(percent: number): number {
    const want = (this.#count * percent) / 100
    let seen = 0
    for (let index = 0; index < BUCKET_COUNT; index += 1) {
      const count = this.#counts[index] as number
      seen += count
      if (count > 0 && seen >= want) return Math.min(this.maxNs, edgeNs(index + 1))
    }
    return 0
  }

  /** Those that hold something, in order. */
  buckets(): LatencyBucket[] {
    const found: LatencyBucket[] = []
    for (const [index, count] of this.#counts.entries())
      if (count > 0) found.push({ fromNs: edgeNs(index), toNs: edgeNs(index + 1), count })
    return found
  }
}

/** Where a bucket begins. */
function edgeNs(index: number): number {
  const above = index - LINEAR_COUNT
  const units =
    above < 0
      ? index
      : (PER_DOUBLING + (above % PER_DOUBLING)) * 2 ** (Math.floor(above / PER_DOUBLING) + LINEAR_BITS - PER_DOUBLING_SHIFT)
  return (units * 1e6) / UNITS_PER_MS
}
