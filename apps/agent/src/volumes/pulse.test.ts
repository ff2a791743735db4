import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault, millis } from '@typevisor/base'
import { virtualClock } from '@typevisor/sim'
import { hangs, PULSE, silenceMs } from './pulse.ts'

/** Asks a server that takes so long for each answer; Infinity: for ever. */
async function watched(answersAfterMs: readonly number[], goesAfter = Infinity) {
  const clock = virtualClock()
  const stop = new AbortController()
  let [asked, heard] = [0, 0]
  const ask = async (): Promise<void> => {
    const afterMs = answersAfterMs[asked] ?? 0
    asked += 1
    if (asked > goesAfter) throw new Fault('unavailable', 'it went away')
    if (asked > answersAfterMs.length) stop.abort()
    if (afterMs === Infinity) await new Promise(() => {})
    await clock.sleep(millis(afterMs))
  }
  const hung = await clock.run(() => hangs({ ask, onAnswer: () => (heard += 1), clock, limits: PULSE, signal: stop.signal }))
  return { hung, heard, tookMs: clock.monotonic() }
}

test('silence hangs when it was long enough, and no sooner', async () => {
  const { hung, heard, tookMs } = await watched([0, ...Array.from({ length: PULSE.unansweredMax }, () => Infinity)])
  assert.deepEqual([hung, heard, tookMs], [true, 1, PULSE.interval + silenceMs(PULSE)])
})

test('a server that is slow, or silent a few times, is let be', async () => {
  const slow = PULSE.answerLimit - 1
  assert.equal((await watched([slow, slow, slow, slow, slow, slow])).hung, false)
  const silent = Array.from({ length: PULSE.unansweredMax - 1 }, () => Infinity)
  const { hung, heard } = await watched([...silent, 0, ...silent, slow])
  assert.deepEqual([hung, heard], [false, 2])
})

test('one that went away does not hang', async () => {
  assert.equal((await watched([0, 0, 0], 2)).hung, false)
})
