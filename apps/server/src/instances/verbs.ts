/** How a verb begins: in one transaction the row is locked, the shared table of verbs is asked, and the saga that holds the instance is written. */
import { Fault, type Json } from '@typevisor/base'
import {
  assertCan,
  assertCanSet,
  assertCanDevice,
  assertCanSnapshot,
  assertSettings,
  memoryBytesOf,
  patched,
  parseSnapshotName,
  SNAPSHOT_COUNT_MAX,
  type DeviceVerbName,
  type DomainName,
  type DomainSettings,
  type DomainSnapshot,
  type DomainSpec,
  type DomainStateKind,
  type MigrationParameters,
  type Quiesce,
  type SettingsPatch,
  type VerbName,
} from '@typevisor/model'
import { pgCreateSaga, postgresSagaStore, type NewSaga, type SagaId, type SqlExecutor } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import { assertNameFree, PLACEMENT_LOCK } from './create.ts'
import { memoryEffect, nameEffect } from './effects.ts'
import { letGoOf } from './forget.ts'
import type { MigrateInput } from './migrate.ts'
import { assertRoom, chooseHost } from './placement.ts'
import { hostOffers, type InstanceRow } from './queries.ts'
import type { RenameInput, SetInput, VerbInput } from './sagas.ts'

export interface VerbRequest {
  readonly saga: SagaId
  readonly row: InstanceRow
  readonly verb: VerbName
  /** Of `destroy`: whatever holds it, and whether or not its host answers (`forget.ts`). */
  readonly force: boolean
}

/**
 * Answers the sagas that were let go of, for the engine to drop after the commit.
 * @throws Fault `not_found`, `busy`, `conflict` or `exhausted`.
 */
export async function beginVerb(tx: SqlExecutor, agents: AgentRegistry, request: VerbRequest): Promise<SagaId[]> {
  const { saga, row, verb, force } = request
  const dropped = force ? await letGoOf(tx, row.id, `${row.name} is destroyed by force`) : []
  if (verb === 'start' || verb === 'restore') await lockPlacement(tx)
  const current = await lockRow(tx, row)
  if (!force) {
    assertIdle(current, verb, row)
    assertVerb(verb, current, row.name)
  }
  if (verb === 'destroy') await abandonStuck(tx, row.id)
  if (verb === 'start' || verb === 'restore') await takeRoom(tx, agents, row, verb)
  await beginOn<VerbInput>(tx, saga, verb, row, current, { verb, ...(force ? { force } : {}) })
  if (verb === 'destroy') {
    await tx.query(
      `UPDATE instance SET state_kind = 'destroying', state_cause = 'requested', state_since = now() WHERE id = $1`,
      [row.id],
    )
  }
  return dropped
}

interface LockedRow {
  readonly state: string
  readonly cause: string
  readonly host: string | null
  readonly operation: string | null
  readonly snapshots: readonly DomainSnapshot[]
}

/** Before a row is locked, wherever both are: two that took them in another order would wait for each other. */
const lockPlacement = (tx: SqlExecutor) => tx.query('SELECT pg_advisory_xact_lock($1)', [PLACEMENT_LOCK])

/** Nobody else begins anything on it until the transaction ends. @throws Fault `not_found`. */
async function lockRow(tx: SqlExecutor, row: InstanceRow): Promise<LockedRow> {
  const { rows } = await tx.query(
    'SELECT state_kind, state_cause, host, operation_name, snapshots, destroyed_at FROM instance WHERE id = $1 FOR UPDATE',
    [row.id],
  )
  const current = rows[0]
  if (!current || current['destroyed_at'] !== null) throw new Fault('not_found', `instance ${row.name}: it is gone`)
  return {
    state: String(current['state_kind']),
    cause: String(current['state_cause']),
    host: current['host'] as string | null, // text or NULL
    operation: current['operation_name'] as string | null, // text or NULL
    snapshots: current['snapshots'] as readonly DomainSnapshot[], // as `snapshotsEffect` wrote them
  }
}

/** The same of one that nothing is under way on, and that is in a state of a domain. @throws Fault `not_found`, `busy` or `conflict`. */
async function settledRow(
  tx: SqlExecutor,
  verb: string,
  row: InstanceRow,
): Promise<LockedRow & { readonly state: DomainStateKind }> {
  const current = await lockRow(tx, row)
  assertIdle(current, verb, row)
  assertSettled(verb, current.state, row.name)
  return { ...current, state: current.state as DomainStateKind } // `assertSettled` saw to the others
}

/** `rest`: what the saga's input has beside id, name and host. */
async function beginOn<I extends object = Readonly<Record<string, unknown>>>(
  tx: SqlExecutor,
  saga: SagaId,
  verb: string,
  { id, name }: InstanceRow,
  { host }: LockedRow,
  rest: Omit<I, 'id' | 'name' | 'host'>,
): Promise<void> {
  const input = { id, name, host, ...rest } as unknown as Json // an instance and its domain carry the same id
  await beginOperation(tx, { id: saga, name: `instance.${verb}`, resource: id, input })
}

function assertIdle({ operation }: LockedRow, verb: string, { name }: InstanceRow): void {
  if (operation !== null) throw new Fault('busy', `${verb} ${name}: ${operation} is under way`)
}

export type SnapshotRequest =
  | {
      readonly verb: 'snapshot'
      readonly name: string
      readonly memory: boolean
      readonly quiesce: Quiesce
      readonly timeoutMs: number
    }
  | { readonly verb: 'revert'; readonly name: string; readonly start: boolean }
  | { readonly verb: 'snapshot-delete'; readonly name: string }

/**
 * Begins what is done with a snapshot of an instance. What the row tells is refused at once; the host, which may know better, looks again.
 * @throws Fault `not_found`, `busy`, `conflict` or `exhausted`.
 */
export async function beginSnapshotVerb(
  tx: SqlExecutor,
  agents: AgentRegistry,
  saga: SagaId,
  row: InstanceRow,
  request: SnapshotRequest,
): Promise<void> {
  const { verb, name } = request
  if (verb === 'revert') await lockPlacement(tx)
  const current = await settledRow(tx, verb, row)
  if (verb !== 'snapshot-delete') assertCanSnapshot(verb, current.state, row.name)
  const known = verb === 'snapshot' ? null : needSnapshot(current.snapshots, name, row)
  if (known === null) assertNew(current.snapshots, name, row)
  if (verb === 'revert' && (request.start || known?.memory)) await takeRoom(tx, agents, row, verb)
  const { verb: _verb, name: _name, ...rest } = request
  // A new one has the id of what makes it.
  const snapshot = known ? { id: known.id, name: known.name } : { id: saga, name: parseSnapshotName(name) }
  await beginOn(tx, saga, verb, row, current, { snapshot, ...rest })
}

/**
 * Begins a change of settings. More memory is set aside at once, and given back when it is not taken.
 * @throws Fault `invalid` naming the field, `not_found`, `busy`, `conflict` or `exhausted`.
 */
export async function beginSet(
  tx: SqlExecutor,
  agents: AgentRegistry,
  saga: SagaId,
  row: InstanceRow,
  patch: SettingsPatch,
  timeoutMs: number,
): Promise<void> {
  if (patch.memoryBytes !== undefined) await lockPlacement(tx)
  const current = await settledRow(tx, 'set', row)
  assertCanSet(current.state, row.name)
  const { rows } = await tx.query('SELECT spec, settings, memory_bytes FROM instance WHERE id = $1', [row.id])
  const spec = rows[0]?.['spec'] as DomainSpec // as `insertInstance` wrote it
  const settings = patched(rows[0]?.['settings'] as DomainSettings, patch) // as `settingsEffect` wrote them
  try {
    assertSettings(settings, spec, null)
  } catch (error) {
    if (!(error instanceof Fault)) throw error
    const details = error.details.map((detail) => ({ ...detail, path: `body.${detail.path}` }))
    throw new Fault(error.code, `body.${error.message}`, { details })
  }
  const [held, wanted] = [Number(rows[0]?.['memory_bytes']), memoryBytesOf(spec, settings)]
  if (wanted > held) {
    if (current.state !== 'stopped') await takeRoom(tx, agents, { ...row, memory_bytes: wanted }, 'set')
    const { text, values } = memoryEffect(row.id, wanted)
    await tx.query(text, values)
  }
  await beginOn<SetInput>(tx, saga, 'set', row, current, { patch, timeoutMs, memoryBytes: held })
}

/**
 * Begins a renaming. The name is the instance's at once, so that nobody takes it meanwhile, and the one of before again when the host does not do it.
 * @throws Fault `not_found`, `busy` or `conflict`.
 */
export async function beginRename(tx: SqlExecutor, saga: SagaId, row: InstanceRow, to: DomainName): Promise<void> {
  await lockPlacement(tx)
  const current = await settledRow(tx, 'rename', row)
  if (to !== row.name) await assertNameFree(tx, to)
  await beginOn<RenameInput>(tx, saga, 'rename', row, current, { to })
  const { text, values } = nameEffect(row.id, to)
  await tx.query(text, values)
}

/** Holds an instance for a copy of it, behind the new one's row. @throws Fault `not_found`, `busy` or `conflict`. */
export async function holdForCopy(tx: SqlExecutor, saga: SagaId, row: InstanceRow): Promise<void> {
  const { state, host } = await settledRow(tx, 'copy', row)
  assertCanSnapshot('snapshot', state, row.name)
  if (host !== row.host) throw new Fault('busy', `copy ${row.name}: it has just moved to host ${host}`)
  await holds(tx, row.id, saga, 'instance.copy')
}

export interface MigrateRequest {
  readonly to: string
  readonly parameters: MigrationParameters
}

/**
 * Begins a move to another host, whose memory, image and ports are looked at under the lock of creations.
 * @throws Fault `not_found`, `busy`, `conflict` or `exhausted`.
 */
export async function beginMigration(
  tx: SqlExecutor,
  agents: AgentRegistry,
  saga: SagaId,
  row: InstanceRow,
  { to, parameters }: MigrateRequest,
): Promise<void> {
  await lockPlacement(tx)
  const current = await settledRow(tx, 'migrate', row)
  if (current.state === 'crashed')
    throw new Fault('conflict', `migrate ${row.name}: it is crashed, want running, paused, saved or stopped`)
  if (current.host === null) throw new Fault('conflict', `migrate ${row.name}: it is on no host`)
  if (current.host === to)
    throw new Fault('conflict', `migrate ${row.name}: it is on host ${to} already`, {
      details: [{ path: 'body.host', want: 'another host', got: to }],
    })
  const { rows } = await tx.query('SELECT spec FROM instance WHERE id = $1', [row.id])
  const spec = rows[0]?.['spec'] as DomainSpec // as `insertInstance` wrote it
  const ports = spec.forwards.map(({ hostPort }) => hostPort).filter((port) => port !== 0)
  const offers = await hostOffers(tx, agents, row.id, ports)
  // What does not run holds no memory there.
  const isCold = current.state === 'stopped' || current.state === 'saved'
  chooseHost(isCold ? offers.map((offer) => ({ ...offer, committedBytes: 0 })) : offers, { ...spec, host: to })
  if (current.snapshots.length > 0 && parameters.dropSnapshots !== true) {
    const count = current.snapshots.length
    throw new Fault(
      'conflict',
      `migrate ${row.name}: it has ${count} ${count === 1 ? 'snapshot' : 'snapshots'}, which cannot go with it; \`--drop-snapshots\` has them deleted`,
      { details: [{ path: 'body.dropSnapshots', want: 'true, or no snapshots', got: String(count) }] },
    )
  }
  await beginOn<MigrateInput>(tx, saga, 'migrate', row, current, { to, parameters })
}

function assertNew(snapshots: readonly DomainSnapshot[], name: string, row: InstanceRow): void {
  if (snapshots.some((each) => each.name === name))
    throw new Fault('conflict', `snapshot ${row.name}: it has a snapshot ${name} already`, {
      details: [{ path: 'body.name', want: 'a name that no snapshot of the instance has', got: name }],
    })
  if (snapshots.length >= SNAPSHOT_COUNT_MAX)
    throw new Fault('exhausted', `snapshot ${row.name}: it has ${snapshots.length}, want at most ${SNAPSHOT_COUNT_MAX}`)
}

/**
 * Begins what is done with a device of an instance; the host, which knows its devices, looks.
 * @throws Fault `not_found`, `busy` or `conflict`.
 */
export async function beginDeviceVerb(
  tx: SqlExecutor,
  saga: SagaId,
  row: InstanceRow,
  verb: DeviceVerbName,
  rest: { readonly device: string } & Readonly<Record<string, Json>>,
): Promise<void> {
  const current = await settledRow(tx, verb, row)
  assertCanDevice(verb, current.state, row.name)
  await beginOn(tx, saga, verb, row, current, rest)
}

/** @throws Fault `not_found`. */
export function needSnapshot(
  snapshots: readonly DomainSnapshot[],
  name: string,
  { name: instance }: InstanceRow,
): DomainSnapshot {
  const found = snapshots.find((each) => each.name === name)
  if (found) return found
  throw new Fault('not_found', `snapshot ${name} of ${instance}: there is none of this name`, {
    details: [{ path: 'params.snapshot', want: 'a snapshot of the instance', got: name }],
  })
}

/** An operation that failed and could not be undone holds its instance; destroying the instance is what is left to do, and ends it. */
async function abandonStuck(tx: SqlExecutor, instance: string): Promise<void> {
  const store = postgresSagaStore({ sql: tx })
  for (const { id, state } of await store.list({ unfinished: true, resource: instance })) {
    if (state.kind === 'stuck') await store.settleStuck(id, 'abandon')
  }
}

/**
 * What is started holds memory that a stopped or saved instance does not. Looked at in the transaction that begins the operation, under the
 * lock of creations: the operation's name in the row is what sets the memory aside, so of two that want the last of it one is refused.
 */
async function takeRoom(
  tx: SqlExecutor,
  agents: AgentRegistry,
  row: InstanceRow,
  verb: VerbName | 'revert' | 'set',
): Promise<void> {
  await lockPlacement(tx)
  const offer = (await hostOffers(tx, agents, row.id)).find(({ name }) => name === row.host)
  if (offer) assertRoom(offer, row.memory_bytes, `${verb} ${row.name}`)
}

/** The saga, and with it what holds the instance. */
export async function beginOperation(tx: SqlExecutor, saga: NewSaga): Promise<void> {
  await pgCreateSaga(tx, saga)
  await holds(tx, saga.resource, saga.id, saga.name)
}

const holds = (tx: SqlExecutor, instance: string, saga: SagaId, name: string) =>
  tx.query('UPDATE instance SET operation_id = $2, operation_name = $3 WHERE id = $1', [instance, saga, name])

/** The shared table knows the states of domains; `creating` and `destroying` are held by their operations, `failed` can only be destroyed. */
function assertVerb(verb: VerbName, { state, cause }: LockedRow, name: string): void {
  if (state === 'failed' && verb === 'destroy') return
  assertSettled(verb, state, name)
  assertCan(verb, { kind: state as DomainStateKind, cause }, name) // `assertSettled` saw to the others
}

function assertSettled(verb: string, state: string, name: string): void {
  if (state === 'failed' || state === 'creating' || state === 'destroying') {
    throw new Fault('conflict', `${verb} ${name}: it is ${state}`)
  }
}
