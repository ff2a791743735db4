/** Operations are sagas as callers see them: what they are about and what they wait for is read from their input. */
import { sql } from 'kysely'
import { Fault, type Json } from '@typevisor/base'
import type { Reply } from '@typevisor/api'
import { sagaId, settled, type SagaEngine, type SagaRecord, type SagaStore } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'

type WireOperation = Reply<'operation.get'>

type OperationRecord = Pick<SagaRecord, 'id' | 'name' | 'resource' | 'input' | 'outputs' | 'state' | 'createdAt' | 'updatedAt'>

export interface OperationSources {
  readonly engine: Pick<SagaEngine, 'progress'>
  readonly agents: Pick<AgentRegistry, 'get' | 'names'>
}

const fieldOf = (value: Json | undefined, name: string): Json | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, Json>>)[name] // isArray does not rule out what is readonly
    : undefined
const textOf = (value: Json | undefined): string | null => (typeof value === 'string' ? value : null)

/** Every input names what its saga is about: `name`, `spec.name` or `image` (`instances/sagas.ts`). */
export const resourceNameOf = (input: Json): string | null =>
  textOf(fieldOf(input, 'name')) ?? textOf(fieldOf(fieldOf(input, 'spec'), 'name')) ?? textOf(fieldOf(input, 'image'))

/** The same in SQL. */
export const RESOURCE_NAME = sql`coalesce(saga.input ->> 'name', saga.input -> 'spec' ->> 'name', saga.input ->> 'image')`

/**
 * Asked of who is connected now and not of the step, which waits, gives up and tries again: what is said does not flicker. A creation runs
 * where it was placed; one that was not placed yet wants the host that was asked for, or any.
 */
function waitsFor({ name, input, outputs, state }: OperationRecord, agents: OperationSources['agents']): string | null {
  if (settled(state)) return null
  const host = textOf(outputs['place']) ?? textOf(fieldOf(input, 'host'))
  if (host !== null) return agents.get(host) === null ? `host ${host}, which is not connected` : null
  return name === 'instance.create' && agents.names().length === 0 ? 'a host: none is connected' : null
}

export function toWireOperation(record: OperationRecord, { engine, agents }: OperationSources): WireOperation {
  const { state } = record
  const progress = engine.progress(record.id)
  return {
    id: record.id,
    name: record.name,
    resource: record.resource,
    resourceName: resourceNameOf(record.input),
    state: state.kind,
    step: progress?.step ?? null,
    progress: state.kind === 'done' ? 1 : (progress?.fraction ?? null),
    waitsFor: waitsFor(record, agents),
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
    const ended = await engine.wait(sagaId(id), { signal: limit }).catch((error: unknown) => {
      if (limit.aborted) return null
      throw error
    })
    if (ended) return ended
  }
  const record = await store.get(sagaId(id))
  if (!record) throw new Fault('not_found', `operation ${id}: there is none of this id`)
  return record
}
