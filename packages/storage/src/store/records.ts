/** The bodies of the journal's records: written before a change is applied, read at recovery. */
import { decodeEntry, encodeEntry } from './catalog.ts'
import type { BlockProofs, CatalogChange, WrittenExtent } from './changes.ts'
import {
  CATALOG_HEAD,
  CATALOG_RECORD_BYTES,
  CATALOG_SLOT,
  REAP_BODY,
  RECORD_TYPE,
  SIV_BYTES,
  SIV_WORDS,
  TRIM_BODY,
  WRITE_EXTENT,
  WRITE_HEAD,
} from './format.ts'
import { setU64, type Journal, type JournalRecord } from './journal.ts'

export const writeBodyBytes = (extentCount: number, blockCount: number, isSealed: boolean): number =>
  WRITE_HEAD.sizeBytes + extentCount * WRITE_EXTENT.sizeBytes + blockCount * (isSealed ? 4 + SIV_BYTES : 4)

export function appendWrite(
  journal: Journal,
  slot: number,
  extents: readonly WrittenExtent[],
  { checksums, sivs }: BlockProofs,
  blockCount: number,
): void {
  const bodyBytes = writeBodyBytes(extents.length, blockCount, sivs !== null)
  const { view, start } = journal.begin(bodyBytes)
  view.setUint32(start + WRITE_HEAD.at.slot, slot, true)
  view.setUint32(start + WRITE_HEAD.at.blockCount, blockCount, true)
  view.setUint32(start + WRITE_HEAD.at.sealed, sivs ? 1 : 0, true)
  view.setUint32(start + WRITE_HEAD.at.reserved, 0, true)
  let at = start + WRITE_HEAD.sizeBytes
  for (const { first, address, count, flags } of extents) {
    setU64(view, at + WRITE_EXTENT.at.first, first)
    setU64(view, at + WRITE_EXTENT.at.address, address)
    view.setUint32(at + WRITE_EXTENT.at.count, count, true)
    view.setUint32(at + WRITE_EXTENT.at.flags, flags, true)
    at += WRITE_EXTENT.sizeBytes
  }
  for (let index = 0; index < blockCount; index += 1) view.setUint32(at + index * 4, checksums[index] as number, true)
  at += blockCount * 4
  if (sivs) for (let word = 0; word < blockCount * SIV_WORDS; word += 1) view.setUint32(at + word * 4, sivs[word] as number, true)
  journal.append(RECORD_TYPE.write, extents.length, bodyBytes)
}

export function readWrite({ body, count }: JournalRecord): { slot: number; extents: WrittenExtent[]; proofs: BlockProofs } {
  const { slot, blockCount, sealed } = WRITE_HEAD.decode(body)
  const extents: WrittenExtent[] = []
  let at = WRITE_HEAD.sizeBytes
  for (let index = 0; index < count; index += 1) {
    const { first, address, count: blocks, flags } = WRITE_EXTENT.decode(body, at)
    extents.push({ first: Number(first), address: Number(address), count: blocks, flags })
    at += WRITE_EXTENT.sizeBytes
  }
  const wordCount = sealed === 0 ? blockCount : blockCount * (1 + SIV_WORDS)
  const view = new DataView(body.buffer, body.byteOffset + at, wordCount * 4)
  const words = Uint32Array.from({ length: wordCount }, (_, index) => view.getUint32(index * 4, true))
  const proofs = { checksums: words.subarray(0, blockCount), sivs: sealed === 0 ? null : words.subarray(blockCount) }
  return { slot, extents, proofs }
}

export function appendTrim(journal: Journal, slot: number, first: number, count: number, keepsPlace: boolean): void {
  const { bytes, start } = journal.begin(TRIM_BODY.sizeBytes)
  TRIM_BODY.encode({ slot, keepsPlace: keepsPlace ? 1 : 0, first: BigInt(first), count: BigInt(count) }, bytes, start)
  journal.append(RECORD_TYPE.trim, 1, TRIM_BODY.sizeBytes)
}

export function readTrim({ body }: JournalRecord): { slot: number; first: number; count: number; keepsPlace: boolean } {
  const { slot, keepsPlace, first, count } = TRIM_BODY.decode(body)
  return { slot, first: Number(first), count: Number(count), keepsPlace: keepsPlace !== 0 }
}

const CHANGE_BYTES = CATALOG_SLOT.sizeBytes + CATALOG_RECORD_BYTES
export const catalogBodyBytes = (changeCount: number): number => CATALOG_HEAD.sizeBytes + changeCount * CHANGE_BYTES

export function appendCatalog(journal: Journal, epoch: number, changes: readonly CatalogChange[]): void {
  const bodyBytes = catalogBodyBytes(changes.length)
  const { bytes, start } = journal.begin(bodyBytes)
  CATALOG_HEAD.encode({ epoch, reserved: 0 }, bytes, start)
  let at = start + CATALOG_HEAD.sizeBytes
  for (const { slot, record, forkOf, deadListOf } of changes) {
    CATALOG_SLOT.encode({ slot, forkOf: forkOf + 1, deadListOf: deadListOf + 1, reserved: 0 }, bytes, at)
    bytes.set(encodeEntry(record, null), at + CATALOG_SLOT.sizeBytes)
    at += CHANGE_BYTES
  }
  journal.append(RECORD_TYPE.catalog, changes.length, bodyBytes)
}

export function readCatalog({ body, count }: JournalRecord): { epoch: number; changes: CatalogChange[] } {
  const { epoch } = CATALOG_HEAD.decode(body)
  const changes = Array.from({ length: count }, (_, index): CatalogChange => {
    const at = CATALOG_HEAD.sizeBytes + index * CHANGE_BYTES
    const { slot, forkOf, deadListOf } = CATALOG_SLOT.decode(body, at)
    const { record } = decodeEntry(body.subarray(at + CATALOG_SLOT.sizeBytes, at + CHANGE_BYTES))
    return { slot, record, forkOf: forkOf - 1, deadListOf: deadListOf - 1 }
  })
  return { epoch, changes }
}

export function appendReap(journal: Journal, slot: number, count: number): void {
  const { bytes, start } = journal.begin(REAP_BODY.sizeBytes)
  REAP_BODY.encode({ slot, count }, bytes, start)
  journal.append(RECORD_TYPE.reap, 1, REAP_BODY.sizeBytes)
}

export const readReap = ({ body }: JournalRecord): { slot: number; count: number } => REAP_BODY.decode(body)
