import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { createConnection } from 'node:net'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request as httpRequest } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { brotliCompressSync } from 'node:zlib'
import { Client } from 'pg'
import { WebSocket } from 'ws'
import { epochMillis, Fault, millis } from '@typevisor/base'
import { OPERATION_NAMES, OPERATIONS, type OperationDefinition } from '@typevisor/api'
import { createClient } from '@typevisor/api/client'
import { unrecorded } from '@typevisor/identity'
import { insertEvents } from '../event-log.ts'
import { stopTestPostgres, testLog, testServer, type TestServer } from '../testing.ts'
import { addressKey, nameAllowed, sameOrigin } from './names.ts'
import { closeReason } from './stream.ts'

after(stopTestPostgres)

const JSON_TYPE = { 'content-type': 'application/json' }
const PASSWORD = 'a long password'
type ErrorJson = {
  error: { code: string; message: string; details?: { path: string; want: string; got: string }[] }
  requestId: string
}

/** An account of each role, signed in as a browser would be. */
async function signedIn(server: TestServer, role: 'viewer' | 'operator' | 'admin' = 'admin') {
  await server.identity.createAccount({ name: role, role, password: PASSWORD }, unrecorded)
  return signIn(server, role)
}
async function signIn(server: TestServer, account: string) {
  const response = await fetch(`${server.url}/api/v1/session`, {
    method: 'POST',
    headers: JSON_TYPE,
    body: JSON.stringify({ account, password: PASSWORD }),
  })
  assert.equal(response.status, 201)
  const { csrfToken } = (await response.json()) as { csrfToken: string }
  const cookie = response.headers.getSetCookie()[0] ?? ''
  return { cookie: cookie.split(';')[0] ?? '', setCookie: cookie, csrf: { 'x-csrf-token': csrfToken } }
}
const refused = (code: string) => (error: unknown) => error instanceof Fault && error.code === code
const fails = (code: string, work: Promise<unknown>) => assert.rejects(work, refused(code))
const localHeaders = (server: TestServer) => ({ authorization: `Bearer ${server.local.token}` })
const errorOf = async (response: Response): Promise<ErrorJson> => (await response.json()) as ErrorJson

/** For what `fetch` will not send: a Host header, a path as it is. */
function raw(
  server: TestServer,
  options: { path: string; headers?: Record<string, string>; method?: string },
): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest({ host: '127.0.0.1', port: server.http.port, ...options }, (response) => {
      let body = ''
      response.on('data', (part) => (body += part)).on('end', () => resolve({ status: response.statusCode ?? 0, body }))
    })
    sent.on('error', reject).end()
  })
}

test('health is for anybody; everything else wants somebody', async () => {
  await using server = await testServer()
  const health = await fetch(`${server.url}/api/v1/health`)
  assert.deepEqual([health.status, await health.json()], [200, { status: 'ok', version: '0.0.0-test' }])
  for (const name of OPERATION_NAMES) {
    const operation: OperationDefinition = OPERATIONS[name]
    if (operation.role === 'none') continue
    const response = await fetch(`${server.url}${operation.path.replaceAll(/:\w+/g, 'x')}`, { method: operation.method })
    assert.equal(response.status, 401, name)
    assert.equal((await errorOf(response)).error.code, 'unauthenticated', name)
  }
})

test('each operation asks for its role', async () => {
  await using server = await testServer()
  const order = ['viewer', 'operator', 'admin'] as const
  for (const role of order) {
    const { cookie, csrf } = await signedIn(server, role)
    for (const name of OPERATION_NAMES) {
      const operation: OperationDefinition = OPERATIONS[name]
      if (operation.role === 'none' || operation.transport === 'events' || name === 'session.delete') continue
      const response = await fetch(`${server.url}${operation.path.replaceAll(/:\w+/g, 'x')}`, {
        method: operation.method,
        headers: { cookie, ...csrf, origin: server.url, ...(operation.method === 'GET' ? {} : JSON_TYPE) },
        ...(operation.method === 'GET' ? {} : { body: '{"nonsense":1}' }),
      })
      await response.body?.cancel()
      assert.equal(
        response.status === 403,
        order.indexOf(role) < order.indexOf(operation.role),
        `${name} as ${role}: ${response.status}`,
      )
      assert.notEqual(response.status, 401, name)
    }
  }
})

test('a session is a cookie that no script reads; a change wants its CSRF token; signing out ends it', async () => {
  await using server = await testServer()
  const { cookie, setCookie, csrf } = await signedIn(server)
  assert.match(setCookie, /HttpOnly/)
  assert.match(setCookie, /SameSite=Strict/)
  assert.match(setCookie, new RegExp(`^typevisor_session_${server.http.port}=`))
  const body = JSON.stringify({ name: 'ci' })
  const post = (headers: Record<string, string>) =>
    fetch(`${server.url}/api/v1/tokens`, { method: 'POST', headers: { ...JSON_TYPE, cookie, ...headers }, body })
  assert.equal((await post({})).status, 403)
  assert.equal((await post({ 'x-csrf-token': `${csrf['x-csrf-token']}x` })).status, 403)
  assert.equal((await post({ ...csrf, origin: 'http://evil.example' })).status, 403)
  assert.equal((await post({ ...csrf, origin: server.url })).status, 201)
  const out = await fetch(`${server.url}/api/v1/session`, { method: 'DELETE', headers: { cookie, ...csrf } })
  assert.equal(out.status, 200)
  assert.match(out.headers.getSetCookie()[0] ?? '', /Expires=Thu, 01 Jan 1970/)
  assert.equal((await fetch(`${server.url}/api/v1/session`, { headers: { cookie } })).status, 401)
})

test('a page of another site cannot sign its visitor in', async () => {
  await using server = await testServer()
  await server.identity.createAccount({ name: 'ada', role: 'viewer', password: PASSWORD }, unrecorded)
  const body = JSON.stringify({ account: 'ada', password: PASSWORD })
  const headers = { ...JSON_TYPE, origin: 'http://evil.example' }
  assert.equal((await fetch(`${server.url}/api/v1/session`, { method: 'POST', headers, body })).status, 403)
  const form = await fetch(`${server.url}/api/v1/session`, { method: 'POST', headers: { 'content-type': 'text/plain' }, body })
  assert.equal(form.status, 415)
})

test('too many wrong passwords answer 429 and say when to come back', async () => {
  await using server = await testServer({
    policy: { throttle: { windowMs: millis(60_000), pairLimit: 2, addressLimit: 9, accountLimit: 9 } },
  })
  await server.identity.createAccount({ name: 'ada', role: 'viewer', password: PASSWORD }, unrecorded)
  const attempt = (password: string) =>
    fetch(`${server.url}/api/v1/session`, {
      method: 'POST',
      headers: JSON_TYPE,
      body: JSON.stringify({ account: 'ada', password }),
    })
  assert.equal((await attempt('wrong')).status, 401)
  assert.equal((await attempt('wrong')).status, 401)
  const response = await attempt(PASSWORD)
  assert.equal(response.status, 429)
  const wait = Number(response.headers.get('retry-after'))
  assert.ok(wait > 50 && wait <= 60)
})

test('one address has so many requests a minute, and fewer tries to sign in', async () => {
  await using server = await testServer({ http: { limits: { requestsPerMinute: 5, signInsPerMinute: 2 } } })
  const codes: number[] = []
  for (let count = 0; count < 7; count += 1) codes.push((await fetch(`${server.url}/api/v1/health`)).status)
  assert.deepEqual(codes, [200, 200, 200, 200, 200, 429, 429])
  const tries: number[] = []
  for (let count = 0; count < 3; count += 1)
    tries.push((await fetch(`${server.url}/api/v1/session`, { method: 'POST', headers: JSON_TYPE, body: '{}' })).status)
  assert.deepEqual(tries, [400, 400, 429])
})

test('whoever is refused is counted too: without a credential, with a wrong one, from another site', async () => {
  const headers: Record<string, string>[] = [{}, { authorization: 'Bearer tv_nonsense' }, { authorization: 'Basic eDp5' }]
  for (const given of headers) {
    await using server = await testServer({ http: { limits: { requestsPerMinute: 3 } } })
    const codes: number[] = []
    for (let count = 0; count < 4; count += 1)
      codes.push((await fetch(`${server.url}/api/v1/instances`, { headers: given })).status)
    assert.deepEqual(codes, [401, 401, 401, 429])
  }
  await using server = await testServer({ http: { limits: { signInsPerMinute: 2 } } })
  const codes: number[] = []
  for (let count = 0; count < 3; count += 1)
    codes.push(
      (
        await fetch(`${server.url}/api/v1/session`, {
          method: 'POST',
          headers: { ...JSON_TYPE, origin: 'http://evil.example' },
          body: '{}',
        })
      ).status,
    )
  assert.deepEqual(codes, [403, 403, 429])
})

test('a token acts within its scopes and until it is revoked', async () => {
  await using server = await testServer()
  const local = createClient({ baseUrl: server.url, token: server.local.token })
  const { secret, token } = await local.call('token.create', { body: { name: 'reader', scopes: ['*:read'] } })
  const reader = createClient({ baseUrl: server.url, token: secret })
  assert.equal((await reader.call('session.get')).account.name, 'local')
  await assert.rejects(reader.call('account.create', { body: { name: 'x', password: 'long enough 1' } }), refused('forbidden'))
  const used = (await local.call('token.list')).items.find((item) => item.id === token.id)
  assert.ok(used?.lastUsedAt)
  await local.call('token.delete', { params: { token: token.id } })
  await assert.rejects(reader.call('session.get'), refused('unauthenticated'))
})

test('who did what is in the audit log when the answer comes: changes, refusals, sign-ins, and no password typed as a name', async () => {
  await using server = await testServer()
  const { cookie, csrf } = await signedIn(server, 'viewer')
  const local = createClient({ baseUrl: server.url, token: server.local.token })
  const account = await local.call('account.create', { body: { name: 'bob', password: 'bob is a builder' } })
  await fetch(`${server.url}/api/v1/accounts/bob`, { method: 'DELETE', headers: { cookie, ...csrf } })
  await fetch(`${server.url}/api/v1/session`, {
    method: 'POST',
    headers: JSON_TYPE,
    body: JSON.stringify({ account: 'My Secret Password!', password: 'x' }),
  })
  const { items } = await local.call('audit.list')
  assert.equal(items[2]?.resourceName, 'bob')
  assert.equal((await local.call('audit.list', { query: { search: 'BOB ok' } })).total, 1)
  assert.deepEqual(
    items.map(({ account, via, operation, outcome }) => [account, via, operation, outcome]),
    [
      [null, 'none', 'session.create', 'unauthenticated'],
      ['viewer', 'session', 'account.delete', 'forbidden'],
      ['local', 'local', 'account.create', 'ok'],
      ['viewer', 'none', 'session.create', 'ok'],
    ],
  )
  assert.equal(items[2]?.resource, account.id)
  assert.equal((await local.call('audit.list', { query: { search: 'FORBIDDEN viewer' } })).total, 1)
  const first = await local.call('audit.list', { query: { limit: 3 } })
  const rest = await local.call('audit.list', { query: { limit: 3, cursor: first.nextCursor ?? '' } })
  assert.deepEqual([first.total, rest.items.length, rest.nextCursor], [4, 1, null])
})

test('passwords, accounts and their pages through the client', async () => {
  await using server = await testServer()
  const local = createClient({ baseUrl: server.url, token: server.local.token })
  for (const name of ['ada', 'bob', 'eve'])
    await local.call('account.create', { body: { name, password: `${name} has a password` } })
  const names = async (query: { search?: string; limit?: number }) =>
    (await local.call('account.list', { query })).items.map((item) => item.name)
  assert.deepEqual(await names({}), ['ada', 'bob', 'eve', 'local'])
  assert.deepEqual(await names({ search: 'B' }), ['bob'])
  const page = await local.call('account.list', { query: { limit: 2 } })
  assert.deepEqual(
    (await local.call('account.list', { query: { limit: 2, cursor: page.nextCursor ?? '' } })).items.map((item) => item.name),
    ['eve', 'local'],
  )
  await local.call('account.password', { params: { account: 'bob' }, body: { password: 'another long one' } })
  await server.identity.signIn({ account: 'bob', password: 'another long one', address: 'here' }, unrecorded)
  await local.call('account.delete', { params: { account: 'bob' } })
  await fails('not_found', local.call('account.delete', { params: { account: 'bob' } }))
  await fails('conflict', local.call('account.create', { body: { name: 'ada', password: 'another long one' } }))
  await fails('conflict', local.call('account.delete', { params: { account: 'local' } }))
})

test('whoever sets their own password says the one until now and stays signed in; other sessions of theirs end', async () => {
  await using server = await testServer()
  const here = await signedIn(server, 'viewer')
  const there = await signIn(server, 'viewer')
  const set = (body: object) =>
    fetch(`${server.url}/api/v1/accounts/viewer/password`, {
      method: 'POST',
      headers: { ...JSON_TYPE, cookie: here.cookie, ...here.csrf },
      body: JSON.stringify({ password: 'another long one', ...body }),
    })
  for (const body of [{}, { currentPassword: 'a wrong password' }]) {
    const response = await set(body)
    const { error } = await errorOf(response)
    assert.deepEqual([response.status, error.code, error.details?.[0]?.path], [403, 'forbidden', 'body.currentPassword'])
    assert.doesNotMatch(JSON.stringify(error), /a wrong password/)
  }
  assert.equal((await set({ currentPassword: PASSWORD })).status, 200)
  const status = async (cookie: string) => (await fetch(`${server.url}/api/v1/session`, { headers: { cookie } })).status
  assert.deepEqual([await status(here.cookie), await status(there.cookie)], [200, 401])
})

test('a server called by a name that is not its own refuses: DNS rebinding', async () => {
  await using server = await testServer({ http: { names: ['cloud.example.org'] } })
  const status = async (host: string) => (await raw(server, { path: '/api/v1/health', headers: { host } })).status
  for (const host of [
    'localhost',
    `127.0.0.1:${server.http.port}`,
    '[::1]:80',
    '192.168.1.5',
    'Cloud.Example.org',
    'cloud.example.org:8006',
  ])
    assert.equal(await status(host), 200, host)
  for (const host of [
    'evil.example',
    'cloud.example.org.evil.example',
    '127.0.0.1.evil.example',
    'localhost.evil.example',
    'a b',
    '[evil]',
    ':80',
  ]) {
    assert.ok([400, 403].includes(await status(host)), host)
  }
})

test('a proxy is believed about address, name and TLS only where it is trusted', async () => {
  const said = { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'cloud.example.org' }
  for (const trusted of [true, false]) {
    await using server = await testServer({
      http: { names: ['cloud.example.org'], ...(trusted ? { trustedProxies: ['127.0.0.0/8'] } : {}) },
    })
    await server.identity.createAccount({ name: 'ada', role: 'viewer', password: PASSWORD }, unrecorded)
    const signIn = (headers: Record<string, string>) =>
      fetch(`${server.url}/api/v1/session`, {
        method: 'POST',
        headers: { ...JSON_TYPE, ...headers },
        body: JSON.stringify({ account: 'ada', password: PASSWORD }),
      })
    const response = await signIn({ ...said, origin: trusted ? 'https://cloud.example.org' : server.url })
    assert.equal(response.status, 201)
    const cookie = response.headers.getSetCookie()[0] ?? ''
    if (trusted) assert.match(cookie, /^__Host-typevisor_session=.*Secure/)
    else assert.doesNotMatch(cookie, /Secure/)
    const { rows } = await server.database.executor.query('SELECT address FROM audit')
    assert.deepEqual(rows, [{ address: trusted ? '203.0.113.9' : '127.0.0.1' }])
    assert.equal((await signIn({ ...said, 'x-forwarded-host': 'evil.example' })).status, trusted ? 403 : 201)
  }
})

test('names, origins and addresses are judged as they are meant', () => {
  assert.equal(nameAllowed(undefined, []), false)
  assert.equal(nameAllowed('localhost.', []), true)
  assert.equal(sameOrigin('http://a:1', 'a:1', false, []), true)
  assert.equal(sameOrigin('https://a', 'a:443', true, []), true)
  assert.equal(sameOrigin('https://a:1', 'a:1', false, []), false)
  assert.equal(sameOrigin('null', 'a:1', false, []), false)
  assert.equal(sameOrigin('http://a:2', 'a:1', false, []), false)
  assert.equal(sameOrigin('https://portal.example', 'a:1', false, ['https://portal.example']), true)
  assert.equal(addressKey('::ffff:10.0.0.1'), '10.0.0.1')
  assert.equal(addressKey('2001:db8:1:2:3:4:5:6'), addressKey('2001:db8:1:2::9'))
  assert.notEqual(addressKey('2001:db8:1:2::9'), addressKey('2001:db8:1:3::9'))
  assert.ok(Buffer.byteLength(closeReason('é'.repeat(200))) <= 123)
  assert.doesNotMatch(closeReason('é'.repeat(200)), /\uFFFD/)
})

test('every answer carries the security headers and the id of its request', async () => {
  await using server = await testServer()
  for (const path of ['/api/v1/health', '/api/v1/session', '/nothing', '/', '/%zz']) {
    const { headers } = await fetch(`${server.url}${path}`)
    if (path !== '/%zz') {
      assert.match(headers.get('content-security-policy') ?? '', /default-src 'none'.*frame-ancestors 'none'/, path)
      assert.equal(headers.get('x-content-type-options'), 'nosniff', path)
      assert.ok(headers.get('x-request-id'), path)
    }
  }
})

test("what is no API answers in the API's own words: unknown paths, other methods, malformed HTTP", async () => {
  await using server = await testServer()
  const headers = localHeaders(server)
  assert.equal((await errorOf(await fetch(`${server.url}/api/v1/nothing`, { headers }))).error.code, 'not_found')
  const other = await fetch(`${server.url}/api/v1/accounts`, { method: 'PUT', headers })
  assert.deepEqual([other.status, other.headers.get('allow')], [405, 'GET, POST'])
  const talk = (text: string): Promise<string> =>
    new Promise((resolve) => {
      let answer = ''
      const socket = createConnection(server.http.port, '127.0.0.1', () => socket.write(text))
      socket
        .on('data', (part) => (answer += part))
        .on('close', () => resolve(answer))
        .on('error', () => {})
    })
  assert.match(await talk('hello\r\n\r\n'), /^HTTP\/1.1 400 [\s\S]*"code":"invalid"/)
  assert.match(await talk(`GET / HTTP/1.1\r\nhost: localhost\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`), /^HTTP\/1.1 431 /)
  assert.match(
    await talk('POST /api/v1/session HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n'),
    /^HTTP\/1.1 400 /,
  )
  assert.match(await talk('GET / HTTP/1.1\r\n\r\n'), /^HTTP\/1.1 400 /)
})

test('a database that went away is 503, not a defect, and the server goes on when it is back', async () => {
  await using server = await testServer({ outbox: { log: { ...testLog, warn: () => {} } } })
  const { connection } = server.database
  await using stack = new AsyncDisposableStack()
  const admin = new Client({ ...connection, database: 'postgres' })
  await admin.connect()
  stack.defer(() => admin.end())
  const allow = (allowed: boolean) => admin.query(`ALTER DATABASE ${connection.database} ALLOW_CONNECTIONS ${allowed}`)
  await allow(false)
  await admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1', [connection.database])
  const codes = new Set<string>()
  for (let count = 0; count < 10; count += 1) {
    const response = await fetch(`${server.url}/api/v1/health`)
    codes.add(`${response.status} ${(await errorOf(response)).error.code}`)
  }
  assert.deepEqual([...codes], ['503 unavailable'])
  await allow(true)
  assert.equal((await fetch(`${server.url}/api/v1/health`)).status, 200)
})

test('the events of a stream come as they happen, with a heartbeat, and go on after the last one over a broken connection', async () => {
  await using server = await testServer({ http: { limits: { heartbeatEveryMs: 30 } } })
  const response = await fetch(`${server.url}/api/v1/events/stream`, { headers: localHeaders(server) })
  assert.equal(response.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  while (!text.includes(': still here')) text += (await reader?.read())?.value
  await reader?.cancel()

  const stop = new AbortController()
  const client = createClient({ baseUrl: server.url, token: server.local.token, retryMs: 10 })
  const names: (string | null)[] = []
  const say = (name: string) =>
    insertEvents(server.database.db, [{ at: epochMillis(Date.now()), kind: 'test.said', resource: 'r', name, data: {} }])
  let opened = 0
  const states: string[] = []
  const onState = (state: { kind: string }): void => {
    states.push(state.kind)
    if (state.kind === 'open' && (opened += 1) === 1) void say('one')
  }
  for await (const event of client.events({ signal: stop.signal, onState })) {
    names.push(event.name)
    if (event.name === 'one') {
      // Every connection is cut; what is said meanwhile must not be lost.
      server.http.app.server.closeAllConnections()
      await say('two')
    } else if (event.name === 'two') await say('three')
    else stop.abort()
  }
  assert.deepEqual(names, ['one', 'two', 'three'])
  assert.deepEqual(states, ['open', 'waiting', 'open'])
  const listed = await client.call('event.list', { query: { resource: 'r', limit: 2 } })
  assert.deepEqual([listed.items.map((item) => item.name), listed.total], [['three', 'two'], 3])
  const missing = await fetch(`${server.url}/api/v1/events/stream?after=nonsense`, { headers: localHeaders(server) })
  assert.deepEqual([missing.status, (await errorOf(missing)).error.details?.[0]?.path], [400, 'query.after'])
})

test('a stream of somebody who signs out ends by itself, and the client says so', async () => {
  await using server = await testServer({ http: { limits: { recheckEveryMs: 20 } } })
  const { cookie, csrf } = await signedIn(server, 'viewer')
  const client = createClient({
    baseUrl: server.url,
    retryMs: 10,
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init?.headers, cookie } }),
  })
  const follow = async (): Promise<void> => {
    for await (const _ of client.events({ signal: AbortSignal.timeout(10_000) }));
  }
  const following = follow()
  following.catch(() => {})
  await fetch(`${server.url}/api/v1/session`, { method: 'DELETE', headers: { cookie, ...csrf } })
  await assert.rejects(following, (error) => error instanceof Fault && error.code === 'unauthenticated')
})

/** Opens a WebSocket and answers how that went. */
function open(url: string, options: { headers?: Record<string, string> } = {}): Promise<WebSocket | number> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, options)
    socket.on('open', () => resolve(socket))
    socket.on('unexpected-response', (_request, response) => resolve(response.statusCode ?? 0))
    socket.on('error', reject)
  })
}
const closed = (socket: WebSocket): Promise<[number, string]> =>
  new Promise((resolve) => socket.on('close', (code, reason) => resolve([code, reason.toString()])))

test('a stream is bytes both ways, asks for who and from where before it opens, and ends with a reason', async () => {
  await using server = await testServer({
    http: { limits: { recheckEveryMs: 20 } },
    handlers: {
      'instance.console': async (call, socket) => {
        if (call.params.instance === 'none') throw new Fault('not_found', 'instance none: there is none')
        for await (const content of socket.incoming) await socket.send(content.toReversed())
      },
    },
  })
  const client = createClient({ baseUrl: server.url, token: server.local.token })
  const { url, headers } = client.stream('instance.console', { params: { instance: 'web' } })
  const { cookie, csrf } = await signedIn(server, 'operator')
  assert.equal(await open(url), 401)
  assert.equal(await open(url, { headers: { cookie } }), 403)
  assert.equal(await open(url, { headers: { cookie, origin: 'http://evil.example' } }), 403)
  assert.equal(await open(`${url}?from=-1`, { headers }), 400)
  const echo = await open(url, { headers })
  assert.ok(echo instanceof WebSocket)
  echo.send('abc')
  assert.equal(await new Promise((resolve) => echo.once('message', (content: Buffer) => resolve(content.toString()))), 'cba')
  echo.close()
  const none = await open(url.replace('web', 'none'), { headers })
  assert.ok(none instanceof WebSocket)
  assert.deepEqual(await closed(none), [4000, 'not_found: instance none: there is none'])
  const own = await open(url, { headers: { cookie, origin: server.url } })
  assert.ok(own instanceof WebSocket)
  const ended = closed(own)
  await fetch(`${server.url}/api/v1/session`, { method: 'DELETE', headers: { cookie, ...csrf } })
  await ended
  assert.equal((await fetch(`${server.url}/api/v1/instances/web/console`, { headers: localHeaders(server) })).status, 400)
})

test('a guest that writes faster than the browser reads is held back, and the other way round', async () => {
  let sentBytes = 0
  let takenBytes = 0
  await using server = await testServer({
    handlers: {
      'instance.console': async ({ signal }, socket) => {
        while (!signal.aborted && sentBytes < 64 * 1024 * 1024) {
          await socket.send(new Uint8Array(64 * 1024))
          sentBytes += 64 * 1024
        }
      },
      'instance.vnc': async ({ signal }, socket) => {
        for await (const content of socket.incoming) {
          if (signal.aborted) return
          takenBytes += content.length
          await new Promise((resolve) => setTimeout(resolve, 100))
        }
      },
    },
  })
  const client = createClient({ baseUrl: server.url, token: server.local.token })
  const console = client.stream('instance.console', { params: { instance: 'web' } })
  const reader = await open(console.url, { headers: console.headers })
  assert.ok(reader instanceof WebSocket)
  reader.pause()
  await new Promise((resolve) => setTimeout(resolve, 500))
  assert.ok(sentBytes < 24 * 1024 * 1024, `the server took ${sentBytes} bytes for a browser that does not read`)
  reader.terminate()
  const vnc = client.stream('instance.vnc', { params: { instance: 'web' } })
  const writer = await open(vnc.url, { headers: vnc.headers })
  assert.ok(writer instanceof WebSocket)
  for (let count = 0; count < 512; count += 1) writer.send(new Uint8Array(64 * 1024))
  await new Promise((resolve) => setTimeout(resolve, 500))
  assert.ok(writer.bufferedAmount > 1024 * 1024, 'the socket is held back')
  assert.ok(takenBytes < 2 * 1024 * 1024)
  writer.terminate()
})

test('open streams and slow requests end when the server closes', async () => {
  const server = await testServer({
    handlers: {
      'instance.console': async (_call, socket) => {
        for await (const _ of socket.incoming);
      },
    },
  })
  const client = createClient({ baseUrl: server.url, token: server.local.token })
  const { url, headers } = client.stream('instance.console', { params: { instance: 'web' } })
  const socket = await open(url, { headers })
  assert.ok(socket instanceof WebSocket)
  const stream = await fetch(`${server.url}/api/v1/events/stream`, { headers: localHeaders(server) })
  const [closing] = await Promise.all([closed(socket), server[Symbol.asyncDispose](), stream.text()])
  assert.deepEqual(closing, [4000, 'unavailable: the server stops'])
})

test('the document of the API names every operation', async () => {
  await using server = await testServer()
  const document = (await (await fetch(`${server.url}/api/v1/openapi.json`)).json()) as {
    openapi: string
    paths: Record<string, Record<string, { operationId: string }>>
    components: { schemas: Record<string, unknown> }
  }
  assert.match(document.openapi, /^3\.1/)
  const ids = Object.values(document.paths).flatMap((path) => Object.values(path).map((operation) => operation.operationId))
  assert.deepEqual(ids.toSorted(), OPERATION_NAMES.toSorted())
  const refs = [...JSON.stringify(document).matchAll(/"\$ref":"([^"]+)"/g)].map((match) => match[1] ?? '')
  for (const ref of refs) assert.ok(Object.hasOwn(document.components.schemas, ref.replace('#/components/schemas/', '')), ref)
})

test('the portal: one page for every path of a page, hashed files for a year, compressed where they are, nothing outside of it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-portal-'))
  try {
    const dist = join(folder, 'dist')
    await mkdir(join(dist, 'assets'), { recursive: true })
    await writeFile(join(folder, 'secret.txt'), 'secret')
    await writeFile(join(dist, 'index.html'), '<!doctype html><title>portal</title>')
    await writeFile(join(dist, 'assets', 'index-Ab3dEf9h.js'), 'let plain')
    await writeFile(join(dist, 'assets', 'index-Ab3dEf9h.js.br'), brotliCompressSync('let small'))
    await using server = await testServer({ http: { portalPath: dist } })
    const html = { accept: 'text/html,*/*' }
    for (const path of ['/', '/instances/web-1', '/sign-in?next=%2F']) {
      const response = await fetch(`${server.url}${path}`, { headers: html })
      assert.deepEqual(
        [response.status, await response.text(), response.headers.get('cache-control')],
        [200, '<!doctype html><title>portal</title>', 'no-cache'],
        path,
      )
    }
    const asset = await fetch(`${server.url}/assets/index-Ab3dEf9h.js`, { headers: { 'accept-encoding': 'br' } })
    assert.deepEqual(
      [asset.headers.get('content-encoding'), await asset.text(), asset.headers.get('cache-control')],
      ['br', 'let small', 'public, max-age=31536000, immutable'],
    )
    const plain = await fetch(`${server.url}/assets/index-Ab3dEf9h.js`, { headers: { 'accept-encoding': 'identity' } })
    assert.equal(await plain.text(), 'let plain')
    assert.equal((await fetch(`${server.url}/assets/gone-12345678.js`, { headers: html })).status, 404)
    assert.equal((await fetch(`${server.url}/api/v2/x`, { headers: html })).status, 404)
    for (const path of [
      '/../secret.txt',
      '/..%2fsecret.txt',
      '/%2e%2e/secret.txt',
      '/assets/..%5c..%5csecret.txt',
      '/assets/%00',
      '//etc/passwd',
      '/....//secret.txt',
    ]) {
      const { status, body } = await raw(server, { path })
      assert.ok(status >= 400 && status < 500, `${path}: ${status}`)
      assert.doesNotMatch(body, /secret$/, path)
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

const openssl = spawnSync('openssl', ['version']).status === 0
test(
  'with a certificate it speaks TLS, with cookies that never leave it',
  { skip: openssl ? false : 'no openssl here to make a certificate with' },
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tv-tls-'))
    try {
      const [keyPath, certPath] = [join(folder, 'key.pem'), join(folder, 'cert.pem')]
      await promisify(execFile)('openssl', [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:P-256',
        '-nodes',
        '-keyout',
        keyPath,
        '-out',
        certPath,
        '-days',
        '1',
        '-subj',
        '/CN=localhost',
      ])
      await using server = await testServer({ http: { tls: { keyPath, certPath } } })
      await server.identity.createAccount({ name: 'ada', role: 'viewer', password: PASSWORD }, unrecorded)
      const { cookies, hsts } = await new Promise<{ cookies: string[]; hsts: string | undefined }>((resolve, reject) => {
        const sent = httpsRequest(
          `${server.url}/api/v1/session`,
          { method: 'POST', rejectUnauthorized: false, headers: JSON_TYPE },
          (response) => {
            response.resume().on('end', () =>
              resolve({
                cookies: response.headers['set-cookie'] ?? [],
                hsts: response.headers['strict-transport-security'] as string,
              }),
            )
          },
        )
        sent.on('error', reject).end(JSON.stringify({ account: 'ada', password: PASSWORD }))
      })
      assert.match(cookies[0] ?? '', /^__Host-typevisor_session_\d+=.*Secure/)
      assert.equal(hsts, 'max-age=31536000')
      await assert.rejects(testServer({ http: { tls: { keyPath, certPath: '/nowhere' } } }), /TLS: read \/nowhere/)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  },
)

test('a port that is taken is named, with what to do', async () => {
  await using server = await testServer()
  await assert.rejects(
    testServer({ http: { port: server.http.port } }),
    (error) => error instanceof Fault && error.code === 'conflict' && /the port is in use/.test(error.message),
  )
})
