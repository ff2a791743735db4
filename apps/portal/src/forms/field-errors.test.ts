import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { faultErrors, fieldErrors, fieldOf } from './field-errors.ts'

test('a detail finds its field by the first part of its path', () => {
  assert.deepEqual(['name', 'body.name', 'query.path', 'forwards[1].hostPort', 'labels.a/b', ''].map(fieldOf), [
    'name',
    'name',
    'path',
    'forwards',
    'labels',
    '',
  ])
})

test('what was wanted and what was found stand at the field', () => {
  const errors = fieldErrors([{ path: 'name', want: '1 to 63 of a-z', got: '"A b"' }], ['name'])
  assert.deepEqual(errors, { at: { name: 'want 1 to 63 of a-z, got "A b"' }, rest: [] })
})

test('an inner path is kept, and two details at one field are both said', () => {
  const errors = fieldErrors(
    [
      { path: 'forwards[0].hostPort', want: '0 to 65535', got: '70000' },
      { path: 'forwards[1].guestPort', want: '1 to 65535', got: '0' },
    ],
    ['forwards'],
  )
  assert.equal(errors.at.forwards, '[0].hostPort: want 0 to 65535, got 70000; [1].guestPort: want 1 to 65535, got 0')
})

test('a detail of no field of the form is not lost', () => {
  assert.deepEqual(fieldErrors([{ path: 'moon', want: 'nothing', got: '1' }], ['name']).rest, ['moon: want nothing, got 1'])
})

test('a field of the form may stand for a field of another name', () => {
  assert.deepEqual(fieldErrors([{ path: 'memoryBytes', want: '64 MiB', got: '1' }], ['memory'], { memoryBytes: 'memory' }).at, {
    memory: 'want 64 MiB, got 1',
  })
})

test('a conflict is said at the field that it names, and at the name where it names none', () => {
  const details = [{ path: 'body.forwards[0].hostPort', want: 'a free port', got: '8080' }]
  const port = faultErrors(new Fault('conflict', 'port 8080: web-1 has it', { details }), ['name', 'forwards'], { taken: 'name' })
  assert.deepEqual(port.at, { forwards: '[0].hostPort: want a free port, got 8080' })
  const name = faultErrors(new Fault('conflict', 'web-1 exists'), ['name', 'forwards'], { taken: 'name' })
  assert.deepEqual(name.at, { name: 'web-1 exists' })
  assert.deepEqual(faultErrors(new Fault('unavailable', 'no host is connected'), ['name'], { taken: 'name' }).at, {})
})
