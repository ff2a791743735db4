import assert from 'node:assert/strict'
import { test } from 'node:test'
import { leftText } from './progress.ts'

test('what is left is said when it can be told', () => {
  assert.equal(leftText(0.5, 10_000), ', about 10 s left')
  assert.equal(leftText(0.25, 100_000), ', about 5 min left')
  for (const fraction of [null, 0, 0.001, 1]) assert.equal(leftText(fraction, 10_000), '')
})
