import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { nodeFetch, parseReply } from './node-fetch.ts'

test("a request and its reply are what Node's own fetch would send and give", async () => {
  const server = createServer((request, response) => {
    const parts: Buffer[] = []
    request.on('data', (part: Buffer) => parts.push(part))
    request.on('end', () => {
      response.setHeader('content-type', 'application/json')
      const { host: _host, connection: _connection, ...headers } = request.headers
      const reply = JSON.stringify({
        method: request.method,
        url: request.url,
        accept: headers['accept'],
        body: Buffer.concat(parts).toString(),
        long: 'ä'.repeat(70_000),
      })
      // In two parts, so that it comes by chunks.
      response.write(reply.slice(0, 10))
      setTimeout(() => response.end(reply.slice(10)), 5)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/a/b?c=d%20e`
  const init = { method: 'POST', headers: { accept: 'application/json', 'content-type': 'application/json' }, body: '{"ä":1}' }
  const [ours, theirs] = await Promise.all([nodeFetch(url, init), fetch(url, init)])
  assert.equal(ours.status, theirs.status)
  assert.deepEqual(await ours.json(), await theirs.json())
  assert.equal(ours.headers.get('Content-Type'), theirs.headers.get('Content-Type'))
  server.close()
})

test('a reply that is cut short or is none at all is an error', () => {
  assert.throws(() => parseReply(Buffer.from('HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc')), /cut short/)
  assert.throws(() => parseReply(Buffer.from('HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc')), /cut short/)
  assert.throws(() => parseReply(Buffer.from('')), /cut short/)
  assert.throws(() => parseReply(Buffer.from('SSH-2.0-OpenSSH\r\n\r\n')), /want an HTTP reply/)
  assert.equal(parseReply(Buffer.from('HTTP/1.1 204 No Content\r\n\r\n')).status, 204)
})

test('nobody there is a failed fetch with its cause', async () => {
  await assert.rejects(
    nodeFetch('http://127.0.0.1:9/'),
    (error) => error instanceof TypeError && (error.cause as NodeJS.ErrnoException).code === 'ECONNREFUSED',
  )
})
