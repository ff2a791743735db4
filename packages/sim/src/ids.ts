import type { IdSource } from '@typevisor/base'

/** Ids of the shape of UUIDv7 that count up: `00000000-0000-7000-8000-000000000001`. The same in every run. */
export function sequentialIds(start = 1): IdSource {
  let next = start
  return { next: () => `00000000-0000-7000-8000-${(next++).toString(16).padStart(12, '0')}` }
}
