import assert from 'node:assert/strict'
import { test } from 'node:test'
import { millis } from '@typevisor/base'
import { virtualClock } from '@typevisor/sim'
import { StartWatch } from './starting.ts'

/** Looks at what a process does every so often, until it hangs or all has been looked at. */
async function watched(activities: readonly (number | null)[], everyMs: number) {
  const clock = virtualClock()
  let looks = 0
  const watch = new StartWatch({ activity: () => activities[looks] ?? null, clock, silenceMsMax: 3000 })
  const end = await clock.run(async () => {
    for (;;) {
      await clock.sleep(millis(everyMs))
      const found = watch.look()
      looks += 1
      if (found !== 'lives') return found
    }
  })
  return { end, looks }
}

test('silence hangs when it was long enough, and no sooner', async () => {
  assert.deepEqual(await watched([1, 2, ...Array<number>(100).fill(2)], 100), { end: 'hangs', looks: 32 })
})

test('one that does something now and then lives, however long it takes', async () => {
  const slow = Array.from({ length: 500 }, (_, look) => Math.floor(look / 29))
  assert.deepEqual(await watched(slow, 100), { end: 'gone', looks: 501 })
})

test('when nobody looked for long, it is looked at again', async () => {
  assert.deepEqual(await watched([1, 1, 1, 2], 60_000), { end: 'gone', looks: 5 })
})
