import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  decisionsOf,
  dismissed,
  ended,
  followed,
  NO_ACTIVITY,
  operationTitle,
  outcomeOf,
  percentOf,
  progressWords,
  reconciled,
  resourceText,
  type Operation,
} from './activity.ts'

const operation = (id: string, change: Partial<Operation> = {}): Operation => ({
  id,
  name: 'instance.start',
  resource: 'i-1',
  resourceName: 'web-1',
  waitsFor: null,
  state: 'running',
  step: 'define',
  progress: 0.1,
  fault: null,
  createdAt: 0,
  updatedAt: 0,
  ...change,
})
const follow = (id: string, change: Partial<Operation> = {}) => ({
  operation: operation(id, change),
  title: `Start ${id}`,
  instance: id,
  begunAt: 0,
})

test('an operation that has ended by the time it is answered is a notice at once', () => {
  const activity = followed(NO_ACTIVITY, follow('a', { state: 'done' }))
  assert.equal(activity.follows.length, 0)
  assert.equal(activity.notices[0]?.title, 'Start a')
})

test('an operation that has left the unfinished ones is asked for, then told', () => {
  let activity = followed(followed(NO_ACTIVITY, follow('a')), follow('b'))
  const step = reconciled(activity, [operation('b', { progress: 0.5, updatedAt: 5 })])
  assert.deepEqual(step.ended, ['a'])
  assert.equal(step.activity.follows.find((each) => each.operation.id === 'b')?.operation.progress, 0.5)
  activity = ended(step.activity, operation('a', { state: 'undone', fault: { code: 'failed', message: 'no space' } }))
  assert.equal(activity.notices[0]?.operation.fault?.message, 'no space')
  assert.equal(dismissed(activity, 'a').notices.length, 0)
})

test('an undone operation has failed when it has a fault, and was cancelled when it has none', () => {
  const fault = { code: 'failed', message: 'x' }
  assert.deepEqual(
    [
      operation('a'),
      operation('a', { state: 'undoing', fault }),
      operation('a', { state: 'done' }),
      operation('a', { state: 'undone' }),
      operation('a', { state: 'undone', fault }),
      operation('a', { state: 'stuck' }),
    ].map(outcomeOf),
    ['running', 'running', 'done', 'cancelled', 'failed', 'failed'],
  )
})

test('operations are called by what a person pressed', () => {
  assert.deepEqual(['instance.shutdown', 'image.build', 'instance.clean-up', 'cloud.rain'].map(operationTitle), [
    'Shut down',
    'Build image',
    'Clean up',
    'cloud.rain',
  ])
})

test('notices are bounded', () => {
  let activity = NO_ACTIVITY
  for (let index = 0; index < 100; index += 1) activity = followed(activity, follow(String(index), { state: 'done' }))
  assert.equal(activity.notices.length, 20)
})

test('what gets stuck is told, though the server counts it among the unfinished', () => {
  const activity = followed(NO_ACTIVITY, follow('a'))
  const step = reconciled(activity, [operation('a', { state: 'stuck', updatedAt: 5 })])
  assert.deepEqual(step.ended, ['a'])
  assert.equal(ended(step.activity, operation('a', { state: 'stuck' })).notices.length, 1)
})

test('what runs can be cancelled, what is stuck is decided by an admin, what ended is ended', () => {
  assert.deepEqual(decisionsOf(operation('a'), 'operator'), ['cancel'])
  assert.deepEqual(decisionsOf(operation('a'), 'viewer'), [])
  assert.deepEqual(decisionsOf(operation('a', { state: 'stuck' }), 'admin'), ['retry', 'abandon'])
  assert.deepEqual(decisionsOf(operation('a', { state: 'stuck' }), 'operator'), [])
  for (const state of ['done', 'undone', 'undoing'] as const)
    assert.deepEqual(decisionsOf(operation('a', { state }), 'admin'), [])
})

test('an operation is about a thing by name, and by the front of its id where the name is not known', () => {
  assert.equal(resourceText({ resource: '0192f000-0000-7000-8000-00000000aaaa', resourceName: 'web-1' }), 'web-1')
  assert.equal(resourceText({ resource: '0192f000-0000-7000-8000-00000000aaaa', resourceName: null }), '0192f000-0000-7000')
})

test('an operation says in words what it does, or what it waits for', () => {
  assert.deepEqual(progressWords(operation('a', { step: 'define', progress: 0.4 })), ['making its disk', '40 %'])
  assert.deepEqual(progressWords(operation('a', { step: 'carry-out', progress: 0 })), ['on its host'])
  const waiting = operation('a', { progress: 0.4, waitsFor: 'host rack-2, which is not connected' })
  assert.deepEqual(progressWords(waiting), ['waits for host rack-2, which is not connected'])
  assert.equal(percentOf(waiting), null)
})
