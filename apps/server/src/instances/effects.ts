/** What changes an instance's row, as statements: run by handlers in their transaction and by sagas with the transition that they belong to. */
import type { FaultJson, Json } from '@typevisor/base'
import { memoryBytesOf, vcpuCountOf, type DomainRecord, type DomainState } from '@typevisor/model'
import type { SagaEffect } from '@typevisor/saga'

/** Text as PostgreSQL takes it: it has no U+0000 and no halves of surrogate pairs. Both come from guests and hosts, in names and last words. */
export const storable = (text: string): string => text.toWellFormed().replaceAll('\0', '\ufffd')

export const storableJson = (value: Json): Json => {
  if (typeof value === 'string') return storable(value)
  if (Array.isArray(value)) return value.map(storableJson)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [storable(key), storableJson(inner ?? null)]))
}

const sql = (text: string, ...values: unknown[]): SagaEffect & { kind: 'sql' } => ({ kind: 'sql', text, values })

export const eventEffect = (kind: string, resource: string | null, name: string | null, content: Record<string, Json>) =>
  sql(
    'INSERT INTO event (at, kind, resource, name, content) VALUES (now(), $1, $2, $3, $4)',
    kind,
    resource,
    name === null ? null : storable(name),
    JSON.stringify(storableJson(content)),
  )

/** The operation that holds the instance begins or ends; `id` null when it ends. */
export const releaseEffect = (instance: string, saga: string) =>
  sql('UPDATE instance SET operation_id = NULL, operation_name = NULL WHERE id = $1 AND operation_id = $2', instance, saga)

export const causeOf = (state: DomainState): { cause: string; detail: string | null } => ({
  cause: 'cause' in state ? state.cause : 'requested',
  detail: 'detail' in state ? state.detail : null,
})

/** Cause of a row that is `failed` only because its host does not list its domain: it follows the host again when the host does. */
export const LOST = 'lost'

/**
 * What the host said at `sequence`; an older word changes nothing, and none changes a row that failed for good or is being destroyed: the
 * host's last words about a domain that was undone may come late. A row that was lost is found by this. The forwards are those in effect.
 */
export function observedEffect(instance: string, domain: DomainRecord, sequence: number): SagaEffect {
  const { cause, detail } = causeOf(domain.state)
  return sql(
    `UPDATE instance SET state_kind = $2, state_cause = $3, state_detail = $4, state_sequence = $5, forwards = $6,
       state_since = CASE WHEN state_kind = $2 THEN state_since ELSE now() END
     WHERE id = $1 AND state_sequence <= $5 AND destroyed_at IS NULL AND state_kind <> 'destroying'
       AND (state_kind <> 'failed' OR state_cause = $7)`,
    instance,
    domain.state.kind,
    cause,
    detail === null ? null : storable(detail),
    sequence,
    JSON.stringify(domain.forwards),
    LOST,
  )
}

/**
 * Its snapshots as the host has them. One operation at a time is on an instance, and a host is listened to before it is commanded: what is
 * told later is newer, whatever else of the instance has been heard meanwhile.
 */
export const snapshotsEffect = (instance: string, { snapshots }: DomainRecord) =>
  sql(
    'UPDATE instance SET snapshots = $2 WHERE id = $1 AND destroyed_at IS NULL',
    instance,
    // An agent of an older version does not tell of any.
    JSON.stringify(snapshots ?? []),
  )

/** Its newest core dump as the host has it; told as snapshots are. */
export const dumpEffect = (instance: string, { dump }: Pick<DomainRecord, 'dump'>) =>
  sql('UPDATE instance SET dump = $2 WHERE id = $1 AND destroyed_at IS NULL', instance, dump ? JSON.stringify(dump) : null)

/** What it holds on its host. */
export const memoryEffect = (instance: string, memoryBytes: number) =>
  sql('UPDATE instance SET memory_bytes = $2 WHERE id = $1 AND destroyed_at IS NULL', instance, memoryBytes)

/** Unless somebody else has taken the name by now. */
export const nameEffect = (instance: string, name: string) =>
  sql(
    `UPDATE instance SET name = $2, spec = jsonb_set(spec, '{name}', to_jsonb($2::text))
     WHERE id = $1 AND name <> $2 AND NOT EXISTS (SELECT 1 FROM instance WHERE name = $2 AND destroyed_at IS NULL)`,
    instance,
    name,
  )

/** Its settings as the host has them, and the sizes that follow from them; told as snapshots are. */
export const settingsEffect = (instance: string, { spec, settings = {}, settingsNotes = [] }: DomainRecord) =>
  sql(
    'UPDATE instance SET settings = $2, settings_notes = $3, vcpu_count = $4, memory_bytes = $5 WHERE id = $1 AND destroyed_at IS NULL',
    instance,
    JSON.stringify(settings),
    JSON.stringify(storableJson([...settingsNotes])),
    vcpuCountOf(spec, settings),
    memoryBytesOf(spec, settings),
  )

/** A disk that has grown; the instance's next clone is as large. */
export const rootDiskEffect = (instance: string, { spec }: DomainRecord) =>
  sql(
    `UPDATE instance SET root_disk_bytes = $2, spec = jsonb_set(spec, '{rootDiskBytes}', to_jsonb($2::bigint))
     WHERE id = $1 AND destroyed_at IS NULL AND root_disk_bytes <> $2`,
    instance,
    spec.rootDiskBytes,
  )

/** The host does not list it. What a host of another journal says of it later counts from the beginning. */
export const lostEffect = (instance: string, host: string) =>
  sql(
    `UPDATE instance SET state_kind = 'failed', state_cause = $2, state_detail = $3, state_sequence = 0, state_since = now() WHERE id = $1`,
    instance,
    LOST,
    `host ${host} does not know it any more`,
  )

export const failedEffect = (instance: string, fault: FaultJson) =>
  sql(
    `UPDATE instance SET state_kind = 'failed', state_cause = $2, state_detail = $3, state_since = now() WHERE id = $1 AND destroyed_at IS NULL`,
    instance,
    fault.code,
    storable(fault.message),
  )

/**
 * Has ended what a destruction by force left on its host: at once where the host is connected, or joins at this moment (its row is locked by
 * whichever comes first); where it is away, when it comes back and lists it.
 */
export const leftBehindEffect = (instance: string, host: string, input: Json) =>
  sql(
    `INSERT INTO saga (id, name, resource, input)
     SELECT gen_random_uuid()::text, 'instance.clean-up', $1, $2::jsonb FROM host WHERE name = $3 AND connected FOR SHARE`,
    instance,
    JSON.stringify(input),
    host,
  )

export const destroyedEffect = (instance: string) =>
  sql(
    'UPDATE instance SET destroyed_at = now(), operation_id = NULL, operation_name = NULL WHERE id = $1 AND destroyed_at IS NULL',
    instance,
  )
