import { Fault } from '@typevisor/base'
import { sagaId, settled, type SagaEngine, type SagaStore, type StuckVerdict } from '@typevisor/saga'
import type { Call, Handlers } from '../http/handler.ts'
import { settledWithin, toWireOperation } from './operation.ts'

export interface OperationHandlerOptions {
  readonly engine: SagaEngine
  readonly store: SagaStore
}

const LIST_COUNT_MAX = 500

type OperationHandlers = Pick<Handlers, Extract<keyof Handlers, `operation.${string}`>>

export function operationHandlers({ engine, store }: OperationHandlerOptions): OperationHandlers {
  /** What could not be undone waits for a person's word. */
  const settle =
    (name: string, verdict: StuckVerdict) =>
    async ({ params, audit }: Pick<Call<'operation.retry'>, 'params' | 'audit'>) => {
      const record = await store.get(sagaId(params.operation))
      if (!record) throw new Fault('not_found', `operation ${params.operation}: there is none of this id`)
      audit(record.resource)
      if (record.state.kind !== 'stuck') throw new Fault('conflict', `${name} ${record.name}: it is ${record.state.kind}`)
      await engine.settleStuck(record.id, verdict)
      return toWireOperation((await store.get(record.id)) ?? record, engine)
    }

  return {
    'operation.retry': settle('retry', 'retry'),
    'operation.abandon': settle('abandon', 'abandon'),
    'operation.list': async ({ query }) => {
      const records = await store.list({
        ...(query.unfinished === undefined ? {} : { unfinished: query.unfinished === 'true' }),
        ...(query.resource === undefined ? {} : { resource: query.resource }),
        limit: Math.min(query.limit, LIST_COUNT_MAX),
      })
      const items = records.map((record) => toWireOperation(record, engine))
      return { items, total: items.length, nextCursor: null }
    },
    'operation.get': async ({ params, query, signal }) =>
      toWireOperation(await settledWithin(engine, store, params.operation, query.wait, signal), engine),
    'operation.cancel': async ({ params, audit }) => {
      const record = await store.get(sagaId(params.operation))
      if (!record) throw new Fault('not_found', `operation ${params.operation}: there is none of this id`)
      audit(record.resource)
      if (settled(record.state)) throw new Fault('conflict', `cancel ${record.name}: it is ${record.state.kind}`)
      await engine.cancel(record.id)
      return toWireOperation((await store.get(record.id)) ?? record, engine)
    },
  }
}
