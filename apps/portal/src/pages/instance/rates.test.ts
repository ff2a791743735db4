import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HISTORY_COUNT, linePoints, NO_HISTORY, ratesBetween, withReading, type Statistics } from './rates.ts'

const reading = (at: number, cpuSeconds: number, bytes: number): Statistics => ({
  at,
  cpuTimeNs: cpuSeconds * 1e9,
  residentBytes: 1000,
  balloonBytes: null,
  disks: [{ name: 'root', readBytes: bytes, writeBytes: 2 * bytes, readCount: 0, writeCount: 0, flushCount: 0 }],
  nics: [{ name: 'net0', receiveBytes: bytes, transmitBytes: null }],
})

test('a first reading has no rate', () => {
  assert.equal(ratesBetween(undefined, reading(0, 0, 0), 1), null)
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
