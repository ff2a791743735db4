/** Where agents join: a WebSocket that their host token opens. One host, one agent: a newer connection takes the older one's place. */
import type { FastifyInstance } from 'fastify'
import { Fault, toFault, type Log } from '@typevisor/base'
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
  readonly log: Log
  readonly signal: AbortSignal
}

/** Attaches an agent until its connection or the server ends. */
export async function serveHost(options: GatewayOptions, name: string, agent: AgentPort, over: Promise<void>, joined: () => void = () => {}): Promise<void> {
  const { database, agents, log, signal } = options
  const ended = new AbortController()
  void over.finally(() => ended.abort(new Fault('unavailable', `host ${name}: its agent went away`)))
  const sync = await attachHost(database, name, agent, log, AbortSignal.any([ended.signal, signal]))
  agents.attach(name, agent)
  joined()
  log.info('host.connected', { host: name, driver: agent.hello.driver, accelerator: agent.hello.accelerator })
  try {
    await sync.done
  } finally {
    agents.detach(name, agent)
    log.info('host.disconnected', { host: name })
  }
}

export function addAgentRoute(app: FastifyInstance, options: GatewayOptions): void {
  const { database, crypto, log } = options

  const hostOf = async (header: string | undefined): Promise<string> => {
    const refused = new Fault('unauthenticated', 'agent: the token is not one of a host')
    const bearer = parseBearer(header?.replace(/^Bearer /, '') ?? '')
    if (bearer?.kind !== 'host') throw refused
    const { rows } = await database.query('SELECT name, token_hash FROM host WHERE token_id = $1', [bearer.id])
    const hash: unknown = rows[0]?.['token_hash']
    if (!(hash instanceof Uint8Array) || !crypto.equal(hash, crypto.sha256(bearer.secret))) throw refused
    return String(rows[0]?.['name'])
  }

  app.get(AGENT_PATH, { websocket: true, preValidation: async (request) => void (await hostOf(request.headers.authorization)) }, async (ws, request) => {
    const socket = messageSocket(ws)
    try {
      const name = await hostOf(request.headers.authorization)
      const agent = await connectAgent(socket)
      if (agent.hello.name !== name) throw new Fault('forbidden', `agent: it calls itself ${agent.hello.name}, its token is of ${name}`)
      await serveHost(options, name, agent, agent.closed)
    } catch (error) {
      const fault = toFault(error)
      log.warn('agent.refused', { error: fault.message })
      socket.send(JSON.stringify({ type: 'refused', fault: fault.toJSON() }))
    } finally {
      socket.close()
    }
  })
}
