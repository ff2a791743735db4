/**
 * Opening a store: its newest superblock, then what the journal says has happened since.
 *
 * Which records count? The chain tells where the journal ends, but not whether the data that its last records speak of reached the disk. So of
 * the records that were not safe yet the data is proven:
 *
 *   a block that does not match, and was never freed again within the journal, forbids every end from its record on;
 *   one that was freed by a later record forbids only the ends between.
 *
 * The longest end that nothing forbids is taken. All that had been flushed is before every forbidden end: its blocks were safe, and a block
 * that became free is not used again before the record that freed it is safe and a mark that says so, behind which nothing is proven.
 *
 * Recovery itself is safe when it ends: its first record is synced before anything else happens.
 */
import { Fault, toFault, type Rng } from '@typevisor/base'
import { Allocator } from './allocator.ts'
import { Catalog, decodeEntry, Entry, geometryOf, STORED_INEXACT } from './catalog.ts'
import { applyCatalog, applyReap, applyTrim, applyWrite } from './changes.ts'
import { DeadList } from './dead-list.ts'
import {
  BLOCK_BYTES,
  CATALOG_RECORD_BYTES,
  CATALOG_RECORDS_PER_PAGE,
  FORMAT_VERSION,
  RECORD_TYPE,
  STORE_MAGIC,
  SUPERBLOCK,
  SUPERBLOCK_COUNT,
  TABLE_HEAD,
} from './format.ts'
import { Journal, type JournalPlace, type JournalRecord } from './journal.ts'
import type { Checksum, StoreFile } from './ports.ts'
import { readCatalog, readReap, readTrim, readWrite } from './records.ts'
import { findRoom } from './reserve.ts'
import { StoreState, type StoreParts } from './state.ts'
import { addressAt, copyAt, decodePlace, MISSING, PLAIN, Tree } from './tree.ts'

type Superblock = ReturnType<typeof SUPERBLOCK.decode>

/** What opening found. */
export interface RecoveryReport {
  readonly recordCount: number
  /** Records that were there but whose data was not: they had not been flushed. */
  readonly cutCount: number
  /** Groups whose table of free blocks is lost: all of them counts as in use until a check has mended that. */
  readonly lostGroupCount: number
}

/** The newest superblock of a file. null: it has none, as an empty file. @throws Fault `unsupported` for a format that is not known, `failed` when none is whole and not all could be read. */
export function readSuperblock(file: StoreFile, checksum: Checksum): Superblock | null {
  let newest: Superblock | null = null
  let unread: unknown
  for (let index = 0; index < SUPERBLOCK_COUNT; index += 1) {
    const content = new Uint8Array(BLOCK_BYTES)
    try {
      file.readBlocking(index * BLOCK_BYTES, content, 0, BLOCK_BYTES)
    } catch (error) {
      unread = error
      continue
    }
    const found = SUPERBLOCK.decode(content)
    if (found.magic !== STORE_MAGIC) continue
    new DataView(content.buffer).setUint32(SUPERBLOCK.at.checksum, 0, true)
    if (checksum(content) !== found.checksum) continue
    if (found.version !== FORMAT_VERSION)
      throw new Fault(
        'unsupported',
        `store: got format version ${found.version}, want ${FORMAT_VERSION}, the one that this program knows`,
      )
    if (!newest || found.generation > newest.generation) newest = { ...found, storeId: found.storeId.slice() }
  }
  if (newest === null && unread !== undefined)
    throw new Fault('failed', `store: none of the four superblocks is whole: ${toFault(unread).message}`, { cause: unread })
  return newest
}

/** A store with nothing in it, in memory: the first checkpoint makes it one on disk. */
export function emptyState(parts: StoreParts, journalBlocks: number): StoreState {
  const head: JournalPlace = { offset: 0, sequence: 1, chain: 0 }
  return new StoreState(parts, {
    storeId: parts.rng.bytes(16),
    allocator: new Allocator({
      firstBlock: SUPERBLOCK_COUNT + journalBlocks,
      groupCount: 1,
      blockCountMax: blockCountMaxOf(parts.file),
      makeRoom: roomMaker(parts.file),
    }),
    journal: journalOf(parts, journalBlocks, head),
    catalog: new Catalog(),
    catalogTree: (owner) => new Tree(owner, PLAIN, 1),
  })
}

const blockCountMaxOf = (file: StoreFile): number => Math.floor(file.capacityBytes / BLOCK_BYTES)

const roomMaker =
  (file: StoreFile) =>
  (address: number, count: number): boolean => {
    try {
      file.allocate(address * BLOCK_BYTES, count * BLOCK_BYTES)
      return true
    } catch (error) {
      if (error instanceof Fault && error.code === 'exhausted') return false
      throw error
    }
  }

const journalOf = ({ file, checksum }: StoreParts, journalBlocks: number, head: JournalPlace): Journal =>
  new Journal({ file, checksum, startByte: SUPERBLOCK_COUNT * BLOCK_BYTES, sizeBytes: journalBlocks * BLOCK_BYTES, head })

/** @throws Fault `failed` for damage that would make what follows wrong. */
export async function recover(
  parts: StoreParts,
  superblock: Superblock,
  options: { repairs: boolean },
): Promise<{ state: StoreState; report: RecoveryReport }> {
  const tail: JournalPlace = {
    offset: Number(superblock.journalOffset),
    sequence: Number(superblock.journalSequence),
    chain: superblock.journalChain,
  }
  const state = new StoreState(parts, {
    storeId: superblock.storeId,
    allocator: new Allocator({
      firstBlock: SUPERBLOCK_COUNT + superblock.journalBlocks,
      groupCount: superblock.groupCount,
      blockCountMax: blockCountMaxOf(parts.file),
      makeRoom: roomMaker(parts.file),
    }),
    journal: journalOf(parts, superblock.journalBlocks, tail),
    catalog: new Catalog(),
    catalogTree: (owner) =>
      new Tree(owner, PLAIN, superblock.catalogHeight, {
        ...decodePlace(superblock.catalogAddress),
        birth: superblock.catalogBirth,
        checksum: superblock.catalogChecksum,
      }),
  })
  state.epoch = superblock.epoch
  state.checkpointGeneration = Number(superblock.generation)
  const lostGroups = loadTables(state, superblock)
  const [lostGroup] = lostGroups
  if (lostGroup !== undefined && !options.repairs)
    throw new Fault(
      'failed',
      `table of free blocks, group ${lostGroup}: neither of its two homes has the one in force; volume check makes it anew from the trees`,
    )
  for (const group of lostGroups) state.allocator.takeGroup(group)
  loadCatalog(state, superblock.slotCount)

  const records = [...state.journal.scan(tail)]
  const end = records.at(-1)?.next ?? tail
  const unread = state.journal.takeUnread()
  // What cannot be read may be a record that had been safe.
  if (unread !== undefined && !options.repairs)
    throw new Fault(
      'failed',
      `journal: record ${end.sequence} cannot be read: ${toFault(unread).message}; volume check goes on without it, as after a power cut`,
      { cause: unread },
    )
  if (state.journal.isDamagedAt(end))
    throw new Fault('failed', `journal: record ${end.sequence} is damaged, and records behind it had been made safe`)
  const newest = records.reduce((most, { type, count }) => (type === RECORD_TYPE.mark ? Math.max(most, count) : most), 0)
  if (newest > superblock.generation)
    throw new Fault(
      'failed',
      `store: superblock of checkpoint ${superblock.generation}, the journal tells of checkpoint ${newest}: both copies of its superblock are damaged`,
    )
  const kept = records.slice(0, longestEnd(parts, records))
  for (const record of kept) replayWith(state, record, lostGroups.length > 0)
  if (state.journal.takeUnread() !== undefined || unread !== undefined) state.journal.mendUnread()
  state.journal.resume(tail, kept.at(-1)?.next ?? tail)
  // What was taken is safe before the opening record says so; that is safe before anything that became free is used.
  await parts.file.sync()
  state.journal.markSafe(state.journal.head.sequence)
  appendOpening(state.journal, parts.rng)
  await parts.file.sync()
  state.journal.markSafe(state.journal.head.sequence)
  state.release(state.heldUntilSync.take())
  state.allocator.forgetRoom()
  findRoom(state)
  return {
    state,
    report: { recordCount: kept.length, cutCount: records.length - kept.length, lostGroupCount: lostGroups.length },
  }
}

/** Random bytes: whatever lies behind in the ring does not go on from here. */
export function appendOpening(journal: Journal, rng: Rng): void {
  const content = rng.bytes(16)
  const { bytes, start } = journal.begin(content.length)
  bytes.set(content, start)
  journal.append(RECORD_TYPE.open, 0, content.length)
}

/** @returns groups of which the table in force is damaged. */
function loadTables(state: StoreState, { groupCount, generation, tablesSum }: Superblock): number[] {
  const { file, checksum } = state.parts
  const lost: number[] = []
  /** Groups with a home that is not whole: by a checkpoint that was not finished, or since it is the one in force. */
  const doubtful: number[] = []
  /** Groups with a table of a checkpoint that was not finished: it must be gone when one of that generation is. */
  const unfinished: number[] = []
  for (let group = 0; group < groupCount; group += 1) {
    let best: { generation: number; turn: 0 | 1; table: Uint32Array } | null = null
    let isDoubtful = false
    for (const turn of [0, 1] as const) {
      const content = new Uint8Array(BLOCK_BYTES)
      try {
        file.readBlocking(state.allocator.homeOf(group, turn) * BLOCK_BYTES, content, 0, BLOCK_BYTES)
      } catch {
        content.fill(0xff)
      }
      const head = TABLE_HEAD.decode(content)
      new DataView(content.buffer).setUint32(TABLE_HEAD.at.checksum, 0, true)
      if (head.group !== group || checksum(content) !== head.checksum) isDoubtful = true
      else if (head.generation > generation) unfinished.push(group)
      else if (head.generation > 0 && (!best || head.generation > best.generation))
        best = {
          generation: Number(head.generation),
          turn,
          table: new Uint32Array(content.buffer, TABLE_HEAD.sizeBytes),
        }
    }
    if (isDoubtful) doubtful.push(group)
    if (!best) {
      lost.push(group)
      continue
    }
    state.allocator.load(group, best.table)
    state.tableIs(group, best.turn, best.generation)
  }
  state.allocator.clean()
  for (const group of unfinished) state.allocator.writeTable(group)
  if (lost.length === 0 && state.tablesSum !== tablesSum) return doubtful.length > 0 ? doubtful : [...Array(groupCount).keys()]
  return lost
}

function loadCatalog(state: StoreState, slotCount: number): void {
  const { catalog, catalogTree } = state
  catalog.ensureSlots(slotCount)
  for (let page = 0; page * CATALOG_RECORDS_PER_PAGE < slotCount; page += 1) {
    state.load(catalogTree, page, true)
    const leaf = catalogTree.leaf(page)
    if (leaf === null || leaf === MISSING) continue
    const word = PLAIN.wordOf(page)
    const address = addressAt(leaf.words, word)
    if (address === 0) continue
    const place = { address, copy: copyAt(leaf.words, word), checksum: leaf.words[word + 3] as number }
    const content = state.readProven(place, `catalog page ${page}`)
    for (let index = 0; index < CATALOG_RECORDS_PER_PAGE; index += 1) {
      const { record, decoded } = decodeEntry(content.subarray(index * CATALOG_RECORD_BYTES, (index + 1) * CATALOG_RECORD_BYTES))
      if (record.kind === 'none') continue
      const root = { ...decodePlace(decoded.rootAddress), birth: decoded.rootBirth, checksum: decoded.rootChecksum }
      const dead = new DeadList({ address: Number(decoded.deadAddress), checksum: decoded.deadChecksum }, decoded.deadCount)
      const tree = new Tree(state, geometryOf(record), decoded.height, root)
      const storedCount = Number(decoded.storedCount & ~STORED_INEXACT)
      const entry = new Entry(page * CATALOG_RECORDS_PER_PAGE + index, record, tree, dead, storedCount)
      entry.isStoredExact = (decoded.storedCount & STORED_INEXACT) === 0n
      catalog.put(entry)
    }
  }
  catalog.link()
}

/** How many of the records can be taken. */
function longestEnd({ file, checksum }: StoreParts, records: readonly JournalRecord[]): number {
  const safe = records.reduce((most, { safeSequence }) => Math.max(most, safeSequence), 0)
  /** Ends from `from` to before `to` are forbidden; an end of n takes the first n records. */
  const forbidden: { from: number; to: number }[] = []
  /** Data that is wrong, by volume and block, with the index of its record. */
  const wrong = new Map<string, number>()
  const content = new Uint8Array(BLOCK_BYTES)
  const isWhole = (address: number, want: number): boolean => {
    try {
      file.readBlocking(address * BLOCK_BYTES, content, 0, BLOCK_BYTES)
      return checksum(content) === want
    } catch {
      return false
    }
  }
  const letGo = (key: string, index: number): void => {
    const from = wrong.get(key)
    if (from === undefined) return
    forbidden.push({ from: from + 1, to: index + 1 })
    wrong.delete(key)
  }
  for (const [index, record] of records.entries()) {
    if (record.place.sequence < safe) continue
    if (record.type === RECORD_TYPE.write) {
      const { slot, extents, proofs } = readWrite(record)
      let at = 0
      for (const { first, address, count } of extents) {
        for (let block = 0; block < count; block += 1) {
          const key = `${slot}:${first + block}`
          letGo(key, index)
          if (address === 0) continue
          if (!isWhole(address + block, proofs.checksums[at] as number)) wrong.set(key, index) // one for each block
          at += 1
        }
      }
    } else if (record.type === RECORD_TYPE.trim && wrong.size > 0) {
      const { slot, first, count } = readTrim(record)
      for (const key of wrong.keys()) {
        const [keySlot, block] = key.split(':').map(Number) as [number, number]
        if (keySlot === slot && block >= first && block < first + count) letGo(key, index)
      }
    } else if (record.type === RECORD_TYPE.catalog) {
      // A tree that begins now, or ends, keeps or gives up what it had: from here on nobody can say, so nothing is let go of any more.
      for (const [key, from] of wrong) {
        forbidden.push({ from: from + 1, to: records.length + 1 })
        wrong.delete(key)
      }
    }
  }
  for (const from of wrong.values()) forbidden.push({ from: from + 1, to: records.length + 1 })
  let end = records.length
  for (let looking = true; looking;) {
    looking = false
    for (const { from, to } of forbidden) {
      if (end < from || end >= to) continue
      end = from - 1
      looking = true
    }
  }
  return end
}

/** @throws Fault `failed` when what is damaged does not let it be done. */
function replayWith(state: StoreState, record: JournalRecord, isTableLost: boolean): void {
  try {
    replay(state, record, isTableLost)
  } catch (error) {
    if (state.lostCount === 0) throw error
    throw new Fault(
      'failed',
      `journal: record ${record.place.sequence} cannot be done again after damage: ${toFault(error).message}`,
      {
        cause: error,
      },
    )
  }
}

function replay(state: StoreState, record: JournalRecord, isTableLost: boolean): void {
  const { catalog } = state
  switch (record.type) {
    case RECORD_TYPE.write: {
      const { slot, extents, proofs } = readWrite(record)
      const entry = catalog.need(slot)
      let from = 0
      for (const extent of extents) {
        const { first, address, count } = extent
        if (address !== 0) state.allocator.take(address, count, isTableLost || state.lostCount > 0)
        for (let done = 0; done < count;) {
          const part = Math.min(count - done, entry.tree.geometry.leafEnd(first + done) - first - done)
          const written = { ...extent, first: first + done, address: address === 0 ? 0 : address + done, count: part }
          if (state.loadUnlessLost(entry, first + done)) applyWrite(state, entry, written, proofs, from)
          if (address !== 0) from += part
          done += part
        }
      }
      return
    }
    case RECORD_TYPE.trim: {
      const { slot, first, count, keepsPlace } = readTrim(record)
      applyTrim(state, catalog.need(slot), first, count, keepsPlace)
      return
    }
    case RECORD_TYPE.catalog: {
      const { epoch, changes } = readCatalog(record)
      applyCatalog(state, epoch, changes)
      return
    }
    case RECORD_TYPE.reap: {
      const { slot, count } = readReap(record)
      const entry = catalog.at(slot)
      // Where something is lost, an entry is done with sooner.
      if (state.lostCount > 0 && entry?.kind !== 'dying') return
      applyReap(state, catalog.need(slot), count)
      return
    }
    case RECORD_TYPE.open:
    case RECORD_TYPE.mark:
    case RECORD_TYPE.wrap:
      return
    default:
      throw new Fault('failed', `journal: record ${record.place.sequence} has type ${String(record.type)}, which is not known`)
  }
}
