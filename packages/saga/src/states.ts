import type { FaultJson, Json } from '@typevisor/base'
import type { SagaRecord, SagaState } from './ports.ts'

/** What each state means for the stores: whether an engine may claim it, and whether it holds its resource. */
export const SAGA_STATES = {
  running: { claimable: true, holdsResource: true },
  undoing: { claimable: true, holdsResource: true },
  done: { claimable: false, holdsResource: false },
  undone: { claimable: false, holdsResource: false },
  stuck: { claimable: false, holdsResource: true },
} as const satisfies Record<SagaState['kind'], { claimable: boolean; holdsResource: boolean }>

export const claimable = (state: SagaState): boolean => SAGA_STATES[state.kind].claimable
export const holdsResource = (state: SagaState): boolean => SAGA_STATES[state.kind].holdsResource
/** Done, undone or stuck: nothing more happens by itself. */
export const settled = (state: SagaState): boolean => !SAGA_STATES[state.kind].claimable

/** Where an undo stands: index -1 means that every step is undone. */
export const undoingFrom = (stepIndex: number, fault: FaultJson): SagaState =>
  stepIndex < 0 ? { kind: 'undone', fault } : { kind: 'undoing', stepIndex, fault }

/** The record after a transition was committed. */
export function moved(
  record: SagaRecord,
  change: {
    state: SagaState
    output?: { step: string; value: Json } | undefined
    attempt: number
    updatedAt: SagaRecord['updatedAt']
  },
): SagaRecord {
  const { state, output, attempt, updatedAt } = change
  return {
    ...record,
    state,
    attempt,
    updatedAt,
    outputs: output === undefined ? record.outputs : { ...record.outputs, [output.step]: output.value },
  }
}
