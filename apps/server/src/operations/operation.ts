/** Operations are sagas as callers see them. */
import { Fault } from '@typevisor/base'
import type { Reply } from '@typevisor/api'
import { sagaId, type SagaEngine, type SagaRecord, type SagaStore } from '@typevisor/saga'

type WireOperation = Reply<'operation.get'>

type OperationRecord = Pick<SagaRecord, 'id' | 'name' | 'resource' | 'state' | 'createdAt' | 'updatedAt'>

export function toWireOperation(record: OperationRecord, engine: SagaEngine): WireOperation {
  const { state } = record
  const progress = engine.progress(record.id)
  return {
    id: record.id,
    name: record.name,
    resource: record.resource,
    state: state.kind,
    step: progress?.step ?? null,
    progress: state.kind === 'done' ? 1 : (progress?.fraction ?? null),
    fault:
      'fault' in state
        ? {
            code: state.fault.code,
            message: state.fault.message,
            ...(state.fault.details ? { details: [...state.fault.details] } : {}),
          }
        : null,
    createdAt: record.createdAt,
    updatedAt: record.updatedAt,
  }
}

/** The operation as it stands when it ends or `waitSeconds` are over, whichever is first. */
export async function settledWithin(
  engine: SagaEngine,
  store: SagaStore,
  id: string,
  waitSeconds: number,
  signal: AbortSignal,
): Promise<SagaRecord> {
  if (waitSeconds > 0) {
    const limit = AbortSignal.any([signal, AbortSignal.timeout(waitSeconds * 1000)])
    const settled = await engine.wait(sagaId(id), { signal: limit }).catch((error: unknown) => {
      if (limit.aborted) return null
      throw error
    })
    if (settled) return settled
  }
  const record = await store.get(sagaId(id))
  if (!record) throw new Fault('not_found', `operation ${id}: there is none of this id`)
  return record
}
