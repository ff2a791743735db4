import assert from 'node:assert/strict'
import { test } from 'node:test'
import { seededRng, virtualClock } from '@typevisor/sim'
import { uuidv7Ids } from './ids.ts'

test('ids are UUIDv7, and the time can be read from them', () => {
  const clock = virtualClock({ startAt: 0x017f22e279b0 })
  const id = uuidv7Ids(clock, seededRng(1)).next()
  assert.match(id, /^017f22e2-79b0-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
})

test('ids grow and never repeat, in one millisecond and when the clock goes back', () => {
  const clock = virtualClock()
  const ids = uuidv7Ids(clock, seededRng(1))
  let last = ''
  for (let count = 0; count < 20_000; count += 1) {
    if (count % 7000 === 6999) clock.jumpWallTime(count % 2 ? -5000 : 5000)
    const id = ids.next()
    assert.ok(id > last, `${id} after ${last}`)
    last = id
  }
})
