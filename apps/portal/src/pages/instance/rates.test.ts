import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HISTORY_COUNT, linePoints, NO_HISTORY, partsBetween, ratesBetween, withReading, type Statistics } from './rates.ts'

const reading = (at: number, cpuSeconds: number, bytes: number): Statistics => ({
  at,
  cpuTimeNs: cpuSeconds * 1e9,
  residentBytes: 1000,
  balloonBytes: null,
  vcpus: [
    { index: 0, cpuTimeNs: cpuSeconds * 0.75e9, waitTimeNs: cpuSeconds * 0.5e9 },
    { index: 1, cpuTimeNs: cpuSeconds * 0.25e9, waitTimeNs: null },
  ],
  disks: [
    {
      name: 'root',
      readBytes: bytes,
      writeBytes: 2 * bytes,
      readCount: bytes / 100,
      writeCount: 0,
      flushCount: 0,
      readTimeNs: bytes * 1e4,
      writeTimeNs: 0,
      flushTimeNs: null,
    },
  ],
  nics: [{ name: 'net0', receiveBytes: bytes, transmitBytes: null }],
})

test('a first reading has no rate', () => {
  assert.equal(ratesBetween(undefined, reading(0, 0, 0), 1), null)
})

test('each processor and each disk has its own rates; what is not counted, or did nothing, is null', () => {
  const { vcpus, disks } = partsBetween(reading(1000, 1, 100), reading(3000, 2, 300))
  assert.deepEqual(vcpus, [
    { index: 0, share: 0.375, waitShare: 0.25 },
    { index: 1, share: 0.125, waitShare: null },
  ])
  assert.deepEqual(disks, [{ name: 'root', readLatencyMs: 1, writeLatencyMs: null }])
  assert.deepEqual(
    partsBetween(reading(1000, 2, 100), reading(3000, 1, 50)),
    { vcpus: [], disks: [] },
    'counters that began anew',
  )
})

test('rates are differences over time, of all processors together', () => {
  const rates = ratesBetween(reading(1000, 1, 100), reading(3000, 2, 300), 2)
  assert.equal(rates?.cpuShare, 0.25)
  assert.equal(rates?.readBytesPerSecond, 100)
  assert.equal(rates?.writeBytesPerSecond, 200)
  assert.equal(rates?.receiveBytesPerSecond, 100)
  assert.equal(rates?.transmitBytesPerSecond, null)
})

test('counters that began anew give no rate rather than a negative one', () => {
  assert.equal(ratesBetween(reading(1000, 9, 900), reading(2000, 0.1, 10), 1), null)
})

test('a history is bounded, and the same reading twice is one reading', () => {
  let history = NO_HISTORY
  for (let index = 0; index < 200; index += 1) history = withReading(history, reading(index * 1000, index / 10, index), 1)
  assert.equal(history.rates.length, HISTORY_COUNT)
  assert.equal(withReading(history, reading(199_000, 19.9, 199), 1), history)
})

test('a line ends at the right edge and leaves out what is not known', () => {
  assert.equal(linePoints([0, null, 1], { width: 100, height: 10, most: 1, count: 3 }), '0.0,10.0 100.0,0.0')
  assert.equal(linePoints([2], { width: 100, height: 10, most: 1, count: 3 }), '100.0,0.0')
})
