import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { chordsOfText, KEY_NAMES, parseChord } from './keys.ts'

test('chords are names with - between; what is no key is named', () => {
  assert.deepEqual(parseChord('ctrl-alt-delete'), ['ctrl', 'alt', 'delete'])
  assert.deepEqual(parseChord('f12'), ['f12'])
  for (const [text, told] of [
    ['ctrl-allt-delete', /got "allt"/],
    ['', /got ""/],
    ['a-a', /each key once/],
    ['a-b-c-d-e-f-g', /at most 6/],
    ['Ctrl', /got "Ctrl"/],
  ] as const)
    assert.throws(
      () => parseChord(text),
      (error: unknown) => error instanceof Fault && error.code === 'invalid' && told.test(error.message),
    )
})

test('every printable character of ASCII is typed with keys that there are, and no two alike', () => {
  const printable = Array.from({ length: 95 }, (_, index) => String.fromCharCode(32 + index)).join('')
  const chords = chordsOfText(printable)
  assert.ok(chords.flat().every((key) => KEY_NAMES.has(key)))
  assert.equal(new Set(chords.map((chord) => chord.join('-'))).size, 95)
  assert.deepEqual(chordsOfText('aB!\n'), [['a'], ['shift', 'b'], ['shift', '1'], ['ret']])
  assert.throws(() => chordsOfText('é'), /US keyboard/)
})
