import assert from 'node:assert/strict'
import { test } from 'node:test'
import { millis, seconds, withDeadline } from '@typevisor/base'
import { virtualClock } from './clock.ts'
import { seededRng } from './rng.ts'

test('sleepers wake in the order of their times', async () => {
  const clock = virtualClock()
  const woken: string[] = []
  const sleep = async (name: string, duration: number) => {
    await clock.sleep(millis(duration))
    woken.push(`${name} at ${clock.monotonic()}`)
  }
  await clock.run(() => Promise.all([sleep('c', 30), sleep('a', 10), sleep('b', 20)]))
  assert.deepEqual(woken, ['a at 10', 'b at 20', 'c at 30'])
})

test('an hour of waiting is over at once', async () => {
  const clock = virtualClock()
  const before = performance.now()
  await clock.run(async () => {
    for (let minute = 0; minute < 60; minute += 1) await clock.sleep(seconds(60))
  })
  assert.equal(clock.monotonic(), 3_600_000)
  assert.ok(performance.now() - before < 2000)
})

test('time stands still unless it is advanced', async () => {
  const clock = virtualClock()
  let woken = false
  void clock.sleep(millis(10)).then(() => (woken = true))
  await clock.advance(9)
  assert.equal(woken, false)
  await clock.advance(1)
  assert.equal(woken, true)
  assert.equal(clock.now(), Date.UTC(2026, 0, 1) + 10)
})

test('an aborted sleep rejects with the reason and leaves no sleeper', async () => {
  const clock = virtualClock()
  const stop = new AbortController()
  const sleep = clock.sleep(seconds(1), { signal: stop.signal })
  stop.abort(new Error('enough'))
  await assert.rejects(sleep, /enough/)
  await assert.rejects(clock.sleep(seconds(1), { signal: stop.signal }), /enough/)
  assert.equal(clock.sleeperCount, 0)
})

test('a deadline runs out in virtual time', async () => {
  const clock = virtualClock()
  const late = clock.run(() => withDeadline({ limit: seconds(5), clock, what: 'QMP stop' }, () => new Promise(() => {})))
  await assert.rejects(late, /QMP stop: no answer in 5000 ms/)
})

test('the same seed draws the same numbers, and forks are independent', () => {
  const draw = (seed: number) =>
    Array.from(
      { length: 20 },
      (
        (rng) => () =>
          rng.below(1000)
      )(seededRng(seed)),
    )
  assert.deepEqual(draw(7), draw(7))
  assert.notDeepEqual(draw(7), draw(8))
  const rng = seededRng(7)
  const fork = rng.fork('disk')
  fork.below(10)
  assert.deepEqual(
    Array.from({ length: 20 }, () => rng.below(1000)),
    draw(7),
  )
})

test('random numbers are spread evenly', () => {
  const rng = seededRng('even')
  const counts = Array.from({ length: 10 }, () => 0)
  for (let draw = 0; draw < 100_000; draw += 1) counts[rng.below(10)]! += 1
  for (const count of counts) assert.ok(Math.abs(count - 10_000) < 500, counts.join())
})
