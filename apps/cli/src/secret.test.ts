import assert from 'node:assert/strict'
import { test } from 'node:test'
import { typed } from './secret.ts'

const line = (text: string): number[] => [...Buffer.from(text)]
const keys = (text: string, start: number[] = []) =>
  line(text).reduce<ReturnType<typeof typed>>((at, key) => (Array.isArray(at) ? typed(at, key) : at), start)

test('keys are kept, backspace takes a whole character back, Ctrl-U all', () => {
  assert.deepEqual(keys('abc'), line('abc'))
  assert.deepEqual(keys('abé\x7f'), line('ab'))
  assert.deepEqual(keys('\x7f\x7fa'), line('a'))
  assert.deepEqual(keys('abc\x15d'), line('d'))
})

test('Enter ends the line; Ctrl-C leaves, and so does Ctrl-D where nothing was typed', () => {
  assert.equal(keys('abc\r'), 'end')
  assert.equal(keys('abc\n'), 'end')
  assert.equal(keys('ab\x03'), 'leave')
  assert.equal(keys('\x04'), 'leave')
  assert.deepEqual(keys('a\x04b'), line('ab'))
})
