import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { OperationStatistics, VolumeStatisticsReport } from '@typevisor/storage'
import { bar, latencyText, renderStatistics } from './volume-statistics.ts'

const NONE: OperationStatistics = {
  count: 0,
  bytes: 0,
  errorCount: 0,
  latency: { meanNs: 0, p50Ns: 0, p99Ns: 0, maxNs: 0, buckets: [] },
}

const REPORT: VolumeStatisticsReport = {
  name: 'web',
  sinceAt: 0,
  connectionCount: 2,
  inFlightCount: 3,
  inFlightCountMax: 32,
  delayedCount: 4,
  delayedMs: 1000,
  operations: {
    read: {
      count: 1001,
      bytes: 1001 * 4096,
      errorCount: 1,
      latency: {
        meanNs: 5400,
        p50Ns: 4000,
        p99Ns: 8500,
        maxNs: 31_000,
        buckets: [
          { fromNs: 1000, toNs: 1125, count: 250 },
          { fromNs: 1875, toNs: 2000, count: 250 },
          { fromNs: 3500, toNs: 3750, count: 500 },
          { fromNs: 30_000, toNs: 32_000, count: 1 },
        ],
      },
    },
    write: NONE,
    flush: {
      ...NONE,
      count: 1,
      latency: { meanNs: 2e6, p50Ns: 2e6, p99Ns: 2e6, maxNs: 2e6, buckets: [{ fromNs: 1e6, toNs: 2e6, count: 1 }] },
    },
    trim: NONE,
    zero: NONE,
  },
}

test('statistics are a table and a bar for each doubling of the time', () => {
  assert.deepEqual(
    renderStatistics(REPORT, 600_000, 120)
      .split('\n')
      .map((line) => line.trimEnd()),
    [
      'web: 2 connections, 3 under way, 32 at most; counted for 10 min',
      'its limit made 4 operations wait, 250 ms on average',
      '',
      'OPERATION  COUNT    BYTES  ERRORS    MEAN   P50     P99    MAX',
      'reads       1001  3.9 MiB       1  5.4 µs  4 µs  8.5 µs  31 µs',
      'writes         0      0 B       0       -     -       -      -',
      'flushes        1        -       0    2 ms  2 ms    2 ms   2 ms',
      '',
      'reads by how long they took',
      '  below   2 µs  ████████████████████████████████  50.0 %',
      '  below   4 µs  ████████████████████████████████  50.0 %',
      '  below   8 µs',
      '  below  16 µs',
      '  below  32 µs  ▏                                < 0.1 %',
      '',
      'flushes by how long they took',
      '  below   2 ms  ████████████████████████████████ 100.0 %',
    ],
  )
})

test('a latency has the digits that say something', () => {
  assert.deepEqual([0, 850, 999.6, 1000, 4140, 12_340, 123_456, 999_700, 2_048_000, 5e9].map(latencyText), [
    '0 ns',
    '850 ns',
    '1 µs',
    '1 µs',
    '4.1 µs',
    '12 µs',
    '123 µs',
    '1 ms',
    '2 ms',
    '5 s',
  ])
})

test('a bar is never wider than its room, and what is more than nothing is seen', () => {
  for (const share of [0, 1e-9, 0.01, 0.5, 0.99, 1]) assert.equal(bar(share, 32).length, 32)
  assert.equal(bar(0, 4), '    ')
  assert.equal(bar(1e-9, 4), '▏   ')
  assert.equal(bar(1, 4), '████')
})
