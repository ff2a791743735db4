import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { memoryDevice } from '@typevisor/nbd'
import {
  bytesOfFile,
  dataBytesOf,
  decodeContent,
  encodeContent,
  partsOfDisk,
  partsOfFile,
  writeParts,
  type ContentSection,
} from './content-stream.ts'

const MIB = 1024 * 1024

async function* each<T>(items: Iterable<T>): AsyncGenerator<T, void, undefined> {
  yield* items
}
async function whole(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  return Buffer.concat(await Array.fromAsync(chunks))
}
/** In pieces of any size. */
function* cut(content: Uint8Array, sizeBytes: number): Generator<Uint8Array, void, undefined> {
  for (let from = 0; from < content.length; from += sizeBytes) yield content.subarray(from, from + sizeBytes)
}
const isInvalid = (error: unknown) => error instanceof Fault && error.code === 'invalid'

test('disks and files arrive as they were, and of holes nothing is sent', async () => {
  const disk = memoryDevice(64 * MIB)
  await disk.write(4096, new Uint8Array(3 * MIB + 4096).fill(1))
  await disk.write(50 * MIB, new Uint8Array(4096).fill(2))
  const file = new Uint8Array(2 * MIB + 17).map((_, index) => index % 251)
  const sections: ContentSection[] = [
    { name: 'disk', sizeBytes: disk.sizeBytes, parts: partsOfDisk(disk) },
    { name: 'file', sizeBytes: file.length, parts: partsOfFile(each(cut(file, 1_500_000))) },
    { name: 'nothing', sizeBytes: 0, parts: partsOfFile(each([])) },
  ]
  const sent = await whole(encodeContent(each(sections)))
  assert.ok((await dataBytesOf(disk)) < 7 * MIB)
  assert.ok(sent.length < 9 * MIB)
  const copy = memoryDevice(64 * MIB)
  const names: string[] = []
  for await (const section of decodeContent(each(cut(sent, 100_003)))) {
    names.push(section.name)
    if (section.name === 'disk') await writeParts(copy, section.parts)
    else assert.deepEqual(await whole(bytesOfFile(section)), section.name === 'file' ? Buffer.from(file) : Buffer.alloc(0))
  }
  assert.deepEqual(names, ['disk', 'file', 'nothing'])
  const [one, other] = [new Uint8Array(64 * MIB), new Uint8Array(64 * MIB)]
  await disk.read(0, one)
  await copy.read(0, other)
  assert.ok(Buffer.from(one).equals(other))
})

test('one that was cut anywhere is not taken for whole', async () => {
  const file = new Uint8Array(100).fill(1)
  const section = () => each([{ name: 'file', sizeBytes: file.length, parts: partsOfFile(each(cut(file, 40))) }])
  const sent = await whole(encodeContent(section()))
  const taken = async (content: Uint8Array): Promise<void> => {
    for await (const found of decodeContent(each([content]))) await whole(bytesOfFile(found))
  }
  await taken(sent)
  for (let length = 0; length < sent.length; length += 1) await assert.rejects(taken(sent.subarray(0, length)), isInvalid)
})

test('what is beyond the disk, overlaps or is too long is refused before it is waited for', async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 200 }), async (content) => {
      const device = memoryDevice(4096)
      const taken = async (): Promise<void> => {
        for await (const { parts } of decodeContent(each(cut(content, 7)))) await writeParts(device, parts)
      }
      await taken().catch((error: unknown) => assert.ok(isInvalid(error), String(error)))
    }),
  )
  const section = (parts: { offset: number; content: Uint8Array }[]) =>
    each([{ name: 'disk', sizeBytes: 8192, parts: each(parts) }])
  const part = (offset: number, lengthBytes: number) => ({ offset, content: new Uint8Array(lengthBytes) })
  for (const parts of [[part(8000, 400)], [part(4096, 512), part(4100, 512)], [part(0, 2 * MIB)]]) {
    const taking = async (): Promise<void> => {
      for await (const found of decodeContent(encodeContent(section(parts)))) await writeParts(memoryDevice(8192), found.parts)
    }
    await assert.rejects(taking(), isInvalid)
  }
})

test('a disk that cannot be written is told as it says it', async () => {
  const disk = memoryDevice(4 * MIB)
  await disk.write(0, new Uint8Array(4 * MIB).fill(1))
  const full = {
    sizeBytes: 4 * MIB,
    write: async () => {
      throw new Fault('exhausted', 'no space left')
    },
    flush: async () => {},
  }
  await assert.rejects(writeParts(full, partsOfDisk(disk)), (error: unknown) => (error as Fault).code === 'exhausted')
})
