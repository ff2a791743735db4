import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Instance } from '../../api/verbs.ts'
import { bodyOf, draftOf } from './recovery-draft.ts'

// What the draft reads of it.
const instance = { settings: { onCrash: 'keep', autostart: true, autostartOrder: 10 } } as unknown as Instance

test('a draft that nobody has touched sends nothing', () => {
  assert.deepEqual(bodyOf(draftOf(instance), instance), {})
})

test('what was changed is sent, an order that was emptied is reset, and nothing else', () => {
  assert.deepEqual(bodyOf({ onCrash: 'dump-reboot', autostart: false, order: ' 20 ' }, instance), {
    onCrash: 'dump-reboot',
    autostart: false,
    autostartOrder: 20,
  })
  assert.deepEqual(bodyOf({ ...draftOf(instance), order: '' }, instance), { reset: ['autostartOrder'] })
})

test('an order that is no number is refused', () => {
  assert.throws(() => bodyOf({ ...draftOf(instance), order: 'first' }, instance), { code: 'invalid' })
})
