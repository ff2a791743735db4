import { test } from 'node:test'
import { rotAll } from '../testing/rot-sim.ts'

test('so under thousands of seeds', () => rotAll(Array.from({ length: 3000 }, (_, seed) => 1000 + seed)))
