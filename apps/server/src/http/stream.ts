/**
 * A WebSocket as bytes with backpressure both ways: what the client sends is read only as fast as the handler takes it (the TCP window
 * closes), and `send` waits until the socket has taken what was sent.
 */
import type { WebSocket } from 'ws'
import { Fault } from '@typevisor/base'
import type { ByteSocket } from './handler.ts'

/** Bytes that may wait on either side before the other is held back. */
const BUFFERED_BYTES_MAX = 256 * 1024
/** Application's own close code (RFC 6455 section 7.4.2); the reason is `code: message`. */
export const CLOSE_FAULT = 4000
const CLOSE_REASON_BYTES_MAX = 123

/** A reason of at most 123 bytes that ends at a whole character (RFC 6455 section 5.5.1). */
export function closeReason(text: string): string {
  const content = Buffer.from(text)
  if (content.length <= CLOSE_REASON_BYTES_MAX) return text
  return content
    .subarray(0, CLOSE_REASON_BYTES_MAX - 3)
    .toString()
    .replace(/\uFFFD+$/, '')
}

const toBytes = (message: unknown): Uint8Array => {
  if (Array.isArray(message)) return Buffer.concat(message as Buffer[])
  return message instanceof ArrayBuffer ? new Uint8Array(message) : (message as Buffer)
}

export function byteSocket(socket: WebSocket): ByteSocket {
  const queue: Uint8Array[] = []
  let queuedBytes = 0
  let ended = socket.readyState >= socket.CLOSING
  /** We have said that it is over: what still comes is read, since the other side's close is behind it, and dropped. */
  let closing = false
  let wake: (() => void) | undefined
  socket.on('message', (message: unknown) => {
    if (closing) return
    const content = toBytes(message)
    queue.push(content)
    queuedBytes += content.length
    if (queuedBytes > BUFFERED_BYTES_MAX) socket.pause()
    wake?.()
  })
  const end = (): void => {
    ended = true
    wake?.()
  }
  socket.on('close', end)
  socket.on('error', end)

  async function* incoming(): AsyncGenerator<Uint8Array, void, undefined> {
    while (true) {
      for (let content = queue.shift(); content; content = queue.shift()) {
        queuedBytes -= content.length
        if (socket.isPaused && queuedBytes <= BUFFERED_BYTES_MAX / 2) socket.resume()
        yield content
      }
      if (ended) return
      await new Promise<void>((resolve) => (wake = resolve))
      wake = undefined
    }
  }

  return {
    incoming: { [Symbol.asyncIterator]: incoming },
    send(content) {
      if (socket.readyState !== socket.OPEN) return Promise.reject(new Fault('aborted', 'the client went away'))
      return new Promise((resolve, reject) => {
        const over = (error?: Error | null): void =>
          error ? reject(new Fault('aborted', 'the client went away', { cause: error })) : resolve()
        // Below the bound the caller need not wait for the kernel.
        if (socket.bufferedAmount + content.length <= BUFFERED_BYTES_MAX) {
          socket.send(content, { binary: true }, () => {})
          resolve()
        } else socket.send(content, { binary: true }, over)
      })
    },
    close(fault) {
      closing = true
      socket.resume()
      end()
      if (fault) socket.close(CLOSE_FAULT, closeReason(`${fault.code}: ${fault.message}`))
      else socket.close(1000)
    },
  }
}
