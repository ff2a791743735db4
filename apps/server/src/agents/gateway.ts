/** Where agents join: a WebSocket that their host token opens. One host, one agent: a newer connection takes the older one's place. */
import type { FastifyInstance } from 'fastify'
import { Fault, millis, toFault, type Clock, type IdSource, type Log } from '@typevisor/base'
import { AGENT_PATH, type AgentPort } from '@typevisor/api/agent-wire'
import { connectAgent } from '@typevisor/api/agent-link'
import { messageSocket } from '@typevisor/agent'
import { parseBearer, type SecretCrypto } from '@typevisor/identity'
import type { SqlExecutor } from '@typevisor/saga'
import { attachHost } from './host-sync.ts'
import type { AgentRegistry } from './registry.ts'

export interface GatewayOptions {
  readonly database: SqlExecutor
  readonly agents: AgentRegistry
  readonly crypto: SecretCrypto
  readonly ids: IdSource
  readonly log: Log
  readonly signal: AbortSignal
}

export interface HostJoin {
  readonly name: string
  readonly agent: AgentPort
  /** Resolves when the connection ends; never for the server's own agent. */
  readonly over: Promise<void> | null
  /** Asked again once a newer token would end this connection. @throws Fault when the host may not join any more. */
  readonly mayJoin?: () => Promise<unknown>
  readonly onJoined?: () => void
}

/** Attaches an agent until its connection or the server ends, or a newer connection of the same host comes. */
export async function serveHost(options: GatewayOptions, { name, agent, over, mayJoin, onJoined }: HostJoin): Promise<void> {
  const { agents, log, signal } = options
  const ending = new AbortController()
  const ended = Promise.withResolvers<void>()
  void over?.finally(() => ending.abort(new Fault('unavailable', `host ${name}: its agent went away`)))
  try {
    await agents.take(name, { own: over === null, end: (reason) => ending.abort(reason), ended: ended.promise })
    await mayJoin?.()
    ending.signal.throwIfAborted()
    const sync = await attachHost(options, { name, agent, own: over === null }, AbortSignal.any([ending.signal, signal]))
    agents.attach(name, agent, sync)
    onJoined?.()
    log.info('host.connected', { host: name, driver: agent.hello.driver, accelerator: agent.hello.accelerator })
    try {
      await sync.done
    } finally {
      agents.detach(name, agent)
      log.info('host.disconnected', { host: name })
    }
    if (over !== null) ending.signal.throwIfAborted()
  } finally {
    ended.resolve()
  }
}

const REJOIN_MS_MIN = 100
const REJOIN_MS_MAX = 5000

/** Keeps the server's own agent attached: what parts them (a database that is away, a queue that was full) is over sooner or later. */
export async function keepHost(
  options: GatewayOptions & { clock: Clock },
  name: string,
  agent: AgentPort,
  onJoined: () => void,
): Promise<void> {
  const { clock, log, signal } = options
  let pauseMs = REJOIN_MS_MIN
  const joined = () => {
    pauseMs = REJOIN_MS_MIN
    onJoined()
  }
  while (!signal.aborted) {
    try {
      await serveHost(options, { name, agent, over: null, onJoined: joined })
    } catch (error) {
      if (!signal.aborted) log.warn('host.parted', { host: name, error: toFault(error).message, pauseMs })
    }
    await clock.sleep(millis(pauseMs), { signal }).catch(() => {})
    pauseMs = Math.min(REJOIN_MS_MAX, pauseMs * 2)
  }
}

export function addAgentRoute(app: FastifyInstance, options: GatewayOptions): void {
  const { database, agents, crypto, log } = options

  const hostOf = async (header: string | undefined): Promise<string> => {
    const refused = new Fault('unauthenticated', 'agent: the token is not one of a host')
    const bearer = parseBearer(header?.replace(/^Bearer /, '') ?? '')
    if (bearer?.kind !== 'host') throw refused
    const { rows } = await database.query('SELECT name, token_hash FROM host WHERE token_id = $1', [bearer.id])
    const hash: unknown = rows[0]?.['token_hash']
    if (!(hash instanceof Uint8Array) || !crypto.equal(hash, crypto.sha256(bearer.secret))) throw refused
    return String(rows[0]?.['name'])
  }

  app.get(
    AGENT_PATH,
    { websocket: true, preValidation: async (request) => void (await hostOf(request.headers.authorization)) },
    async (ws, request) => {
      const socket = messageSocket(ws)
      try {
        const name = await hostOf(request.headers.authorization)
        const agent = await connectAgent(socket, agents.clock)
        if (agent.hello.name !== name)
          throw new Fault('forbidden', `agent: it calls itself ${agent.hello.name}, its token is of ${name}`)
        await serveHost(options, {
          name,
          agent,
          over: agent.closed,
          mayJoin: () => hostOf(request.headers.authorization),
        })
      } catch (error) {
        const fault = toFault(error)
        log.warn('agent.refused', { error: fault.message })
        socket.send(JSON.stringify({ type: 'refused', fault: fault.toJSON() }))
      } finally {
        socket.close()
      }
    },
  )
}
