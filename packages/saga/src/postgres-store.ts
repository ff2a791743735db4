/**
 * Sagas in PostgreSQL, for any number of servers on one database.
 *
 *   caller's transaction: INSERT instance ...; pgCreateSaga(tx, saga)      both or none
 *   claim:   FOR UPDATE SKIP LOCKED, oldest first; a fence from a sequence (sequences never go back, also not in a crash)
 *   commit:  one UPDATE for the whole group, the effects of those that it hit, one COMMIT
 *
 * Invariants, and what keeps them:
 *   one unfinished saga a resource        a unique partial index
 *   a stale owner writes nothing          the UPDATE asks for the fence
 *   effects happen exactly once           they are in the transaction of the transition
 *   leases are compared on one clock      the database's
 *   no deadlock between groups            commit and renew lock their rows in the order of ids; claim skips what is locked
 *
 * When a group is refused (a constraint that one effect breaks, text that JSON columns cannot hold), each transition is tried in a
 * transaction of its own, so that one saga's trouble is not its neighbours'.
 */
import { assert, epochMillis, Fault, type FaultCode, type Json } from '@typevisor/base'
import {
  fence,
  sagaId,
  type CommitAnswer,
  type NewSaga,
  type SagaId,
  type SagaRecord,
  type SagaState,
  type SagaStore,
  type SagaTransition,
  type SqlExecutor,
} from './ports.ts'
import { claimable } from './states.ts'
import { noSuchSaga, resourceBusy, settledStuck } from './table.ts'

/** Safe to run at every start. */
export const SAGA_SCHEMA_SQL = `
create sequence if not exists saga_fence;
create table if not exists saga (
  id text primary key,
  name text not null,
  resource text not null,
  input jsonb not null,
  state_kind text not null default 'running' check (state_kind in ('running', 'undoing', 'done', 'undone', 'stuck')),
  state jsonb not null default '{"kind": "running", "stepIndex": 0}',
  outputs jsonb not null default '{}',
  fence bigint not null default 0,
  attempt integer not null default 1,
  cancel_requested boolean not null default false,
  owner text,
  lease_until timestamptz,
  created_at timestamptz not null default clock_timestamp(),
  updated_at timestamptz not null default clock_timestamp()
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
create unique index if not exists saga_resource on saga (resource) where state_kind in ('running', 'undoing', 'stuck');
create index if not exists saga_open on saga (created_at, id) where state_kind in ('running', 'undoing');
create index if not exists saga_settled on saga (updated_at) where state_kind in ('done', 'undone');
create index if not exists saga_created on saga (created_at desc, id desc);
`

export interface PgSagaStore extends SagaStore {
  /** Forgets up to `limit` sagas that were done or undone before; answers how many. */
  prune(request: { olderThanMs: number; limit?: number }): Promise<number>
}

/** `sql` throws Faults: retryable ones (and `exhausted`) when it is unknown what was written, others when the statement was refused. */
export function postgresSagaStore(options: { sql: SqlExecutor }): PgSagaStore {
  const { sql } = options
  return {
    create: (saga) => pgCreateSaga(sql, saga),

    async claim({ owner, leaseMs, limit, names, exclude }) {
      const { rows } = await sql.query(CLAIM_SQL, [owner, leaseMs, limit, names ?? null, exclude ? [...exclude] : []])
      return rows.map(recordFromRow)
    },

    async renew({ owner, leaseMs, ids }) {
      const { rows } = await sql.query(
        `with held as materialized (
           select id from saga where id = any($3) and owner = $1 and state_kind in ('running', 'undoing') order by id for update
         )
         update saga set lease_until = clock_timestamp() + $2::float8 * interval '1 millisecond'
         where id in (select id from held) returning id, cancel_requested`,
        [owner, leaseMs, ids],
      )
      return new Map(rows.map((row) => [sagaId(String(row['id'])), row['cancel_requested'] === true ? 'cancel' : 'held']))
    },

    async commit(transitions) {
      try {
        return await commitGroup(sql, transitions)
      } catch (error) {
        if (!refused(error)) throw error
        if (transitions.length === 1) return [error]
      }
      const answers: CommitAnswer[] = []
      for (const transition of transitions) {
        try {
          answers.push(...(await commitGroup(sql, [transition])))
        } catch (error) {
          if (!refused(error)) throw error
          answers.push(error)
        }
      }
      return answers
    },

    async requestCancel(id) {
      const { rowCount } = await sql.query(`update saga set cancel_requested = true where id = $1 and state_kind = 'running'`, [
        id,
      ])
      if (rowCount === 0 && !(await getSaga(sql, id))) throw noSuchSaga(id)
    },

    async settleStuck(id, verdict) {
      await sql.transaction(async (tx) => {
        const { rows } = await tx.query(`select ${COLUMNS} from saga where id = $1 for update`, [id])
        if (!rows[0]) throw noSuchSaga(id)
        const state = settledStuck(recordFromRow(rows[0]), verdict)
        await tx.query(
          `update saga set state = $2::jsonb, state_kind = $3, attempt = 1, owner = null, updated_at = clock_timestamp() where id = $1`,
          [id, jsonText(state), state.kind],
        )
      })
    },

    get: (id) => getSaga(sql, id),

    async list({ unfinished, resource, limit } = {}) {
      const { rows } = await sql.query(
        `select ${COLUMNS} from saga
         where ($1::boolean is null or (state_kind in ('running', 'undoing', 'stuck')) = $1) and ($2::text is null or resource = $2)
         order by created_at desc, id desc limit $3`,
        [unfinished ?? null, resource ?? null, limit ?? null],
      )
      return rows.map(recordFromRow)
    },

    async prune({ olderThanMs, limit = 10_000 }) {
      const { rowCount } = await sql.query(
        `delete from saga where id in (
           select id from saga where state_kind in ('done', 'undone') and updated_at < clock_timestamp() - $1::float8 * interval '1 millisecond'
           order by updated_at limit $2)`,
        [olderThanMs, limit],
      )
      return rowCount
    },
  }
}

/**
 * Creates a saga in the caller's own transaction: it exists exactly when that commits. Call the engine's `wake` afterwards.
 * @throws Fault `busy` when another unfinished saga holds the resource; the transaction is still good then.
 */
export async function pgCreateSaga(tx: Pick<SqlExecutor, 'query'>, saga: NewSaga): Promise<SagaRecord> {
  const { id, name, resource, input } = saga
  // Between a refused insert and the look at who is in the way, that one may have ended.
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const inserted = await tx.query(
      `insert into saga (id, name, resource, input) values ($1, $2, $3, $4::jsonb) on conflict do nothing returning ${COLUMNS}`,
      [id, name, resource, jsonText(input)],
    )
    if (inserted.rows[0]) return recordFromRow(inserted.rows[0])
    const known = await getSaga(tx, id)
    if (known) return known
    const holders = await tx.query(
      `select id, name from saga where resource = $1 and state_kind in ('running', 'undoing', 'stuck')`,
      [resource],
    )
    const holder = holders.rows[0]
    if (holder) throw resourceBusy(resource, String(holder['id']), String(holder['name']))
  }
  throw new Fault('busy', `${resource} is held by sagas that come and go`)
}

/**
 * Ends what holds a resource, as it is: nothing more of it is done or undone. Whoever runs it finds a newer fence and writes nothing; what it
 * sent to a host meanwhile is the caller's to deal with. Answers the ids. For a resource that is given up, such as one on a host that is gone.
 */
export async function pgAbandonSagas(tx: Pick<SqlExecutor, 'query'>, resource: string, fault: Fault): Promise<SagaId[]> {
  const state: SagaState = { kind: 'undone', fault: fault.toJSON() }
  const { rows } = await tx.query(
    `with held as materialized (
       select id from saga where resource = $1 and state_kind in ('running', 'undoing', 'stuck') order by id for update
     )
     update saga set state = $2::jsonb, state_kind = $3, fence = nextval('saga_fence'), attempt = 1, owner = null, updated_at = clock_timestamp()
     where id in (select id from held) returning id`,
    [resource, jsonText(state), state.kind],
  )
  return rows.map((row) => sagaId(String(row['id'])))
}

const COLUMNS = `id, name, resource, input, state, outputs, fence::float8, attempt, cancel_requested,
  floor(extract(epoch from created_at) * 1000)::float8 as created_ms, floor(extract(epoch from updated_at) * 1000)::float8 as updated_ms`

const CLAIM_SQL = `
with picked as materialized (
  select id from saga
  where state_kind in ('running', 'undoing')
    and (owner is null or owner = $1 or lease_until <= clock_timestamp())
    and ($4::text[] is null or name = any($4))
    and id <> all($5::text[])
  order by created_at, id limit $3
  for update skip locked
), claimed as (
  update saga set
    owner = $1,
    lease_until = clock_timestamp() + $2::float8 * interval '1 millisecond',
    fence = nextval('saga_fence'),
    attempt = case when fence > 0 then attempt + 1 else attempt end
  where id in (select id from picked)
  returning *
)
select ${COLUMNS} from claimed order by created_at, id`

const COMMIT_SQL = `
with hit as materialized (
  select saga.id, t.kind, t.state, t.output, t.attempt, t.claimable
  from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::boolean[])
    as t(id, fence, kind, state, output, attempt, claimable)
  join saga on saga.id = t.id and saga.fence = t.fence and saga.state_kind in ('running', 'undoing')
  order by saga.id for update of saga
)
update saga set
  state = hit.state::jsonb,
  state_kind = hit.kind,
  outputs = case when hit.output is null then outputs else outputs || hit.output::jsonb end,
  attempt = hit.attempt,
  owner = case when hit.claimable then owner end,
  updated_at = clock_timestamp()
from hit where saga.id = hit.id
returning saga.id, saga.cancel_requested`

async function commitGroup(sql: SqlExecutor, transitions: readonly SagaTransition[]): Promise<CommitAnswer[]> {
  const columns = [
    transitions.map(({ id }) => id),
    transitions.map((transition) => transition.fence),
    transitions.map(({ state }) => state.kind),
    transitions.map(({ state }) => jsonText(state)),
    transitions.map(({ output }) => (output ? jsonText({ [output.step]: output.value }) : null)),
    transitions.map(({ attempt }) => attempt),
    transitions.map(({ state }) => claimable(state)),
  ]
  // Without effects the one statement is the transaction: one round trip.
  const withEffects = transitions.some(({ effects }) => effects.length > 0)
  const { rows } = withEffects
    ? await sql.transaction(async (tx) => {
        const hit = await tx.query(COMMIT_SQL, columns)
        const ids = new Set(hit.rows.map((row) => row['id']))
        for (const { id, effects } of transitions) {
          if (!ids.has(id)) continue
          for (const effect of effects) {
            if (effect.kind !== 'sql') throw new Fault('unsupported', `commit saga ${id}: a call effect in the PostgreSQL store`)
            await tx.query(effect.text, effect.values)
          }
        }
        return hit
      })
    : await sql.query(COMMIT_SQL, columns)
  const cancelled = new Map(rows.map((row) => [row['id'], row['cancel_requested'] === true]))
  return transitions.map(({ id }) => (cancelled.has(id) ? (cancelled.get(id) ? 'cancel' : 'ok') : 'stale'))
}

/**
 * JSON as jsonb takes it: it has no U+0000 and no halves of surrogate pairs (PostgreSQL manual, 8.14). Both come from guests and hosts, in
 * names and messages; they become U+FFFD, so that a fault's text can never keep a saga from being undone.
 */
function jsonText(value: unknown): string {
  const text = JSON.stringify(value)
  return /\\u(0000|d[89a-f])/i.test(text) ? JSON.stringify(wellFormed(value)) : text
}

function wellFormed(value: unknown): unknown {
  if (typeof value === 'string') return value.toWellFormed().replaceAll('\0', '\ufffd')
  if (Array.isArray(value)) return value.map(wellFormed)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [wellFormed(key), wellFormed(inner)]))
}

/** Faults that say that nothing was written, and would say so again. */
const REFUSALS: ReadonlySet<FaultCode> = new Set<FaultCode>([
  'invalid',
  'conflict',
  'not_found',
  'forbidden',
  'unsupported',
  'failed',
  'internal',
])

const refused = (error: unknown): error is Fault => error instanceof Fault && REFUSALS.has(error.code)

async function getSaga(sql: Pick<SqlExecutor, 'query'>, id: SagaId): Promise<SagaRecord | null> {
  const { rows } = await sql.query(`select ${COLUMNS} from saga where id = $1`, [id])
  return rows[0] ? recordFromRow(rows[0]) : null
}

/** Rows are what this file wrote; the driver gives jsonb parsed. */
function recordFromRow(row: Record<string, unknown>): SagaRecord {
  const { id, name, resource, state } = row
  assert(
    typeof id === 'string' && typeof name === 'string' && typeof resource === 'string',
    'a saga row has id, name and resource',
  )
  assert(typeof state === 'object' && state !== null && 'kind' in state, `the state of saga ${id} is an object`)
  return {
    id: sagaId(id),
    name,
    resource,
    input: row['input'] as Json,
    state: state as SagaState,
    outputs: row['outputs'] as Record<string, Json>,
    fence: fence(Number(row['fence'])),
    attempt: Number(row['attempt']),
    cancelRequested: row['cancel_requested'] === true,
    createdAt: epochMillis(Number(row['created_ms'])),
    updatedAt: epochMillis(Number(row['updated_ms'])),
  }
}
