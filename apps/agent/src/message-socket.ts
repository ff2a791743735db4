/** A `ws` WebSocket as whole messages, bounded: a peer that sends faster than we take is held back, one that does not answer pings is cut. */
import type { WebSocket, RawData } from 'ws'
import { Channel, Fault } from '@typevisor/base'
import type { MessageSocket } from '@typevisor/api/agent-link'

const QUEUE = 8192
const PAUSE_AT = 1024
const PING_MS = 10_000

const bytesOf = (content: RawData): Uint8Array =>
  Array.isArray(content) ? Buffer.concat(content) : content instanceof ArrayBuffer ? new Uint8Array(content) : content

export function messageSocket(ws: WebSocket): MessageSocket {
  const queue = new Channel<string | Uint8Array>(QUEUE)
  let alive = true
  const ping = setInterval(() => {
    if (!alive) return ws.terminate()
    alive = false
    ws.ping()
  }, PING_MS)
  ping.unref()
  const end = (failure?: unknown) => {
    clearInterval(ping)
    queue.close(failure)
  }
  ws.on('pong', () => (alive = true))
  ws.on('message', (content, binary) => {
    alive = true
    try {
      queue.push(binary ? bytesOf(content) : new TextDecoder().decode(bytesOf(content)))
    } catch (error) {
      end(error)
      ws.terminate()
      return
    }
    if (queue.size > PAUSE_AT) ws.pause()
  })
  ws.on('close', () => end())
  ws.on('error', (error) => end(new Fault('unavailable', `connection: ${error.message}`, { cause: error })))

  return {
    incoming: {
      async *[Symbol.asyncIterator]() {
        for await (const message of queue) {
          if (ws.isPaused && queue.size < PAUSE_AT / 2) ws.resume()
          yield message
        }
      },
    },
    send: (message) => {
      if (ws.readyState === ws.OPEN) ws.send(message)
    },
    get waitingBytes() {
      return ws.bufferedAmount
    },
    close: (reason) => ws.close(1000, reason?.slice(0, 120)),
  }
}
