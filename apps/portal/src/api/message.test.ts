import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createClient } from '@typevisor/api/client'
import { Fault } from '@typevisor/base'
import { messageOf } from './message.ts'

test('a platform that cannot be reached is told in words, whatever the browser says of it', async () => {
  const client = createClient({ baseUrl: 'http://127.0.0.1:1', fetch: () => Promise.reject(new TypeError('Failed to fetch')) })
  const error: unknown = await client.call('host.list').catch((reason: unknown) => reason)
  assert.match(messageOf(error), /^The platform does not answer/)
})

test('what the server said is shown as it is, of a part that does not answer too', () => {
  assert.equal(messageOf(new Fault('unavailable', 'no host is connected')), 'no host is connected')
  assert.equal(messageOf(new Error('odd')), 'odd')
})
