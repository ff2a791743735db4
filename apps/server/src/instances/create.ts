/**
 * Whether an instance can be made, and its row: what can be known beforehand is refused before there is a row, so that nothing is left to be
 * removed. The host is chosen in the transaction that accepts the creation, under a lock: two that both saw the last free memory, or the
 * last free port, would both take it.
 */
import { Fault, millis } from '@typevisor/base'
import type { DomainId, DomainSpec } from '@typevisor/model'
import type { SqlExecutor } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import { chooseHost } from './placement.ts'
import { hostOffers } from './queries.ts'

/** One placement at a time; who starts what was stopped, and who removes a host, hold it too. */
export const PLACEMENT_LOCK = 7_630_001

/** Longer than an agent's pause between two attempts to join. */
const COMING_BACK_MS = 12_000

/**
 * Agents come back a moment after the server does: in that moment a host that has been here before is waited for, and a creation is not
 * refused because it came too early. A host that was here since, or is away for longer, is away.
 */
export async function untilSomeHost(
  database: SqlExecutor,
  agents: AgentRegistry,
  wanted: string | undefined,
  signal: AbortSignal,
): Promise<void> {
  const leftMs = COMING_BACK_MS - (agents.clock.monotonic() - agents.since)
  if (leftMs <= 0) return
  const { rows } = await database.query(
    'SELECT name FROM host WHERE last_seen_at IS NOT NULL AND ($1::text IS NULL OR name = $1)',
    [wanted ?? null],
  )
  const known = rows.map((row) => String(row['name']))
  const coming = known.filter((name) => !agents.wasHere(name))
  if (coming.length === 0 || known.some((name) => agents.get(name) !== null)) return
  const done = new AbortController()
  const either = AbortSignal.any([signal, done.signal])
  await Promise.any(coming.map((name) => agents.need(name, millis(leftMs), either))).catch(() => {})
  done.abort()
  signal.throwIfAborted()
}

export interface NewInstance {
  readonly id: DomainId
  readonly spec: DomainSpec
  /** Asked for by name; undefined: any. */
  readonly host: string | undefined
  readonly createdBy: string
}

/**
 * Makes the row, placed on a host.
 * @throws Fault `conflict` when the name is taken, and what `chooseHost` throws.
 */
export async function insertInstance(tx: SqlExecutor, agents: AgentRegistry, instance: NewInstance): Promise<string> {
  const { id, spec, createdBy } = instance
  await tx.query('SELECT pg_advisory_xact_lock($1)', [PLACEMENT_LOCK])
  await assertNameFree(tx, spec.name)
  const ports = spec.forwards.map(({ hostPort }) => hostPort).filter((port) => port !== 0)
  const host = chooseHost(await hostOffers(tx, agents, id, ports), { ...spec, host: instance.host })
  await tx.query(
    `INSERT INTO instance (id, name, image, host, spec, vcpu_count, memory_bytes, root_disk_bytes, labels, forwards, state_kind, state_cause, state_since, created_at, created_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'creating', 'requested', now(), now(), $11)`,
    [
      id,
      spec.name,
      spec.image,
      host,
      JSON.stringify(spec),
      spec.vcpuCount,
      spec.memoryBytes,
      spec.rootDiskBytes,
      JSON.stringify(spec.labels),
      JSON.stringify(spec.forwards),
      createdBy,
    ],
  )
  return host
}

/** Creations come one at a time, by the lock: what is free here is free until the row is there. */
export async function assertNameFree(tx: SqlExecutor, name: string): Promise<void> {
  const { rows } = await tx.query('SELECT state_kind, state_detail FROM instance WHERE name = $1 AND destroyed_at IS NULL', [
    name,
  ])
  const holder = rows[0]
  if (!holder) return
  const detail = holder['state_detail'] === null ? '' : ` (${String(holder['state_detail'])})`
  const what =
    holder['state_kind'] === 'failed' ? ` and is failed${detail}; \`typevisor instance destroy ${name} --yes\` removes it` : ''
  throw new Fault('conflict', `name: an instance ${name} exists${what}`, {
    details: [{ path: 'body.name', want: 'a name that no instance has', got: name }],
  })
}
