/**
 * What can be done to a domain in which state: one table, shared by toolstack, server, CLI and portal. `to` is the state that
 * the verb ends in when nothing else happens meanwhile; null where the verb only asks (the guest decides).
 */
import { Fault } from '@typevisor/base'
import { waitsForRoom, type DomainStateKind } from './domain.ts'

export interface Verb {
  readonly from: readonly DomainStateKind[]
  /** Also from `paused` where nobody paused it: it waits for room on its disk, and is to run. */
  readonly fromWaiting?: boolean
  readonly to: DomainStateKind | 'gone' | null
  readonly destroys: boolean
  readonly title: string
}

export const VERBS = {
  start: { from: ['stopped'], to: 'running', destroys: false, title: 'Start' },
  pause: { from: ['running'], fromWaiting: true, to: 'paused', destroys: false, title: 'Pause' },
  unpause: { from: ['paused'], to: 'running', destroys: false, title: 'Unpause' },
  shutdown: { from: ['running'], to: 'stopped', destroys: false, title: 'Shut down' },
  reboot: { from: ['running'], to: 'running', destroys: false, title: 'Reboot' },
  save: { from: ['running', 'paused'], to: 'saved', destroys: false, title: 'Save' },
  restore: { from: ['saved'], to: 'running', destroys: false, title: 'Restore' },
  dump: { from: ['running', 'paused', 'crashed'], to: null, destroys: false, title: 'Dump memory' },
  poweroff: { from: ['running', 'paused', 'crashed', 'saved'], to: 'stopped', destroys: true, title: 'Power off' },
  destroy: { from: ['stopped', 'running', 'paused', 'saved', 'crashed'], to: 'gone', destroys: true, title: 'Destroy' },
} as const satisfies Record<string, Verb>

export type VerbName = keyof typeof VERBS
export const VERB_NAMES = Object.keys(VERBS) as VerbName[]

export const isVerb = (text: string): text is VerbName => Object.hasOwn(VERBS, text)
/** What is asked of a state: a domain's own has no cause where it runs. */
export interface StateFound {
  readonly kind: DomainStateKind
  readonly cause?: string
}
export const canDo = (verb: VerbName, state: StateFound): boolean => {
  const { from, fromWaiting = false }: Verb = VERBS[verb]
  return from.includes(state.kind) || (fromWaiting && waitsForRoom(state))
}

/** Of those that ask for no more than a state. */
const allows = ({ from }: Verb, state: DomainStateKind): boolean => from.includes(state)
/** What changes a machine that is there. A saved domain is restored first: its save is of the machine that it has. */
const OF_MACHINE = { from: ['stopped', 'running', 'paused'], to: null, destroys: false } as const

/**
 * What needs the name of a snapshot too, and is therefore no plain verb. A saved domain is restored first: what is saved goes on once, and
 * a snapshot of it would be a second copy of a guest that has gone on.
 */
export const SNAPSHOT_VERBS = {
  snapshot: { ...OF_MACHINE, title: 'Take a snapshot' },
  revert: { from: ['stopped', 'running', 'paused', 'saved', 'crashed'], to: null, destroys: true, title: 'Revert' },
} as const satisfies Record<string, Verb>

export type SnapshotVerbName = keyof typeof SNAPSHOT_VERBS
export const canSnapshot = (verb: SnapshotVerbName, state: DomainStateKind): boolean => allows(SNAPSHOT_VERBS[verb], state)

/** What changes a domain's settings. */
export const SET_VERB = { ...OF_MACHINE, title: 'Change' } as const satisfies Verb
export const canSet = (state: DomainStateKind): boolean => allows(SET_VERB, state)

/** What names a device too. */
export const DEVICE_VERBS = {
  attach: { ...OF_MACHINE, title: 'Attach a device' },
  detach: { ...OF_MACHINE, title: 'Detach' },
  resize: { ...OF_MACHINE, title: 'Grow the disk' },
  insert: { ...OF_MACHINE, title: 'Insert a medium' },
  eject: { ...OF_MACHINE, title: 'Eject' },
} as const satisfies Record<string, Verb>

export type DeviceVerbName = keyof typeof DEVICE_VERBS
export const canDevice = (verb: DeviceVerbName, state: DomainStateKind): boolean => allows(DEVICE_VERBS[verb], state)

/** @throws Fault `conflict` naming the state found and the states wanted. */
export function assertCan(verb: VerbName, state: StateFound, name: string): void {
  if (!canDo(verb, state)) throw wrongState(verb, state.kind, name, VERBS[verb])
}
/** The same of what needs a snapshot. */
export function assertCanSnapshot(verb: SnapshotVerbName, state: DomainStateKind, name: string): void {
  if (!canSnapshot(verb, state)) throw wrongState(verb, state, name, SNAPSHOT_VERBS[verb])
}
/** The same of its settings. */
export function assertCanSet(state: DomainStateKind, name: string): void {
  if (!canSet(state)) throw wrongState('set', state, name, SET_VERB)
}
/** The same of what needs a device. */
export function assertCanDevice(verb: DeviceVerbName, state: DomainStateKind, name: string): void {
  if (!canDevice(verb, state)) throw wrongState(verb, state, name, DEVICE_VERBS[verb])
}

const wrongState = (verb: string, state: DomainStateKind, name: string, { from }: Verb): Fault =>
  new Fault('conflict', `${verb} ${name}: it is ${state}, want ${from.join(' or ')}`)
