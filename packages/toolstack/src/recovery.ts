/**
 * What is done with a domain that crashed, by its policy (`onCrash`), and with one that ran when its host went down (`autostart`): one saga, so
 * that whoever is killed in it leaves the domain crashed, stopped or running, and never half of it.
 *
 *   crashed --> (dump) --> stopped --> running      each by its own transition, with the cause `on-crash` or `autostart`
 *
 * A guest that crashes as soon as it runs is not restarted for ever: `RESTARTS_MAX` within `RESTART_WINDOW_MS`, then it stays crashed, with its
 * memory for a look. That it is to be dealt with is written with the transition to `crashed` itself (`crashPending`); an agent that is killed
 * before it is finds it at the next start. Whoever commands the domain meanwhile is obeyed: what is crashed no more is left alone.
 */
import { toFault, type EpochMillis, type Json } from '@typevisor/base'
import { dumpsOnCrash, endsOnCrash, restartsOnCrash, type CrashAction, type DomainCause } from '@typevisor/model'
import { defineSaga, type SagaStep } from '@typevisor/saga'
import { dropSaves, type Context, type ToolstackServices, type VerbInput } from './steps.ts'
import type { StoredDomain } from './stored-domain.ts'
import { start, takeDump } from './verbs.ts'

export const RESTARTS_MAX = 3
export const RESTART_WINDOW_MS = 10 * 60_000

export type RecoverInput = VerbInput & { readonly action: CrashAction; readonly cause: DomainCause }

/** Restarts of late, and what is to be done now. */
export function crashVerdict(
  domain: Pick<StoredDomain, 'settings' | 'restarts'>,
  now: EpochMillis,
): { readonly action: CrashAction; readonly restarts: readonly EpochMillis[]; readonly note: string | null } {
  const asked = domain.settings?.onCrash ?? 'keep'
  const restarts = (domain.restarts ?? []).filter((at) => now - at < RESTART_WINDOW_MS)
  if (!restartsOnCrash(asked)) return { action: asked, restarts, note: null }
  if (restarts.length < RESTARTS_MAX) return { action: asked, restarts: [...restarts, now], note: null }
  const action = dumpsOnCrash(asked) ? 'dump-keep' : 'keep'
  const note = `restarted ${restarts.length} times in ${RESTART_WINDOW_MS / 60_000} min: it stays crashed`
  return { action, restarts, note }
}

const goesOn = ({ outputs }: Context<RecoverInput>): boolean => outputs['check'] === true

/** A step of `start`, where the domain is to run again. */
const ofStart = (name: string): SagaStep<RecoverInput, ToolstackServices> => {
  const step = start.steps.find((each) => each.name === name)
  if (!step) throw new Error(`start has no step ${name}`)
  const { undo } = step
  const isAsked = (context: Context<RecoverInput>): boolean => goesOn(context) && restartsOnCrash(context.input.action)
  return {
    ...step,
    do: async (context) => (isAsked(context) ? await step.do(context) : undefined),
    ...(undo ? { undo: async (context) => (isAsked(context) ? await undo(context) : undefined) } : {}),
  }
}

export const recover = defineSaga<RecoverInput, ToolstackServices>({
  name: 'domain.recover',
  steps: [
    {
      name: 'check',
      do: async ({ input, services }) => ({ output: (services.ledger.get(input.id)?.state.kind === 'crashed') as Json }),
    },
    {
      name: 'dump',
      attemptCountMax: 1,
      do: async (context) => {
        const { input, log } = context
        if (!goesOn(context) || !dumpsOnCrash(input.action)) return
        try {
          const dump = await takeDump(context)
          // Nobody who asked is told of it by an answer.
          const detail = `its memory was dumped: ${dump.path}`
          await context.services.ledger.noteUnchanged(input.id, { cause: input.cause, detail, dump })
        } catch (error) {
          // Nothing is left of the memory of a process that failed; what comes next is not held up by it.
          log.warn('domain.not_dumped', { domain: input.id, error: toFault(error).message })
        }
      },
    },
    {
      name: 'end',
      do: async (context) => {
        const { input, services } = context
        if (!goesOn(context) || !endsOnCrash(input.action)) return
        await services.driver.destroy(input.id)
        await services.ledger.enter(input.id, { kind: 'stopped', cause: input.cause, detail: null }, { cause: input.cause })
      },
    },
    ofStart('create'),
    ofStart('unpause'),
    { name: 'drop-saves', do: dropSaves },
  ],
})
