import { test } from 'node:test'
import { liveAllLeases } from '../testing/lease-sim.ts'

test('so under a thousand seeds', () => liveAllLeases(Array.from({ length: 1000 }, (_, seed) => 1000 + seed)))
