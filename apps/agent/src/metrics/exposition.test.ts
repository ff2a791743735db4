import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Counter, exposition, Histogram } from './exposition.ts'

test('families are told with what they mean, and values of labels are escaped', () => {
  const text = exposition([
    {
      name: 'a_bytes',
      help: 'One\nline with a \\.',
      type: 'gauge',
      samples: [
        { labels: {}, value: 1.5 },
        { labels: { of: 'a "quoted"\nname\\' }, value: Infinity },
      ],
    },
    { name: 'nothing', help: 'Left out.', type: 'gauge', samples: [] },
  ])
  assert.equal(
    text,
    '# HELP a_bytes One\\nline with a \\\\.\n# TYPE a_bytes gauge\na_bytes 1.5\na_bytes{of="a \\"quoted\\"\\nname\\\\"} +Inf\n',
  )
})

test('a histogram counts each bucket with those below it, and a value on a bound in that one', () => {
  const histogram = new Histogram([0.1, 1])
  for (const value of [0.1, 0.05, 0.5, 7]) histogram.observe({ operation: 'x' }, value)
  const lines = exposition([{ name: 'd_seconds', help: 'D.', type: 'histogram', samples: histogram.samples() }])
  assert.deepEqual(lines.trimEnd().split('\n').slice(2), [
    'd_seconds_bucket{operation="x",le="0.1"} 2',
    'd_seconds_bucket{operation="x",le="1"} 3',
    'd_seconds_bucket{operation="x",le="+Inf"} 4',
    'd_seconds_sum{operation="x"} 7.65',
    'd_seconds_count{operation="x"} 4',
  ])
})

test('a counter counts by labels', () => {
  const counter = new Counter()
  counter.add({ kind: 'a' })
  counter.add({ kind: 'b' }, 2)
  counter.add({ kind: 'a' })
  assert.deepEqual(
    counter.samples().map(({ labels, value }) => [labels['kind'], value]),
    [
      ['a', 2],
      ['b', 2],
    ],
  )
})
