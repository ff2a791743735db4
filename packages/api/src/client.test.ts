import assert from 'node:assert/strict'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { createClient, pathOf } from './client.ts'

/** A server that answers as told: what a client meets besides ours. The real one is in apps/server's tests. */
async function listening(listener: RequestListener): Promise<{ url: string } & AsyncDisposable> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
const fails = (code: string, work: Promise<unknown>, pattern = /./): Promise<void> =>
  assert.rejects(work, (error) => error instanceof Fault && error.code === code && pattern.test(error.message))

test('parameters and queries are encoded, and a step in the path is never made of a name', () => {
  assert.equal(pathOf('instance.get', { params: { instance: 'a/b?c#d' } }), '/api/v1/instances/a%2Fb%3Fc%23d')
  assert.equal(
    pathOf('instance.list', { query: { search: 'a b&c', limit: 3, cursor: undefined } }),
    '/api/v1/instances?search=a+b%26c&limit=3',
  )
  for (const instance of ['', '.', '..', undefined]) assert.throws(() => pathOf('instance.get', { params: { instance } }), Fault)
})

test('tokens and CSRF tokens are asked for at each request, and a CSRF token goes with changes only', async () => {
  const seen: (string | undefined)[] = []
  await using server = await listening((request, response) => {
    seen.push(
      `${request.method} ${request.headers.authorization} ${String(request.headers['x-csrf-token'])} ${request.headers['content-type']}`,
    )
    response.end('{}')
  })
  let token = 'a'
  const client = createClient({ baseUrl: `${server.url}/`, token: () => token, csrf: 'c' })
  await client.call('session.get')
  token = 'b'
  await client.call('account.create', { body: { name: 'x', password: 'long enough' } })
  await client.call('instance.start', { params: { instance: 'x' } })
  assert.deepEqual(seen, ['GET Bearer a undefined undefined', 'POST Bearer b c application/json', 'POST Bearer b c undefined'])
})

test("the server's fault comes back with its code and details", async () => {
  const error = { code: 'invalid', message: 'no', details: [{ path: 'body.name', want: 'a', got: 'b' }] }
  await using server = await listening((_, response) => response.writeHead(400).end(JSON.stringify({ error, requestId: 'x' })))
  await assert.rejects(
    createClient({ baseUrl: server.url }).call('session.get'),
    (fault) => fault instanceof Fault && assert.deepEqual(fault.toJSON(), error) === undefined,
  )
})

test("nobody there, a proxy's page, half an answer and a redirect are all unavailable, and name the server", async () => {
  await using proxy = await listening((_, response) => response.writeHead(502).end('<html>Bad Gateway</html>'))
  await using half = await listening((_, response) => {
    response.writeHead(200, { 'content-length': '100' }).write('{"a":')
    setTimeout(() => response.destroy(), 20)
  })
  await using page = await listening((_, response) => response.end('<html>'))
  await using elsewhere = await listening((_, response) => response.writeHead(302, { location: 'http://evil.example' }).end())
  await fails(
    'unavailable',
    createClient({ baseUrl: 'http://127.0.0.1:1' }).call('session.get'),
    /127\.0\.0\.1:1 does not answer \(.+\)/,
  )
  await fails('unavailable', createClient({ baseUrl: proxy.url }).call('session.get'), /answered 502/)
  for (const server of [half, page, elsewhere])
    await fails('unavailable', createClient({ baseUrl: server.url }).call('session.get'), new RegExp(server.url))
})

test('a call that is withdrawn is aborted', async () => {
  await using server = await listening(() => {})
  const signal = AbortSignal.timeout(20)
  await fails('aborted', createClient({ baseUrl: server.url }).call('session.get', undefined, { signal }))
})

const eventText = (sequence: string) => `id: ${sequence}\ndata: {"sequence":"${sequence}"}\n\n`

test('a silent event stream is taken for dead and opened again after the last event', async () => {
  const asked: (string | undefined)[] = []
  await using server = await listening((request, response) => {
    asked.push(request.url)
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    // Cut in the middle of a line, and silent after the first.
    const text = eventText(`${asked.length}-1`)
    response.write(text.slice(0, 10))
    setTimeout(() => response.write(text.slice(10)), 5)
  })
  const stop = new AbortController()
  const seen: string[] = []
  for await (const { sequence } of createClient({ baseUrl: server.url, retryMs: 5, silenceMs: 80 }).events({
    signal: stop.signal,
  })) {
    if (seen.push(sequence) === 3) stop.abort()
  }
  assert.deepEqual(seen, ['1-1', '2-1', '3-1'])
  assert.deepEqual(asked, ['/api/v1/events/stream', '/api/v1/events/stream?after=1-1', '/api/v1/events/stream?after=2-1'])
})

test("a stream's address is a WebSocket's, with the headers that a browser would not need", () => {
  const client = createClient({ baseUrl: 'https://cloud.example.org', token: 't' })
  assert.deepEqual(client.stream('instance.console', { params: { instance: 'web' }, query: { from: 7 } }), {
    url: 'wss://cloud.example.org/api/v1/instances/web/console?from=7',
    headers: { authorization: 'Bearer t' },
  })
})
