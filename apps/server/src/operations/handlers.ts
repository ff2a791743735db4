import { Fault } from '@typevisor/base'
import { sagaId, settled, type SagaEngine, type SagaStore } from '@typevisor/saga'
import type { Handlers } from '../http/handler.ts'
import { settledWithin, toWireOperation } from './operation.ts'

export interface OperationHandlerOptions {
  readonly engine: SagaEngine
  readonly store: SagaStore
}

const LIST_COUNT_MAX = 500

export function operationHandlers({
  engine,
  store,
}: OperationHandlerOptions): Pick<Handlers, 'operation.list' | 'operation.get' | 'operation.cancel'> {
  return {
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
