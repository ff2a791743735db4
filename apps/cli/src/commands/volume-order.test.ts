import assert from 'node:assert/strict'
import { test } from 'node:test'
import { inOrder } from './volume-order.ts'

test('snapshots stand behind their volume by age, also where it is gone', () => {
  const items = [
    { name: 'web@b', createdAt: 2 },
    { name: 'web-2', createdAt: 4 },
    { name: 'gone@y', createdAt: 1 },
    { name: 'web@c', createdAt: 1 },
    { name: 'web', createdAt: 3 },
    { name: 'web@a', createdAt: 2 },
    { name: 'db', createdAt: 9 },
    { name: 'gone@x', createdAt: 2 },
  ]
  const want = ['db', 'gone@y', 'gone@x', 'web', 'web@c', 'web@a', 'web@b', 'web-2']
  assert.deepEqual(
    inOrder(items).map(({ name }) => name),
    want,
  )
})
