import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isFiltered, narrowed, parseInstanceSearch, sortedBy, toListQuery } from './instance-search.ts'

test('an address that is not understood still opens the list', () => {
  assert.deepEqual(
    parseInstanceSearch({ state: 'flying', sort: 'colour', order: 'up', limit: 7, cursor: '', search: {}, evil: 1 }),
    {},
  )
})

test('an address holds search, state, order, page and size', () => {
  const search = { search: 'web', state: 'running', sort: 'createdAt', order: 'desc', cursor: 'abc', limit: 100 } as const
  assert.deepEqual(parseInstanceSearch(search), search)
})

test('a search for a number is a search for its digits', () => {
  assert.deepEqual(parseInstanceSearch({ search: 42 }), { search: '42' })
})

test('the open drawer is no part of the question to the server', () => {
  assert.deepEqual(toListQuery({ create: true, search: 'web' }), { search: 'web', limit: 50 })
})

test('a new search begins at the first page', () => {
  assert.deepEqual(narrowed({ cursor: 'abc', sort: 'state' }, { search: 'web' }), { sort: 'state', search: 'web' })
})

test('an emptied search leaves no trace in the address', () => {
  assert.deepEqual(narrowed({ search: 'web', state: 'running' }, { search: '', state: undefined }), {})
})

test('a second click on a column turns its order round', () => {
  const first = sortedBy({ cursor: 'abc' }, 'createdAt')
  assert.deepEqual(first, { sort: 'createdAt', order: 'asc' })
  assert.deepEqual(sortedBy(first, 'createdAt'), { sort: 'createdAt', order: 'desc' })
})

test('the list is in order of names already, so the first click on name reverses it', () => {
  assert.deepEqual(sortedBy({}, 'name'), { sort: 'name', order: 'desc' })
})

test('only search and state count as a filter', () => {
  assert.equal(isFiltered({ sort: 'state', cursor: 'x', create: true }), false)
  assert.equal(isFiltered({ state: 'running' }), true)
})
