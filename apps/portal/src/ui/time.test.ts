import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ago, lasting } from './time.ts'

test('the past is told in the largest unit that fits', () => {
  const now = 10 * 86_400_000
  const told = [0, 9_999, 10_000, 59_999, 60_000, 3_599_999, 3_600_000, 86_399_999, 86_400_000].map((past) =>
    ago(now - past, now),
  )
  assert.deepEqual(told, [
    'just now',
    'just now',
    '10 s ago',
    '59 s ago',
    '1 min ago',
    '59 min ago',
    '1 h ago',
    '23 h ago',
    '1 d ago',
  ])
})

test('a server whose clock is ahead does not live in the future', () => {
  assert.equal(ago(2_000, 1_000), 'just now')
})

test('durations keep two units', () => {
  assert.deepEqual([850, 4_230, 42_000, 185_000, 7_440_000, 442_800_000].map(lasting), [
    '850 ms',
    '4.2 s',
    '42 s',
    '3 min 5 s',
    '2 h 4 min',
    '5 d 3 h',
  ])
})

test('what is long past is told by its date', () => {
  assert.equal(ago(Date.UTC(2026, 0, 2), Date.UTC(2026, 10, 2)), '2026-01-02')
})
