/**
 * Keeps an agent joined to a server: connects, serves, and when the connection ends connects again after a growing pause.
 *
 *   connecting --welcome--> joined --connection ends--> away --pause--> connecting
 *       | refused for good (`unauthenticated`, `forbidden`)
 *       v
 *   the server's words, thrown: the token is wrong, ended, or of a host of another name, and no waiting mends that
 *
 * Whatever else keeps it away (no network, a server that starts, 503) is waited out.
 */
import type { IncomingMessage } from 'node:http'
import { WebSocket } from 'ws'
import {
  Fault,
  faultFromJson,
  millis,
  seconds,
  toFault,
  type Clock,
  type FaultJson,
  type Log,
  type Millis,
} from '@typevisor/base'
import { AGENT_PATH, type AgentPort } from '@typevisor/api/agent-wire'
import { serveAgent } from '@typevisor/api/agent-link'
import { messageSocket } from './message-socket.ts'

export interface UplinkOptions {
  readonly agent: AgentPort
  /** `http://127.0.0.1:8080`. */
  readonly serverUrl: string
  readonly token: string
  readonly clock: Clock
  readonly log: Log
  readonly signal: AbortSignal
  /** Told at each change; the CLI prints it. */
  readonly onState?: (state: 'joined' | 'away', detail: string) => void
}

const PAUSE_MIN = millis(200)
const PAUSE_MAX = seconds(10)
const HANDSHAKE_MS = 10_000

const REFUSAL_SIZE_MAX = 64 * 1024

const isFinal = ({ code }: Fault): boolean => code === 'unauthenticated' || code === 'forbidden'

/** Ends when `signal` is aborted. @throws Fault of a server that refuses this agent for good. */
export async function keepJoined(options: UplinkOptions): Promise<void> {
  const { clock, log, signal, onState } = options
  let pause: Millis = PAUSE_MIN
  while (!signal.aborted) {
    let joinedAt = Infinity
    try {
      await joinOnce(options, () => (joinedAt = clock.monotonic()))
      onState?.('away', 'the server closed the connection')
    } catch (error) {
      if (signal.aborted) return
      const fault = toFault(error)
      if (isFinal(fault)) throw fault
      log.warn('agent.away', { server: options.serverUrl, error: fault.message, pauseMs: pause })
      onState?.('away', fault.message)
    }
    if (clock.monotonic() - joinedAt > 5000) pause = PAUSE_MIN
    await clock.sleep(pause, { signal }).catch(() => {})
    pause = millis(Math.min(PAUSE_MAX, pause * 2))
  }
}

/** What a server answers that does not take the connection: its own fault where it is one of ours, else the status. */
async function refusalOf(response: IncomingMessage): Promise<Fault> {
  const status = `the server answers ${response.statusCode}`
  const chunks: Buffer[] = []
  let sizeBytes = 0
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) {
      chunks.push(chunk)
      sizeBytes += chunk.length
      if (sizeBytes > REFUSAL_SIZE_MAX) break
    }
    const { error } = JSON.parse(Buffer.concat(chunks).toString()) as { error?: FaultJson }
    if (typeof error?.code === 'string' && typeof error.message === 'string') {
      const fault = faultFromJson(error)
      return new Fault(fault.code, `${status}: ${fault.message}`, { cause: fault })
    }
  } catch {
    // It is not a server of ours, or not all of its answer came.
  }
  return new Fault('unavailable', status)
}

async function joinOnce({ agent, serverUrl, token, log, signal, onState }: UplinkOptions, onJoined: () => void): Promise<void> {
  const url = new URL(AGENT_PATH, serverUrl.replace(/^http/, 'ws'))
  const ws = new WebSocket(url, {
    headers: { authorization: `Bearer ${token}` },
    handshakeTimeout: HANDSHAKE_MS,
    maxPayload: 64 * 1024 * 1024,
  })
  const opened = Promise.withResolvers<void>()
  ws.once('open', () => opened.resolve())
  ws.once('error', (error) => opened.reject(error))
  ws.once('unexpected-response', (_request, response) => void refusalOf(response).then(opened.reject))
  const stop = () => ws.terminate()
  signal.addEventListener('abort', stop, { once: true })
  try {
    const socket = messageSocket(ws)
    await opened.promise
    await serveAgent(agent, socket, log, () => {
      onJoined()
      onState?.('joined', url.origin)
    })
  } finally {
    signal.removeEventListener('abort', stop)
    ws.terminate()
  }
}
