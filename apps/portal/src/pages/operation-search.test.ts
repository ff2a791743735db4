import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseOperationSearch, toOperationQuery } from './operation-search.ts'

test('a link that means nothing opens the whole list', () => {
  assert.deepEqual(parseOperationSearch({ show: 'stuck', cursor: 'x' }), { show: 'stuck' })
  for (const show of ['all', 'nonsense', 7, undefined]) assert.deepEqual(parseOperationSearch({ show }), {})
})

test('those stuck are asked for by their state', () => {
  assert.deepEqual(toOperationQuery('stuck'), { state: 'stuck' })
  assert.deepEqual(toOperationQuery('all'), {})
})
