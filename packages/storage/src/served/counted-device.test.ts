import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault, millis, type BlockDevice } from '@typevisor/base'
import { memoryDevice } from '@typevisor/nbd'
import { virtualClock } from '@typevisor/sim'
import { CountedDevice } from './counted-device.ts'
import { LatencyHistogram } from './latency-histogram.ts'
import { VolumeStatistics } from './volume-statistics.ts'

test('buckets have no gap between them, and what they hold is known within an eighth', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 120_000, noNaN: true }), (durationMs) => {
      const histogram = new LatencyHistogram()
      histogram.add(durationMs)
      const [bucket, ...others] = histogram.buckets()
      assert.ok(bucket !== undefined && others.length === 0)
      const ns = durationMs * 1e6
      // Between whole units there is nothing.
      assert.ok(bucket.fromNs <= ns + 1e-6 && ns < bucket.toNs, `${ns} in ${bucket.fromNs} to ${bucket.toNs}`)
      assert.ok(bucket.toNs - bucket.fromNs <= Math.max(62.5, bucket.fromNs / 8))
    }),
  )
})

test('percentiles are those of the sorted values, to an eighth', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0.001, max: 10_000, noNaN: true }), { minLength: 1, maxLength: 300 }),
      fc.integer({ min: 1, max: 100 }),
      (values, percent) => {
        const histogram = new LatencyHistogram()
        for (const value of values) histogram.add(value)
        const want = (values.toSorted((a, b) => a - b)[Math.ceil((values.length * percent) / 100) - 1] ?? 0) * 1e6
        const got = histogram.percentileNs(percent)
        assert.ok(got >= Math.floor(want) && got <= want * 1.126 + 63, `${got} for ${want}`)
        assert.equal(histogram.maxNs, Math.round(Math.max(...values) * 1e6))
      },
    ),
  )
})

const setUp = (inner: (clock: ReturnType<typeof virtualClock>) => BlockDevice) => {
  const clock = virtualClock()
  const statistics = new VolumeStatistics(clock)
  return { clock, statistics, device: new CountedDevice(inner(clock), statistics) }
}

test('each operation is counted with its bytes and its time, and the depth of the queue is seen', async () => {
  const { clock, statistics, device } = setUp((time) => ({
    ...plain(memoryDevice(1 << 20)),
    read: () => time.sleep(millis(4)),
    write: () => time.sleep(millis(8)),
    flush: () => time.sleep(millis(100)),
  }))
  await clock.run(async () => {
    await Promise.all(Array.from({ length: 5 }, (_, index) => device.read(index * 4096, new Uint8Array(4096))))
    await device.write(0, new Uint8Array(8192))
    await device.flush()
    await device.trim(0, 4096)
    await device.zero(0, 16_384)
  })
  const { read, write, flush, trim, zero } = statistics.operations()
  assert.deepEqual(
    [read, write, flush, trim, zero].map(({ count, bytes, errorCount }) => [count, bytes, errorCount]),
    [
      [5, 20_480, 0],
      [1, 8192, 0],
      [1, 0, 0],
      [1, 4096, 0],
      [1, 16_384, 0],
    ],
  )
  assert.deepEqual([read.latency.p50Ns, read.latency.maxNs, write.latency.p99Ns, flush.latency.meanNs], [4e6, 4e6, 8e6, 1e8])
  assert.deepEqual([statistics.inFlightCount, statistics.inFlightCountMax], [0, 5])
})

test('what is done at once is counted in full, also where only some of it is timed', () => {
  const { statistics, device } = setUp(() => memoryDevice(1 << 20))
  const target = new Uint8Array(65_536)
  for (let index = 0; index < 1600; index += 1) device.now?.read(0, 4096, target, 0)
  for (let index = 0; index < 10; index += 1) device.now?.read(0, 65_536, target, 0)
  for (let index = 0; index < 32; index += 1) device.now?.write(index * 4096, target.subarray(0, 4096))
  assert.equal(statistics.operations().write.count, 0, 'not before they are carried out')
  device.now?.commit()
  const { read, write } = statistics.operations()
  assert.deepEqual([read.count, read.bytes], [1610, 1600 * 4096 + 10 * 65_536])
  assert.deepEqual([write.count, write.bytes], [32, 32 * 4096])
  const weight = (buckets: readonly { count: number }[]): number => buckets.reduce((sum, { count }) => sum + count, 0)
  assert.deepEqual([weight(read.latency.buckets), weight(write.latency.buckets)], [1610, 32])
  assert.equal(statistics.inFlightCountMax, 32)
})

test('what fails is counted as failed, and its bytes are not', async () => {
  const no = (): never => {
    throw new Fault('failed', 'the disk says no')
  }
  const memory = memoryDevice(4096)
  const { statistics, device } = setUp(() => ({
    ...plain(memory),
    read: async () => no(),
    now: { read: no, write: () => true, hasHoles: () => false, commit: no },
  }))
  await assert.rejects(device.read(0, new Uint8Array(512)))
  assert.throws(() => device.now?.read(0, 512, new Uint8Array(512), 0))
  device.now?.write(0, new Uint8Array(512))
  device.now?.write(512, new Uint8Array(512))
  assert.throws(() => device.now?.commit())
  const { read, write } = statistics.operations()
  assert.deepEqual([read.count, read.errorCount, read.bytes], [2, 2, 0])
  assert.deepEqual([write.count, write.errorCount, write.bytes], [2, 2, 0])
  assert.equal(statistics.inFlightCount, 0)
})

/** Its methods as a plain object's, without its immediate half. */
const plain = (device: BlockDevice): BlockDevice => ({
  sizeBytes: device.sizeBytes,
  readOnly: device.readOnly,
  blockBytesMin: device.blockBytesMin,
  blockBytesPreferred: device.blockBytesPreferred,
  read: (...args) => device.read(...args),
  write: (...args) => device.write(...args),
  flush: () => device.flush(),
  trim: (...args) => device.trim(...args),
  zero: (...args) => device.zero(...args),
  cache: (...args) => device.cache(...args),
  extents: (...args) => device.extents(...args),
})
