/**
 * What NBD clients may ask of a volume's ranges beside `base:allocation`, as QEMU names it (docs/interop/nbd.txt):
 *
 *   qemu:dirty-bitmap:SNAPSHOT   bit 0: differs from that snapshot; for each snapshot that the volume goes on from
 *   qemu:allocation-depth        0: a hole; 1: written since the newest snapshot; n + 1: of the n-th snapshot before
 */
import type { MetaContext } from '@typevisor/nbd'
import type { Entry } from '../store/catalog.ts'
import { depthOf, differenceOf, rangesOf, type Label } from '../store/diff.ts'
import { BLOCK_BYTES } from '../store/format.ts'
import type { Store } from '../store/store.ts'
import { isHidden } from '../store/transfers.ts'

export function volumeContexts(store: Store, entry: Entry): readonly MetaContext[] {
  const contexts: MetaContext[] = []
  for (let at = entry.parent; at !== null; at = at.parent) {
    const snapshot = at
    if (snapshot.kind === 'snapshot' && !isHidden(snapshot.name))
      contexts.push({
        name: `qemu:dirty-bitmap:${snapshot.name}`,
        extents: (offset, lengthBytes, countMax) =>
          statuses(store, snapshot, entry, differenceOf, (label) => (label === 0 ? 0 : 1), offset, lengthBytes, countMax),
      })
  }
  contexts.push({
    name: 'qemu:allocation-depth',
    extents: (offset, lengthBytes, countMax) =>
      statuses(store, null, entry, depthOf(entry), (label) => label, offset, lengthBytes, countMax),
  })
  return contexts
}

type Status = { lengthBytes: number; status: number }

/** Ranges of all labels without a gap, from `offset` on. */
async function statuses(
  store: Store,
  from: Entry | null,
  to: Entry,
  label: Label,
  statusOf: (label: number) => number,
  offset: number,
  lengthBytes: number,
  countMax: number,
): Promise<Status[]> {
  const end = offset + lengthBytes
  const { ranges, next } = await rangesOf(store, from, to, label, {
    first: Math.floor(offset / BLOCK_BYTES),
    end: Math.ceil(end / BLOCK_BYTES),
    countMax,
  })
  const found: Status[] = []
  let at = offset
  const upTo = (place: number, status: number): void => {
    const until = Math.min(place, end)
    if (until <= at) return
    const last = found.at(-1)
    if (last?.status === status) last.lengthBytes += until - at
    else found.push({ lengthBytes: until - at, status })
    at = until
  }
  for (const range of ranges) {
    upTo(range.first * BLOCK_BYTES, 0)
    upTo((range.first + range.count) * BLOCK_BYTES, statusOf(range.label))
  }
  upTo(next === null ? end : next * BLOCK_BYTES, 0)
  return found.slice(0, countMax)
}
