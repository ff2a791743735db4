import { ARCHITECTURES, FIRMWARE_KINDS, type Capability, type GuestsOffered } from '@typevisor/model'
import type { Reply } from '@typevisor/api'
import { Fault, millis, withDeadline, type IdSource, type Rng } from '@typevisor/base'
import { newBearer, type SecretCrypto } from '@typevisor/identity'
import type { SagaEngine, SagaId, SqlExecutor } from '@typevisor/saga'
import { recordEntry } from '../db/audit.ts'
import type { Db } from '../db/database.ts'
import type { Handlers } from '../http/handler.ts'
import { PLACEMENT_LOCK } from '../instances/create.ts'
import { eventEffect } from '../instances/effects.ts'
import { forgetInstancesOf, letGoOf } from '../instances/forget.ts'
import type { AgentRegistry } from './registry.ts'

export interface HostHandlerOptions {
  readonly db: Db
  readonly database: SqlExecutor
  readonly agents: AgentRegistry
  readonly engine: Pick<SagaEngine, 'drop'>
  readonly ids: IdSource
  readonly rng: Rng
  readonly crypto: SecretCrypto
}

const ASK_LIMIT = millis(2000)

type HostHandlers = Pick<Handlers, Extract<keyof Handlers, `host.${string}`>>

function toWireGuests(guests: GuestsOffered | undefined): Reply<'host.get'>['guests'] {
  if (guests === undefined) return []
  return ARCHITECTURES.map((architecture) => {
    const { runs, firmware, tpm, networkBoot } = guests[architecture]
    if (!runs.can) return { architecture, can: [], cannot: [{ what: 'architecture', reason: runs.reason }] }
    const each: readonly (readonly [string, Capability])[] = [
      ...FIRMWARE_KINDS.map((kind) => [kind, firmware[kind]] as const),
      ['tpm', tpm],
      ['network', networkBoot],
    ]
    return {
      architecture,
      can: each.flatMap(([what, { can }]) => (can ? [what] : [])),
      cannot: each.flatMap(([what, capability]) => (capability.can ? [] : [{ what, reason: capability.reason }])),
    }
  })
}

export function hostHandlers({ db, database, agents, engine, ids, rng, crypto }: HostHandlerOptions): HostHandlers {
  const select = () =>
    db
      .selectFrom('host')
      .selectAll('host')
      .select((host) =>
        host
          .selectFrom('instance')
          .whereRef('instance.host', '=', 'host.name')
          .where('instance.destroyed_at', 'is', null)
          .select((instance) => instance.fn.countAll<number>().as('count'))
          .as('instance_count'),
      )
  type HostRow = Awaited<ReturnType<ReturnType<typeof select>['execute']>>[number]
  const toHost = async (row: HostRow): Promise<Reply<'host.get'>> => ({
    name: row.name,
    connected: agents.get(row.name) !== null,
    driver: row.driver,
    version: row.version,
    accelerator: row.accelerator,
    acceleratorReason: row.accelerator_reason,
    cpuCount: row.cpu_count,
    memoryBytes: row.memory_bytes,
    instanceCount: row.instance_count ?? 0,
    lastSeenAt: row.last_seen_at?.getTime() ?? null,
    guests: toWireGuests(agents.get(row.name)?.hello.guests),
    volumeServer: await volumeServerOf(agents, row.name),
  })
  const needHost = async (name: string): Promise<HostRow> => {
    const row = await select().where('name', '=', name).executeTakeFirst()
    if (!row) throw new Fault('not_found', `host ${name}: there is none of this name`)
    return row
  }
  return {
    'host.list': async () => {
      const items = await Promise.all((await select().orderBy('name').execute()).map(toHost))
      return { items, total: items.length, nextCursor: null }
    },
    'host.get': async ({ params: { host } }) => toHost(await needHost(host)),
    'host.media': async ({ params: { host }, signal }) => {
      await needHost(host)
      const names = await (await agents.need(host, 0, signal)).call('host.media', {}, { signal })
      return { items: names.map((name) => ({ name })), total: names.length, nextCursor: null }
    },
    'host.token': async (call) => {
      const { name } = call.body
      const id = ids.next()
      const { text, hash } = newBearer('host', id, rng, crypto)
      await database.transaction(async (tx) => {
        await tx.query(
          `INSERT INTO host (name, token_id, token_hash, created_at) VALUES ($1, $2, $3, now())
           ON CONFLICT (name) DO UPDATE SET token_id = excluded.token_id, token_hash = excluded.token_hash`,
          [name, id, Buffer.from(hash)],
        )
        await recordEntry(tx, call.entry(name, name))
      })
      // Whoever holds the old token is out, also when it is connected.
      await agents.cut(name, new Fault('unauthenticated', `host ${name}: it has a new token`))
      return { name, secret: text }
    },
    'host.delete': async (call) => {
      const { host } = call.params
      call.audit(host, host)
      const dropped = await database.transaction(async (tx) => {
        const letGo = await removeHost(tx, agents, host, call.query.force === 'true')
        await recordEntry(tx, call.entry(host, host))
        return letGo
      })
      engine.drop(dropped)
      return {}
    },
  }
}

/** null: it keeps none, it is of a version that cannot tell, or it does not answer now. A list does not wait for one host for long. */
async function volumeServerOf(agents: AgentRegistry, host: string): Promise<Reply<'host.get'>['volumeServer']> {
  const agent = agents.get(host)
  if (!agent) return null
  const { clock } = agents
  const status = await withDeadline({ limit: ASK_LIMIT, clock, what: `host ${host}` }, (signal) =>
    agent.call('host.volume-server', {}, { signal }),
  ).catch(() => null)
  if (!status) return null
  const { state, since, cause, detail, version, startedAt, attachedCount, space } = status
  return { state, since, cause, detail, version, startedAt, attachedCount, space }
}

/**
 * The row goes, and with it the token. Under the lock of placements, so that nothing is put on it meanwhile; an agent that is joining waits
 * for the row and then finds none. Answers the sagas that were let go of.
 */
async function removeHost(tx: SqlExecutor, agents: AgentRegistry, name: string, force: boolean): Promise<SagaId[]> {
  await tx.query('SELECT pg_advisory_xact_lock($1)', [PLACEMENT_LOCK])
  const { rowCount } = await tx.query('SELECT 1 FROM host WHERE name = $1 FOR UPDATE', [name])
  if (rowCount === 0) throw new Fault('not_found', `host ${name}: there is none of this name`)
  if (agents.has(name)) throw new Fault('conflict', `remove host ${name}: it is connected; stop its agent first`)
  if (!force) {
    const { rows } = await tx.query('SELECT name FROM instance WHERE host = $1 AND destroyed_at IS NULL ORDER BY name', [name])
    const there = rows.map((row) => String(row['name']))
    if (there.length > 0) {
      const some = there.slice(0, 5).join(', ') + (there.length > 5 ? ` and ${there.length - 5} more` : '')
      throw new Fault('conflict', `remove host ${name}: it has instances (${some}); destroy them, or give them up with --force`)
    }
  }
  const { names, dropped } = await forgetInstancesOf(tx, name)
  const builds = await tx.query(
    `SELECT resource FROM saga WHERE starts_with(resource, $1) AND state_kind IN ('running', 'undoing', 'stuck')`,
    [`image:${name}/`],
  )
  for (const row of builds.rows) dropped.push(...(await letGoOf(tx, String(row['resource']), `host ${name} was removed`)))
  await tx.query('DELETE FROM host WHERE name = $1', [name])
  const event = eventEffect('host.removed', name, name, { instances: names })
  await tx.query(event.text, event.values)
  return dropped
}
