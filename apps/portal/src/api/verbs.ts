/** The shared table of verbs, as a page needs it: which can be done to this instance now, and why not. */
import type { OperationName, Reply, RoleName } from '@typevisor/api'
import {
  canDevice,
  canDo,
  canSet,
  canSnapshot,
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

const forbidden = (operation: OperationName, role: RoleName): string | null =>
  mayCall(role, operation) ? null : `Your role, ${role}, may not do this`
const away = (instance: Instance): string | null => (isAway(instance) ? `Host ${instance.host} is not connected` : null)
const underWay = ({ operation }: Instance): string | null =>
  operation === null ? null : `${operationTitle(operation.name)} is under way`
/** `can`: asked of what a domain can be in; the platform's own states allow nothing. */
const unfit = ({ state: { kind } }: Instance, can: (kind: DomainStateKind) => boolean): string | null =>
  kind !== 'creating' && kind !== 'failed' && kind !== 'destroying' && can(kind) ? null : `It is ${kind}`

/** null: it can be done. Otherwise the reason why not, to be shown. */
export function refusal(verb: VerbName, instance: Instance, role: RoleName): string | null {
  const mayNot = forbidden(verbOperation(verb), role)
  if (mayNot !== null || byForce(verb, instance)) return mayNot
  return underWay(instance) ?? away(instance) ?? (allowed(verb, instance.state) ? null : `It is ${instance.state.kind}`)
}

export type SnapshotAct = 'snapshot' | 'revert' | 'clone' | 'snapshot-delete'

/** The same of what is done with snapshots. A clone is of the snapshot alone: what its instance does meanwhile is no matter. */
export function snapshotRefusal(act: SnapshotAct, instance: Instance, role: RoleName): string | null {
  const mayNot = forbidden(`instance.${act}`, role) ?? away(instance)
  if (act === 'clone') return mayNot
  return mayNot ?? underWay(instance) ?? unfit(instance, (kind) => act === 'snapshot-delete' || canSnapshot(act, kind))
}

/** The same of its settings. */
export const settingsRefusal = (instance: Instance, role: RoleName): string | null =>
  forbidden('instance.set', role) ?? away(instance) ?? underWay(instance) ?? unfit(instance, canSet)

/** The same of what is done with devices. */
export const deviceRefusal = (act: DeviceVerbName, instance: Instance, role: RoleName): string | null =>
  forbidden(`instance.${act}`, role) ?? away(instance) ?? underWay(instance) ?? unfit(instance, (kind) => canDevice(act, kind))

/** The same of another name; it may be given in any state. */
export const renameRefusal = (instance: Instance, role: RoleName): string | null =>
  forbidden('instance.rename', role) ?? away(instance) ?? underWay(instance) ?? unfit(instance, () => true)

/** The same of what the agent in its guest does. */
export const guestRefusal = (
  operation: 'instance.exec' | 'instance.file-get' | 'instance.file-put' | 'instance.password',
  instance: Instance,
  role: RoleName,
): string | null => forbidden(operation, role) ?? away(instance) ?? unfit(instance, (kind) => kind === 'running')

/** The same of keys and of pictures: a screen is there while the machine is. */
export const screenRefusal = (
  operation: 'instance.keys' | 'instance.screenshot',
  instance: Instance,
  role: RoleName,
): string | null =>
  forbidden(operation, role) ??
  away(instance) ??
  unfit(
    instance,
    (kind) => kind === 'running' || (operation === 'instance.screenshot' && (kind === 'paused' || kind === 'crashed')),
  )

/** Whether a move to another host is offered at all. */
export const canMove = ({ state: { kind } }: Instance): boolean => ['running', 'paused', 'saved', 'stopped'].includes(kind)

/** The same of such a move. */
export const migrateRefusal = (instance: Instance, role: RoleName): string | null =>
  forbidden('instance.migrate', role) ?? underWay(instance) ?? away(instance)

/** Whether a copy of it is offered at all, and why none can be made now. */
export const canCopy = (instance: Instance): boolean => unfit(instance, (kind) => canSnapshot('snapshot', kind)) === null
export const copyRefusal = (instance: Instance, role: RoleName): string | null =>
  forbidden('instance.copy', role) ?? underWay(instance) ?? away(instance)

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
