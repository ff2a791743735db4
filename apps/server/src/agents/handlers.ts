import { Fault, type IdSource, type Rng } from '@typevisor/base'
import { newBearer, type SecretCrypto } from '@typevisor/identity'
import type { Db } from '../db/database.ts'
import type { Handlers } from '../http/handler.ts'
import type { AgentRegistry } from './registry.ts'

export interface HostHandlerOptions {
  readonly db: Db
  readonly agents: AgentRegistry
  readonly ids: IdSource
  readonly rng: Rng
  readonly crypto: SecretCrypto
}

export function hostHandlers({ db, agents, ids, rng, crypto }: HostHandlerOptions): Pick<Handlers, 'host.list' | 'host.token'> {
  return {
    'host.list': async () => {
      const rows = await db
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
        .orderBy('name')
        .execute()
      const items = rows.map((row) => ({
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
      }))
      return { items, total: items.length, nextCursor: null }
    },
    'host.token': async (call) => {
      const { name } = call.body
      const id = ids.next()
      const { text, hash } = newBearer('host', id, rng, crypto)
      call.audit(name)
      await db
        .insertInto('host')
        .values({ name, token_id: id, token_hash: Buffer.from(hash), created_at: new Date() })
        .onConflict((conflict) => conflict.column('name').doUpdateSet({ token_id: id, token_hash: Buffer.from(hash) }))
        .execute()
      // Whoever holds the old token is out, also when it is connected.
      await agents.cut(name, new Fault('unauthenticated', `host ${name}: it has a new token`))
      return { name, secret: text }
    },
  }
}
