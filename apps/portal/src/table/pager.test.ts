import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EMPTY_TRAIL, nextPage, placeText, previousPage, readTrail } from './pager.ts'

test('going on and back again ends at the first page', () => {
  const second = nextPage(EMPTY_TRAIL, undefined, 'b')
  const third = nextPage(second.trail, second.cursor, 'c')
  assert.deepEqual(third, { cursor: 'c', trail: { before: [null, 'b'] } })
  const back = previousPage(third.trail)
  assert.deepEqual(back, { cursor: 'b', trail: { before: [null] } })
  assert.deepEqual(previousPage(back.trail), { cursor: undefined, trail: { before: [] } })
})

const at = (before: (string | null)[], cursor: string | undefined, shown: number) =>
  placeText({ trail: { before }, cursor, shown, limit: 50, total: 1240 })

test('a page says its place among all', () => {
  assert.equal(at([], undefined, 50), '1–50 of 1,240')
  assert.equal(at([null], 'b', 50), '51–100 of 1,240')
  assert.equal(at([], 'z', 40), '40 of 1,240')
  assert.equal(at([], undefined, 0), '0 of 1,240')
})

test('a history entry that somebody else wrote is no trail', () => {
  for (const state of [undefined, null, 7, {}, { trail: 'x' }]) assert.deepEqual(readTrail(state), EMPTY_TRAIL)
  assert.deepEqual(readTrail({ trail: [null, 'b', 7] }), { before: [null, 'b'] })
})
