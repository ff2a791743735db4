import assert from 'node:assert/strict'
import { test } from 'node:test'
import { underSeeds } from './under-seeds.ts'

test('a seed that fails has the command that runs it again in its message and its stack, and what was wrong behind it', async () => {
  const seen: number[] = []
  const wrong = new assert.AssertionError({ message: 'block 7 is wrong' })
  const failing = underSeeds(
    'some.sim',
    async (seed) => {
      seen.push(seed)
      if (seed === 2) throw wrong
    },
    [1, 2, 3],
  )
  await assert.rejects(failing, (error) => {
    assert.ok(error instanceof Error)
    assert.equal(error.message, 'SEED=2 npm test -- some.sim\nblock 7 is wrong')
    assert.match(error.stack ?? '', /^SEED=2 npm test -- some\.sim\n[^]*block 7 is wrong[^]* at /)
    assert.equal(error.cause, wrong)
    return true
  })
  assert.deepEqual(seen, [1, 2])
})
