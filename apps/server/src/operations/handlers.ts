import { sql } from 'kysely'
import { epochMillis, Fault } from '@typevisor/base'
import {
  postgresSagaStore,
  sagaId,
  settled,
  type SagaEngine,
  type SagaRecord,
  type SagaStore,
  type SqlExecutor,
  type StuckVerdict,
} from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import { recordEntry } from '../db/audit.ts'
import type { Db } from '../db/database.ts'
import { pageOf, searchPatterns } from '../db/paging.ts'
import type { Call, Handlers } from '../http/handler.ts'
import { RESOURCE_NAME, resourceNameOf, settledWithin, toWireOperation } from './operation.ts'

export interface OperationHandlerOptions {
  readonly db: Db
  readonly database: SqlExecutor
  readonly engine: SagaEngine
  readonly agents: AgentRegistry
  readonly store: SagaStore
}

const UNFINISHED = ['running', 'undoing', 'stuck'] as const

type OperationHandlers = Pick<Handlers, Extract<keyof Handlers, `operation.${string}`>>

export function operationHandlers({ db, database, engine, store, agents }: OperationHandlerOptions): OperationHandlers {
  const needRecord = async (id: string, audit: Call<'operation.retry'>['audit']): Promise<SagaRecord> => {
    const record = await store.get(sagaId(id))
    if (!record) throw new Fault('not_found', `operation ${id}: there is none of this id`)
    audit(record.resource, resourceNameOf(record.input))
    return record
  }

  /** What a person says of an operation, with who said it. */
  const decide = async (
    record: SagaRecord,
    entry: Call<'operation.retry'>['entry'],
    decision: (within: SagaStore) => Promise<void>,
  ): Promise<void> => {
    await database.transaction(async (tx) => {
      await decision(postgresSagaStore({ sql: tx }))
      await recordEntry(tx, entry(record.resource, resourceNameOf(record.input)))
    })
  }

  /** What could not be undone waits for a person's word. */
  const settle =
    (name: string, verdict: StuckVerdict) =>
    async ({ params, audit, entry }: Pick<Call<'operation.retry'>, 'params' | 'audit' | 'entry'>) => {
      const record = await needRecord(params.operation, audit)
      if (record.state.kind !== 'stuck') throw new Fault('conflict', `${name} ${record.name}: it is ${record.state.kind}`)
      await decide(record, entry, (within) => within.settleStuck(record.id, verdict))
      engine.wake()
      return toWireOperation((await store.get(record.id)) ?? record, { engine, agents })
    }

  return {
    'operation.retry': settle('retry', 'retry'),
    'operation.abandon': settle('abandon', 'abandon'),
    'operation.list': async ({ query }) => {
      const patterns = searchPatterns(query.search)
      let rows = db.selectFrom('saga').select(['id', 'name', 'resource', 'input', 'outputs', 'state', 'created_at', 'updated_at'])
      if (query.unfinished !== undefined)
        rows = rows.where('state_kind', query.unfinished === 'true' ? 'in' : 'not in', UNFINISHED)
      if (query.state !== undefined) rows = rows.where('state_kind', '=', query.state)
      if (query.resource !== undefined) rows = rows.where('resource', '=', query.resource)
      if (patterns.length > 0)
        rows = rows.where(
          sql<boolean>`lower(saga.name || ' ' || saga.resource || ' ' || coalesce(${RESOURCE_NAME}, '') || ' ' || saga.id) LIKE ALL (${patterns})`,
        )
      return pageOf({
        rows,
        keys: [
          { column: 'saga.created_at', kind: 'time', read: (row) => row.created_at },
          { column: 'saga.id', kind: 'text', read: (row) => row.id },
        ],
        order: 'desc',
        context: ['operation', query.unfinished, query.state, query.resource, query.search],
        cursor: query.cursor,
        limit: query.limit,
        toItem: (row) =>
          toWireOperation(
            {
              id: sagaId(row.id),
              name: row.name,
              resource: row.resource,
              state: row.state,
              input: row.input,
              outputs: row.outputs,
              createdAt: epochMillis(row.created_at.getTime()),
              updatedAt: epochMillis(row.updated_at.getTime()),
            },
            { engine, agents },
          ),
      })
    },
    'operation.get': async ({ params, query, signal }) =>
      toWireOperation(await settledWithin(engine, store, params.operation, query.wait, signal), { engine, agents }),
    'operation.cancel': async ({ params, audit, entry }) => {
      const record = await needRecord(params.operation, audit)
      if (settled(record.state)) throw new Fault('conflict', `cancel ${record.name}: it is ${record.state.kind}`)
      await decide(record, entry, (within) => within.requestCancel(record.id))
      await engine.cancel(record.id)
      return toWireOperation((await store.get(record.id)) ?? record, { engine, agents })
    },
  }
}
