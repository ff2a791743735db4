/** Files of guests through the API, on a real database and a host at the other end of a WebSocket. */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { MIB } from '@typevisor/base'
import { stopTestPostgres } from '../testing.ts'
import { testCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const query = { wait: 20 }
const params = { instance: 'web' }

test('a file goes into a guest and comes back by as much as one call promises, and more is refused by name', async () => {
  await using cloud = await testCloud()
  const { client } = cloud
  await cloud.start('h1', await cloud.token('h1'))
  await client.call('instance.create', { query, body: { name: 'web' } })
  const content = Buffer.alloc(4 * MIB, 'abc')
  const path = '/large'
  await client.call('instance.file-put', { params, body: { path, contentBase64: content.toString('base64') } })
  await client.call('instance.file-put', { params, body: { path, contentBase64: 'eHl6', append: true } })
  const first = await client.call('instance.file-get', { params, query: { path } })
  assert.ok(Buffer.from(first.contentBase64, 'base64').equals(content))
  const rest = await client.call('instance.file-get', { params, query: { path, from: 4 * MIB } })
  assert.equal(rest.contentBase64, 'eHl6')
  const end = await client.call('instance.file-get', { params, query: { path, from: 4 * MIB + 3 } })
  assert.equal(end.contentBase64, '')
  const larger = Buffer.alloc(5 * MIB).toString('base64')
  await assert.rejects(client.call('instance.file-put', { params, body: { path, contentBase64: larger } }), {
    code: 'invalid',
    message: /contentBase64/,
  })
})
