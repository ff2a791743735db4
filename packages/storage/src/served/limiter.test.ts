import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault, millis } from '@typevisor/base'
import { memoryDevice } from '@typevisor/nbd'
import { virtualClock } from '@typevisor/sim'
import { LimitedDevice } from './limited-device.ts'
import { Limiter } from './limiter.ts'
import { BURST_MS_MIN } from './token-bucket.ts'

const NO_LIMITS = { iopsMax: 0, bytesPerSecondMax: 0, burstSeconds: 0 }

test('in no stretch of time does more begin than rate and burst allow, and a row that never empties gets the whole rate', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        iopsMax: fc.integer({ min: 0, max: 500 }),
        bytesPerSecondMax: fc.integer({ min: 0, max: 1_000_000 }),
        burstSeconds: fc.integer({ min: 0, max: 3 }),
      }),
      fc.array(fc.record({ lengthBytes: fc.nat(40_000), pauseMs: fc.oneof(fc.constant(0), fc.nat(800)) }), {
        minLength: 2,
        maxLength: 60,
      }),
      async (limits, operations) => {
        const clock = virtualClock()
        const limiter = new Limiter(clock, limits)
        const owner = {}
        const begun: { at: number; lengthBytes: number; waited: boolean }[] = []
        await clock.run(async () => {
          const all: Promise<void>[] = []
          for (const { lengthBytes, pauseMs } of operations) {
            if (pauseMs > 0) await clock.sleep(millis(pauseMs))
            const waited = !limiter.mayPass()
            all.push(limiter.pass(owner, lengthBytes).then(() => void begun.push({ at: clock.monotonic(), lengthBytes, waited })))
          }
          await Promise.all(all)
        })
        assert.deepEqual(
          begun.map(({ lengthBytes }) => lengthBytes),
          operations.map(({ lengthBytes }) => lengthBytes),
          'nobody overtakes',
        )
        const burstMs = Math.max(BURST_MS_MIN, limits.burstSeconds * 1000)
        for (const [perSecond, costOf] of [
          [limits.iopsMax, () => 1],
          [limits.bytesPerSecondMax, (lengthBytes: number) => lengthBytes],
        ] as const) {
          if (perSecond === 0) continue
          for (let from = 0; from < begun.length; from += 1) {
            let taken = 0
            for (let to = from; to < begun.length; to += 1) {
              const { at, lengthBytes } = begun[to] as (typeof begun)[0]
              // The last one begins when there is a little, and may take more than there is.
              const allowed = ((at - (begun[from] as (typeof begun)[0]).at + burstMs) * perSecond) / 1000
              assert.ok(taken <= allowed + 1e-6 * perSecond, `${taken} of ${perSecond} a second, want at most ${allowed}`)
              taken += costOf(lengthBytes)
            }
          }
        }
        // One that waits begins as soon as both buckets let it: after the time that what went before is worth.
        for (const [index, { at, waited }] of begun.entries()) {
          if (!waited) continue
          const before = begun.slice(0, index)
          const due = Math.max(
            ...([limits.iopsMax, limits.bytesPerSecondMax] as const).map((perSecond, which) => {
              if (perSecond === 0) return 0
              let fullAt = Number.NEGATIVE_INFINITY
              for (const each of before)
                fullAt = Math.max(fullAt, each.at) + ((which === 0 ? 1 : each.lengthBytes) * 1000) / perSecond
              return fullAt - burstMs
            }),
          )
          assert.ok(at <= due + 1e-6 * due + 1e-6, `begun at ${at}, could at ${due}`)
        }
      },
    ),
    { numRuns: 200 },
  )
})

test('a volume that did nothing may do so many seconds of its limit at once, and no more', async () => {
  const clock = virtualClock()
  const limiter = new Limiter(clock, { iopsMax: 100, bytesPerSecondMax: 0, burstSeconds: 10 })
  await clock.advance(60_000)
  let count = 0
  for (; limiter.mayPass(); count += 1) limiter.charge(4096)
  assert.ok(count >= 1000 && count <= 1001, `got ${count}, want 1000`)
  await clock.advance(1000)
  for (count = 0; limiter.mayPass(); count += 1) limiter.charge(4096)
  assert.ok(count >= 99 && count <= 101, `got ${count} a second later, want 100`)
})

test('a new limit is one for those that wait already', async () => {
  const clock = virtualClock()
  const limiter = new Limiter(clock, { iopsMax: 0, bytesPerSecondMax: 1, burstSeconds: 0 })
  await clock.run(async () => {
    await limiter.pass({}, 4096)
    const second = limiter.pass({}, 4096)
    await clock.sleep(millis(1000))
    limiter.set({ iopsMax: 0, bytesPerSecondMax: 1024, burstSeconds: 0 })
    await second
    // 4096 bytes, less the second's byte, at the new rate.
    assert.ok(clock.monotonic() > 4000 && clock.monotonic() < 5100, `at ${clock.monotonic()}`)
    const third = limiter.pass({}, 4096)
    limiter.set(NO_LIMITS)
    const before = clock.monotonic()
    await third
    assert.equal(clock.monotonic(), before)
  })
})

test('a write of a connection that has gone is never carried out; those of others come in their turn', async () => {
  const clock = virtualClock()
  const limiter = new Limiter(clock, { iopsMax: 1, bytesPerSecondMax: 0, burstSeconds: 0 })
  const disk = memoryDevice(8192)
  const [gone, stays] = [new LimitedDevice(disk, limiter), new LimitedDevice(disk, limiter)]
  await clock.run(async () => {
    await gone.write(0, new Uint8Array(512).fill(1))
    const late = gone.write(0, new Uint8Array(512).fill(2))
    const other = stays.write(4096, new Uint8Array(512).fill(3))
    gone.abandon(new Fault('aborted', 'the connection has gone'))
    await assert.rejects(late, (error) => error instanceof Fault && error.code === 'aborted')
    await other
    await clock.sleep(millis(10_000))
  })
  const content = new Uint8Array(8192)
  await disk.read(0, content)
  assert.deepEqual([content[0], content[4096]], [1, 3])
})

test('without a limit everything passes at once and nothing is counted as put off', async () => {
  const limiter = new Limiter(virtualClock(), NO_LIMITS)
  const device = new LimitedDevice(memoryDevice(4096), limiter)
  for (let count = 0; count < 1000; count += 1) assert.equal(device.now?.read(0, 4096, new Uint8Array(4096), 0), true)
  assert.equal(limiter.delayedCount, 0)
})
