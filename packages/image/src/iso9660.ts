/**
 * A small ISO 9660 file system in memory: one folder of files, with Rock Ridge names for Linux and Joliet names for Windows.
 *
 *   sector  0-15  unused            16 primary descriptor   17 Joliet descriptor   18 terminator
 *          19,20  path tables (little, big endian)          21,22 the same for Joliet
 *             23  root folder       23+n Joliet root folder  then one continuation sector (Rock Ridge's ER), then the files
 *
 * Equal input gives equal bytes: every time is the one given.
 *
 * What it is not: no folders below the root, no file over 4 GiB, no boot record.
 *
 * References: ECMA-119 (4th edition) sections 8.4, 9.1, 9.4; SUSP 1.12; RRIP 1.12 (NM, PX, RR); Joliet 1995.
 */
import { assert, Fault, joinBytes } from '@typevisor/base'

export interface IsoFile {
  /** 1 to 64 of A-Z a-z 0-9 . _ -, as the guest shall see it. */
  readonly name: string
  readonly content: Uint8Array
}

const SECTOR = 2048
const FILE_COUNT_MAX = 64
const NAME = /^[A-Za-z0-9._-]{1,64}$/

type Field = readonly [name: string, bytes: number, kind: 'u8' | 'both16' | 'both32' | 'le32' | 'be32' | 'text' | 'raw']

/** ECMA-119 section 8.4 (8.5 for Joliet): fields in their order; what is not given is zeros, or spaces for text. */
const VOLUME_DESCRIPTOR: readonly Field[] = [
  ['type', 1, 'u8'],
  ['identifier', 5, 'text'],
  ['version', 1, 'u8'],
  ['flags', 1, 'u8'],
  ['systemIdentifier', 32, 'text'],
  ['volumeIdentifier', 32, 'text'],
  ['unused1', 8, 'raw'],
  ['spaceSectors', 8, 'both32'],
  ['escapeSequences', 32, 'raw'],
  ['setSize', 4, 'both16'],
  ['sequenceNumber', 4, 'both16'],
  ['blockSize', 4, 'both16'],
  ['pathTableBytes', 8, 'both32'],
  ['pathTableLe', 4, 'le32'],
  ['pathTableLeOptional', 4, 'le32'],
  ['pathTableBe', 4, 'be32'],
  ['pathTableBeOptional', 4, 'be32'],
  ['rootRecord', 34, 'raw'],
  ['setIdentifier', 128, 'text'],
  ['publisher', 128, 'text'],
  ['preparer', 128, 'text'],
  ['application', 128, 'text'],
  ['copyrightFile', 37, 'text'],
  ['abstractFile', 37, 'text'],
  ['bibliographicFile', 37, 'text'],
  ['createdAt', 17, 'raw'],
  ['modifiedAt', 17, 'raw'],
  ['expiresAt', 17, 'raw'],
  ['effectiveAt', 17, 'raw'],
  ['structureVersion', 1, 'u8'],
]

/** ECMA-119 section 9.1, up to the identifier. */
const DIRECTORY_RECORD: readonly Field[] = [
  ['length', 1, 'u8'],
  ['attributeLength', 1, 'u8'],
  ['extent', 8, 'both32'],
  ['dataBytes', 8, 'both32'],
  ['recordedAt', 7, 'raw'],
  ['flags', 1, 'u8'],
  ['unitSize', 1, 'u8'],
  ['gapSize', 1, 'u8'],
  ['sequenceNumber', 4, 'both16'],
  ['identifierLength', 1, 'u8'],
]
const DIRECTORY_RECORD_BYTES = 33

interface Node {
  readonly extent: number
  readonly dataBytes: number
  readonly folder: boolean
}

/** @throws Fault `invalid` for a label, name or count that the format cannot hold. */
export function writeIso(label: string, files: readonly IsoFile[], at: Date): Uint8Array {
  checkInput(label, files)
  const sorted = [...files].sort((a, b) => (a.name < b.name ? -1 : 1))
  // Extents first: every record speaks of them. The sizes of the folders depend on names only.
  const stamp = recordTime(at)
  const rootSectors = sectorsOf(
    directory(
      sorted.map(() => null),
      sorted,
      0,
      0,
      0,
      stamp,
      'rock-ridge',
    ).byteLength,
  )
  const jolietSectors = sectorsOf(
    directory(
      sorted.map(() => null),
      sorted,
      0,
      0,
      0,
      stamp,
      'joliet',
    ).byteLength,
  )
  const rootExtent = 23
  const jolietExtent = rootExtent + rootSectors
  const continuation = jolietExtent + jolietSectors
  let next = continuation + 1
  const nodes = sorted.map((file): Node => {
    const node = { extent: next, dataBytes: file.content.byteLength, folder: false }
    next += sectorsOf(file.content.byteLength)
    return node
  })
  const image = new Uint8Array(next * SECTOR)
  const place = (sector: number, content: Uint8Array): void => image.set(content, sector * SECTOR)
  const root: Node = { extent: rootExtent, dataBytes: rootSectors * SECTOR, folder: true }
  const joliet: Node = { extent: jolietExtent, dataBytes: jolietSectors * SECTOR, folder: true }
  const common = { spaceSectors: next, at, stamp }
  place(16, descriptor({ ...common, type: 1, label: ascii(label.padEnd(32)), escapes: new Uint8Array(0), root, pathTables: 19 }))
  place(
    17,
    descriptor({
      ...common,
      type: 2,
      label: ucs2(label.padEnd(16).slice(0, 16)),
      escapes: ascii('%/E'),
      root: joliet,
      pathTables: 21,
    }),
  )
  place(18, pack(VOLUME_DESCRIPTOR.slice(0, 3), { type: 255, identifier: ascii('CD001'), version: 1 }))
  for (const [sector, node] of [
    [19, root],
    [21, joliet],
  ] as const) {
    place(sector, pathTable(node.extent, true))
    place(sector + 1, pathTable(node.extent, false))
  }
  place(rootExtent, directory(nodes, sorted, rootExtent, root.dataBytes, continuation, stamp, 'rock-ridge'))
  place(jolietExtent, directory(nodes, sorted, jolietExtent, joliet.dataBytes, continuation, stamp, 'joliet'))
  place(continuation, extensionReference())
  for (const [index, node] of nodes.entries()) place(node.extent, (sorted[index] as IsoFile).content) // nodes were made from sorted
  return image
}

function checkInput(label: string, files: readonly IsoFile[]): void {
  if (!/^[A-Za-z0-9_-]{1,16}$/.test(label))
    throw new Fault('invalid', `iso label: got ${JSON.stringify(label)}, want 1 to 16 of A-Z a-z 0-9 _ -`)
  if (files.length > FILE_COUNT_MAX) throw new Fault('invalid', `iso: ${files.length} files, want at most ${FILE_COUNT_MAX}`)
  const bad = files.find((file) => !NAME.test(file.name) || /^\.{1,2}$/.test(file.name))
  if (bad) throw new Fault('invalid', `iso file name: got ${JSON.stringify(bad.name)}, want 1 to 64 of A-Z a-z 0-9 . _ -`)
  if (new Set(files.map((file) => file.name)).size < files.length) throw new Fault('invalid', 'iso: two files of one name')
}

interface DescriptorInput {
  readonly type: 1 | 2
  readonly label: Uint8Array
  readonly escapes: Uint8Array
  readonly root: Node
  readonly pathTables: number
  readonly spaceSectors: number
  readonly at: Date
  readonly stamp: Uint8Array
}

function descriptor(input: DescriptorInput): Uint8Array {
  const wide = input.type === 2
  const spaces = (count: number): Uint8Array => (wide ? ucs2(' '.repeat(Math.floor(count / 2))) : ascii(' '.repeat(count)))
  const text = Object.fromEntries(
    VOLUME_DESCRIPTOR.filter(([name, , kind]) => kind === 'text' && name !== 'identifier').map(([name, count]) => [
      name,
      spaces(count),
    ]),
  )
  const digits = `${input.at.toISOString().replace(/[-T:]|\..*/g, '')}00`
  const when = Uint8Array.of(...ascii(digits), 0)
  const never = Uint8Array.of(...ascii('0'.repeat(16)), 0)
  return pack(VOLUME_DESCRIPTOR, {
    ...text,
    type: input.type,
    identifier: ascii('CD001'),
    version: 1,
    volumeIdentifier: input.label,
    escapeSequences: input.escapes,
    spaceSectors: input.spaceSectors,
    setSize: 1,
    sequenceNumber: 1,
    blockSize: SECTOR,
    pathTableBytes: 10,
    pathTableLe: input.pathTables,
    pathTableBe: input.pathTables + 1,
    rootRecord: directoryRecord(input.root, Uint8Array.of(0), new Uint8Array(0), input.stamp),
    createdAt: when,
    modifiedAt: when,
    expiresAt: never,
    effectiveAt: never,
    structureVersion: 1,
  })
}

/** One entry, the root (ECMA-119 section 9.4). */
function pathTable(extent: number, little: boolean): Uint8Array {
  const table = new Uint8Array(10)
  const view = new DataView(table.buffer)
  table[0] = 1
  view.setUint32(2, extent, little)
  view.setUint16(6, 1, little)
  return table
}

function directory(
  nodes: readonly (Node | null)[],
  files: readonly IsoFile[],
  extent: number,
  dataBytes: number,
  continuation: number,
  stamp: Uint8Array,
  flavour: 'rock-ridge' | 'joliet',
): Uint8Array {
  const rock = flavour === 'rock-ridge'
  const self: Node = { extent, dataBytes, folder: true }
  const posix = (mode: number, links: number): Uint8Array =>
    rock ? susp('PX', both32(mode), both32(links), both32(0), both32(0)) : new Uint8Array(0)
  // SP says that System Use fields are there, CE where the list goes on.
  const first = rock
    ? joinBytes([
        susp('SP', Uint8Array.of(0xbe, 0xef, 0)),
        posix(0o040755, 2),
        susp('CE', both32(continuation), both32(0), both32(extensionReference().byteLength)),
      ])
    : new Uint8Array(0)
  const records = [
    directoryRecord(self, Uint8Array.of(0), first, stamp),
    directoryRecord(self, Uint8Array.of(1), posix(0o040755, 2), stamp),
    ...files
      .map((file, index) => {
        const node = nodes[index] ?? { extent: 0, dataBytes: 0, folder: false }
        const name = rock ? ascii(shortName(index)) : ucs2(`${file.name};1`)
        const use = rock ? joinBytes([susp('NM', Uint8Array.of(0), ascii(file.name)), posix(0o100444, 1)]) : new Uint8Array(0)
        return { name, record: directoryRecord(node, name, use, stamp) }
      })
      .map((each) => each.record),
  ]
  // A record never crosses a sector.
  const parts: Uint8Array[] = []
  let used = 0
  for (const record of records) {
    const left = SECTOR - (used % SECTOR)
    if (record.byteLength > left) {
      parts.push(new Uint8Array(left))
      used += left
    }
    parts.push(record)
    used += record.byteLength
  }
  return joinBytes(parts)
}

function directoryRecord(node: Node, identifier: Uint8Array, systemUse: Uint8Array, stamp: Uint8Array): Uint8Array {
  const named = DIRECTORY_RECORD_BYTES + identifier.byteLength
  const padded = named + (named % 2)
  const length = padded + systemUse.byteLength + (systemUse.byteLength % 2)
  assert(length <= 255, `directory record of ${length} bytes`)
  const record = new Uint8Array(length)
  record.set(
    pack(DIRECTORY_RECORD, {
      length,
      extent: node.extent,
      dataBytes: node.dataBytes,
      recordedAt: stamp,
      flags: node.folder ? 2 : 0,
      sequenceNumber: 1,
      identifierLength: identifier.byteLength,
    }),
  )
  record.set(identifier, DIRECTORY_RECORD_BYTES)
  record.set(systemUse, padded)
  return record
}

/** Names for readers of level 1 that know neither Rock Ridge nor Joliet: in the order of the true names. */
const shortName = (index: number): string => `FILE${String(index).padStart(4, '0')}.;1`

/** RRIP 1.12 section 4.3: which extension the System Use fields follow. */
function extensionReference(): Uint8Array {
  const [id, description, source] = ['RRIP_1991A', 'THE ROCK RIDGE INTERCHANGE PROTOCOL', 'IEEE P1282']
  return susp('ER', Uint8Array.of(id.length, description.length, source.length, 1), ascii(id), ascii(description), ascii(source))
}

function susp(signature: string, ...content: Uint8Array[]): Uint8Array {
  const body = joinBytes(content)
  return joinBytes([ascii(signature), Uint8Array.of(body.byteLength + 4, 1), body])
}

function pack(fields: readonly Field[], values: Readonly<Record<string, number | Uint8Array>>): Uint8Array {
  const out = new Uint8Array(fields.reduce((sum, [, count]) => sum + count, 0))
  let offset = 0
  for (const [name, count, kind] of fields) {
    const value = values[name] ?? 0
    const encoded = typeof value === 'number' ? encodeNumber(value, kind) : value
    assert(encoded.byteLength <= count, `${name} of ${encoded.byteLength} bytes, want at most ${count}`)
    out.set(encoded, offset)
    offset += count
  }
  return out
}

function encodeNumber(value: number, kind: Field[2]): Uint8Array {
  const out = new Uint8Array(8)
  const view = new DataView(out.buffer)
  switch (kind) {
    case 'u8':
      return Uint8Array.of(value)
    case 'both16':
      view.setUint16(0, value, true)
      view.setUint16(2, value, false)
      return out.subarray(0, 4)
    case 'both32':
      view.setUint32(0, value, true)
      view.setUint32(4, value, false)
      return out
    case 'le32':
    case 'be32':
      view.setUint32(0, value, kind === 'le32')
      return out.subarray(0, 4)
    case 'text':
    case 'raw':
      return new Uint8Array(0)
  }
}

const both32 = (value: number): Uint8Array => encodeNumber(value, 'both32')
const sectorsOf = (count: number): number => Math.ceil(count / SECTOR)
const ascii = (text: string): Uint8Array => Uint8Array.from(text, (char) => char.charCodeAt(0))
const ucs2 = (text: string): Uint8Array =>
  Uint8Array.from([...text].flatMap((char) => [char.charCodeAt(0) >> 8, char.charCodeAt(0) & 255]))
const recordTime = (at: Date): Uint8Array =>
  Uint8Array.of(
    at.getUTCFullYear() - 1900,
    at.getUTCMonth() + 1,
    at.getUTCDate(),
    at.getUTCHours(),
    at.getUTCMinutes(),
    at.getUTCSeconds(),
    0,
  )
