/** Agents as processes of their own, joined to a server by a host token over a real WebSocket. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { join } from 'node:path'
import { rm } from 'node:fs/promises'
import { Fault, type FaultCode } from '@typevisor/base'
import type { Client, PlatformEvent } from '@typevisor/api/client'
import { endAll, guestsOf, machine, relay, typevisor, until, type Child, type Life, type Machine, type Relay } from './child.ts'
import { temporaryFolder } from './harness.ts'

const isFault = (code: FaultCode) => (error: unknown) => {
  assert.ok(error instanceof Fault, String(error))
  assert.equal(error.code, code, error.message)
  return true
}

const hostToken = async (client: Client, name: string): Promise<string> =>
  (await client.call('host.token', { body: { name } })).secret

interface AgentOf {
  readonly name: string
  readonly dataDir: string
  readonly token: string
  readonly driver: 'sim' | 'qemu'
}
const agentProcess = (server: string, { name, dataDir, token, driver }: AgentOf): Child =>
  typevisor(['agent', '--server', server, '--data', dataDir, '--name', name, '--driver', driver], { TYPEVISOR_HOST_TOKEN: token })

const untilConnected = (client: Client, name: string, connected = true) =>
  until(`host ${name} is ${connected ? 'connected' : 'away'}`, async () =>
    (await client.call('host.list', {})).items.some((host) => host.name === name && host.connected === connected),
  )
const untilQuiet = (client: Client) =>
  until(
    'every operation ends',
    async () => (await client.call('operation.list', { query: { unfinished: 'true' } })).items.length === 0,
  )
const rowsOf = async (client: Client) => (await client.call('instance.list', { query: { limit: 500 } })).items

async function eventsUntil(
  client: Client,
  isLast: (event: PlatformEvent) => boolean,
  begin: () => Promise<unknown>,
): Promise<PlatformEvent[]> {
  const seen: PlatformEvent[] = []
  const stop = new AbortController()
  const opened = Promise.withResolvers<void>()
  const timer = setTimeout(() => stop.abort(new Error(`the event never came: ${JSON.stringify(seen)}`)), 60_000)
  try {
    const reading = (async () => {
      for await (const event of client.events({
        signal: stop.signal,
        onState: (state) => state.kind === 'open' && opened.resolve(),
      })) {
        seen.push(event)
        if (isLast(event)) return
      }
      stop.signal.throwIfAborted()
    })()
    reading.catch(opened.reject)
    await opened.promise
    await begin()
    await reading
    return seen
  } finally {
    clearTimeout(timer)
    stop.abort()
  }
}

describe('agents elsewhere, over domains in memory', () => {
  let server: Machine
  let life: Life
  let address: Relay
  const folders: string[] = []
  const agents: Child[] = []

  const begin = async (name: string, changes: Partial<AgentOf> = {}): Promise<{ child: Child; agent: AgentOf }> => {
    const dataDir = changes.dataDir ?? (await temporaryFolder())
    if (changes.dataDir === undefined) folders.push(dataDir)
    const token = changes.token ?? (await hostToken(life.client, name))
    const agent: AgentOf = { name, dataDir, token, driver: 'sim', ...changes }
    const child = agentProcess(address.url, agent)
    agents.push(child)
    return { child, agent }
  }
  const create = (name: string, host: string, body: object = {}) =>
    life.client.call('instance.create', { body: { name, host, ...body }, query: { wait: 30 } })

  before(async () => {
    server = await machine()
    address = await relay()
    life = await server.start('--no-agent')
    address.target = life.url
  })
  after(async () => {
    for (const agent of agents) await agent.kill('SIGKILL')
    await address[Symbol.asyncDispose]()
    await server[Symbol.asyncDispose]()
    for (const folder of folders) await rm(folder, { recursive: true, force: true })
  })

  test('without a host an instance is refused, and says what is missing', async () => {
    await assert.rejects(life.client.call('instance.create', { body: { name: 'nowhere' } }), /no host is connected/)
  })

  test('several agents on one machine take instances in turn, each what is placed on it', async () => {
    const [one, two] = [await begin('one'), await begin('two')]
    await one.child.says(/joined .* as one/)
    await two.child.says(/joined .* as two/)
    await Promise.all([untilConnected(life.client, 'one'), untilConnected(life.client, 'two')])
    for (let n = 1; n <= 6; n += 1) {
      const { operation } = await life.client.call('instance.create', { body: { name: `spread-${n}` }, query: { wait: 30 } })
      assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
    }
    const rows = await rowsOf(life.client)
    assert.deepEqual(
      ['one', 'two'].map((host) => rows.filter((row) => row.host === host && row.state.kind === 'running').length),
      [3, 3],
    )
    const asked = await create('asked', 'two')
    assert.equal(asked.instance?.host, 'two')
    await assert.rejects(create('none', 'three'), isFault('not_found'))
  })

  test('verbs, exec and the console go through a remote agent', async () => {
    await create('remote', 'one')
    const reply = await life.client.call('instance.exec', {
      params: { instance: 'remote' },
      body: { argv: ['/bin/echo', 'far'] },
    })
    assert.equal(Buffer.from(reply.stdoutBase64, 'base64').toString(), 'far\n')
    const socket = new WebSocket(`${life.url.replace('http', 'ws')}/api/v1/instances/remote/console?from=0`, {
      headers: { authorization: `Bearer ${life.token}` },
    } as never)
    socket.binaryType = 'arraybuffer'
    let heard = ''
    socket.addEventListener('message', (event) => (heard += Buffer.from(event.data as ArrayBuffer).toString()))
    await until('what the console kept', () => heard.includes('sim: ready'))
    socket.send(new TextEncoder().encode('typed\r'))
    await until('the echo', () => heard.includes('typed'))
    const closed = new Promise<void>((resolve) => socket.addEventListener('close', () => resolve()))
    socket.close()
    await closed
    for (const [verb, kind] of [
      ['pause', 'paused'],
      ['save', 'saved'],
      ['restore', 'running'],
    ] as const) {
      const { instance } = await life.client.call(`instance.${verb}`, { params: { instance: 'remote' }, query: { wait: 30 } })
      assert.equal(instance?.state.kind, kind)
    }
  })

  test('a token that is wrong, of no host or of another host ends the agent with the server’s words and exit code 5', async () => {
    const good = await hostToken(life.client, 'three')
    const wrong = await begin('three', { token: `${good.slice(0, -4)}AAAA` })
    assert.equal(await wrong.child.exited, 5)
    assert.match(wrong.child.said(), /401.*the token is not one of a host/)
    const personal = await begin('three', { token: life.token })
    assert.equal(await personal.child.exited, 5)
    const other = await begin('four', { token: good })
    assert.equal(await other.child.exited, 5)
    assert.match(other.child.said(), /it calls itself four, its token is of three/)
    for (const { child } of [wrong, personal, other]) assert.doesNotMatch(child.said(), /joined/)
    const { items } = await life.client.call('host.list', {})
    assert.ok(
      items.every((host) => host.connected === (host.name === 'one' || host.name === 'two')),
      JSON.stringify(items),
    )
  })

  test('an agent whose token is ended by a new one stops for good; one whose server starts anew waits and joins', async () => {
    const { child } = await begin('renewed')
    await child.says(/joined/)
    await hostToken(life.client, 'renewed')
    assert.equal(await child.exited, 5)
    const waiting = await begin('patient')
    await waiting.child.says(/joined/)
    await life.child.kill('SIGKILL')
    await waiting.child.says(/away/)
    life = await server.start('--no-agent')
    address.target = life.url
    await untilConnected(life.client, 'patient')
    await waiting.child.kill('SIGTERM')
  })

  test('a newer agent of the same host takes the place of the older one, and every event is told once', async () => {
    const token = await hostToken(life.client, 'twin')
    const first = await begin('twin', { token })
    await untilConnected(life.client, 'twin')
    await create('of-twin', 'twin')
    const { dataDir } = first.agent
    await first.child.kill('SIGKILL')
    const [second] = [await begin('twin', { token, dataDir })]
    await second.child.says(/joined/)
    // The domains of the simulation ended with the first agent's process.
    const row = await until('the end of it is told', async () => {
      const found = await life.client.call('instance.get', { params: { instance: 'of-twin' } })
      return found.state.kind === 'crashed' ? found : null
    })
    assert.equal(row.state.cause, 'unknown')
    const events = async () => (await life.client.call('event.list', { query: { resource: row.id, limit: 100 } })).items
    const isCrash = (event: PlatformEvent) => event.kind === 'instance.state' && event.data['to'] === 'crashed'
    await until('the event', async () => (await events()).some(isCrash))
    const items = await events()
    const crashes = items.filter(isCrash)
    assert.deepEqual(
      crashes.map((event) => [event.data['cause'], event.data['reconstructed']]),
      [['unknown', true]],
    )
    const sequences = items.flatMap((event) => event.data['hostSequence'] ?? [])
    assert.equal(new Set(sequences).size, sequences.length)
    await second.child.kill('SIGTERM')
    await untilConnected(life.client, 'twin', false)
  })

  test('two agents on one data directory: the second is refused and names the process of the first', async () => {
    const dataDir = await temporaryFolder()
    folders.push(dataDir)
    const first = await begin('lonely', { dataDir })
    await first.child.says(/joined/)
    const second = await begin('lonely', first.agent)
    assert.equal(await second.child.exited, 4)
    assert.match(second.child.said(), new RegExp(`in use by process ${first.child.pid}`))
    await first.child.kill('SIGTERM')
  })

  test('an agent killed in the middle of operations and started again: each ends done or undone, and rows equal domains', async () => {
    const { child, agent } = await begin('mortal')
    await untilConnected(life.client, 'mortal')
    let running = child
    for (let round = 0; round < 3; round += 1) {
      const names = Array.from({ length: 12 }, (_, n) => `mortal-${round}-${n}`)
      const accepted = await Promise.all(
        names.map((name) => life.client.call('instance.create', { body: { name, host: 'mortal' } })),
      )
      await running.kill('SIGKILL')
      const again = await begin('mortal', agent)
      running = again.child
      await running.says(/joined/)
      await untilQuiet(life.client)
      for (const { operation } of accepted) {
        const { state } = await life.client.call('operation.get', { params: { operation: operation.id } })
        assert.ok(state === 'done' || state === 'undone', state)
      }
      const rows = (await rowsOf(life.client)).filter((row) => row.host === 'mortal')
      for (const row of rows) {
        assert.equal(row.operation, null)
        assert.ok(['running', 'crashed', 'failed', 'stopped'].includes(row.state.kind), `${row.name} is ${row.state.kind}`)
        if (row.state.kind === 'running') {
          assert.equal(
            (await life.client.call('instance.exec', { params: { instance: row.id }, body: { argv: ['/bin/true'] } })).exitCode,
            0,
          )
        }
      }
      for (const row of rows) {
        const { operation } = await life.client.call('instance.destroy', { params: { instance: row.id }, query: { wait: 30 } })
        assert.equal(operation.state, 'done', JSON.stringify(operation.fault))
      }
    }
    await running.kill('SIGTERM')
  })

  test('an agent that is away: the instance says so, what is asked of it waits, and is done when it comes back', async () => {
    const { child, agent } = await begin('leaving')
    await untilConnected(life.client, 'leaving')
    await create('left', 'leaving', { start: false })
    await child.kill('SIGTERM')
    await untilConnected(life.client, 'leaving', false)
    const row = await life.client.call('instance.get', { params: { instance: 'left' } })
    assert.deepEqual([row.hostConnected, row.state.kind], [false, 'stopped'])
    await assert.rejects(life.client.call('instance.log', { params: { instance: 'left' } }), isFault('unavailable'))
    const { operation } = await life.client.call('instance.destroy', { params: { instance: 'left' } })
    assert.equal(operation.state, 'running')
    const back = await begin('leaving', agent)
    const ended = await life.client.call('operation.get', { params: { operation: operation.id }, query: { wait: 30 } })
    assert.equal(ended.state, 'done')
    await back.child.kill('SIGTERM')
  })

  test('the server killed in the middle of operations: agents come back, each operation ends, rows equal domains, events go on', async () => {
    const { child } = await begin('faithful')
    await untilConnected(life.client, 'faithful')
    for (let round = 0; round < 3; round += 1) {
      const names = Array.from({ length: 12 }, (_, n) => `faithful-${round}-${n}`)
      const accepted: string[] = []
      const asking = Promise.allSettled(
        names.map(async (name) => {
          const { operation } = await life.client.call('instance.create', { body: { name, host: 'faithful' } })
          accepted.push(operation.id)
        }),
      )
      await until('some are under way', () => accepted.length > 3)
      await life.child.kill('SIGKILL')
      await asking
      life = await server.start('--no-agent')
      address.target = life.url
      await untilConnected(life.client, 'faithful')
      await untilQuiet(life.client)
      for (const id of accepted) {
        const { state, fault } = await life.client.call('operation.get', { params: { operation: id } })
        assert.equal(state, 'done', JSON.stringify(fault))
      }
      const rows = (await rowsOf(life.client)).filter((row) => row.host === 'faithful')
      assert.ok(rows.length >= accepted.length)
      for (const row of rows)
        assert.deepEqual([row.state.kind, row.operation, row.hostConnected], ['running', null, true], row.name)
      const [first] = rows
      assert.ok(first)
      const seen = await eventsUntil(
        life.client,
        (event) => event.kind === 'instance.state' && event.data['to'] === 'paused',
        () => life.client.call('instance.pause', { params: { instance: first.id }, query: { wait: 30 } }),
      )
      assert.equal(seen.at(-1)?.data['reconstructed'], false)
      for (const row of rows) await life.client.call('instance.destroy', { params: { instance: row.id }, query: { wait: 30 } })
    }
    await child.kill('SIGTERM')
  })

  test('a connection that is cut again and again loses no operation', async () => {
    const { child } = await begin('shaky')
    await untilConnected(life.client, 'shaky')
    const accepted = await Promise.all(
      Array.from({ length: 30 }, (_, n) => life.client.call('instance.create', { body: { name: `shaky-${n}`, host: 'shaky' } })),
    )
    // The cuts take the other agents' connections as well.
    address.cut()
    await child.says(/away/)
    await untilQuiet(life.client)
    for (const { operation } of accepted) {
      assert.equal((await life.client.call('operation.get', { params: { operation: operation.id } })).state, 'done')
    }
    await child.kill('SIGTERM')
  })
})

test('a guest under QEMU survives its agent: killed in the middle of operations, the next one has the same process and every console byte', async () => {
  await using server = await machine()
  const agentDir = await temporaryFolder()
  let child: Child | undefined
  try {
    const { client, url } = await server.start('--no-agent')
    const agent: AgentOf = { name: 'real', dataDir: join(agentDir), token: await hostToken(client, 'real'), driver: 'qemu' }
    child = agentProcess(url, agent)
    await untilConnected(client, 'real')
    const built = await client.call('image.build', { params: { image: 'micro' }, body: {}, query: { wait: 60 } })
    assert.equal(built.operation.state, 'done', JSON.stringify(built.operation.fault))
    const body = { image: 'micro', memoryBytes: 160 * 1024 * 1024 }
    const { instance } = await client.call('instance.create', { body: { name: 'stays', ...body }, query: { wait: 60 } })
    assert.equal(instance?.state.kind, 'running')
    const id = String(instance.id)
    const pid = guestsOf(agentDir).get(id)
    assert.ok(pid)
    const { operation } = await client.call('instance.create', { body: { name: 'half', ...body } })
    await until(
      'it is being made',
      async () =>
        guestsOf(agentDir).size === 2 ||
        (await client.call('operation.get', { params: { operation: operation.id } })).step === 'start',
    )
    await child.kill('SIGKILL')
    await untilConnected(client, 'real', false)
    assert.equal((await client.call('instance.get', { params: { instance: id } })).hostConnected, false)
    const killed = performance.now()
    child = agentProcess(url, agent)
    await untilConnected(client, 'real')
    assert.ok(performance.now() - killed < 20_000)
    assert.equal((await client.call('operation.get', { params: { operation: operation.id }, query: { wait: 30 } })).state, 'done')
    assert.equal(guestsOf(agentDir).get(id), pid, 'the same process')
    assert.equal(guestsOf(agentDir).size, 2)
    const row = await client.call('instance.get', { params: { instance: id } })
    assert.deepEqual([row.state.kind, row.hostConnected], ['running', true])
    await until('it has booted', async () => {
      const log = await client.call('instance.log', { params: { instance: id } })
      assert.equal(log.startOffset, 0)
      return Buffer.from(log.contentBase64, 'base64').toString().includes('typevisor: ready')
    })
    const { items } = await client.call('event.list', { query: { resource: id, limit: 100 } })
    assert.ok(items.every((event) => event.data['to'] !== 'crashed'))
    for (const name of ['stays', 'half'])
      await client.call('instance.destroy', { params: { instance: name }, query: { wait: 60 } })
    assert.equal(guestsOf(agentDir).size, 0)
    await child.kill('SIGTERM')
  } finally {
    await child?.kill('SIGKILL')
    await endAll(agentDir, agentDir)
    await rm(agentDir, { recursive: true, force: true })
  }
})
