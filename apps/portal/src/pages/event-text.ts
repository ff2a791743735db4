/** An event in one line of words. Kinds that this portal does not know are told by their own fields. */
import { formatBytes } from '@typevisor/base'
import type { PlatformEvent } from '../api/live.ts'

const show = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value))
/** A number by what its name says of its unit: `usedBytes` -> `used 3 GiB`. */
const fact = (key: string, value: unknown): string =>
  typeof value === 'number' && key.endsWith('Bytes')
    ? `${key.slice(0, -'Bytes'.length)} ${formatBytes(value)}`
    : `${key} ${show(value)}`

export interface EventLine {
  readonly title: string
  readonly detail: string | null
  readonly tone: 'green' | 'red' | 'amber' | 'blue' | 'grey'
}

const TONES: Record<string, EventLine['tone']> = {
  running: 'green',
  crashed: 'red',
  failed: 'red',
  paused: 'amber',
  creating: 'blue',
  undone: 'red',
  stuck: 'red',
  done: 'green',
  serving: 'green',
  away: 'red',
  enough: 'green',
  'over 80 %': 'amber',
  'over 90 %': 'amber',
  'over 95 %': 'red',
}

export function eventLine(event: PlatformEvent): EventLine {
  const {
    from,
    to,
    state,
    cause,
    detail,
    reconstructed,
    operation: _operation,
    hostSequence: _sequence,
    startedAt: _startedAt,
    outcome,
    verb,
    message,
    ...rest
  } = event.data as Record<string, unknown>
  const next = to !== undefined ? to : typeof state === 'object' && state !== null ? (state as { kind?: unknown }).kind : state
  const why = cause ?? (typeof state === 'object' && state !== null ? (state as { cause?: unknown }).cause : undefined)
  const words =
    typeof verb === 'string'
      ? `${verb}${outcome === undefined ? '' : ` ${show(outcome)}`}`
      : (event.kind.split('.').at(-1) ?? event.kind).replace(/[-_]/g, ' ')
  const title =
    next === undefined
      ? words
      : next === null
        ? 'gone'
        : from === undefined || from === null || from === next
          ? show(next)
          : `${show(from)} \u2192 ${show(next)}`
  const parts = [
    why === undefined || why === null ? null : show(why),
    reconstructed === true ? 'worked out afterwards' : null,
    detail === undefined || detail === null ? null : show(detail),
    message === undefined ? null : show(message),
    ...Object.entries(rest)
      .filter(([, value]) => value !== null && typeof value !== 'object')
      .slice(0, 4)
      .map(([key, value]) => fact(key, value)),
  ].filter((part) => part !== null)
  return { title, detail: parts.length === 0 ? null : parts.join(' · '), tone: TONES[String(next ?? outcome)] ?? 'grey' }
}
