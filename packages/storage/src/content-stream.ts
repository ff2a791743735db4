/**
 * Disks and files on their way to another host, one behind the other in one stream of bytes.
 *
 *   name, size | place, length, bytes | place, length, bytes | ... | total, 0      name, size | ... | total, 0      '', 0
 *
 * What is zeros is not sent: whoever takes it in begins with zeros, and holes stay holes. Invariants: parts come in the order of their places and
 * do not overlap; a section without its end, and a stream without its last section, are not taken for whole; at most a few parts are in memory.
 * What it is not: there are no checksums, since whoever carries it has them (TLS).
 */
import { Fault, type BlockDevice } from '@typevisor/base'
import { layout } from '@typevisor/codec'
import { ChunkReader } from './served/chunk-reader.ts'

const LITTLE = { littleEndian: true }
/** Behind it comes the name. */
export const CONTENT_SECTION = layout(
  [
    ['nameBytes', 'u32', '0: the end of the stream'],
    ['sizeBytes', 'u64', 'of the disk or the file'],
  ],
  LITTLE,
)
/** Behind it come the bytes. */
export const CONTENT_PART = layout(
  [
    ['offset', 'u64', 'in the disk or the file; of the end: how many bytes there were'],
    ['lengthBytes', 'u32', '0: the end of the section'],
  ],
  LITTLE,
)
const NAME_BYTES_MAX = 256
const PART_BYTES_MAX = 1024 * 1024
/** Reads or writes of a disk under way at once. */
const IN_FLIGHT_COUNT = 4
const EXTENT_COUNT = 4096

export interface ContentPart {
  readonly offset: number
  readonly content: Uint8Array
}

export interface ContentSection {
  readonly name: string
  readonly sizeBytes: number
  /** To be read to its end before the next section. */
  readonly parts: AsyncIterable<ContentPart>
}

const utf8 = new TextEncoder()

/** What a part holds is not changed afterwards. */
export async function* encodeContent(sections: AsyncIterable<ContentSection>): AsyncGenerator<Uint8Array, void, undefined> {
  for await (const { name, sizeBytes, parts } of sections) {
    const content = utf8.encode(name)
    const head = new Uint8Array(CONTENT_SECTION.sizeBytes + content.length)
    CONTENT_SECTION.encode({ nameBytes: content.length, sizeBytes: BigInt(sizeBytes) }, head)
    head.set(content, CONTENT_SECTION.sizeBytes)
    yield head
    let totalBytes = 0
    for await (const part of parts) {
      yield CONTENT_PART.encode({ offset: BigInt(part.offset), lengthBytes: part.content.length })
      yield part.content
      totalBytes += part.content.length
    }
    yield CONTENT_PART.encode({ offset: BigInt(totalBytes), lengthBytes: 0 })
  }
  yield CONTENT_SECTION.encode({ nameBytes: 0, sizeBytes: 0n })
}

/** @throws Fault `invalid` for what is no such stream, and for one that ends before its end. */
export async function* decodeContent(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<ContentSection, void, undefined> {
  const reader = new ChunkReader(chunks)
  while (true) {
    const { nameBytes, sizeBytes } = CONTENT_SECTION.decode(await reader.take(CONTENT_SECTION.sizeBytes, 'the head of a section'))
    if (nameBytes === 0) return
    if (nameBytes > NAME_BYTES_MAX || sizeBytes > BigInt(Number.MAX_SAFE_INTEGER))
      throw new Fault('invalid', `stream: got a section with a name of ${nameBytes} and a size of ${sizeBytes} bytes`)
    const name = new TextDecoder().decode(await reader.take(nameBytes, 'the name of a section'))
    let isRead = false
    const parts = async function* (): AsyncGenerator<ContentPart, void, undefined> {
      yield* decodeParts(reader, name, Number(sizeBytes))
      isRead = true
    }
    yield { name, sizeBytes: Number(sizeBytes), parts: parts() }
    if (!isRead) throw new Fault('internal', `stream: ${name} was not read to its end`)
  }
}

async function* decodeParts(reader: ChunkReader, name: string, sizeBytes: number): AsyncGenerator<ContentPart, void, undefined> {
  let [position, totalBytes] = [0, 0]
  while (true) {
    const head = CONTENT_PART.decode(await reader.take(CONTENT_PART.sizeBytes, `the parts of ${name}`))
    const { lengthBytes } = head
    const offset = Number(head.offset)
    if (lengthBytes === 0) {
      if (offset !== totalBytes) throw new Fault('invalid', `stream: ${name} came with ${totalBytes} bytes, want ${offset}`)
      return
    }
    if (offset < position || lengthBytes > PART_BYTES_MAX || offset + lengthBytes > sizeBytes)
      throw new Fault('invalid', `stream: ${name}: got ${offset}+${lengthBytes}, want between ${position} and ${sizeBytes}`)
    yield { offset, content: await reader.take(lengthBytes, `the parts of ${name}`) }
    position = offset + lengthBytes
    totalBytes += lengthBytes
  }
}

type Readable = Pick<BlockDevice, 'read' | 'extents' | 'sizeBytes'>

async function* dataOf(device: Readable): AsyncGenerator<{ offset: number; lengthBytes: number }, void, undefined> {
  for (let at = 0; at < device.sizeBytes;) {
    for (const { lengthBytes, zero } of await device.extents(at, device.sizeBytes - at, EXTENT_COUNT)) {
      if (!zero) yield { offset: at, lengthBytes }
      at += lengthBytes
    }
  }
}

/** How many bytes `partsOfDisk` has. */
export async function dataBytesOf(device: Readable): Promise<number> {
  let count = 0
  for await (const { lengthBytes } of dataOf(device)) count += lengthBytes
  return count
}

/** All that is not zeros. */
export async function* partsOfDisk(device: Readable): AsyncGenerator<ContentPart, void, undefined> {
  const reading: Promise<ContentPart>[] = []
  try {
    for await (const { offset, lengthBytes } of dataOf(device)) {
      for (let done = 0; done < lengthBytes; done += PART_BYTES_MAX) {
        reading.push(readPart(device, offset + done, Math.min(PART_BYTES_MAX, lengthBytes - done)))
        if (reading.length < IN_FLIGHT_COUNT) continue
        yield await (reading.shift() as Promise<ContentPart>) // there are some
      }
    }
    for (let next = reading.shift(); next; next = reading.shift()) yield await next
  } finally {
    await Promise.allSettled(reading)
  }
}

async function readPart(device: Readable, offset: number, lengthBytes: number): Promise<ContentPart> {
  const content = new Uint8Array(lengthBytes)
  await device.read(offset, content)
  return { offset, content }
}

/** Onto a disk of zeros. Resolves when all is safe from a power cut. */
export async function writeParts(
  device: Pick<BlockDevice, 'write' | 'flush' | 'sizeBytes'>,
  parts: AsyncIterable<ContentPart>,
): Promise<void> {
  const writing = new Set<Promise<void>>()
  let wrong: unknown = null
  try {
    for await (const { offset, content } of parts) {
      if (offset + content.length > device.sizeBytes)
        throw new Fault('invalid', `stream: got ${offset}+${content.length}, the disk has ${device.sizeBytes} bytes`)
      const kept = device
        .write(offset, content)
        .catch((error: unknown) => {
          wrong ??= error
        })
        .finally(() => writing.delete(kept))
      writing.add(kept)
      if (writing.size >= IN_FLIGHT_COUNT) await Promise.race(writing)
      if (wrong) throw wrong
    }
  } finally {
    await Promise.all(writing)
  }
  if (wrong) throw wrong
  await device.flush()
}

/** A file, from its beginning on. */
export async function* partsOfFile(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<ContentPart, void, undefined> {
  let offset = 0
  for await (const chunk of chunks) {
    for (let from = 0; from < chunk.length; from += PART_BYTES_MAX) {
      const content = chunk.subarray(from, from + PART_BYTES_MAX)
      yield { offset, content }
      offset += content.length
    }
  }
}

/** The same backwards. @throws Fault `invalid` for a file with holes, or one that is shorter than it says. */
export async function* bytesOfFile({ name, sizeBytes, parts }: ContentSection): AsyncGenerator<Uint8Array, void, undefined> {
  let position = 0
  for await (const { offset, content } of parts) {
    if (offset !== position) throw new Fault('invalid', `stream: file ${name} goes on at ${offset}, want ${position}`)
    yield content
    position += content.length
  }
  if (position !== sizeBytes) throw new Fault('invalid', `stream: file ${name} came with ${position} bytes, want ${sizeBytes}`)
}
