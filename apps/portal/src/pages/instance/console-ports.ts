/** The browser's side of a console session: the kept output over HTTP, the live one over a WebSocket. */
import { Fault } from '@typevisor/base'
import { fromBase64 } from '../../api/base64.ts'
import { call, client } from '../../api/client.ts'
import type { ConsolePorts, ConsoleSocket, SocketHandlers } from './console-session.ts'

type Own = Pick<ConsolePorts, 'live' | 'status' | 'show' | 'note'> & { readonly instanceId: string }

export function browserConsolePorts({ instanceId, ...own }: Own): ConsolePorts {
  const params = { instance: instanceId }
  return {
    ...own,
    random: Math.random,
    async readLog(from, limit, signal) {
      const slice = await call('instance.log', { params, query: { from, limit } }, { signal })
      return { startOffset: slice.startOffset, endOffset: slice.endOffset, content: fromBase64(slice.contentBase64) }
    },
    connect: (from, handlers) => connect(client.stream('instance.console', { params, query: { from } }).url, handlers),
    wait: interruptibleWait,
  }
}

/** @throws Fault `aborted` as soon as the signal is. */
export const interruptibleWait = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener('abort', () => {
      clearTimeout(timer)
      reject(new Fault('aborted', 'woken'))
    })
  })

function connect(address: string, handlers: SocketHandlers): ConsoleSocket {
  const socket = new WebSocket(address)
  socket.binaryType = 'arraybuffer'
  socket.addEventListener('open', () => handlers.onOpen())
  socket.addEventListener('message', ({ data }) => {
    if (data instanceof ArrayBuffer) handlers.onBytes(new Uint8Array(data))
  })
  // The server closes with `code: message` of its fault as the reason.
  socket.addEventListener('close', ({ reason, wasClean }) => {
    handlers.onClose(reason !== '' ? reason : wasClean ? 'The console was closed.' : 'The connection is lost.')
  })
  return {
    send: (content) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(content as Uint8Array<ArrayBuffer>)
    },
    close: () => socket.close(),
  }
}
