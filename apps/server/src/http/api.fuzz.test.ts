/**
 * Whatever comes in: a 4xx that names the field, what was found and what was wanted; never a defect, never a half-made thing. The cases are
 * made from the table, so that a new operation is attacked from its first day. They go to the real handlers, about things that exist: a
 * host at the other end of a real agent link, an instance that runs on it, an account.
 */
import assert from 'node:assert/strict'
import { request as httpRequest } from 'node:http'
import { after, test } from 'node:test'
import * as fc from 'fast-check'
import { Fault, type FaultDetail } from '@typevisor/base'
import { OPERATION_NAMES, parseInput, type OperationName } from '@typevisor/api'
import { VERB_DATA, type VerbField } from '@typevisor/api/verbs'
import { stopTestPostgres } from '../testing.ts'
import { testCloud, until, type TestCloud } from '../testing/cloud.ts'

after(stopTestPostgres)

const HTTP_NAMES = OPERATION_NAMES.filter((name) => VERB_DATA[name].transport === 'http')
const UUID = '01890b5a-7c3d-7abc-8def-0123456789ab'

/** A value that the field takes. */
function sample(field: VerbField): unknown {
  if (field.values) return field.values[0]
  if (field.name === 'password') return 'long enough for it'
  if (field.name === 'path') return '/file'
  if (field.type === 'array') return field.items?.fields ? [sampleOf(field.items.fields)] : ['*']
  if (field.type === 'object') return sampleOf(field.fields ?? [])
  const values = {
    string: 'web-1',
    integer: field.minimum ?? 1,
    number: 1,
    boolean: true,
    size: field.minimum ?? 1,
    base64: 'YQ==',
    map: { env: 'test' },
  }
  return values[field.type]
}
const sampleOf = (fields: readonly VerbField[]): Record<string, unknown> =>
  Object.fromEntries(fields.filter((field) => field.required).map((field) => [field.name, sample(field)]))

/** What the cloud has; a request is about these, so that it comes as far as it can. */
const THERE: Readonly<Record<string, string>> = {
  instance: 'there',
  host: 'h1',
  image: 'micro',
  account: 'ada',
  snapshot: 'first',
}
/** An instance moves from the one that it is on to the other. */
const HOSTS = ['h1', 'h2']
let madeCount = 0
/** New each time: a conflict on the name would hide the other fields. */
const newName = (): string => `made-${(madeCount += 1)}`

/** A request that the table takes, unless a field is replaced. */
function inputOf(name: OperationName) {
  const verb = VERB_DATA[name]
  const params = Object.fromEntries(verb.params.map((field) => [field.name, THERE[field.name] ?? UUID]))
  const query = sampleOf(verb.query) as Record<string, string>
  return { params, query, body: verb.body.length > 0 ? bodyOf(name) : undefined }
}

function bodyOf(name: OperationName): Record<string, unknown> {
  const body = sampleOf(VERB_DATA[name].body)
  return Object.hasOwn(body, 'name') ? { ...body, name: newName() } : body
}

interface Answer {
  readonly status: number
  readonly code: string
  readonly details: readonly FaultDetail[]
  readonly text: string
}

/** What the guest itself refuses is the guest's word, where the table says that it may come. */
const isDefect = (name: OperationName, { status, code }: Answer): boolean =>
  status >= 500 && !(code === 'failed' && VERB_DATA[name].faults.includes('failed'))

const read = async (response: Response): Promise<Answer> => {
  const text = await response.text()
  const { error } = (text === '' ? {} : JSON.parse(text)) as { error?: { code: string; details?: FaultDetail[] } }
  return { status: response.status, code: error?.code ?? 'ok', details: error?.details ?? [], text }
}

interface Attacked extends AsyncDisposable {
  readonly cloud: TestCloud
  readonly url: string
  readonly secret: string
  /** Puts back what the requests that were taken have used up. */
  restore(): Promise<void>
  /** A host that the instance is not on. */
  elsewhere(): Promise<string>
  /** What there is once nothing is under way, by id: a refused request leaves it as it was. */
  things(): Promise<readonly string[]>
}

async function started(): Promise<Attacked> {
  await using stack = new AsyncDisposableStack()
  const cloud = stack.use(
    await testCloud({
      http: { limits: { requestsPerMinute: 1_000_000, signInsPerMinute: 1_000_000 } },
      policy: { tokenCountMax: 100_000 },
    }),
  )
  const { client } = cloud
  for (const host of HOSTS) await cloud.start(host, await cloud.token(host))
  const attacked = {
    cloud,
    url: cloud.server.url,
    secret: cloud.server.local.token,
    async restore() {
      const { items } = await client.call('instance.list', { query: { limit: 100 } })
      for (const { id, name, state } of items)
        if (name !== THERE['instance'] || state.kind !== 'running')
          await client.call('instance.destroy', { params: { instance: id }, query: { wait: 20, force: 'true' } })
      await client.call('instance.create', { body: { name: 'there' }, query: { wait: 20 } }).catch(unlessThere)
      await client
        .call('instance.snapshot', { params: { instance: 'there' }, body: { name: 'first' }, query: { wait: 20 } })
        .catch(unlessThere)
      await client.call('account.create', { body: { name: 'ada', password: 'long enough for it' } }).catch(unlessThere)
    },
    async elsewhere() {
      const { host } = await client.call('instance.get', { params: { instance: 'there' } })
      return HOSTS.find((other) => other !== host) ?? ''
    },
    async things() {
      await until(
        'what was taken ends',
        async () => (await client.call('operation.list', { query: { unfinished: 'true' } })).total === 0,
      )
      const { rows } = await cloud.server.database.executor.query(
        `SELECT 'account ' || name AS thing FROM account UNION ALL SELECT 'host ' || name FROM host
         UNION ALL SELECT 'instance ' || id FROM instance WHERE destroyed_at IS NULL UNION ALL SELECT 'token ' || id FROM token
         UNION ALL SELECT 'operation ' || id FROM saga UNION ALL SELECT 'image ' || host || '/' || name FROM image ORDER BY 1`,
      )
      return rows.map((row) => String(row['thing']))
    },
  }
  await attacked.restore()
  const owned = stack.move()
  return { ...attacked, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

const unlessThere = (error: unknown): void => {
  if (!(error instanceof Fault && error.code === 'conflict')) throw error
}

/** It is well after all of it: what it is for still works. */
async function worksStill({ cloud: { client }, restore }: Attacked): Promise<void> {
  await restore()
  const { instance } = await client.call('instance.create', { body: { name: 'after-all' }, query: { wait: 20 } })
  assert.equal(instance?.state.kind, 'running')
  const { items } = await client.call('host.list')
  assert.equal(items.find(({ name }) => name === 'h1')?.connected, true)
}

function send(
  server: Attacked,
  name: OperationName,
  path: string,
  body: string | Uint8Array | undefined,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const { method } = VERB_DATA[name]
  return fetch(`${server.url}${path}`, {
    method,
    headers: {
      authorization: `Bearer ${server.secret}`,
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
    ...(body === undefined ? {} : { body }),
  } as RequestInit).then(read)
}

function pathOf(name: OperationName, params: Record<string, string>, query: Record<string, string> | string): string {
  const path = VERB_DATA[name].path.replaceAll(/:(\w+)/g, (_, key: string) => encodeURIComponent(params[key] ?? ''))
  const text = typeof query === 'string' ? query : new URLSearchParams(query).toString()
  return text === '' ? path : `${path}?${text}`
}

const HOSTILE: readonly unknown[] = [
  'nothing-here',
  null,
  true,
  -1,
  0,
  1.5,
  1e21,
  2 ** 53,
  '',
  ' ',
  'a\0b',
  '\uD800',
  '../../etc/passwd',
  "'; DROP TABLE account; --",
  '-x',
  'a,if=none',
  'x'.repeat(200_000),
  [],
  {},
  [null],
  ['\0'],
  { a: '\0' },
  { '\0': 'a' },
  { __proto__x: 1, constructor: { prototype: {} } },
  Array.from({ length: 5000 }, () => 'x'),
]

/** The least and the most that the table takes: what that asks for may be more than there is. */
const extremesOf = ({ minimum, maximum }: VerbField): readonly number[] =>
  [minimum, maximum].filter((limit) => limit !== undefined)

function expectedDetails(name: OperationName, input: { params: unknown; query: unknown; body: unknown }): readonly FaultDetail[] {
  try {
    parseInput(name, structuredClone(input) as never)
    return []
  } catch (error) {
    assert.ok(error instanceof Fault && error.code === 'invalid', String(error))
    return error.details
  }
}

const namesField = (details: readonly FaultDetail[], path: string): boolean =>
  details.some(
    (detail) =>
      (detail.path === path || detail.path.startsWith(`${path}.`) || detail.path.startsWith(`${path}[`)) &&
      detail.want !== '' &&
      detail.got !== '' &&
      detail.got.length < 200,
  )

test('each field of each body, missing, wrong, huge or hostile, is refused by its name or taken as it is', async () => {
  await using server = await started()
  let refusedCount = 0
  for (const name of HTTP_NAMES) {
    const input = inputOf(name)
    if (input.body === undefined) continue
    for (const field of VERB_DATA[name].body) {
      await server.restore()
      let before = await server.things()
      const without: Record<string, unknown> = { ...input.body }
      delete without[field.name]
      const bodies: Record<string, unknown>[] = [
        without,
        ...[...HOSTILE, ...extremesOf(field)].map((value) => ({ ...without, [field.name]: value })),
      ]
      for (const each of bodies) {
        const body = Object.hasOwn(each, 'name') && field.name !== 'name' ? { ...each, name: newName() } : each
        if (name === 'instance.migrate') {
          if (field.name !== 'host') body['host'] = await server.elsewhere()
          if (field.name !== 'dropSnapshots') body['dropSnapshots'] = true
        }
        const wanted = expectedDetails(name, { ...input, body })
        const answer = await send(server, name, pathOf(name, input.params, {}), JSON.stringify(body))
        const shown = `${name} ${field.name} ${JSON.stringify(body)?.slice(0, 120)}: ${answer.status} ${answer.text.slice(0, 300)}`
        assert.ok(!isDefect(name, answer), shown)
        const left = await server.things()
        if (answer.status < 300) before = left
        else assert.deepEqual(left, before, `${shown}: nothing is left`)
        // What the table takes and the handler does not is refused in the same way.
        if (wanted.length === 0 && answer.status >= 400 && answer.code !== 'unauthenticated' && answer.code !== 'failed')
          assert.ok(namesField(answer.details, `body.${field.name}`), shown)
        if (wanted.length > 0) {
          refusedCount += 1
          assert.equal(answer.status, 400, shown)
          assert.ok(namesField(answer.details, `body.${field.name}`), shown)
        }
        if (!Object.hasOwn(body, field.name) && field.required) assert.equal(answer.status, 400, shown)
      }
    }
  }
  assert.ok(refusedCount > 300, `only ${refusedCount} were refused`)
  await worksStill(server)
})

test('each field of each query and each path, wrong, huge or hostile, is refused by its name or taken as it is', async () => {
  await using server = await started()
  const texts = HOSTILE.filter((value) => typeof value === 'string' && value.length < 10_000 && value.isWellFormed()) as string[]
  const values = [
    ...texts,
    'x'.repeat(900),
    '0x10',
    'Infinity',
    'NaN',
    '1e3',
    '-0',
    '999999999999999999999',
    '__proto__',
    '.',
    '..',
    '%',
    '%00',
    '\u202e',
  ]
  for (const name of HTTP_NAMES) {
    const input = inputOf(name)
    await server.restore()
    const body = input.body === undefined ? undefined : JSON.stringify(input.body)
    let before = await server.things()
    const leavesNothing = async (answer: Answer, shown: string): Promise<void> => {
      assert.ok(!isDefect(name, answer), shown)
      const left = await server.things()
      if (answer.status < 300) before = left
      else assert.deepEqual(left, before, `${shown}: nothing is left`)
    }
    for (const field of VERB_DATA[name].query) {
      for (const value of values) {
        const query = { ...input.query, [field.name]: value }
        const wanted = expectedDetails(name, { ...input, query })
        const answer = await send(server, name, pathOf(name, input.params, query), body)
        const shown = `${name} ?${field.name}=${value.slice(0, 60)}: ${answer.status} ${answer.text.slice(0, 300)}`
        await leavesNothing(answer, shown)
        if (wanted.length > 0) assert.ok(answer.status === 400 && namesField(answer.details, `query.${field.name}`), shown)
      }
      const twice = await send(server, name, pathOf(name, input.params, `${field.name}=1&${field.name}=2`), body)
      assert.ok(twice.status === 400 && namesField(twice.details, `query.${field.name}`), name)
    }
    const unknown = await send(server, name, pathOf(name, input.params, 'nonsense=1'), body)
    assert.ok(unknown.status === 400 && namesField(unknown.details, 'query.nonsense'), `${name}: ${unknown.text}`)
    for (const field of VERB_DATA[name].params) {
      for (const value of values.filter((text) => text !== '' && text !== '.' && text !== '..')) {
        const params = { ...input.params, [field.name]: value }
        const wanted = expectedDetails(name, { ...input, params })
        const answer = await send(server, name, pathOf(name, params, {}), body)
        const shown = `${name} :${field.name}=${value.slice(0, 60)}: ${answer.status} ${answer.text.slice(0, 300)}`
        await leavesNothing(answer, shown)
        if (wanted.length > 0) assert.ok(answer.status === 400 && namesField(answer.details, `params.${field.name}`), shown)
      }
    }
  }
  await worksStill(server)
})

test('bodies that are no JSON, no UTF-8, too large, too deep or of another type are refused', async () => {
  await using server = await started()
  const cases: [string, string | Uint8Array, Record<string, string>, number][] = [
    ['cut off', '{"name":', {}, 400],
    ['not JSON', 'name=web', {}, 400],
    ['a comment', '{} // x', {}, 400],
    ['NaN', '{"name":NaN}', {}, 400],
    ['a byte order mark alone', '\uFEFF', {}, 400],
    ['null', 'null', {}, 400],
    ['a list', '[]', {}, 400],
    ['a text', '"web"', {}, 400],
    ['no UTF-8', new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x3a, 0x31, 0x7d]), {}, 400],
    ['a prototype', '{"__proto__":{"name":"x"}}', {}, 400],
    ['a prototype within', '{"name":"x","labels":{"__proto__":"y"}}', {}, 400],
    ['deep lists', `${'['.repeat(200_000)}${']'.repeat(200_000)}`, {}, 400],
    ['deep objects', `${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}`, {}, 400],
    ['deep within a field', `{"labels":${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}}`, {}, 400],
    ['many keys', JSON.stringify(Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`k${index}`, 1]))), {}, 400],
    ['a form', 'name=web', { 'content-type': 'application/x-www-form-urlencoded' }, 415],
    ['plain text', '{}', { 'content-type': 'text/plain' }, 415],
    ['no type', '{}', { 'content-type': '' }, 415],
    ['a strange type', '{}', { 'content-type': 'application/json, text/plain;;;' }, 415],
    ['too large', `{"name":"${'x'.repeat(9 * 1024 * 1024)}"}`, {}, 413],
  ]
  for (const name of HTTP_NAMES) {
    const { params, body } = inputOf(name)
    if (body === undefined) continue
    for (const [what, content, headers, status] of cases) {
      const answer = await send(server, name, pathOf(name, params, {}), content, headers)
      const shown = `${name}, ${what}: ${answer.status} ${answer.text.slice(0, 200)}`
      if (what === 'a strange type') assert.ok([400, 415].includes(answer.status), shown)
      else assert.equal(answer.status, status, shown)
      assert.ok(answer.details.length > 0 && answer.details.length <= 20, shown)
      assert.ok(answer.text.length < 10_000, shown)
    }
  }
  // The server is well after all of it.
  assert.equal((await fetch(`${server.url}/api/v1/health`)).status, 200)
})

test('raw targets, credentials, cookies and event ids of any kind never make a defect', async () => {
  await using server = await started()
  const raw = (path: string, headers: Record<string, string> = {}): Promise<number> =>
    new Promise((resolve, reject) => {
      const sent = httpRequest({ host: '127.0.0.1', port: server.cloud.server.http.port, path, headers }, (response) => {
        response.resume()
        resolve(response.statusCode ?? 0)
        sent.destroy()
      })
      sent.on('error', (error) => (sent.destroyed ? resolve(0) : reject(error)))
      sent.end()
    })
  const authorization = `Bearer ${server.secret}`
  const paths = [
    '/%',
    '/%zz',
    '/%ff',
    '/%00',
    '/api/v1/accounts/%ff/password',
    '/api/v1/instances/%',
    '/api/v1/instances/%2e%2e',
    '/api/v1/operations/%00',
    '//',
    '/api//v1',
    '/api/v1/instances/a%2fb',
    '/api/v1/accounts?search=%ff',
    '/api/v1/accounts?search=%00',
    '/api/v1/accounts?%00=1',
    '/api/v1/accounts?=&&=',
    `/api/v1/accounts?${'a=1&'.repeat(2000)}`,
    `/${'a/'.repeat(3000)}`,
  ]
  for (const path of paths) {
    const status = await raw(path, { authorization })
    assert.ok(status >= 400 && status < 500, `${path.slice(0, 80)}: ${status}`)
  }
  const headers: Record<string, string>[] = [
    { authorization: 'Bearer' },
    { authorization: 'Basic YTpi' },
    { authorization: `Bearer ${'x'.repeat(8000)}` },
    { authorization: 'Bearer tv_00000000000000000000000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' },
    { authorization: 'Bearer tvl_00000000000000000000000000000000_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' },
    { cookie: `typevisor_session_${server.cloud.server.http.port}=${'A'.repeat(43)}` },
    { cookie: `typevisor_session_${server.cloud.server.http.port}=%00%ff; ;;=;` },
    { cookie: '=;;;__proto__=1;constructor=2' },
  ]
  for (const header of headers) assert.equal(await raw('/api/v1/session', header), 401, JSON.stringify(header).slice(0, 80))
  for (const id of ['x', '1-', '99999999999999999999999-1', '__proto__', '-1-1'])
    assert.equal(await raw('/api/v1/events/stream', { authorization, 'last-event-id': id }), 400, id)
})

test('arbitrary JSON to any operation is answered, without a defect and without waiting', async () => {
  await using server = await started()
  const names = HTTP_NAMES.filter((name) => VERB_DATA[name].body.length > 0)
  const anyBody = fc.constantFrom(...names).chain((name) => {
    const field = fc.oneof(fc.jsonValue({ maxDepth: 4 }), fc.string({ unit: 'binary', maxLength: 40 }), fc.integer(), fc.double())
    const own = fc.record(Object.fromEntries(VERB_DATA[name].body.map((item) => [item.name, field])), { requiredKeys: [] })
    return fc.tuple(
      fc.constant(name),
      fc.oneof(own, fc.jsonValue({ maxDepth: 6 }), fc.dictionary(fc.string({ unit: 'binary', maxLength: 20 }), field)),
    )
  })
  await fc.assert(
    fc.asyncProperty(anyBody, async ([name, body]) => {
      const input = inputOf(name)
      const answer = await send(server, name, pathOf(name, input.params, {}), JSON.stringify(body))
      assert.ok(!isDefect(name, answer), `${name} ${JSON.stringify(body)}: ${answer.status} ${answer.text}`)
      if (answer.status === 400) assert.ok(answer.details.length > 0)
    }),
    { numRuns: 400, interruptAfterTimeLimit: 20_000, markInterruptAsFailure: false },
  )
})

test('a field that is not of the table is refused, and leaves nothing behind', async () => {
  await using server = await started()
  const before = await server.things()
  for (const name of HTTP_NAMES) {
    const { params, body } = inputOf(name)
    if (body === undefined) continue
    const answer = await send(server, name, pathOf(name, params, {}), JSON.stringify({ ...body, more: 1 }))
    assert.ok(answer.status === 400 && namesField(answer.details, 'body.more'), `${name}: ${answer.text}`)
  }
  assert.deepEqual(await server.things(), before)
})

test('no answer repeats a password', async () => {
  await using server = await started()
  const secret = 'hunter2-hunter2'
  const bodies = [
    { account: 'ada', password: [secret] },
    { account: 'ada', password: secret.repeat(100) },
    { account: 1, password: secret },
    { account: 'ada', password: `${secret}\0` },
  ]
  for (const body of bodies)
    assert.doesNotMatch((await send(server, 'session.create', '/api/v1/session', JSON.stringify(body))).text, /hunter2/)
  assert.doesNotMatch((await send(server, 'session.create', '/api/v1/session', `{"password":"${secret}" oops`)).text, /hunter2/)
})
