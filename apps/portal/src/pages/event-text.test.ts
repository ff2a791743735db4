import assert from 'node:assert/strict'
import { test } from 'node:test'
import { eventLine } from './event-text.ts'

const event = (data: Record<string, unknown>, kind = 'instance.state') => ({
  sequence: '1',
  at: 0,
  kind,
  resource: 'i',
  name: 'web-1',
  data,
})

test('a transition is told from where to where, and why', () => {
  assert.deepEqual(
    eventLine(event({ from: 'running', to: 'crashed', cause: 'process-failed', detail: 'no space', reconstructed: true })),
    {
      title: 'running → crashed',
      detail: 'process-failed · worked out afterwards · no space',
      tone: 'red',
    },
  )
})

test('the end of a machine is told as such', () => {
  assert.equal(eventLine(event({ from: 'stopped', to: null, cause: 'requested', detail: null })).title, 'gone')
})

test('a whole state in an event is read too', () => {
  assert.deepEqual(eventLine(event({ state: { kind: 'running', cause: 'adopted' } })), {
    title: 'running',
    detail: 'adopted',
    tone: 'green',
  })
})

test('what a host went through is told with its cause, and bytes as people read them', () => {
  const died = event({ from: 'serving', to: 'away', cause: 'hung', detail: 'killed', pid: 7, startedAt: 1, version: '2' })
  assert.deepEqual(eventLine(died), {
    title: 'serving \u2192 away',
    detail: 'hung · killed · pid 7 · version 2',
    tone: 'red',
  })
  const fills = event({ from: 'enough', to: 'over 90 %', cause: 'host', detail: null, usedBytes: 2 ** 30 })
  assert.deepEqual(eventLine(fills), { title: 'enough \u2192 over 90 %', detail: 'host · used 1 GiB', tone: 'amber' })
})

test('an event of an unknown kind is told by its own fields', () => {
  assert.deepEqual(eventLine(event({ height: 7, nested: {} }, 'moon.has-risen')), {
    title: 'has risen',
    detail: 'height 7',
    tone: 'grey',
  })
})

test('the end of an operation is told by its verb and its fault, not by its ids', () => {
  const failed = event(
    { verb: 'start', operation: 'o-1', hostSequence: 7, outcome: 'failed', code: 'exhausted', message: 'no space' },
    'instance.operation',
  )
  assert.deepEqual(eventLine(failed), { title: 'start failed', detail: 'no space · code exhausted', tone: 'red' })
})
