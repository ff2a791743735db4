import { assert, type Json } from '@typevisor/base'
import type { NewSaga, SagaDefinition, SagaId } from './ports.ts'

/**
 * Names the types of a definition once: `defineSaga<CreateInput, Services>({ name, steps })`. Definitions with other inputs fit into
 * one engine, and so do definitions that need only some of its services.
 */
export function defineSaga<I, S>(definition: SagaDefinition<I, S>): SagaDefinition<I, S> {
  const names = new Set(definition.steps.map((step) => step.name))
  assert(names.size === definition.steps.length, `saga ${definition.name}: step names are not unique`)
  return definition
}

/** A run of `definition`, with its input checked by the compiler. */
export const newSaga = <I extends Json, S>(
  definition: SagaDefinition<I, S>,
  run: { id: SagaId; resource: string; input: NoInfer<I> },
): NewSaga => ({ id: run.id, name: definition.name, resource: run.resource, input: run.input })
