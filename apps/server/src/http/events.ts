/**
 * Events as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html). Each has its sequence as id, so that a
 * browser that comes back goes on after the last one it had. A comment now and then shows both sides that the other is there. A client
 * that does not read fills its channel, is cut off, and resumes.
 */
import { once } from 'node:events'
import type { FastifyReply } from 'fastify'
import { millis, type Clock } from '@typevisor/base'
import type { OutboxEvent } from '../event-log.ts'

export interface ServeEventsOptions {
  readonly reply: FastifyReply
  readonly events: AsyncIterable<OutboxEvent>
  readonly signal: AbortSignal
  readonly clock: Clock
  readonly heartbeatEveryMs: number
}

/** How soon a browser comes back, in milliseconds. */
const RETRY_MS = 1000

export async function serveEvents({ reply, events, signal, clock, heartbeatEveryMs }: ServeEventsOptions): Promise<void> {
  const { raw } = reply
  reply.hijack()
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    // nginx would keep the events in its buffer.
    'x-accel-buffering': 'no',
  })
  const write = async (text: string): Promise<void> => {
    if (!raw.write(text)) await once(raw, 'drain', { signal })
  }
  const over = new AbortController()
  const ended = AbortSignal.any([signal, over.signal])
  const beat = async (): Promise<void> => {
    while (!ended.aborted) {
      await clock.sleep(millis(heartbeatEveryMs), { signal: ended })
      if (raw.writableLength === 0) raw.write(': still here\n\n')
    }
  }
  beat().catch(() => {}) // ends by the signal
  try {
    await write(`retry: ${RETRY_MS}\n: events follow\n\n`)
    for await (const { sequence, ...event } of events)
      await write(`id: ${sequence}\ndata: ${JSON.stringify({ sequence, ...event })}\n\n`)
  } catch {
    // Too slow, gone, or the database is away: the stream ends, and the client resumes after its last event.
  } finally {
    over.abort()
    raw.end()
  }
}
