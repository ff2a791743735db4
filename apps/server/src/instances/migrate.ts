/**
 * An instance moves to another host, while it runs or as it stands: two agents do it, and this stands over both.
 *
 *   request  source: what the target has to know
 *   move     target: expects it --offer--> source: sends it, hands it over, and has the target go          undo: see below
 *   settle   target: has it, and runs it, if it does not yet; the row is of the target from this transaction on; what the source may have left goes
 *
 * The offer has a token in it and is never written down here: the target answers the same again as long as it expects the domain.
 *
 * Undo asks the source first, which ends what it does and says where the domain is. `here`: the target forgets it. Handed over or gone: it is
 * the target's, and the undo is the rest of the move, unless the target says that it never ran there and never will; then the source takes
 * it back. A host that is away is waited for: nobody guesses who has the guest.
 */
import { Fault, toFault, type Json } from '@typevisor/base'
import type { DomainReply } from '@typevisor/api/agent-wire'
import type { DomainId, MigrationParameters, MigrationRequest, MigrationResult } from '@typevisor/model'
import { defineSaga, type SagaEffect, type StepContext } from '@typevisor/saga'
import { agentOf, AWAY_ATTEMPTS, failure } from './agent-steps.ts'
import { dumpEffect, eventEffect, observedEffect, releaseEffect, snapshotsEffect } from './effects.ts'
import type { InstanceServices } from './sagas.ts'

export type MigrateInput = {
  readonly id: DomainId
  readonly name: string
  /** Where it is. */
  readonly host: string
  readonly to: string
  readonly parameters: MigrationParameters
}
type Context = StepContext<MigrateInput, InstanceServices>

/** How long the end of a move waits for what the source has left to go. */
const RELEASE_LIMIT_MS = 10_000

const head = ({ sagaId, fence, input }: Context, step: string) => ({ commandId: `${sagaId}.${step}`, fence, id: input.id })

/** The row is of the target: what its host says from here on counts by the target's own sequence. */
function movedEffects({ id, to }: MigrateInput, { domain, sequence }: DomainReply): SagaEffect[] {
  if (!domain) throw new Fault('failed', `migrate ${id}: host ${to} runs it and does not list it`)
  const text = 'UPDATE instance SET host = $2, state_sequence = 0 WHERE id = $1 AND destroyed_at IS NULL AND host <> $2'
  return [
    { kind: 'sql', text, values: [id, to] },
    observedEffect(id, domain, sequence),
    snapshotsEffect(id, domain),
    dumpEffect(id, domain),
  ]
}

/** @throws Fault `failed` or `conflict` when it never ran on the target and never will. */
async function takeOver(context: Context, step: string): Promise<DomainReply> {
  const target = await agentOf(context, context.input.to)
  return await target.call('domain.take-over', head(context, step), { signal: context.signal })
}

const neverRan = (error: unknown): boolean => ['failed', 'conflict'].includes(toFault(error).code)

/** What is left there is ended when the host comes back, if it does not answer now: it lists it then (`forget.ts`). */
async function release(context: Context): Promise<void> {
  const { services, input, log, signal } = context
  const source = services.agents.get(input.host)
  if (source === null) return
  const limit = AbortSignal.any([signal, AbortSignal.timeout(RELEASE_LIMIT_MS)])
  try {
    await source.call('domain.carry-out', { ...head(context, 'release'), verb: 'destroy' }, { signal: limit })
  } catch (error) {
    signal.throwIfAborted()
    log.warn('instance.left_behind', { host: input.host, instance: input.id, fault: toFault(error).message })
  }
}

async function undoMove(context: Context): Promise<{ effects: readonly SagaEffect[] } | void> {
  const { input, signal } = context
  const source = await agentOf(context, input.host)
  const { where } = await source.call('domain.migrate-cancel', head(context, 'cancel'), { signal })
  if (where !== 'here') {
    try {
      const reply = await takeOver(context, 'undo-take-over')
      if (where === 'handed-over') await release(context)
      return { effects: movedEffects(input, reply) }
    } catch (error) {
      if (where === 'gone' || !neverRan(error)) throw error
    }
    await source.call('domain.take-back', head(context, 'take-back'), { signal })
  }
  const target = await agentOf(context, input.to)
  await target.call('domain.abandon', head(context, 'abandon'), { signal })
}

export const migrate = defineSaga<MigrateInput, InstanceServices>({
  name: 'instance.migrate',
  steps: [
    {
      name: 'request',
      do: async (context) => {
        const { input, signal } = context
        const source = await agentOf(context, input.host)
        const { id, parameters } = input
        const request = await source.call('domain.migration-request', { id, parameters }, { signal })
        return { output: request as unknown as Json }
      },
    },
    {
      name: 'move',
      attemptCountMax: AWAY_ATTEMPTS,
      do: async (context) => {
        const { input, signal, outputs, progress } = context
        const { parameters, host, to } = input
        const request = outputs['request'] as unknown as MigrationRequest // as the step before wrote it
        const target = await agentOf(context, to)
        const { channelCount, postCopy } = parameters
        const expecting = { ...head(context, 'receive'), request, channelCount, postCopy }
        const offer = await target.call(request.cold ? 'domain.receive-cold' : 'domain.receive', expecting, { signal })
        const source = await agentOf(context, host)
        const result = await source.call(
          'domain.migrate',
          { ...head(context, 'migrate'), offer, parameters },
          { signal, progress },
        )
        return { output: result as unknown as Json }
      },
      undo: undoMove,
    },
    {
      name: 'settle',
      attemptCountMax: AWAY_ATTEMPTS,
      do: async (context) => {
        const reply = await takeOver(context, 'take-over')
        const { confirmed } = context.outputs['move'] as unknown as MigrationResult // as the step before wrote it
        if (!confirmed) await release(context)
        return { effects: movedEffects(context.input, reply) }
      },
    },
  ],
  onDone: ({ sagaId, input, outputs }) => {
    const { statistics } = outputs['move'] as unknown as MigrationResult // as the step wrote it
    return [
      releaseEffect(input.id, sagaId),
      eventEffect('instance.operation', input.id, input.name, {
        verb: 'migrate',
        operation: sagaId,
        outcome: 'done',
        from: input.host,
        to: input.to,
        ...statistics,
      }),
    ]
  },
  onFailed: ({ sagaId, input }, fault) => [
    releaseEffect(input.id, sagaId),
    eventEffect('instance.operation', input.id, input.name, {
      outcome: 'failed',
      ...failure('migrate', sagaId, fault),
      from: input.host,
      to: input.to,
    }),
  ],
})
