/**
 * The operations that this tab began, followed to their ends. One question (which are unfinished?) serves any number of them; one that
 * has left that answer is asked for once, for how it ended.
 */
import type { Reply, RoleName } from '@typevisor/api'
import { mayCall } from './permission.ts'

export type Operation = Reply<'operation.get'>

export interface Follow {
  readonly operation: Operation
  /** What to call it: `Start web-1`. */
  readonly title: string
  /** Name of the instance, where there is one. */
  readonly instance: string | null
  readonly begunAt: number
}

export interface Activity {
  readonly follows: readonly Follow[]
  /** Ended ones that have not been dismissed, the newest first. */
  readonly notices: readonly Follow[]
}

export const NO_ACTIVITY: Activity = { follows: [], notices: [] }
const MOST_NOTICES = 20

/** Something of it still happens by itself; what is stuck waits for a person's word. */
export const isUnfinished = (operation: Operation): boolean => operation.state === 'running' || operation.state === 'undoing'

/** Whether an operation did what it was asked. `undone` without a fault: somebody cancelled it. */
export type Outcome = 'running' | 'done' | 'cancelled' | 'failed'
export function outcomeOf(operation: Operation): Outcome {
  if (isUnfinished(operation)) return 'running'
  if (operation.state === 'done') return 'done'
  return operation.state === 'undone' && operation.fault === null ? 'cancelled' : 'failed'
}

export function followed(activity: Activity, follow: Follow): Activity {
  const follows = activity.follows.filter((other) => other.operation.id !== follow.operation.id)
  return isUnfinished(follow.operation)
    ? { ...activity, follows: [follow, ...follows] }
    : { follows, notices: [follow, ...activity.notices].slice(0, MOST_NOTICES) }
}

/** Progress of those still in the list; the ids that have left it and must be asked for. */
export function reconciled(
  activity: Activity,
  unfinished: readonly Operation[],
): { activity: Activity; ended: readonly string[] } {
  // The server counts what is stuck among the unfinished, since it still holds its thing: here it has ended, and badly.
  const known = new Map(unfinished.filter(isUnfinished).map((operation) => [operation.id, operation]))
  const ended = activity.follows.filter((follow) => !known.has(follow.operation.id)).map((follow) => follow.operation.id)
  const follows = activity.follows.map((follow) => {
    const operation = known.get(follow.operation.id)
    return operation === undefined || operation.updatedAt === follow.operation.updatedAt ? follow : { ...follow, operation }
  })
  return { activity: { ...activity, follows }, ended }
}

export function ended(activity: Activity, operation: Operation): Activity {
  const follow = activity.follows.find((each) => each.operation.id === operation.id)
  return follow === undefined ? activity : followed(activity, { ...follow, operation })
}

/** An operation that the server no longer knows: there is nothing more to say of it. */
export const forgotten = (activity: Activity, id: string): Activity => ({
  ...activity,
  follows: activity.follows.filter((each) => each.operation.id !== id),
})

export const dismissed = (activity: Activity, id: string): Activity => ({
  ...activity,
  notices: activity.notices.filter((each) => each.operation.id !== id),
})

const TITLES: Record<string, string> = {
  create: 'Create',
  build: 'Build image',
  start: 'Start',
  pause: 'Pause',
  unpause: 'Unpause',
  shutdown: 'Shut down',
  reboot: 'Reboot',
  poweroff: 'Power off',
  save: 'Save',
  restore: 'Restore',
  destroy: 'Destroy',
  dump: 'Dump',
  set: 'Change',
  rename: 'Rename',
  snapshot: 'Snapshot',
  revert: 'Revert',
  clone: 'Clone',
  copy: 'Copy',
  migrate: 'Migrate',
  'snapshot-delete': 'Delete snapshot',
  attach: 'Attach device',
  detach: 'Detach device',
  resize: 'Grow disk',
  insert: 'Insert medium',
  eject: 'Eject medium',
  'clean-up': 'Clean up',
}

/** `instance.shutdown` -> `Shut down`. An operation that this portal does not know keeps its own name. */
export const operationTitle = (name: string): string => TITLES[name.split('.').at(-1) ?? name] ?? name

const STEPS: Record<string, string> = {
  place: 'choosing a host',
  take: 'a snapshot of its disks',
  define: 'making its disk',
  drop: 'the snapshot goes',
  start: 'booting',
  'carry-out': 'on its host',
  build: 'building',
  request: 'asking its host',
  move: 'its memory and disks go',
  settle: 'on the other host',
}
/** The step under way in words; one that this portal does not know keeps its own name. */
export const stepText = (step: string): string => STEPS[step] ?? step

/** null: there is no measure of how far it is, or it has not moved yet. */
export function percentOf({ progress, waitsFor }: Operation): number | null {
  const percent = progress === null || waitsFor !== null ? 0 : Math.round(progress * 100)
  return percent === 0 ? null : percent
}

/** What an operation under way is doing now: `making its disk`, `40 %`; or why nothing moves. */
export function progressWords(operation: Operation): readonly string[] {
  if (operation.waitsFor !== null) return [`waits for ${operation.waitsFor}`]
  const percent = percentOf(operation)
  return [...(operation.step === null ? [] : [stepText(operation.step)]), ...(percent === null ? [] : [`${percent} %`])]
}

/** What a person may still say to an operation. */
export type Decision = 'cancel' | 'retry' | 'abandon'

const DECISIONS: Record<Operation['state'], readonly Decision[]> = {
  running: ['cancel'],
  undoing: [],
  done: [],
  undone: [],
  stuck: ['retry', 'abandon'],
}

export const decisionsOf = (operation: Pick<Operation, 'state'>, role: RoleName): readonly Decision[] =>
  DECISIONS[operation.state].filter((decision) => mayCall(role, `operation.${decision}`))

/** What the operation is about, as people call it: its name where it is known, else the front of its id. */
export const resourceText = ({ resource, resourceName }: Pick<Operation, 'resource' | 'resourceName'>): string =>
  resourceName ?? resource.slice(0, 18)
