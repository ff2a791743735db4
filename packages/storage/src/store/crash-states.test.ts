import assert from 'node:assert/strict'
import { test } from 'node:test'
import { crashEverywhereUnder } from '../testing/crash-states.ts'

test('whatever part of its unsafe writes a power cut leaves, at any moment, the store opens, is sound and holds what was promised', async () => {
  const count = await crashEverywhereUnder(Array.from({ length: 4 }, (_, seed) => seed))
  assert.ok(process.env['SEED'] !== undefined || count > 3000, `${count} states are too few to say anything`)
})
