import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { CallRecord, conformanceTable } from './conformance-report.ts'
import type { DomainDriver } from './ports.ts'

/** What the table makes of a driver is looked at; what a driver does is the suite's part. */
const driver = {
  name: 'odd',
  pause: async () => {},
  save: async () => Promise.reject(new Fault('unsupported', 'there is no disk')),
  unpause: async () => Promise.reject(new Fault('failed', 'no')),
  events: () => [],
} as unknown as DomainDriver

test('an operation is what the promises that used it have shown', async () => {
  const record = new CallRecord()
  const seen = record.observed(driver)
  seen.events()
  await record.during('first', () => seen.pause('x' as never))
  await record.during('second', async () => {
    await seen.pause('x' as never)
    await assert.rejects(seen.save('x' as never, '/'))
  })
  await assert.rejects(record.during('third', () => seen.unpause('x' as never)))
  assert.deepEqual(record.result('events'), { kind: 'yes', promiseCount: 1 })
  assert.deepEqual(record.result('pause'), { kind: 'yes', promiseCount: 2 })
  assert.deepEqual(record.result('save'), { kind: 'refused', reason: 'there is no disk' })
  assert.deepEqual(record.result('unpause'), { kind: 'no', broken: ['third'] })
  assert.deepEqual(record.result('exec'), { kind: 'untried' })
  const table = conformanceTable({ odd: record.results() })
  assert.match(table, /\| pause \| `pause` \| yes \|/)
  assert.match(table, /\| unpause \| `unpause` \| NO \|/)
  assert.match(table, /- odd, `save`: there is no disk/)
})

test('a promise that is broken makes all that it used a no, whatever other promises say', async () => {
  const record = new CallRecord()
  const seen = record.observed(driver)
  await record.during('kept', () => seen.pause('x' as never))
  await assert.rejects(
    record.during('broken', async () => {
      await seen.pause('x' as never)
      assert.fail('it is not so')
    }),
  )
  assert.deepEqual(record.result('pause'), { kind: 'no', broken: ['broken'] })
})
