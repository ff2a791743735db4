import assert from 'node:assert/strict'
import { test } from 'node:test'
import { mayCall } from './permission.ts'

test('a viewer looks, an operator acts, an admin reads the audit log', () => {
  assert.equal(mayCall('viewer', 'instance.list'), true)
  assert.equal(mayCall('viewer', 'instance.create'), false)
  assert.equal(mayCall('operator', 'instance.create'), true)
  assert.equal(mayCall('operator', 'audit.list'), false)
  assert.equal(mayCall('admin', 'audit.list'), true)
})
