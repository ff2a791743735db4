/**
 * The whole control plane on a database of its own, with hosts at the other end of real WebSockets: domains are in memory, all else is as
 * it is. A host's folder outlives its agent, so that an agent can go away and come back to what it had.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { agentLinks, createAgentService, keepJoined } from '@typevisor/agent'
import type { VolumeServerStatus } from '@typevisor/api/agent-wire'
import { createClient, type Client } from '@typevisor/api/client'
import { assert, bytes, gib } from '@typevisor/base'
import { createSimDriver, SimHypervisor } from '@typevisor/driver-sim'
import { memoryImageStore } from '@typevisor/image/testing'
import { createSagaEngine, postgresSagaStore, stateFile, type SagaEngine } from '@typevisor/saga'
import { memoryLog, simDisk } from '@typevisor/sim'
import { memoryVolumeStore } from '@typevisor/storage'
import { openToolstack, type Toolstack } from '@typevisor/toolstack'
import { addAgentRoute } from '../agents/gateway.ts'
import { hostHandlers } from '../agents/handlers.ts'
import { eventHandlers } from '../handlers/event.ts'
import { AgentRegistry } from '../agents/registry.ts'
import { instanceHandlers } from '../instances/handlers.ts'
import { INSTANCE_SAGAS, type InstanceServices } from '../instances/sagas.ts'
import { serverMetrics } from '../metrics/metrics.ts'
import { addMetricsRoute } from '../metrics/route.ts'
import { operationHandlers } from '../operations/handlers.ts'
import { nodeSecretCrypto as crypto } from '../secrets.ts'
import {
  testClock as clock,
  testDatabase,
  testIds as ids,
  testRng as rng,
  testServer,
  type TestServer,
  type TestServerOptions,
} from '../testing.ts'

export interface TestHost {
  readonly toolstack: Toolstack
  readonly hypervisor: SimHypervisor
  /** Resolves with what the agent was told when it was kept out. */
  readonly refused: Promise<string>
  /** As when its process is killed; its folder stays. */
  leave(): Promise<void>
}

export interface StartOptions {
  readonly joins?: boolean
  readonly hasSnapshots?: boolean
  /** What the agent says of its volume server; left out: it keeps none. */
  readonly volumeServer?: () => VolumeServerStatus
}

export interface TestCloud extends AsyncDisposable {
  readonly server: TestServer
  readonly client: Client
  readonly agents: AgentRegistry
  readonly engine: SagaEngine
  token(host: string): Promise<string>
  /** Starts the host's agent on its folder. Resolves when it is joined, unless it is not to be. */
  start(host: string, token: string, options?: StartOptions): Promise<TestHost>
}

/** What is on a host's disk, its guests among it. */
const newFolder = () => ({
  disk: simDisk({ rng }),
  hypervisor: new SimHypervisor(clock),
  volumes: memoryVolumeStore(),
  images: memoryImageStore(),
})

export async function until(what: string, holds: () => boolean | Promise<boolean>): Promise<void> {
  const limit = clock.now() + 20_000
  while (!(await holds())) {
    assert(clock.now() < limit, `it never came: ${what}`)
    await sleep(5)
  }
}

export async function testCloud(options: Pick<TestServerOptions, 'http' | 'policy'> = {}): Promise<TestCloud> {
  await using stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase())
  const { db, executor } = database
  const log = memoryLog()
  const agents = new AgentRegistry(clock)
  const metrics = serverMetrics({ database: executor, agents, clock, version: '0' })
  const store = postgresSagaStore({ sql: executor })
  const services: InstanceServices = { agents, database: executor }
  const sagas = Object.values(INSTANCE_SAGAS)
  const engine = createSagaEngine<InstanceServices>({
    store,
    sagas,
    services,
    clock,
    log,
    owner: 'test',
    pollMs: 50,
    onSettled: metrics.noteSettled,
  })
  const stopping = new AbortController()
  const gateway = { database: executor, agents, crypto, ids, log, signal: stopping.signal }
  const server = stack.use(
    await testServer({
      database,
      handlers: {
        ...instanceHandlers({ db, database: executor, agents, engine, store, ids, clock }),
        ...eventHandlers(db),
        ...operationHandlers({ db, database: executor, engine, store, agents }),
        ...hostHandlers({ db, database: executor, agents, engine, ids, rng, crypto }),
      },
      ...(options.policy ? { policy: options.policy } : {}),
      outbox: { onEvent: metrics.noteEvent },
      http: {
        log,
        onAnswer: metrics.noteAnswer,
        ...options.http,
        extend: (app, access) => {
          addAgentRoute(app, gateway)
          addMetricsRoute(app, access, metrics)
        },
      },
    }),
  )
  await engine.start()
  stack.defer(() => engine.stop())
  const hosts = new Set<TestHost>()
  stack.defer(async () => {
    for (const host of hosts) await host.leave()
    stopping.abort()
  })
  const client = createClient({ baseUrl: server.url, token: server.local.token })
  const folders = new Map<string, ReturnType<typeof newFolder>>()

  async function start(
    name: string,
    token: string,
    { joins = true, hasSnapshots = true, volumeServer }: StartOptions = {},
  ): Promise<TestHost> {
    const folder = folders.get(name) ?? newFolder()
    folders.set(name, folder)
    const { disk, hypervisor, volumes, images } = folder
    const { snapshots: _snapshots, ...plain } = volumes
    const toolstack = await openToolstack({
      driver: createSimDriver({ hypervisor, clock }),
      volumes: hasSnapshots ? volumes : plain,
      images,
      state: stateFile({ disk, name: 'agent.journal', clock, log }),
      saves: hypervisor.saveFolder,
      links: agentLinks({ address: '127.0.0.1', clock }),
      ids,
      clock,
      log,
      owner: 'agent',
    })
    const agent = await createAgentService({
      name,
      version: '0',
      toolstack,
      images,
      cpuCount: 1,
      memoryBytes: bytes(gib(16)),
      clock,
      log,
      volumeServer,
    })
    const leaving = new AbortController()
    const refused = Promise.withResolvers<string>()
    const joined = keepJoined({
      agent,
      serverUrl: server.url,
      token,
      clock,
      log,
      signal: leaving.signal,
      onState: (state, detail) => state === 'away' && refused.resolve(detail),
    }).catch((error: unknown) => refused.resolve(String(error)))
    const host: TestHost = {
      toolstack,
      hypervisor,
      refused: refused.promise,
      async leave() {
        hosts.delete(host)
        leaving.abort()
        await joined
        await until(`${name} is away`, () => !agents.has(name))
        await toolstack.close()
      },
    }
    hosts.add(host)
    if (joins) await until(`${name} is joined`, () => agents.get(name) !== null)
    return host
  }

  const owned = stack.move()
  return {
    server,
    client,
    agents,
    engine,
    token: async (host) => (await client.call('host.token', { body: { name: host } })).secret,
    start,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}
