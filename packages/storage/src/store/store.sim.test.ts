import { test } from 'node:test'
import { liveAll } from '../testing/store-sim.ts'

const SEEDS = Number(process.env['SEEDS'] ?? 45)

test('whatever was acknowledged is there after SIGKILL, whatever was flushed after a power cut, and never anything else', () =>
  liveAll(Array.from({ length: SEEDS }, (_, seed) => seed)))
