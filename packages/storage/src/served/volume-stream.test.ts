/** Streams against what was put in, whole, cut anywhere, and with any bit changed. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import { memoryDevice } from '@typevisor/nbd'
import { nodeCompressor } from '../node-compressor.ts'
import { nodeChecksum } from '../node-store-file.ts'
import type { CompressionKind } from '../store/catalog.ts'
import type { DiffExtent, DiffKind } from '../store/diff.ts'
import {
  readStream,
  STREAM_HEAD,
  STREAM_HEAD_COMPRESSED,
  STREAM_MAGIC,
  STREAM_RECORD,
  STREAM_VERSIONS,
  writeStream,
  type StreamHead,
  type StreamParts,
  type StreamSink,
} from './volume-stream.ts'

const BLOCK = 4096
const SIZE = 3 * 1024 * 1024

const parts: StreamParts = {
  checksum: nodeChecksum,
  compressor: nodeCompressor,
  digest: () => {
    const hash = createHash('sha256')
    return { update: (content) => void hash.update(content), digest: () => hash.digest() }
  },
}

const headOf = (startBytes = 0, compression: CompressionKind = 'none'): StreamHead => ({
  snapshotId: '00112233445566778899aabbccddeeff',
  snapshotName: 'web@monday',
  base: { id: 'ffeeddccbbaa99887766554433221100', name: 'web@sunday' },
  sizeBytes: SIZE,
  startBytes,
  createdAt: 1_700_000_000_000,
  compression,
})
const compressionOf = fc.constantFrom<CompressionKind>('none', 'zstd')

const extentsOf = fc
  .array(
    fc.record({
      gap: fc.nat(40),
      count: fc.integer({ min: 1, max: 400 }),
      kind: fc.constantFrom<DiffKind>('data', 'zero', 'hole'),
    }),
    { maxLength: 12 },
  )
  .map((parts) => {
    const extents: DiffExtent[] = []
    let at = 0
    for (const { gap, count, kind } of parts) {
      const [offset, end] = [at + gap * BLOCK, Math.min(SIZE, at + (gap + count) * BLOCK)]
      if (end > offset) extents.push({ offset, lengthBytes: end - offset, kind })
      at = end
    }
    return extents
  })

async function* listed<T>(items: readonly T[]): AsyncGenerator<T> {
  yield* items
}

/** A disk full of what its place makes of `seed`; half of it packs well. */
async function sourceOf(seed: number): Promise<ReturnType<typeof memoryDevice>> {
  const device = memoryDevice(SIZE)
  const content = new Uint8Array(SIZE)
  const words = new Uint32Array(content.buffer)
  for (let word = 0; word < words.length; word += 1)
    words[word] = word % 2048 < 1024 ? Math.imul(word + seed, 2_654_435_761) ^ (word >>> 11) : (word >>> 11) + seed
  await device.write(0, content)
  return device
}

const streamOf = async (
  extents: readonly DiffExtent[],
  device: Awaited<ReturnType<typeof sourceOf>>,
  startBytes = 0,
  compression: CompressionKind = 'none',
): Promise<Buffer> => {
  const chunks: Uint8Array[] = []
  const from = extents.flatMap(({ offset, lengthBytes, kind }) => {
    const start = Math.max(offset, startBytes)
    return start < offset + lengthBytes ? [{ offset: start, lengthBytes: offset + lengthBytes - start, kind }] : []
  })
  for await (const chunk of writeStream(headOf(startBytes, compression), listed(from), device, parts)) chunks.push(chunk)
  return Buffer.concat(chunks)
}

/** A disk that was something else, and how far it has come. */
class Target implements StreamSink {
  readonly disk = memoryDevice(SIZE)
  marked = 0
  head: StreamHead | null = null
  #writingCount = 0
  #markedEarly = false
  /** One that takes its time. */
  device = (): ReturnType<StreamSink['device']> => {
    const later = async (work: () => Promise<void>): Promise<void> => {
      this.#writingCount += 1
      for (let turn = 0; turn < 20; turn += 1) await null
      await work()
      this.#writingCount -= 1
    }
    return {
      write: (...args) => later(() => this.disk.write(...args)),
      zero: (...args) => later(() => this.disk.zero(...args)),
      trim: (...args) => later(() => this.disk.trim(...args)),
    }
  }
  async begin(head: StreamHead): Promise<number> {
    this.head = head
    if (head.startBytes > this.marked) throw new Fault('conflict', 'a gap')
    return this.marked
  }
  async mark(positionBytes: number): Promise<void> {
    assert.ok(positionBytes > this.marked)
    this.#markedEarly ||= this.#writingCount > 0
    this.marked = positionBytes
  }
  async content(): Promise<Uint8Array> {
    assert.equal(this.#markedEarly, false, 'what is marked is there')
    const content = new Uint8Array(SIZE)
    await this.disk.read(0, content)
    return content
  }
}

async function expected(extents: readonly DiffExtent[], device: Awaited<ReturnType<typeof sourceOf>>): Promise<Uint8Array> {
  const content = new Uint8Array(SIZE).fill(7)
  for (const { offset, lengthBytes, kind } of extents)
    if (kind === 'data') await device.read(offset, content.subarray(offset, offset + lengthBytes))
    else content.fill(0, offset, offset + lengthBytes)
  return content
}

async function targetOf(): Promise<Target> {
  const target = new Target()
  await target.disk.write(0, new Uint8Array(SIZE).fill(7))
  return target
}

async function* pieces(stream: Uint8Array, sizeBytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < stream.length; at += sizeBytes) yield stream.subarray(at, at + sizeBytes)
}

test('what comes out of a stream is what went in, in pieces of any size', async () => {
  const device = await sourceOf(1)
  await fc.assert(
    fc.asyncProperty(
      extentsOf,
      fc.constantFrom(1000, 4099, 70_000, 3_000_000),
      compressionOf,
      async (extents, pieceBytes, compression) => {
        const target = await targetOf()
        const head = await readStream(pieces(await streamOf(extents, device, 0, compression), pieceBytes), target, parts)
        assert.deepEqual(head, headOf(0, compression))
        assert.equal(target.marked, SIZE)
        assert.ok(Buffer.from(await target.content()).equals(await expected(extents, device)))
      },
    ),
    { numRuns: 30 },
  )
})

test('a stream that is cut anywhere is refused, what came is kept, and another goes on from there', async () => {
  const device = await sourceOf(2)
  await fc.assert(
    fc.asyncProperty(
      extentsOf,
      fc.array(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), { maxLength: 4 }),
      compressionOf,
      async (extents, cuts, compression) => {
        const target = await targetOf()
        for (const cut of cuts) {
          const stream = await streamOf(extents, device, target.marked, compression)
          const before = target.marked
          await assert.rejects(
            readStream(pieces(stream.subarray(0, Math.floor(stream.length * cut)), 50_000), target, parts),
            (error) => error instanceof Fault && error.code === 'invalid' && /it ends after \d+ bytes/.test(error.message),
          )
          assert.ok(target.marked >= before && target.marked <= SIZE)
        }
        await readStream(pieces(await streamOf(extents, device, target.marked), 50_000), target, parts)
        assert.ok(Buffer.from(await target.content()).equals(await expected(extents, device)))
      },
    ),
    { numRuns: 30 },
  )
})

test('a stream of which any bit is another is refused, and nothing of the record that it is in is written', async () => {
  const device = await sourceOf(3)
  await fc.assert(
    fc.asyncProperty(extentsOf, fc.nat(), fc.nat(7), compressionOf, async (extents, place, bit, compression) => {
      const stream = await streamOf(extents, device, 0, compression)
      // Heads and ends more often than what they say themselves.
      const at = place % 3 === 0 ? stream.length - 1 - (place % 60) : place % 3 === 1 ? place % 340 : place % stream.length
      stream[at] = (stream[at] as number) ^ (1 << bit)
      const target = await targetOf()
      await assert.rejects(
        readStream(pieces(stream, 100_000), target, parts),
        (error) => error instanceof Fault && (error.code === 'invalid' || error.code === 'unsupported'),
      )
      const [found, want] = [await target.content(), await expected(extents, device)]
      for (let block = 0; block < SIZE; block += BLOCK) {
        const now = Buffer.from(found.subarray(block, block + BLOCK))
        assert.ok(now.equals(want.subarray(block, block + BLOCK)) || now.every((byte) => byte === 7), `block at ${block}`)
      }
    }),
    { numRuns: 100 },
  )
})

test('what stands behind the end, another version and what is no stream are named', async () => {
  const device = await sourceOf(4)
  const stream = await streamOf([], device)
  const refused = (bytes: Uint8Array, want: RegExp) => assert.rejects(readStream(pieces(bytes, 999), new Target(), parts), want)
  await refused(Buffer.concat([stream, Buffer.from('x')]), /more behind its end/)
  await refused(Buffer.alloc(1000, 'qcow'), /no exported snapshot/)
  stream.writeUInt32LE(3, 8)
  await refused(stream, /got version 3, want 1 or 2/)
})

/** A compressed stream of one record, which says what it likes, with checksums that are right. */
function forged(lengthBytes: number, packed: Uint8Array, packedBytes = packed.length): Buffer {
  const head = STREAM_HEAD_COMPRESSED.encode({
    magic: STREAM_MAGIC,
    version: STREAM_VERSIONS.compressed,
    checksum: 0,
    snapshotId: new Uint8Array(16).fill(1),
    baseId: new Uint8Array(16),
    sizeBytes: BigInt(SIZE),
    startBytes: 0n,
    createdAt: 0n,
    snapshotNameBytes: 0,
    baseNameBytes: 0,
    snapshotName: new Uint8Array(0),
    baseName: new Uint8Array(0),
    compression: 1,
  })
  const record = Buffer.concat([
    STREAM_RECORD.encode({ kind: 5, checksum: 0, offset: 0n, lengthBytes: BigInt(lengthBytes) }),
    new Uint8Array(Uint32Array.of(packedBytes).buffer),
    packed,
  ])
  for (const [part, at] of [
    [head, STREAM_HEAD.at.checksum],
    [record, STREAM_RECORD.at.checksum],
  ] as const)
    new DataView(part.buffer, part.byteOffset).setUint32(at, nodeChecksum(part), true)
  return Buffer.concat([head, record])
}

/** A frame (RFC 8878, 3.1.1) of so many blocks of 128 KiB of zeros, whose reader is to keep `2 ** windowLog` bytes. */
const windowed = (windowLog: number, blockCount: number): Uint8Array =>
  Uint8Array.of(
    ...[0x28, 0xb5, 0x2f, 0xfd, 0, (windowLog - 10) << 3],
    ...Array.from({ length: blockCount }, (_, index) => [2 + (index === blockCount - 1 ? 1 : 0), 0, 0x10, 0]).flat(),
  )

test('a packed record that unpacks to more or less than it says, or asks for more memory than ours do, is refused and not written', async () => {
  const MIB = 1024 * 1024
  const refused = async (stream: Uint8Array, want: RegExp): Promise<void> => {
    const target = await targetOf()
    await assert.rejects(
      readStream(pieces(stream, 70_000), target, parts),
      (error) => error instanceof Fault && error.code === 'invalid' && want.test(error.message),
    )
    assert.ok((await target.content()).every((byte) => byte === 7))
  }
  const zeros = (sizeBytes: number): Uint8Array => zstdCompressSync(new Uint8Array(sizeBytes))
  await refused(forged(MIB, zeros(256 * MIB)), /cannot be unpacked to 1048576 bytes/)
  assert.equal(nodeCompressor.expand(windowed(21, 8), MIB).length, MIB)
  await refused(forged(MIB, windowed(27, 8)), /cannot be unpacked to 1048576 bytes/)
  await refused(forged(MIB, zeros(4096)), /unpacks to 4096 bytes, want 1048576/)
  await refused(forged(MIB, Buffer.alloc(100, 'no frame')), /cannot be unpacked/)
  await refused(forged(MIB, zeros(MIB), 0), /is packed to 0 bytes/)
  await refused(forged(4096, new Uint8Array(4096)), /is packed to 4096 bytes, want 1 to 4095/)
  await refused(forged(1024 * MIB, zeros(MIB)), /got a record of kind 5/)
  // Where the head says nothing of it there are none.
  const plain = await streamOf([], await sourceOf(5))
  const record = forged(MIB, zeros(MIB)).subarray(STREAM_HEAD_COMPRESSED.sizeBytes)
  await refused(Buffer.concat([plain.subarray(0, STREAM_HEAD.sizeBytes), record]), /got a record of kind 5/)
})
