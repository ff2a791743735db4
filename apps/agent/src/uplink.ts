/** Keeps an agent joined to a server: connects, serves, and when the connection ends connects again after a growing pause. */
import { WebSocket } from 'ws'
import { millis, seconds, toFault, type Clock, type Log, type Millis } from '@typevisor/base'
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

/** Ends when `signal` is aborted. */
export async function keepJoined(options: UplinkOptions): Promise<void> {
  const { clock, log, signal, onState } = options
  let pause: Millis = PAUSE_MIN
  while (!signal.aborted) {
    try {
      const joinedAt = clock.monotonic()
      await joinOnce(options)
      if (clock.monotonic() - joinedAt > 5000) pause = PAUSE_MIN
      onState?.('away', 'the server closed the connection')
    } catch (error) {
      if (signal.aborted) return
      const { message } = toFault(error)
      log.warn('agent.away', { server: options.serverUrl, error: message, pauseMs: pause })
      onState?.('away', message)
    }
    await clock.sleep(pause, { signal }).catch(() => {})
    pause = millis(Math.min(PAUSE_MAX, pause * 2))
  }
}

async function joinOnce({ agent, serverUrl, token, log, signal, onState }: UplinkOptions): Promise<void> {
  const url = new URL(AGENT_PATH, serverUrl.replace(/^http/, 'ws'))
  const ws = new WebSocket(url, {
    headers: { authorization: `Bearer ${token}` },
    handshakeTimeout: HANDSHAKE_MS,
    maxPayload: 64 * 1024 * 1024,
  })
  const opened = Promise.withResolvers<void>()
  ws.once('open', () => opened.resolve())
  ws.once('error', (error) => opened.reject(error))
  ws.once('unexpected-response', (_request, response) => opened.reject(new Error(`the server answers ${response.statusCode}`)))
  const stop = () => ws.terminate()
  signal.addEventListener('abort', stop, { once: true })
  try {
    const socket = messageSocket(ws)
    await opened.promise
    onState?.('joined', url.origin)
    await serveAgent(agent, socket, log)
  } finally {
    signal.removeEventListener('abort', stop)
    ws.terminate()
  }
}
