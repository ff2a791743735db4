import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { didYouMean, distance, nearest } from './suggest.ts'

const VERBS = ['list', 'create', 'get', 'start', 'pause', 'unpause', 'shutdown', 'destroy', 'exec']

test('a slip of the finger finds the word', () => {
  for (const [typed, meant] of [
    ['creat', 'create'],
    ['lsit', 'list'],
    ['shutdwon', 'shutdown'],
    ['unpuase', 'unpause'],
    ['dest', 'destroy'],
    ['ls', 'list'],
    ['stop', 'shutdown'],
  ] as const)
    assert.equal(nearest(typed, VERBS), meant, typed)
  assert.equal(didYouMean('creat', VERBS), ' (did you mean create?)')
})

test('what is near nothing finds nothing', () => {
  for (const typed of ['', 'x', 'frobnicate', 'a'.repeat(10_000)]) assert.equal(nearest(typed, VERBS), null, typed.slice(0, 20))
  assert.equal(didYouMean('frobnicate', VERBS), '')
})

test('the distance is zero for the same alone, and the same both ways', () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 12 }), fc.string({ maxLength: 12 }), (one, other) => {
      assert.equal(distance(one, other) === 0, one === other)
      assert.equal(distance(one, other), distance(other, one))
    }),
  )
})
