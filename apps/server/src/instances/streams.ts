/** Console and screen: bytes between a browser's socket and the agent's stream, each side held back when the other is slow. */
import type { AgentPort, AgentStream, StreamKind } from '@typevisor/api/agent-wire'
import type { DomainId } from '@typevisor/model'
import type { ByteSocket } from '../http/handler.ts'

export interface StreamRequest {
  readonly agent: AgentPort
  readonly kind: StreamKind
  readonly domain: DomainId
  readonly fromOffset?: number | undefined
  readonly signal: AbortSignal
}

/** Ends when either side does. The caller closes the socket, and tells it what was thrown. */
export async function serveStream(request: StreamRequest, socket: ByteSocket): Promise<void> {
  const { agent, kind, domain, fromOffset, signal } = request
  let stream: AgentStream | undefined
  try {
    stream = await agent.openStream(kind, domain, { signal, fromOffset })
    await join(stream, socket, signal)
  } finally {
    stream?.close()
  }
}

async function join(stream: AgentStream, socket: ByteSocket, signal: AbortSignal): Promise<void> {
  const stop = () => stream.close()
  signal.addEventListener('abort', stop, { once: true })
  const toGuest = (async () => {
    for await (const content of socket.incoming) await stream.write(content)
    stream.close()
  })()
  toGuest.catch(stop)
  try {
    for await (const content of stream.readable) await socket.send(content)
  } finally {
    signal.removeEventListener('abort', stop)
  }
}
