import assert from 'node:assert/strict'
import { test } from 'node:test'
import { schemas } from '@typevisor/api'
import { chordsOf, KEY_CHOICES } from './keys.ts'

test('each choice is one that the server takes', () => {
  for (const { keys } of KEY_CHOICES) assert.deepEqual(schemas.KeysBody.parse({ keys }).keys, keys)
})

test('chords are read as people type them', () => {
  assert.deepEqual(chordsOf(' ctrl-alt-f2  ret\n'), ['ctrl-alt-f2', 'ret'])
  assert.deepEqual(chordsOf(' '), [])
})
