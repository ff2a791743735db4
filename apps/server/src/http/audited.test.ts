/**
 * No change without its entry: every operation that may change something is called while no entry can be written, and has changed nothing;
 * then while it can, and the log says so. What changes nothing in the database does not begin without its entry.
 */
import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { WebSocket } from 'ws'
import { OPERATION_NAMES, OPERATIONS, type OperationName } from '@typevisor/api'
import { mib } from '@typevisor/base'
import type { SagaState } from '@typevisor/saga'
import { stopTestPostgres, testIds } from '../testing.ts'
import { testCloud, until, type TestCloud, type TestHost } from '../testing/cloud.ts'

after(stopTestPostgres)

type Writing = {
  [N in OperationName]: (typeof OPERATIONS)[N]['scope'] extends `${string}:write` ? N : never
}[OperationName]
type Act = () => Promise<unknown>
/** Makes what the act needs, then the act; it can be tried more than once. */
type Case = (cloud: TestCloud, name: string) => Promise<Act>

const PASSWORD = 'a long password'
const account = (name: string) => ({ name, password: PASSWORD })

async function http(cloud: TestCloud, method: string, path: string, body?: object, headers: Record<string, string> = {}) {
  const response = await fetch(`${cloud.server.url}/api/v1/${path}`, {
    method,
    headers: { ...(body ? { 'content-type': 'application/json' } : {}), ...headers },
    ...(body ? { body: JSON.stringify(body) } : {}),
  })
  const text = await response.text()
  assert.ok(response.ok, `${response.status} ${text}`)
  return { response, reply: JSON.parse(text) as { csrfToken?: string } }
}

/** An instance in the state from which the verb goes. */
const instance =
  (verb: Extract<Writing, `instance.${string}`>, ...before: ('pause' | 'save' | 'poweroff')[]): Case =>
  async ({ client }, name) => {
    await client.call('instance.create', { query: { wait: 20 }, body: { name, memoryBytes: mib(128) } })
    for (const step of before) await client.call(`instance.${step}`, { params: { instance: name }, query: { wait: 20 } })
    return () => client.call(verb as 'instance.start', { params: { instance: name }, query: { wait: 20 } })
  }

const WAIT = { wait: 20 }

/** An instance with a snapshot. */
const snapshotted =
  (act: (cloud: TestCloud, params: { instance: string; snapshot: string }) => Promise<unknown>): Case =>
  async (cloud, name) => {
    const { client } = cloud
    await client.call('instance.create', { query: WAIT, body: { name, memoryBytes: mib(128) } })
    await client.call('instance.snapshot', { params: { instance: name }, query: WAIT, body: { name: 'first' } })
    return () => act(cloud, { instance: name, snapshot: 'first' })
  }

/** An instance whose guest answers. */
const inGuest =
  (act: (cloud: TestCloud, instance: string) => Promise<unknown>): Case =>
  async (cloud, name) => {
    const { client } = cloud
    await client.call('instance.create', { query: WAIT, body: { name, memoryBytes: mib(128) } })
    const file = { path: '/file', contentBase64: 'aGk=' }
    await client.call('instance.file-put', { params: { instance: name }, body: file })
    return () => act(cloud, name)
  }

/** An instance with a disk of its own and a CD drive. */
const equipped =
  (act: (cloud: TestCloud, instance: string) => Promise<unknown>): Case =>
  async (cloud, name) => {
    const { client } = cloud
    await client.call('instance.create', { query: WAIT, body: { name, memoryBytes: mib(128) } })
    const attach = (body: { kind: 'disk' | 'cd'; device: string; sizeBytes?: number; medium?: string }) =>
      client.call('instance.attach', { params: { instance: name }, query: WAIT, body })
    await attach({ kind: 'disk', device: 'data', sizeBytes: mib(8) })
    await attach({ kind: 'cd', device: 'cd', medium: 'sim.iso' })
    return () => act(cloud, name)
  }

/** A console or screen, opened until the server closes it or says something. */
const stream =
  (kind: 'console' | 'vnc'): Case =>
  async (cloud, name) => {
    await (await instance('instance.start')(cloud, name), Promise.resolve())
    return async () => {
      const ws = new WebSocket(
        `${cloud.server.url.replace('http', 'ws')}/api/v1/instances/${name}/${kind}${kind === 'console' ? '?from=0' : ''}`,
        {
          headers: { authorization: `Bearer ${cloud.server.local.token}` },
        },
      )
      const first = await new Promise<string>((resolve) => {
        ws.once('message', () => resolve('said something'))
        ws.once('close', (code, reason) => resolve(`closed ${code} ${reason.toString()}`))
      })
      ws.terminate()
      assert.match(first, kind === 'console' ? /said something/ : /no screen/)
    }
  }

/** An operation in this state that nothing carries on. */
const held =
  (verb: 'operation.cancel' | 'operation.retry' | 'operation.abandon', state: SagaState): Case =>
  async ({ server, client }, name) => {
    const operation = testIds.next()
    await server.database.executor.query(
      `INSERT INTO saga (id, name, resource, input, state_kind, state) VALUES ($1, 'test.held', $2, '{}', $3, $4)`,
      [operation, name, state.kind, JSON.stringify(state)],
    )
    return () => client.call(verb, { params: { operation } })
  }
const fault = { code: 'failed' as const, message: 'no way on' }
const stuck: SagaState = { kind: 'stuck', stepIndex: 0, fault, undoFault: fault }

/** An instance moves from one to the other. */
const HOSTS = ['h1', 'h2']

const CASES: Record<Writing, Case> = {
  'session.create': async (cloud, name) => {
    await cloud.client.call('account.create', { body: account(name) })
    return () => http(cloud, 'POST', 'session', { account: name, password: PASSWORD })
  },
  'session.delete': async (cloud, name) => {
    await cloud.client.call('account.create', { body: account(name) })
    const { response, reply } = await http(cloud, 'POST', 'session', { account: name, password: PASSWORD })
    const cookie = response.headers.getSetCookie()[0]?.split(';')[0] ?? ''
    return () => http(cloud, 'DELETE', 'session', undefined, { cookie, 'x-csrf-token': reply.csrfToken ?? '' })
  },
  'account.create':
    async ({ client }, name) =>
    () =>
      client.call('account.create', { body: account(name) }),
  'account.password': async ({ client }, name) => {
    await client.call('account.create', { body: account(name) })
    return () => client.call('account.password', { params: { account: name }, body: { password: 'another long one' } })
  },
  'account.delete': async ({ client }, name) => {
    await client.call('account.create', { body: account(name) })
    return () => client.call('account.delete', { params: { account: name } })
  },
  'token.create':
    async ({ client }, name) =>
    () =>
      client.call('token.create', { body: { name } }),
  'token.delete': async ({ client }, name) => {
    const { token } = await client.call('token.create', { body: { name } })
    return () => client.call('token.delete', { params: { token: token.id } })
  },
  'instance.create':
    async ({ client }, name) =>
    () =>
      client.call('instance.create', { query: { wait: 20 }, body: { name, memoryBytes: mib(128) } }),
  'instance.set': async (cloud, name) => {
    await (await instance('instance.start')(cloud, name), Promise.resolve())
    return () => cloud.client.call('instance.set', { params: { instance: name }, query: WAIT, body: { cpuWeight: 50 } })
  },
  'instance.rename': async (cloud, name) => {
    await (await instance('instance.start')(cloud, name), Promise.resolve())
    return () => cloud.client.call('instance.rename', { params: { instance: name }, query: WAIT, body: { name: `${name}-2` } })
  },
  'instance.snapshot': snapshotted(({ client }, { instance: name }) =>
    client.call('instance.snapshot', { params: { instance: name }, query: WAIT, body: { name: 'second' } }),
  ),
  'instance.revert': snapshotted(({ client }, params) => client.call('instance.revert', { params, query: WAIT, body: {} })),
  'instance.clone': snapshotted(({ client }, params) =>
    client.call('instance.clone', { params, query: WAIT, body: { name: `${params.instance}-clone` } }),
  ),
  'instance.copy': async (cloud, name) => {
    await instance('instance.start')(cloud, name)
    return () => cloud.client.call('instance.copy', { params: { instance: name }, query: WAIT, body: { name: `${name}-copy` } })
  },
  'instance.snapshot-delete': snapshotted(({ client }, params) =>
    client.call('instance.snapshot-delete', { params, query: WAIT }),
  ),
  'instance.attach': equipped(({ client }, name) =>
    client.call('instance.attach', { params: { instance: name }, query: WAIT, body: { kind: 'nic', device: 'lan' } }),
  ),
  'instance.detach': equipped(({ client }, name) =>
    client.call('instance.detach', { params: { instance: name, device: 'data' }, query: WAIT }),
  ),
  'instance.resize': equipped(({ client }, name) =>
    client.call('instance.resize', {
      params: { instance: name, device: 'data' },
      query: WAIT,
      body: { sizeBytes: mib(16) },
    }),
  ),
  'instance.insert': equipped(({ client }, name) =>
    client.call('instance.insert', { params: { instance: name, device: 'cd' }, query: WAIT, body: { medium: 'sim.iso' } }),
  ),
  'instance.eject': equipped(({ client }, name) =>
    client.call('instance.eject', { params: { instance: name, device: 'cd' }, query: WAIT }),
  ),
  'instance.start': instance('instance.start', 'poweroff'),
  'instance.dump': instance('instance.dump'),
  'instance.keys': inGuest(({ client }, instance) => client.call('instance.keys', { params: { instance }, body: { text: 'x' } })),
  'instance.file-put': inGuest(({ client }, instance) =>
    client.call('instance.file-put', { params: { instance }, body: { path: '/file', contentBase64: 'aGk=' } }),
  ),
  'instance.file-get': inGuest(({ client }, instance) =>
    client.call('instance.file-get', { params: { instance }, query: { path: '/file' } }),
  ),
  'instance.password': inGuest(({ client }, instance) =>
    client.call('instance.password', { params: { instance }, body: { user: 'root', password: 'x' } }),
  ),
  'instance.pause': instance('instance.pause'),
  'instance.unpause': instance('instance.unpause', 'pause'),
  'instance.shutdown': instance('instance.shutdown'),
  'instance.reboot': instance('instance.reboot'),
  'instance.poweroff': instance('instance.poweroff'),
  'instance.save': instance('instance.save'),
  'instance.restore': instance('instance.restore', 'save'),
  'instance.destroy': instance('instance.destroy'),
  'instance.migrate': async (cloud, name) => {
    await instance('instance.start')(cloud, name)
    const row = await cloud.client.call('instance.get', { params: { instance: name } })
    const host = HOSTS.find((other) => other !== row.host) ?? ''
    return () => cloud.client.call('instance.migrate', { params: { instance: name }, query: WAIT, body: { host } })
  },
  'instance.exec': async (cloud, name) => {
    await instance('instance.start')(cloud, name)
    return () => cloud.client.call('instance.exec', { params: { instance: name }, body: { argv: ['/bin/true'] } })
  },
  'instance.console': stream('console'),
  'instance.vnc': stream('vnc'),
  'operation.cancel': held('operation.cancel', { kind: 'running', stepIndex: 0 }),
  'operation.retry': held('operation.retry', stuck),
  'operation.abandon': held('operation.abandon', stuck),
  'image.build':
    async ({ client }) =>
    () =>
      client.call('image.build', { params: { image: 'micro' }, query: { wait: 20 } }),
  'host.token':
    async ({ client }, name) =>
    () =>
      client.call('host.token', { body: { name } }),
  'host.delete': async ({ client }, name) => {
    await client.call('host.token', { body: { name } })
    return () => client.call('host.delete', { params: { host: name } })
  },
  'platform.stop':
    async ({ client }) =>
    () =>
      client.call('platform.stop', { body: {} }),
}

/** All that a caller can change, without what moves by itself. */
async function content({ server }: TestCloud): Promise<unknown> {
  const { rows } = await server.database.executor.query(`SELECT jsonb_build_object(
    'accounts', (SELECT jsonb_agg(to_jsonb(account) ORDER BY id) FROM account),
    'sessions', (SELECT jsonb_agg(id ORDER BY id) FROM session),
    'tokens', (SELECT jsonb_agg(id ORDER BY id) FROM token),
    'hosts', (SELECT jsonb_agg(jsonb_build_array(name, token_id) ORDER BY name) FROM host),
    'instances', (SELECT jsonb_agg(to_jsonb(instance) ORDER BY id) FROM instance),
    'operations', (SELECT jsonb_agg(jsonb_build_array(id, state, cancel_requested) ORDER BY id) FROM saga),
    'events', (SELECT count(*) FROM event),
    'entries', (SELECT count(*) FROM audit WHERE outcome IN ('ok', 'begun'))) AS content`)
  return rows[0]?.['content']
}

const ACTS: ReadonlySet<OperationName> = new Set([
  'instance.exec',
  'instance.keys',
  'instance.file-get',
  'instance.file-put',
  'instance.password',
  'instance.console',
  'instance.vnc',
  'platform.stop',
])

test('each operation that changes something does so with its entry in the log or not at all', async (context) => {
  const writing = OPERATION_NAMES.filter((name): name is Writing => OPERATIONS[name].scope.endsWith(':write'))
  assert.deepEqual(writing.toSorted(), Object.keys(CASES).toSorted())
  await using cloud = await testCloud()
  const { executor } = cloud.server.database
  const hosts: TestHost[] = []
  for (const host of HOSTS) hosts.push(await cloud.start(host, await cloud.token(host)))
  await executor.query(
    `CREATE FUNCTION no_entry() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the log takes nothing'; END $$`,
  )
  const quiet = () =>
    until('all is quiet', async () => {
      const { rows } = await executor.query(
        `SELECT (SELECT count(*) FROM saga WHERE state_kind IN ('running', 'undoing') AND name <> 'test.held') AS open,
           (SELECT jsonb_agg(event_sequence ORDER BY name) FROM host WHERE name = ANY ($1)) AS taken`,
        [HOSTS],
      )
      const taken = rows[0]?.['taken'] as number[] // of the columns that were asked for
      return (
        Number(rows[0]?.['open']) === 0 && hosts.every(({ toolstack }, index) => (taken[index] ?? 0) >= toolstack.lastSequence())
      )
    })
  const refusing = async (work: () => Promise<unknown>) => {
    await executor.query(
      `CREATE TRIGGER no_entry BEFORE INSERT ON audit FOR EACH ROW WHEN (NEW.outcome IN ('ok', 'begun')) EXECUTE FUNCTION no_entry()`,
    )
    await work().finally(() => executor.query('DROP TRIGGER no_entry ON audit'))
  }
  for (const [index, operation] of writing.entries()) {
    await context.test(operation, async () => {
      const act = await CASES[operation](cloud, `n${index}`)
      await quiet()
      const before = await content(cloud)
      await refusing(() => assert.rejects(act(), 'it went on without its entry'))
      assert.deepEqual(await content(cloud), before)
      const entries = async () => (await cloud.client.call('audit.list', { query: { search: operation } })).items
      const known = new Set((await entries()).map(({ id }) => id))
      await act()
      const outcome = operation === 'instance.vnc' ? 'unsupported' : 'ok'
      const isIts = (entry: Awaited<ReturnType<typeof entries>>[number]) =>
        !known.has(entry.id) && entry.operation === operation && entry.outcome === outcome && entry.resource !== null
      // A stream's end is written when both sides are done with it; a change's entry is there when its answer is.
      if (ACTS.has(operation)) await until('its end is written', async () => (await entries()).some(isIts))
      else assert.ok((await entries()).some(isIts))
      if (!ACTS.has(operation)) assert.notDeepEqual(await content(cloud), before)
      await quiet()
    })
  }
})
