import assert from 'node:assert/strict'
import { test } from 'node:test'
import { allToggled, NOTHING, toggled, toggledRange, visible } from './selection.ts'

const IDS = ['a', 'b', 'c', 'd']

test('choosing twice chooses nothing', () => {
  assert.deepEqual(toggled(toggled(NOTHING, 'a'), 'a'), NOTHING)
})

test('shift chooses the rows between, in both directions', () => {
  assert.deepEqual([...toggledRange(new Set(['a']), IDS, 'a', 'c')], ['a', 'b', 'c'])
  assert.deepEqual([...toggledRange(new Set(['d']), IDS, 'd', 'b')].sort(), ['b', 'c', 'd'])
})

test('shift from a row that has gone chooses one row', () => {
  assert.deepEqual([...toggledRange(NOTHING, IDS, 'gone', 'c')], ['c'])
})

test('rows that nobody sees are not chosen', () => {
  assert.deepEqual([...visible(new Set(['a', 'gone']), IDS)], ['a'])
})

test('all, then none', () => {
  assert.deepEqual([...allToggled(new Set(['a']), IDS)], IDS)
  assert.deepEqual(allToggled(new Set(IDS), IDS), NOTHING)
})
