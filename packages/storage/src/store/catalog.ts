/** What there is in a store: volumes, snapshots, and what is left of deleted ones; each in a slot of a table. */
import { Fault } from '@typevisor/base'
import { DeadList } from './dead-list.ts'
import {
  CATALOG_KIND,
  CATALOG_RECORD,
  CATALOG_RECORD_BYTES,
  KEY_BYTES,
  KEY_NONCE_BYTES,
  KEY_SALT_BYTES,
  KEY_TAG_BYTES,
  NAME_BYTES_MAX,
  type CatalogKind,
} from './format.ts'
import type { BlockCipher, WrappedKey } from './ports.ts'
import { encodePlace, PLAIN, SEALED, type Geometry, type Tree } from './tree.ts'

/** What of an entry goes into a record. Slots of others; -1: none. */
export interface EntryRecord {
  readonly kind: CatalogKind
  readonly parent: number
  readonly id: Uint8Array
  readonly epoch: number
  readonly sizeBytes: number
  readonly createdAt: number
  readonly cursor: number
  readonly leaseEpoch: number
  readonly leaseHolder: Uint8Array | null
  readonly leaseOffered: number
  readonly iopsMax: number
  readonly burstSeconds: number
  readonly bytesPerSecondMax: number
  readonly name: string
  /** null: not encrypted. Snapshots and clones have their origin's. */
  readonly key: WrappedKey | null
  readonly compression: CompressionKind
}

const COMPRESSION = { none: 0, zstd: 1 } as const
export type CompressionKind = keyof typeof COMPRESSION
export const COMPRESSION_KINDS = Object.keys(COMPRESSION) as CompressionKind[]

export const geometryOf = ({ key }: EntryRecord): Geometry => (key ? SEALED : PLAIN)

/** In the record's count of stored blocks. */
export const STORED_INEXACT = 1n << 63n

export class Entry {
  readonly slot: number
  record: EntryRecord
  tree: Tree
  dead: DeadList
  /** Slots whose parent this one is. */
  readonly children = new Set<Entry>()
  parent: Entry | null = null
  /** Blocks of data that its tree leads to. */
  storedCount: number
  /** No leaf of it was ever lost. */
  isStoredExact = true
  /** Of an encrypted one that is unlocked. */
  cipher: BlockCipher | null = null

  constructor(slot: number, record: EntryRecord, tree: Tree, dead: DeadList, storedCount = 0) {
    this.slot = slot
    this.record = record
    this.tree = tree
    this.dead = dead
    this.storedCount = storedCount
  }

  get kind(): CatalogKind {
    return this.record.kind
  }
  get name(): string {
    return this.record.name
  }
  get isCompressed(): boolean {
    return this.record.compression !== 'none'
  }
  get isLocked(): boolean {
    return this.record.key !== null && this.cipher === null
  }
  /** Births after it are this entry's own. */
  get ownedAfter(): number {
    return this.parent?.record.epoch ?? 0
  }
}

const KINDS = Object.keys(CATALOG_KIND) as CatalogKind[]
const NOBODY = new Uint8Array(16)
const KEY_KIND = { hkdf: 1, scrypt: 2 } as const satisfies Record<WrappedKey['kind'], number>
const utf8 = new TextEncoder()
const text = new TextDecoder()

export class Catalog {
  readonly #slots: (Entry | null)[] = []
  readonly #byName = new Map<string, Entry>()
  readonly #free: number[] = []

  get slotCount(): number {
    return this.#slots.length
  }

  *entries(): Iterable<Entry> {
    for (const entry of this.#slots) if (entry) yield entry
  }

  at(slot: number): Entry | null {
    return this.#slots[slot] ?? null
  }
  need(slot: number): Entry {
    const entry = this.#slots[slot]
    if (!entry) throw new Fault('failed', `catalog: slot ${slot} is empty, want a volume or snapshot`)
    return entry
  }
  byName(name: string): Entry | null {
    return this.#byName.get(name) ?? null
  }

  /** A slot that nothing has. */
  freeSlot(): number {
    while (this.#free.length > 0) {
      const slot = this.#free.pop() as number // the length was looked at
      if (!this.#slots[slot]) return slot
    }
    return this.#slots.length
  }

  put(entry: Entry): void {
    while (this.#slots.length <= entry.slot) this.#slots.push(null)
    this.#slots[entry.slot] = entry
    if (entry.name !== '') this.#byName.set(entry.name, entry)
  }

  /** Changes what the record says; keeps names and parents in step. `none` takes the entry out. */
  change(entry: Entry, record: EntryRecord): void {
    if (entry.name !== '' && this.#byName.get(entry.name) === entry) this.#byName.delete(entry.name)
    entry.record = record
    const parent = record.parent < 0 || record.kind === 'none' ? null : this.need(record.parent)
    if (entry.parent !== parent) {
      entry.parent?.children.delete(entry)
      parent?.children.add(entry)
      entry.parent = parent
    }
    if (record.kind === 'none') {
      this.#slots[entry.slot] = null
      this.#free.push(entry.slot)
    } else if (record.name !== '') this.#byName.set(record.name, entry)
  }

  /** Makes links after all entries of a page table have been read. */
  link(): void {
    this.#free.length = 0
    for (const [slot, entry] of this.#slots.entries()) {
      if (!entry) this.#free.push(slot)
      else if (entry.record.parent >= 0) {
        entry.parent = this.need(entry.record.parent)
        entry.parent.children.add(entry)
      }
    }
  }

  ensureSlots(count: number): void {
    while (this.#slots.length < count) this.#slots.push(null)
  }
}

/** Where an entry's tree and dead list are on disk. */
export interface EntryRoots {
  readonly tree: {
    readonly height: number
    readonly root: { readonly address: number; readonly copy: number; readonly birth: number; readonly checksum: number }
  }
  readonly dead: { readonly top: { readonly address: number; readonly checksum: number }; readonly count: number }
  readonly storedCount: number
  readonly isStoredExact: boolean
}

/** `roots`: what the tree and the dead list are on disk; left out where a record of the journal tells only what people see. */
export function encodeEntry(record: EntryRecord, roots: EntryRoots | null): Uint8Array {
  const content = new Uint8Array(CATALOG_RECORD_BYTES)
  const name = utf8.encode(record.name)
  CATALOG_RECORD.encode(
    {
      kind: CATALOG_KIND[record.kind],
      parent: record.parent + 1,
      id: record.id,
      epoch: record.epoch,
      height: roots?.tree.height ?? 0,
      sizeBytes: BigInt(record.sizeBytes),
      rootAddress: roots ? encodePlace(roots.tree.root) : 0n,
      rootBirth: roots?.tree.root.birth ?? 0,
      rootChecksum: roots?.tree.root.checksum ?? 0,
      createdAt: BigInt(record.createdAt),
      cursor: BigInt(record.cursor),
      deadAddress: BigInt(roots?.dead.top.address ?? 0),
      deadChecksum: roots?.dead.top.checksum ?? 0,
      deadCount: Math.min(roots?.dead.count ?? 0, 0xffffffff),
      leaseOffered: record.leaseOffered,
      leaseEpoch: record.leaseEpoch,
      leaseHolder: record.leaseHolder ?? NOBODY,
      iopsMax: record.iopsMax,
      burstSeconds: record.burstSeconds,
      bytesPerSecondMax: BigInt(record.bytesPerSecondMax),
      flags: 0,
      nameBytes: name.length,
      name,
      keyKind: record.key ? KEY_KIND[record.key.kind] : 0,
      keyCost: record.key?.cost ?? 0,
      keySalt: record.key?.salt ?? new Uint8Array(KEY_SALT_BYTES),
      keyNonce: record.key?.nonce ?? new Uint8Array(KEY_NONCE_BYTES),
      keyTag: record.key?.tag ?? new Uint8Array(KEY_TAG_BYTES),
      keyWrapped: record.key?.wrapped ?? new Uint8Array(KEY_BYTES),
      compression: COMPRESSION[record.compression],
      reserved2: 0,
      storedCount: BigInt(roots?.storedCount ?? 0) | (roots?.isStoredExact === false ? STORED_INEXACT : 0n),
    },
    content,
  )
  return content
}

/** @throws Fault `failed` for what no store has written. */
export function decodeEntry(content: Uint8Array): { record: EntryRecord; decoded: ReturnType<typeof CATALOG_RECORD.decode> } {
  const decoded = CATALOG_RECORD.decode(content)
  const kind = KINDS.find((name) => CATALOG_KIND[name] === decoded.kind)
  if (!kind || decoded.nameBytes > NAME_BYTES_MAX)
    throw new Fault('failed', `catalog record: got kind ${decoded.kind}, name of ${decoded.nameBytes} bytes`)
  const record: EntryRecord = {
    kind,
    parent: decoded.parent - 1,
    id: decoded.id.slice(),
    epoch: decoded.epoch,
    sizeBytes: Number(decoded.sizeBytes),
    createdAt: Number(decoded.createdAt),
    cursor: Number(decoded.cursor),
    leaseEpoch: decoded.leaseEpoch,
    leaseHolder: decoded.leaseHolder.every((byte) => byte === 0) ? null : decoded.leaseHolder.slice(),
    leaseOffered: decoded.leaseOffered,
    iopsMax: decoded.iopsMax,
    burstSeconds: decoded.burstSeconds,
    bytesPerSecondMax: Number(decoded.bytesPerSecondMax),
    name: text.decode(decoded.name.subarray(0, decoded.nameBytes)),
    key: keyOf(decoded),
    compression: compressionOf(decoded.compression),
  }
  return { record, decoded }
}

function compressionOf(number: number): CompressionKind {
  for (const kind of COMPRESSION_KINDS) if (COMPRESSION[kind] === number) return kind
  throw new Fault('unsupported', `catalog record: got compression ${number}, want ${Object.values(COMPRESSION).join(' or ')}`)
}

function keyOf(decoded: ReturnType<typeof CATALOG_RECORD.decode>): WrappedKey | null {
  const { keyKind, keyCost, keySalt, keyNonce, keyTag, keyWrapped } = decoded
  if (keyKind === 0) return null
  const kind = (['hkdf', 'scrypt'] as const).find((name) => KEY_KIND[name] === keyKind)
  if (!kind)
    throw new Fault('unsupported', `catalog record: got key kind ${keyKind}, want ${Object.values(KEY_KIND).join(' or ')}`)
  return {
    kind,
    cost: keyCost,
    salt: keySalt.slice(),
    nonce: keyNonce.slice(),
    tag: keyTag.slice(),
    wrapped: keyWrapped.slice(),
  }
}

export const emptyRecord: EntryRecord = {
  kind: 'none',
  parent: -1,
  id: new Uint8Array(16),
  epoch: 0,
  sizeBytes: 0,
  createdAt: 0,
  cursor: 0,
  leaseEpoch: 0,
  leaseHolder: null,
  leaseOffered: 0,
  iopsMax: 0,
  burstSeconds: 0,
  bytesPerSecondMax: 0,
  name: '',
  key: null,
  compression: 'none',
}
