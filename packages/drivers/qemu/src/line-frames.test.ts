import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { LineFrames } from './line-frames.ts'

test('lines come out the same however the bytes are cut', () => {
  fc.assert(
    fc.property(
      fc.array(fc.string({ unit: 'grapheme', maxLength: 30 })),
      fc.array(fc.integer({ min: 1, max: 9 })),
      (lines, cuts) => {
        const texts = lines.map((line) => line.replaceAll('\n', ''))
        const whole = new TextEncoder().encode(texts.map((line) => `${line}\n`).join(''))
        const frames = new LineFrames(1024)
        const seen: string[] = []
        for (let at = 0, turn = 0; at < whole.length; turn += 1) {
          const size = cuts[turn % cuts.length] ?? whole.length
          for (const frame of frames.feed(whole.subarray(at, at + size))) if (frame.kind === 'line') seen.push(frame.text)
          at += size
        }
        assert.deepEqual(seen, texts)
      },
    ),
  )
})

test('a line past the limit is reported once and skipped, the next one is read', () => {
  const frames = new LineFrames(4)
  const text = (chunk: string) => frames.feed(new TextEncoder().encode(chunk))
  assert.deepEqual(text('ab'), [])
  assert.deepEqual(text('cdefgh'), [{ kind: 'overlong' }])
  assert.deepEqual(text('still the same line'), [])
  assert.deepEqual(text('\nok\n'), [{ kind: 'line', text: 'ok' }])
})
