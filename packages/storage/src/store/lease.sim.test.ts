import { test } from 'node:test'
import { liveAllLeases } from '../testing/lease-sim.ts'

const SEEDS = Number(process.env['SEEDS'] ?? 40)

test('no write is taken under an epoch that is not in force, and no crash brings one back', () =>
  liveAllLeases(Array.from({ length: SEEDS }, (_, seed) => seed)))
