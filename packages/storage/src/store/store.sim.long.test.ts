import { test } from 'node:test'
import { liveAll } from '../testing/store-sim.ts'

test('so under thousands of seeds', () => liveAll(Array.from({ length: 2000 }, (_, seed) => 1000 + seed)))
