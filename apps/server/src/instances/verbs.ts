/** How a verb begins: in one transaction the row is locked, the shared table of verbs is asked, and the saga that holds the instance is written. */
import { Fault, type Json } from '@typevisor/base'
import { assertCan, type DomainId, type DomainStateKind, type VerbName } from '@typevisor/model'
import { pgCreateSaga, postgresSagaStore, type NewSaga, type SagaId, type SqlExecutor } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import { PLACEMENT_LOCK } from './create.ts'
import { letGoOf } from './forget.ts'
import { assertRoom } from './placement.ts'
import { hostOffers, type InstanceRow } from './queries.ts'
import type { VerbInput } from './sagas.ts'

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
  const { rows } = await tx.query(
    'SELECT state_kind, host, operation_name, destroyed_at FROM instance WHERE id = $1 FOR UPDATE',
    [row.id],
  )
  const current = rows[0]
  if (!current || current['destroyed_at'] !== null) throw new Fault('not_found', `instance ${row.name}: it is gone`)
  if (!force) {
    if (current['operation_name'] !== null)
      throw new Fault('busy', `${verb} ${row.name}: ${String(current['operation_name'])} is under way`)
    assertVerb(verb, String(current['state_kind']), row.name)
  }
  if (verb === 'destroy') await abandonStuck(tx, row.id)
  if (verb === 'start' || verb === 'restore') await takeRoom(tx, agents, row, verb)
  const input: VerbInput = {
    id: row.id as DomainId, // an instance and its domain carry the same id
    name: row.name,
    host: current['host'] as string | null, // text or NULL
    verb,
    ...(force ? { force } : {}),
  }
  await beginOperation(tx, { id: saga, name: `instance.${verb}`, resource: row.id, input: input as Json })
  if (verb === 'destroy') {
    await tx.query(
      `UPDATE instance SET state_kind = 'destroying', state_cause = 'requested', state_since = now() WHERE id = $1`,
      [row.id],
    )
  }
  return dropped
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
async function takeRoom(tx: SqlExecutor, agents: AgentRegistry, row: InstanceRow, verb: VerbName): Promise<void> {
  await tx.query('SELECT pg_advisory_xact_lock($1)', [PLACEMENT_LOCK])
  const offer = (await hostOffers(tx, agents, row.id)).find(({ name }) => name === row.host)
  if (offer) assertRoom(offer, row.memory_bytes, `${verb} ${row.name}`)
}

/** The saga, and with it what holds the instance. */
export async function beginOperation(tx: SqlExecutor, saga: NewSaga): Promise<void> {
  await pgCreateSaga(tx, saga)
  await tx.query('UPDATE instance SET operation_id = $2, operation_name = $3 WHERE id = $1', [saga.resource, saga.id, saga.name])
}

/** The shared table knows the states of domains; `creating` and `destroying` are held by their operations, `failed` can only be destroyed. */
function assertVerb(verb: VerbName, state: string, name: string): void {
  if (state === 'failed' && verb === 'destroy') return
  if (state === 'failed' || state === 'creating' || state === 'destroying') {
    throw new Fault('conflict', `${verb} ${name}: it is ${state}`)
  }
  assertCan(verb, state as DomainStateKind, name)
}
