/** The fixed seeds, and for a minute those of the day: each day begins at another number, so that runs look where none has looked. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { liveAll } from '../testing/store-sim.ts'
import type { SeedWork } from '../testing/seed-worker.ts'

const SEEDS = Number(process.env['SEEDS'] ?? 45)
const THREAD_COUNT = 2
const DURATION_MS = Number(process.env['SEEDS_MS'] ?? 60_000)
/** A day has so many seeds of its own. */
const SEEDS_PER_DAY = 100_000
const DAY_MS = 24 * 3600 * 1000
const today = SEEDS_PER_DAY * (1 + (Math.floor(Date.now() / DAY_MS) % 10_000))
const isReplay = process.env['SEED'] !== undefined

test('whatever was acknowledged is there after SIGKILL, whatever was flushed after a power cut, and never anything else', () =>
  liveAll(Array.from({ length: SEEDS }, (_, seed) => seed)))

/** @returns how many seeds held. */
function worked(work: SeedWork, signal: AbortSignal): Promise<number> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('../testing/seed-worker.ts', import.meta.url), { workerData: work })
    signal.addEventListener('abort', () => void worker.terminate())
    worker.once('message', resolve)
    worker.once('error', reject)
    worker.once('exit', () => reject(new Error('the thread has ended')))
  })
}

test(`so under the seeds of the day, from ${today} on`, { skip: isReplay && 'SEED names one' }, async (t) => {
  const over = new AbortController()
  try {
    const work = Array.from({ length: THREAD_COUNT }, (_, index) => ({
      first: today + index,
      step: THREAD_COUNT,
      durationMs: DURATION_MS,
    }))
    const counts = await Promise.all(work.map((one) => worked(one, over.signal)))
    t.diagnostic(`${counts.join(' + ')} seeds`)
    assert.ok(counts.every((count) => count > 0))
  } finally {
    // Of two the other one goes on until it is ended.
    over.abort()
  }
})
