import { test } from 'node:test'
import { rotAll } from '../testing/rot-sim.ts'

test('a byte that changes by itself is never read, is named by a check, and harms nothing but what it belongs to', () =>
  rotAll(Array.from({ length: 60 }, (_, seed) => seed)))
