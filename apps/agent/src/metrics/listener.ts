/**
 * An agent's `/metrics`, for a Prometheus on the same machine: on 127.0.0.1 and nowhere else, since whoever reaches it reads it. Asked for by
 * `--metrics-port`; an agent opens no port by itself.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Fault, toFault, type Log } from '@typevisor/base'
import type { AgentPort } from '@typevisor/api/agent-wire'
import { EXPOSITION_TYPE, exposition } from './exposition.ts'
import { hostFamilies, processFamilies } from './host-metrics.ts'

export interface MetricsListenerOptions {
  readonly agent: AgentPort
  /** 0: any free one. */
  readonly port: number
  readonly log: Log
}

export interface MetricsListener {
  readonly url: string
  close(): Promise<void>
}

/** A page of another site that a browser on this machine shows reaches 127.0.0.1 by a name of its own: it is not answered. */
const OWN_HOST = /^(?:127\.0\.0\.1|localhost)(?::\d+)?$/

/** @throws Fault `conflict` when the port is taken. */
export async function serveMetrics({ agent, port, log }: MetricsListenerOptions): Promise<MetricsListener> {
  const server = createServer((request, response) => {
    const answer = (status: number, text: string): void => {
      response.writeHead(status, { 'content-type': EXPOSITION_TYPE, 'cache-control': 'no-store' }).end(text)
    }
    if (!OWN_HOST.test(request.headers.host ?? '')) return answer(403, '# want 127.0.0.1 or localhost as Host\n')
    if (request.method !== 'GET' || request.url?.split('?')[0] !== '/metrics') return answer(404, '# want GET /metrics\n')
    const gone = new AbortController()
    response.once('close', () => gone.abort(new Fault('aborted', 'the client went away')))
    agent.call('host.statistics', {}, { signal: gone.signal }).then(
      (statistics) =>
        answer(
          200,
          exposition([...processFamilies(agent.hello.version), ...hostFamilies([{ host: agent.hello.name, statistics }])]),
        ),
      (error: unknown) => {
        if (gone.signal.aborted) return
        log.warn('metrics.failed', { error: toFault(error).message })
        answer(500, '# failed\n')
      },
    )
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      reject(
        error.code === 'EADDRINUSE'
          ? new Fault('conflict', `--metrics-port: ${port} is in use on 127.0.0.1`, { cause: error })
          : error,
      ),
    )
    server.listen(port, '127.0.0.1', resolve)
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/metrics`, // listening on TCP
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
