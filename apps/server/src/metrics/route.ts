/**
 * `GET /metrics`. Not of the table: it answers no JSON, and its path is the one that Prometheus expects. Who may: a bearer token (or a session)
 * with the scope `metrics:read`; there is no exception for 127.0.0.1, where a reverse proxy would let in everybody.
 */
import type { FastifyInstance } from 'fastify'
import { Fault } from '@typevisor/base'
import { EXPOSITION_TYPE } from '@typevisor/agent'
import { scopeAllows } from '@typevisor/identity'
import { callerOfCredential, credentialOf, type AuthenticateOptions } from '../http/authenticate.ts'
import type { ServerMetrics } from './metrics.ts'

export const METRICS_SCOPE = 'metrics:read'

export function addMetricsRoute(app: FastifyInstance, access: AuthenticateOptions, metrics: ServerMetrics): void {
  app.get('/metrics', {
    onRequest: [
      app.rateLimit(),
      async (request) => {
        const credential = credentialOf(request)
        const caller = credential && (await callerOfCredential(access, credential))
        if (!caller)
          throw new Fault('unauthenticated', `metrics: send Authorization: Bearer with a token of scope ${METRICS_SCOPE}`)
        if (!scopeAllows(caller.scopes, METRICS_SCOPE))
          throw new Fault('forbidden', `metrics: want scope ${METRICS_SCOPE}, the token has ${caller.scopes.join(' ')}`)
      },
    ],
    handler: async (_request, reply) => {
      const gone = new AbortController()
      reply.raw.once('close', () => gone.abort(new Fault('aborted', 'the client went away')))
      const text = await metrics.collect(gone.signal)
      return reply.type(EXPOSITION_TYPE).header('cache-control', 'no-store').send(text)
    },
  })
}
