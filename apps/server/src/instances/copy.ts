/**
 * What makes a creation a copy of an instance as it is now, also while that runs: two steps around the clone.
 *
 *   place --> take (source: a snapshot of its disks) --> define (a clone of that) --> drop (the snapshot goes, the source is free) --> start
 *
 * The source is held from the request to the end of `drop`, or of its undo. Its snapshot is named by the saga and is nobody else's.
 */
import { Fault } from '@typevisor/base'
import type { DomainReply } from '@typevisor/api/agent-wire'
import { parseSnapshotName, type DomainId, type Quiesce, type SnapshotId } from '@typevisor/model'
import type { SagaEffect, SagaId, SagaStep, StepContext } from '@typevisor/saga'
import { agentOf, AWAY_ATTEMPTS } from './agent-steps.ts'
import { releaseEffect, snapshotsEffect } from './effects.ts'
import type { CreateInput, InstanceServices } from './sagas.ts'

export type CopySource = {
  readonly domain: DomainId
  readonly host: string
  /** Of its file systems, where it runs. */
  readonly quiesce: Quiesce
  /** For that. */
  readonly timeoutMs: number
}
type Step = SagaStep<CreateInput, InstanceServices>
type Context = StepContext<CreateInput, InstanceServices>

/** A new one has the id of what makes it. */
export const snapshotOfCopy = (saga: SagaId): SnapshotId => saga as string as SnapshotId

function sourceOf({ input }: Pick<Context, 'input'>): CopySource {
  if (input.copy) return input.copy
  throw new Fault('internal', `copy ${input.id}: it names no source`)
}

export const takeStep: Step = {
  name: 'take',
  attemptCountMax: AWAY_ATTEMPTS,
  do: async (context) => {
    const { sagaId, fence, signal } = context
    const { domain: id, host, quiesce, timeoutMs } = sourceOf(context)
    const agent = await agentOf(context, host)
    const named = { snapshot: snapshotOfCopy(sagaId), name: parseSnapshotName(`copy-${sagaId.slice(-12)}`) }
    const how = { memory: false, quiesce, timeoutMs }
    await agent.call('domain.snapshot', { commandId: `${sagaId}.take`, fence, id, ...named, ...how }, { signal })
  },
  undo: (context) => dropped(context, 'undo-take'),
}

export const dropStep: Step = {
  name: 'drop',
  attemptCountMax: AWAY_ATTEMPTS,
  do: (context) => dropped(context, 'drop'),
}

async function dropped(context: Context, step: string): Promise<{ effects: readonly SagaEffect[] }> {
  const { sagaId, fence, signal } = context
  const { domain: id, host } = sourceOf(context)
  const free = releaseEffect(id, sagaId)
  const agent = await agentOf(context, host)
  const command = { commandId: `${sagaId}.${step}`, fence, id, snapshot: snapshotOfCopy(sagaId) }
  const { domain } = await agent
    .call('domain.snapshot-delete', command, { signal })
    .catch((error: unknown): Pick<DomainReply, 'domain'> => {
      // It was destroyed, and all of it went.
      if (error instanceof Fault && (error.code === 'not_found' || error.code === 'unsupported')) return { domain: null }
      throw error
    })
  return { effects: domain ? [free, snapshotsEffect(id, domain)] : [free] }
}
