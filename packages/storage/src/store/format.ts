/**
 * The format of a store on its file: what lies where, and the only source of sizes and offsets. Little-endian throughout.
 *
 *   block 0 to 3      superblocks
 *   blocks 4 ...      the journal's ring
 *   blocks behind it  data, nodes, catalog pages, dead lists; at the start of each group its table of free blocks
 *
 * docs/volumes.md explains it.
 */
import { layout } from '@typevisor/codec'

export const FORMAT_VERSION = 1
export const STORE_MAGIC = 0x31_52_53_56_54_59_54n // "TYTVSR1" read from the lowest byte
export const BLOCK_BYTES = 4096
export const BLOCK_SHIFT = 12

const LITTLE = { littleEndian: true }

/** An entry of a node: four words of 32 bits. */
export const ENTRY_WORDS = 4
export const ENTRIES_PER_NODE = 256
export const ENTRY_SHIFT = 8
/** Word 0: address, low. Word 1: address, high (8 bits), flags (8 bits), and how far the second copy is. Word 2: birth. Word 3: checksum. */
export const FLAG_ZERO = 0x100
/** Compressed volumes: of a unit that is packed. Those of its entries that have no address are no holes. */
export const FLAG_PACKED = 0x400
/** Blocks that are packed together. */
export const UNIT_BLOCKS = 16
/**
 * Nodes above the leaves, and all of the catalog, are written twice. Bits 16 to 31 of word 1: so many blocks behind the first copy (signed)
 * is the second; 0: there is none. An address of 64 bits elsewhere is the same two words.
 */
export const COPY_SHIFT = 16
export const COPY_DISTANCE_MAX = 0x7fff
/** In the leaves of an encrypted volume: four words more, the block's SIV. */
export const SIV_WORDS = 4
export const SIV_BYTES = 4 * SIV_WORDS

/** Each generation is written twice: in blocks 0 and 1 those of even number, in 2 and 3 those of odd. */
export const SUPERBLOCK_COUNT = 4
export const SUPERBLOCK = layout(
  [
    ['magic', 'u64'],
    ['version', 'u32', 'refused when it is not known'],
    ['checksum', 'u32', 'CRC-32 of the block with this field zero'],
    ['storeId', 16],
    ['generation', 'u64', 'the newest valid superblock is in force'],
    ['epoch', 'u32'],
    ['slotCount', 'u32', 'slots of the catalog that are or were in use'],
    ['journalBlock', 'u32', 'first block of the ring'],
    ['journalBlocks', 'u32'],
    ['journalOffset', 'u64', 'where the first record to be replayed begins, in bytes from the start of the ring'],
    ['journalSequence', 'u64', 'its sequence number'],
    ['journalChain', 'u32', 'the checksum of the record before it'],
    ['groupCount', 'u32', 'groups of blocks that have a table of free blocks'],
    ['catalogAddress', 'u64', 'root of the tree of the catalog'],
    ['catalogBirth', 'u32'],
    ['catalogChecksum', 'u32'],
    ['catalogHeight', 'u32'],
    ['tablesSum', 'u32', 'of all tables of free blocks in force: CRC-32 of group and generation of each, XORed'],
  ],
  LITTLE,
)

/** What is summed of a table in force, so that one of an earlier checkpoint is not taken for it. */
export const TABLE_NAME = layout(
  [
    ['generation', 'u64'],
    ['group', 'u32'],
  ],
  LITTLE,
)

/**
 * Blocks come in groups, each with a table of which of them are used: one bit a block. Its two homes are the first two blocks of its group
 * (of the first group: the two behind the journal); a checkpoint writes the one that the checkpoint before did not.
 */
export const TABLE_HEAD = layout(
  [
    ['generation', 'u64', 'of the checkpoint that wrote it; one that is newer than the superblock was never in force'],
    ['checksum', 'u32', 'CRC-32 of the block with this field zero'],
    ['group', 'u32'],
  ],
  LITTLE,
)
export const GROUP_BLOCKS = (BLOCK_BYTES - TABLE_HEAD.sizeBytes) * 8

/** A block of a dead list: the list goes on in the block before. Entries follow, as nodes have them; `FLAG_NODE` tells nodes from data. */
export const DEAD_HEAD = layout(
  [
    ['previous', 'u64', 'address of the block before; 0: none'],
    ['previousChecksum', 'u32'],
    ['count', 'u32'],
  ],
  LITTLE,
)
export const FLAG_NODE = 0x200
export const DEAD_ENTRIES_PER_BLOCK = Math.floor((BLOCK_BYTES - DEAD_HEAD.sizeBytes) / (4 * ENTRY_WORDS))

export const RECORD_MAGIC = 0x6a725654
export const RECORD_HEAD = layout(
  [
    ['magic', 'u32'],
    ['checksum', 'u32', 'CRC-32 of the rest of the record'],
    ['previous', 'u32', 'checksum of the record before'],
    ['lengthBytes', 'u32', 'of the whole record, a multiple of 8'],
    ['sequence', 'u64'],
    ['safeSequence', 'u64', 'records before it were safe from a power cut when this one was written'],
    ['type', 'u32'],
    ['count', 'u32', 'what the body says it counts'],
  ],
  LITTLE,
)
export const RECORD_TYPE = { wrap: 1, open: 2, write: 3, trim: 4, catalog: 5, reap: 6, mark: 7 } as const
export type RecordType = (typeof RECORD_TYPE)[keyof typeof RECORD_TYPE]

/** Body of `write`: the volume's slot, then `count` extents, then a checksum for each block that has an address, in their order; `sealed`: then a SIV for each. */
export const WRITE_HEAD = layout(
  [
    ['slot', 'u32'],
    ['blockCount', 'u32', 'with an address'],
    ['sealed', 'u32', '1: of an encrypted volume'],
    ['reserved', 'u32'],
  ],
  LITTLE,
)
export const WRITE_EXTENT = layout(
  [
    ['first', 'u64', 'block of the volume'],
    ['address', 'u64', '0: none of its blocks has one'],
    ['count', 'u32'],
    ['flags', 'u32', 'of the entries'],
  ],
  LITTLE,
)
export const TRIM_BODY = layout(
  [
    ['slot', 'u32'],
    ['keepsPlace', 'u32'],
    ['first', 'u64'],
    ['count', 'u64'],
  ],
  LITTLE,
)
/** Body of `catalog`: the epoch from now on, then `count` catalog records, each behind one of these. */
export const CATALOG_HEAD = layout(
  [
    ['epoch', 'u32'],
    ['reserved', 'u32'],
  ],
  LITTLE,
)
export const CATALOG_SLOT = layout(
  [
    ['slot', 'u32'],
    ['forkOf', 'u32', 'slot, plus one, whose tree it begins with; 0: it keeps its own'],
    ['deadListOf', 'u32', 'slot, plus one, whose dead list it takes over; 0: it keeps its own'],
    ['reserved', 'u32'],
  ],
  LITTLE,
)
/** Body of `reap`: a step of the collector, done again in the same way at recovery. */
export const REAP_BODY = layout(
  [
    ['slot', 'u32'],
    ['count', 'u32', 'how much of its dead list or tree'],
  ],
  LITTLE,
)

export const CATALOG_RECORD_BYTES = 512
export const CATALOG_RECORDS_PER_PAGE = BLOCK_BYTES / CATALOG_RECORD_BYTES
export const NAME_BYTES_MAX = 128
export const KEY_BYTES = 32
export const KEY_SALT_BYTES = 16
export const KEY_NONCE_BYTES = 12
export const KEY_TAG_BYTES = 16
/** What a slot of the catalog holds. `branch`: a deleted snapshot that several children still need; `dying`: the collector takes it apart. */
export const CATALOG_KIND = { none: 0, volume: 1, snapshot: 2, branch: 3, dying: 4 } as const
export type CatalogKind = keyof typeof CATALOG_KIND
export const CATALOG_RECORD = layout(
  [
    ['kind', 'u32'],
    ['parent', 'u32', 'slot of the snapshot it goes on from, plus one; 0: none'],
    ['id', 16],
    ['epoch', 'u32', 'snapshots: births up to it are seen'],
    ['height', 'u32'],
    ['sizeBytes', 'u64'],
    ['rootAddress', 'u64'],
    ['rootBirth', 'u32'],
    ['rootChecksum', 'u32'],
    ['createdAt', 'u64', 'milliseconds since 1970'],
    ['cursor', 'u64', 'dying: blocks before it are done'],
    ['deadAddress', 'u64', 'last block of the dead list: what the parent has and this one has not any more'],
    ['deadChecksum', 'u32'],
    ['deadCount', 'u32', 'entries, all in all; not more than 4,294,967,295 are counted'],
    ['leaseOffered', 'u32', 'the highest epoch of the lease that was given out; 0: none beyond the one in force'],
    ['leaseEpoch', 'u32', 'in force: whoever opened the volume under another one may not write'],
    ['leaseHolder', 16, 'zeros: nobody'],
    ['iopsMax', 'u32', '0: no limit'],
    ['burstSeconds', 'u32'],
    ['bytesPerSecondMax', 'u64'],
    ['flags', 'u32'],
    ['nameBytes', 'u32'],
    ['name', NAME_BYTES_MAX],
    ['keyKind', 'u32', '0: not encrypted; else how the key that wraps its key comes of the key file: 1 HKDF, 2 scrypt'],
    ['keyCost', 'u32', 'scrypt: log2 of N'],
    ['keySalt', KEY_SALT_BYTES],
    ['keyNonce', KEY_NONCE_BYTES],
    ['keyTag', KEY_TAG_BYTES],
    ['keyWrapped', KEY_BYTES, 'the volume key, AES-256-GCM'],
    ['compression', 'u32', '0: none; 1: zstd'],
    ['reserved2', 'u32'],
    [
      'storedCount',
      'u64',
      'blocks that its tree leads to, whoever else has them; with 2^63: at most about as many, since a leaf was lost',
    ],
  ],
  LITTLE,
)
