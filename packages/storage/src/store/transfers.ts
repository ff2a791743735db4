/**
 * What is brought in and taken out, under names that nobody can give or see:
 *
 *   .import-NAME             a stream that comes in: its id is that of the snapshot it will be, its cursor the byte before which all has
 *                            come; a clone of the base where the stream is an increment
 *   .image-XXXXXXXX-NAME     an image that comes in: it cannot be gone on with
 *   .export-XXXXXXXX-NAME    the volume as it was when an image began to be made of it
 *
 *   begin --write, mark--> ... --finish--> NAME (and NAME@SNAPSHOT), in one record of the catalog
 *     ^        | killed, cut
 *     +--------+ a stream, begun again: it says where to go on
 *
 * Images and exports belong to who began them: they are taken away when their connection ends, or when the store is opened.
 */
import { Fault } from '@typevisor/base'
import type { Entry } from './catalog.ts'
import { isSameTree } from './diff.ts'
import { lockedFault } from './state.ts'
import { assertSize, uuidOf, type Store, type VolumeOptions } from './store.ts'

const STREAM_PREFIX = '.import-'
const IMAGE_PREFIX = '.image-'
const EXPORT_PREFIX = '.export-'
const TAG_LENGTH = 8
export const isHidden = (name: string): boolean =>
  [STREAM_PREFIX, IMAGE_PREFIX, EXPORT_PREFIX].some((prefix) => name.startsWith(prefix))

/** What a stream says of itself. Ids as UUIDs. */
export interface StreamTarget {
  readonly name: string
  /** The part behind the @. */
  readonly snapshot: string
  readonly snapshotId: string
  readonly sizeBytes: number
  /** The snapshot over which it is written. Left out: a whole volume. */
  readonly baseId?: string
  readonly baseName?: string
  /** Where the stream begins, in bytes of the volume. */
  readonly startBytes: number
}

export interface ImportStatus {
  readonly name: string
  readonly snapshotId: string
  readonly sizeBytes: number
  /** All before it has come and is safe. */
  readonly positionBytes: number
  /** The name under which it is written. */
  readonly exportName: string
}

const statusOf = ({ record }: Entry): ImportStatus => ({
  name: record.name.slice(STREAM_PREFIX.length),
  snapshotId: uuidOf(record.id),
  sizeBytes: record.sizeBytes,
  positionBytes: record.cursor,
  exportName: record.name,
})

export function listImports(store: Store): ImportStatus[] {
  return [...store.state.catalog.entries()].filter(({ name }) => name.startsWith(STREAM_PREFIX)).map(statusOf)
}

const underWay = (store: Store, name: string): Entry | null => store.state.catalog.byName(`${STREAM_PREFIX}${name}`)

const importOf = (store: Store, name: string): Entry => {
  const found = underWay(store, name)
  if (!found) throw new Fault('not_found', `import of ${name}: there is none under way`)
  return found
}

/**
 * Begins, or goes on. `options` are those of the volume that a whole stream makes; an increment goes into one as that is, an import that goes
 * on into what it has begun: there they must be the same, and a key file unlocks.
 * @throws Fault `conflict` for a stream that does not go on from what is there, or from what is locked; `not_found` without its base;
 * `unauthenticated` for another key file.
 */
export async function beginStream(store: Store, target: StreamTarget, options: VolumeOptions = {}): Promise<ImportStatus> {
  const { name, snapshotId, sizeBytes, startBytes } = target
  assertSize(sizeBytes)
  // A snapshot that was just deleted stands between the volume and its base until it is merged.
  if (store.state.catalog.byName(name)?.parent?.kind === 'dying') await store.collected()
  const form = target.baseId === undefined && !underWay(store, name) ? await store.formOf(options) : null
  const present = underWay(store, name) ?? assertFits(store, target)
  if (present) await assertForm(store, present, name, options)
  const base = assertFits(store, target)
  const hidden = `${STREAM_PREFIX}${name}`
  const there = store.state.catalog.byName(hidden)
  const refuse = (words: string): never => {
    throw new Fault('conflict', `import of ${name}: ${words}`)
  }
  if (there) {
    const found = statusOf(there)
    if (found.snapshotId !== snapshotId || there.parent !== base)
      refuse(`got snapshot ${snapshotId}, want ${found.snapshotId}, of which a part is there (--abort gives it up)`)
    if (startBytes > found.positionBytes) refuse(`the stream begins at ${startBytes}, want ${found.positionBytes} at most`)
  } else {
    if (startBytes > 0) refuse(`the stream begins at ${startBytes}, want 0: nothing is there yet`)
    await store.changeCatalog(({ fresh }) => {
      const record = { kind: 'volume', name: hidden, id: bytesOf(snapshotId) } as const
      if (!base) return [fresh({ ...record, sizeBytes, ...form })]
      return [{ ...fresh({ ...base.record, ...record, epoch: 0, parent: base.slot }), forkOf: base.slot }]
    })
  }
  if (importOf(store, name).record.sizeBytes !== sizeBytes) await store.resize(hidden, sizeBytes)
  return statusOf(importOf(store, name))
}

/** That what is there is as `options` say, where they say anything, and can be written. */
async function assertForm(store: Store, entry: Entry, name: string, { compression, secret }: VolumeOptions): Promise<void> {
  const { record } = entry
  if (compression !== undefined && compression !== record.compression)
    throw new Fault(
      'conflict',
      `import of ${name}: got compression ${compression}, want ${record.compression}, which it has already`,
    )
  if (secret && !record.key)
    throw new Fault('conflict', `import of ${name}: got a key file, want none: what is there already is not encrypted`)
  if (secret && record.key && !(await store.state.keyring.unlock(record.key, secret)))
    throw new Fault('unauthenticated', `import of ${name}: what is there already is not encrypted with this key file`)
  if (entry.isLocked)
    throw lockedFault({ name: entry.name.startsWith(STREAM_PREFIX) ? `import of ${name}` : entry.name }, '--key-file FILE')
}

/** All before `positionBytes` is there. Resolves when that is safe. */
export async function markStream(store: Store, name: string, positionBytes: number): Promise<void> {
  const { sizeBytes } = importOf(store, name).record
  if (!Number.isSafeInteger(positionBytes) || positionBytes < 0 || positionBytes > sizeBytes)
    throw new Fault('invalid', `import of ${name}: got position ${positionBytes}, want 0 to ${sizeBytes}`)
  await store.changeCatalog(({ changed }) => [changed(importOf(store, name), { cursor: positionBytes })])
  await store.flush()
}

/** The volume is as the snapshot, and has it. `assertMay` is asked in the turn in which that happens. Resolves when it is safe. */
export async function finishStream(
  store: Store,
  target: StreamTarget & { readonly createdAt: number },
  assertMay: () => void = () => {},
): Promise<void> {
  const { name, snapshot, createdAt } = target
  await store.changeCatalog(({ fresh, changed }) => {
    assertMay()
    const { catalog, epoch } = store.state
    const base = assertFits(store, target)
    const entry = importOf(store, name)
    const { record, parent, slot } = entry
    if (parent !== base) throw new Fault('conflict', `import of ${name}: its base is not what it was when it began`)
    const head = catalog.byName(name)
    // The volume may have been given another key file meanwhile.
    const key = head ? head.record.key : record.key
    const taken = fresh({ ...record, kind: 'snapshot', name: `${name}@${snapshot}`, key, epoch, createdAt, cursor: 0 })
    const snapshotChange = { ...taken, forkOf: slot, deadListOf: slot }
    if (!head)
      return [snapshotChange, changed(entry, { name, id: store.state.parts.rng.bytes(16), parent: taken.slot, cursor: 0 })]
    return [
      snapshotChange,
      { ...changed(head, { parent: taken.slot, sizeBytes: record.sizeBytes }), forkOf: taken.slot },
      // It owns nothing any more.
      changed(entry, { kind: 'dying', name: '', parent: taken.slot, cursor: 0 }),
    ]
  }, true)
  await store.flush()
}

export async function abortStream(store: Store, name: string): Promise<void> {
  await store.remove(importOf(store, name).name)
}

const tagged = (store: Store, prefix: string, name: string): string =>
  `${prefix}${uuidOf(store.state.parts.rng.bytes(16)).slice(0, TAG_LENGTH)}-${name}`

/** @returns the name under which it is written. */
export async function beginImage(store: Store, name: string, sizeBytes: number, options: VolumeOptions = {}): Promise<string> {
  store.assertNew(name, 'volume')
  assertSize(sizeBytes)
  const form = await store.formOf(options)
  const hidden = tagged(store, IMAGE_PREFIX, name)
  await store.changeCatalog(({ fresh }) => [fresh({ kind: 'volume', name: hidden, sizeBytes, ...form })])
  return hidden
}

export async function finishImage(store: Store, hidden: string): Promise<string> {
  const name = hiddenOf(store, IMAGE_PREFIX, hidden).name.slice(IMAGE_PREFIX.length + TAG_LENGTH + 1)
  await store.changeCatalog(({ changed }) => {
    store.assertNew(name, 'volume')
    return [changed(hiddenOf(store, IMAGE_PREFIX, hidden), { name })]
  })
  await store.flush()
  return name
}

/** @returns the name under which the volume can be read as it is now. */
export async function beginExport(store: Store, name: string): Promise<string> {
  const hidden = tagged(store, EXPORT_PREFIX, name)
  await store.snapshotAs(name, hidden)
  return hidden
}

/** Of an image or an export. */
export async function takeAway(store: Store, hidden: string): Promise<void> {
  const prefix = hidden.startsWith(EXPORT_PREFIX) ? EXPORT_PREFIX : IMAGE_PREFIX
  await store.remove(hiddenOf(store, prefix, hidden).name)
}

function hiddenOf(store: Store, prefix: string, hidden: string): Entry {
  const found = hidden.startsWith(prefix) ? store.state.catalog.byName(hidden) : null
  if (!found) throw new Fault('not_found', `${JSON.stringify(hidden)}: nothing of this name is under way`)
  return found
}

/** Takes away what nobody can have begun who still lives. */
export async function sweep(store: Store): Promise<void> {
  for (const { name } of [...store.state.catalog.entries()])
    if (name.startsWith(IMAGE_PREFIX) || name.startsWith(EXPORT_PREFIX)) await store.remove(name)
}

/** @returns the base, null for a whole volume. */
function assertFits(store: Store, { name, snapshot, baseId, baseName }: StreamTarget): Entry | null {
  store.assertNew(`${name}@${snapshot}`, 'snapshot')
  if (baseId === undefined) {
    store.assertNew(name, 'volume')
    return null
  }
  const head = store.state.catalog.byName(name)
  const want = `want a volume whose newest snapshot is ${baseId} (${baseName ?? 'of a name that is not known'})`
  if (!head) throw new Fault('not_found', `import of ${name}: there is none, ${want}`)
  const base = head.parent
  if (head.kind !== 'volume' || base === null || uuidOf(base.record.id) !== baseId)
    throw new Fault(
      'conflict',
      `import of ${name}: got one whose newest snapshot is ${base ? `${uuidOf(base.record.id)} (${base.name})` : 'none'}, ${want}`,
    )
  if (base.kind !== 'snapshot') throw new Fault('conflict', `import of ${name}: its newest snapshot is deleted, ${want}`)
  if (!isSameTree(head, base))
    throw new Fault(
      'conflict',
      `import of ${name}: it was written since ${base.name}, want it as that is (snapshot revert makes it so)`,
    )
  return base
}

function bytesOf(uuid: string): Uint8Array {
  const digits = uuid.replaceAll('-', '')
  if (!/^[0-9a-f]{32}$/.test(digits)) throw new Fault('invalid', `id: got ${JSON.stringify(uuid)}, want a UUID`)
  return Uint8Array.from({ length: 16 }, (_, index) => Number.parseInt(digits.slice(index * 2, index * 2 + 2), 16))
}
