import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { seededRng, simDisk } from '@typevisor/sim'
import { watchedDisk } from './watched-disk.ts'

test('a sync that fails is told once and still rejects; one that succeeds is not told', async () => {
  let failing = false
  const told: unknown[] = []
  const disk = watchedDisk(
    simDisk({
      rng: seededRng(1),
      faults: (operation) => (failing && operation === 'sync' ? new Fault('failed', 'injected') : null),
    }),
    (error) => told.push(error),
  )
  const file = await disk.open('journal')
  await file.append(new Uint8Array([1, 2, 3]))
  await file.sync()
  assert.deepEqual([file.sizeBytes, told.length], [3, 0])
  failing = true
  await assert.rejects(file.sync(), /injected/)
  assert.equal(told.length, 1)
})
