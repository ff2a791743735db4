/**
 * The life of a domain: what is done to it (the tables of verbs) and what happens by itself, as one list of transitions and as one picture.
 * `docs/toolstack.md` has the picture; a test compares, and another has each happening come about.
 */
import type { DomainCause, DomainStateKind } from './domain.ts'
import { SNAPSHOT_VERBS, VERBS, type Verb } from './verbs.ts'

/** What nobody asked for. `cause` is what the transition is told with. */
export interface Happening {
  readonly from: readonly DomainStateKind[]
  readonly to: DomainStateKind
  readonly cause: DomainCause
  readonly title: string
}

export const HAPPENINGS = {
  'powers-off': { from: ['running'], to: 'stopped', cause: 'guest', title: 'the guest powers off' },
  panics: { from: ['running'], to: 'crashed', cause: 'guest-panic', title: 'the guest panics' },
  ends: { from: ['running', 'paused'], to: 'crashed', cause: 'process-failed', title: 'the emulator ends' },
  'disk-full': { from: ['running'], to: 'paused', cause: 'disk-full', title: 'no room on its disk' },
  'disk-fails': { from: ['running'], to: 'paused', cause: 'io-error', title: 'a disk fails' },
  sleeps: { from: ['running'], to: 'paused', cause: 'guest', title: 'the guest sleeps' },
  watchdog: { from: ['running'], to: 'paused', cause: 'watchdog', title: 'its watchdog bites' },
  wakes: { from: ['paused'], to: 'running', cause: 'guest', title: 'the guest wakes' },
  'room-again': { from: ['paused'], to: 'running', cause: 'guest', title: 'room again' },
} as const satisfies Record<string, Happening>

export type HappeningName = keyof typeof HAPPENINGS

export interface Transition {
  /** null: it is not there yet. */
  readonly from: DomainStateKind | null
  /** null: it is there no more. */
  readonly to: DomainStateKind | null
  readonly by: string
  /** Somebody asked for it. */
  readonly asked: boolean
}

/** All that lead from one state to another, without the ways of a revert, which ends where its snapshot was. */
export function transitions(): Transition[] {
  const verbs = Object.entries<Verb>(VERBS).flatMap(([by, { from, to }]) =>
    to === null ? [] : from.map((kind): Transition => ({ from: kind, to: to === 'gone' ? null : to, by, asked: true })),
  )
  const happenings = Object.values<Happening>(HAPPENINGS).flatMap(({ from, to, title }) =>
    from.map((kind): Transition => ({ from: kind, to, by: title, asked: false })),
  )
  const made: Transition = { from: null, to: 'stopped', by: 'define', asked: true }
  return [made, ...verbs, ...happenings].filter(({ from, to }) => from !== to)
}

const STATE_NAMES = ['stopped', 'running', 'paused', 'saved', 'crashed'] as const satisfies readonly DomainStateKind[]

/** As Mermaid's `stateDiagram-v2`: one arrow a pair of states, what is asked for in plain words, what happens by itself in brackets. */
export function lifeDiagram(): string {
  const arrows = new Map<string, string[]>()
  for (const { from, to, by, asked } of transitions()) {
    const arrow = `${from ?? '[*]'} --> ${to ?? '[*]'}`
    arrows.set(arrow, [...(arrows.get(arrow) ?? []), asked ? by : `(${by})`])
  }
  const lines = [...arrows].map(([arrow, labels]) => `    ${arrow} : ${labels.join(', ')}`)
  return ['stateDiagram-v2', ...lines].join('\n')
}

/** Which verb is allowed in which state, as a table of Markdown. */
export function verbTable(): string {
  const rows = Object.entries<Verb>({ ...VERBS, ...SNAPSHOT_VERBS }).map(
    ([name, { from, fromWaiting, to }]) =>
      `| ${name} | ${STATE_NAMES.map((state) => (from.includes(state) ? 'yes' : state === 'paused' && fromWaiting ? 'waiting' : '')).join(' | ')} | ${to ?? 'as it was'} |`,
  )
  return [
    `| verb | ${STATE_NAMES.join(' | ')} | ends |`,
    `| --- | ${STATE_NAMES.map(() => '---').join(' | ')} | --- |`,
    ...rows,
  ].join('\n')
}
