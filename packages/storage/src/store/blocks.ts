/** Blocks of data as they are read: proven by their checksums, and opened where they are sealed. */
import { Fault, toFault } from '@typevisor/base'
import type { Entry } from './catalog.ts'
import { BLOCK_BYTES, ENTRY_WORDS, FLAG_PACKED, SIV_BYTES } from './format.ts'
import { hex, type StoreState } from './state.ts'
import { addressAt, NODE_WORDS, type Node } from './tree.ts'

/** Blocks of one leaf, from the entry at `word` on, that lie one behind the other on disk. */
export function runAt({ tree }: Entry, words: Uint32Array, word: number, address: number, countMax: number): number {
  const { entryWords } = tree.geometry
  let count = 1
  for (let next = word + entryWords; next < NODE_WORDS && count < countMax; next += entryWords, count += 1)
    if (addressAt(words, next) !== address + count) break
  return count
}

/**
 * Reads a run of blocks, whose entries are from `word` on, into `target` from `to` on. @returns false when that would take waiting for the disk
 * and `mayBlock` is false. @throws Fault `failed` when a block is not what was written there; `target` has zeros then.
 */
export function fetchBlocks(
  state: StoreState,
  entry: Entry,
  leaf: Node,
  word: number,
  block: number,
  count: number,
  target: Uint8Array,
  to: number,
  mayBlock: boolean,
): boolean {
  const { file, checksum } = state.parts
  const { entryWords } = entry.tree.geometry
  const { words } = leaf
  const position = addressAt(words, word) * BLOCK_BYTES
  const lengthBytes = count * BLOCK_BYTES
  try {
    if (!file.readNow(position, target, to, lengthBytes)) {
      if (!mayBlock) return false
      file.readBlocking(position, target, to, lengthBytes)
    }
  } catch {
    readOneByOne(state, entry, words, word, block, count, target, to)
  }
  for (let index = 0; index < count; index += 1) {
    const start = to + index * BLOCK_BYTES
    const found = checksum(target.subarray(start, start + BLOCK_BYTES))
    const want = words[word + index * entryWords + 3] as number // slots are masked
    if (found === want) continue
    target.fill(0, to, to + lengthBytes)
    throw wrongBlock(entry, addressAt(words, word) + index, block + index, `has checksum ${hex(found)}, want ${hex(want)}`)
  }
  if (entry.cipher) openBlocks(entry, leaf, word, block, count, target, to)
  return true
}

/** Opens sealed blocks where they were read to. */
function openBlocks(entry: Entry, leaf: Node, word: number, block: number, count: number, target: Uint8Array, to: number): void {
  for (let index = 0; index < count; index += 1) {
    const at = word + index * entry.tree.geometry.entryWords
    if (opensAt(entry, leaf.words, at, block + index, target, to + index * BLOCK_BYTES)) continue
    target.fill(0, to, to + count * BLOCK_BYTES)
    throw wrongBlock(entry, addressAt(leaf.words, at), block + index, 'is not what was sealed there')
  }
}

/** Whether a sealed block is the one that its entry, at `word` of its leaf, tells of. */
export function opensAt(
  { cipher }: Pick<Entry, 'cipher'>,
  words: Uint32Array,
  word: number,
  block: number,
  target: Uint8Array,
  start: number,
): boolean {
  const [flags, birth] = [(words[word + 1] as number) & FLAG_PACKED, words[word + 2] as number] // slots are masked
  const siv = new Uint8Array(words.buffer, words.byteOffset + (word + ENTRY_WORDS) * 4, SIV_BYTES)
  return cipher?.open(block, birth, flags, target, start, siv, 0) ?? false
}

/** Of a run that cannot be read, the block is named that is to blame. @throws Fault `failed`. */
function readOneByOne(
  { parts: { file } }: StoreState,
  entry: Entry,
  words: Uint32Array,
  word: number,
  block: number,
  count: number,
  target: Uint8Array,
  to: number,
): void {
  const first = addressAt(words, word)
  for (let index = 0; index < count; index += 1)
    try {
      file.readBlocking((first + index) * BLOCK_BYTES, target, to + index * BLOCK_BYTES, BLOCK_BYTES)
    } catch (error) {
      target.fill(0, to, to + count * BLOCK_BYTES)
      throw wrongBlock(entry, first + index, block + index, `cannot be read: ${toFault(error).message}`, error)
    }
}

const wrongBlock = ({ name }: Entry, address: number, block: number, reason: string, cause?: unknown): Fault =>
  new Fault('failed', `${name} at ${block * BLOCK_BYTES}: block ${address} ${reason}`, { cause })
