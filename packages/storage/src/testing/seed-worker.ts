/** Runs seeds of the store's simulation for some time, in a thread of its own. */
import { parentPort, workerData } from 'node:worker_threads'
import { liveAll } from './store-sim.ts'

export interface SeedWork {
  readonly first: number
  readonly step: number
  readonly durationMs: number
}

const { first, step, durationMs } = workerData as SeedWork
const end = performance.now() + durationMs
let count = 0
for (let seed = first; performance.now() < end; seed += step) {
  await liveAll([seed])
  count += 1
}
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port has no origin
parentPort?.postMessage(count)
