import type { Instance } from '../api/verbs.ts'
import { outcomeOf, type Operation } from '../api/activity.ts'

type Tone = 'green' | 'amber' | 'red' | 'violet' | 'blue' | 'grey'
interface Look {
  readonly tone: Tone
  readonly text: string
  readonly busy?: boolean
  readonly hollow?: boolean
}

const STATES: Record<Instance['state']['kind'], Look> = {
  creating: { tone: 'blue', text: 'Creating', busy: true },
  running: { tone: 'green', text: 'Running' },
  stopped: { tone: 'grey', text: 'Stopped', hollow: true },
  paused: { tone: 'amber', text: 'Paused' },
  saved: { tone: 'violet', text: 'Saved' },
  crashed: { tone: 'red', text: 'Crashed' },
  failed: { tone: 'red', text: 'Failed', hollow: true },
  destroying: { tone: 'grey', text: 'Destroying', busy: true },
}

export const stateText = (kind: Instance['state']['kind']): string => STATES[kind].text

export function Badge({ tone, text, busy = false, hollow = false, title }: Look & { readonly title?: string | undefined }) {
  return (
    <span className={`state tone-${tone}`} data-busy={busy} data-hollow={hollow} title={title}>
      {text}
    </span>
  )
}

export function StateBadge({ instance }: { readonly instance: Instance }) {
  const look = STATES[instance.state.kind]
  const away = !instance.hostConnected && instance.host !== null
  return (
    <span data-testid="state" data-state={instance.state.kind}>
      <Badge
        {...look}
        {...(away && { tone: 'grey', hollow: true })}
        busy={!away && ((look.busy ?? false) || instance.operation !== null)}
        title={away ? `The last state known: host ${instance.host} is not connected` : (instance.state.detail ?? undefined)}
        text={away ? `${look.text}?` : look.text}
      />
    </span>
  )
}

const OUTCOMES: Record<ReturnType<typeof outcomeOf>, Look> = {
  running: { tone: 'blue', text: 'Running', busy: true },
  done: { tone: 'green', text: 'Done' },
  cancelled: { tone: 'grey', text: 'Cancelled', hollow: true },
  failed: { tone: 'red', text: 'Failed' },
}

export function OperationBadge({ operation }: { readonly operation: Operation }) {
  const look =
    operation.state === 'undoing'
      ? ({ tone: 'amber', text: 'Undoing', busy: true } as const)
      : operation.state === 'stuck'
        ? ({ tone: 'red', text: 'Stuck' } as const)
        : OUTCOMES[outcomeOf(operation)]
  return <Badge {...look} />
}

export function ConnectedBadge({ connected }: { readonly connected: boolean }) {
  return connected ? <Badge tone="green" text="Connected" /> : <Badge tone="red" text="Not connected" hollow />
}
