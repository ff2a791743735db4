/** The shared table of verbs, as a page needs it: which can be done to this instance now, and why not. */
import type { OperationName, Reply, RoleName } from '@typevisor/api'
import {
  canDevice,
  canDo,
  canSnapshot,
  SET_VERB,
  VERB_NAMES,
  VERBS,
  type DeviceVerbName,
  type DomainStateKind,
  type VerbName,
} from '@typevisor/model'
import { operationTitle } from './activity.ts'
import { mayCall } from './permission.ts'

export type Instance = Reply<'instance.get'>
export { VERBS, type VerbName }

const verbOperation = (verb: VerbName): OperationName & `instance.${VerbName}` => `instance.${verb}`

/** `creating`, `failed` and `destroying` are states of the platform only: no verb names them, and what failed can only be destroyed. */
const allowed = (verb: VerbName, { kind, cause }: Instance['state']): boolean =>
  kind === 'failed' ? verb === 'destroy' : canDo(verb, { kind: kind as DomainStateKind, cause })

/** Its host does not answer: nothing of it can be known or done there. */
export const isAway = ({ host, hostConnected }: Instance): boolean => host !== null && !hostConnected

/**
 * Destroying goes by force where the host is away, in whatever state the instance is and whatever holds it: a machine that is gone for
 * good would hold it for ever.
 */
export const byForce = (verb: VerbName, instance: Instance): boolean => verb === 'destroy' && isAway(instance)

/** null: it can be done. Otherwise the reason why not, to be shown. */
export function refusal(verb: VerbName, instance: Instance, role: RoleName): string | null {
  if (!mayCall(role, verbOperation(verb))) return `Your role, ${role}, may not do this`
  if (byForce(verb, instance)) return null
  if (instance.operation !== null) return `${operationTitle(instance.operation.name)} is under way`
  if (isAway(instance)) return `Host ${instance.host} is not connected`
  if (!allowed(verb, instance.state)) return `It is ${instance.state.kind}`
  return null
}

export type SnapshotAct = 'snapshot' | 'revert' | 'clone' | 'snapshot-delete'

/** The same of what is done with snapshots. A clone is of the snapshot alone: what its instance does meanwhile is no matter. */
export function snapshotRefusal(act: SnapshotAct, instance: Instance, role: RoleName): string | null {
  if (!mayCall(role, `instance.${act}`)) return `Your role, ${role}, may not do this`
  if (isAway(instance)) return `Host ${instance.host} is not connected`
  if (act === 'clone') return null
  if (instance.operation !== null) return `${operationTitle(instance.operation.name)} is under way`
  const { kind } = instance.state
  const isSettled = kind !== 'creating' && kind !== 'failed' && kind !== 'destroying'
  return isSettled && (act === 'snapshot-delete' || canSnapshot(act, kind)) ? null : `It is ${kind}`
}

/** The same of its settings. */
export function settingsRefusal(instance: Instance, role: RoleName): string | null {
  if (!mayCall(role, 'instance.set')) return `Your role, ${role}, may not do this`
  if (isAway(instance)) return `Host ${instance.host} is not connected`
  if (instance.operation !== null) return `${operationTitle(instance.operation.name)} is under way`
  const { kind } = instance.state
  return SET_VERB.from.some((each) => each === kind) ? null : `It is ${kind}`
}

/** The same of what is done with devices. */
export function deviceRefusal(act: DeviceVerbName, instance: Instance, role: RoleName): string | null {
  if (!mayCall(role, `instance.${act}`)) return `Your role, ${role}, may not do this`
  if (isAway(instance)) return `Host ${instance.host} is not connected`
  if (instance.operation !== null) return `${operationTitle(instance.operation.name)} is under way`
  const { kind } = instance.state
  const isSettled = kind !== 'creating' && kind !== 'failed' && kind !== 'destroying'
  return isSettled && canDevice(act, kind) ? null : `It is ${kind}`
}

/** null: it can move to another host. */
export function migrateRefusal(instance: Instance, role: RoleName): string | null {
  if (!mayCall(role, 'instance.migrate')) return `Your role, ${role}, may not do this`
  if (instance.operation !== null) return `${operationTitle(instance.operation.name)} is under way`
  return isAway(instance) ? `Host ${instance.host} is not connected` : null
}

/** Those that the state allows, in the table's order; what is refused for another reason is still shown, with its reason. */
export const verbsOf = (instance: Instance): readonly VerbName[] =>
  VERB_NAMES.filter((verb) => allowed(verb, instance.state) || byForce(verb, instance))

/** The one that a person most likely wants: it gets a button of its own. */
const FIRST: Partial<Record<Instance['state']['kind'], VerbName>> = {
  stopped: 'start',
  paused: 'unpause',
  saved: 'restore',
  running: 'shutdown',
  crashed: 'poweroff',
  failed: 'destroy',
}
export const firstVerb = (instance: Instance): VerbName | null => FIRST[instance.state.kind] ?? null

/** For a choice of several: the verbs that at least one allows, and how many. */
export function verbsOfAll(
  instances: readonly Instance[],
  role: RoleName,
): readonly { verb: VerbName; instances: readonly Instance[] }[] {
  return VERB_NAMES.map((verb) => ({
    verb,
    instances: instances.filter((instance) => refusal(verb, instance, role) === null),
  })).filter((each) => each.instances.length > 0)
}
