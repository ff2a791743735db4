/**
 * Instances whose host does not answer any more. Their rows go at once; what the host still has of them is ended when it comes back:
 *
 *   destroy --force, host delete --force     row: destroyed_at; what held it is let go of, under a newer fence
 *   the host is there and did not do it      instance.clean-up, begun with the end of the destruction (`leftBehindEffect`)
 *   the host lists it again                  instance.clean-up: destroy there, by command and fence (`agents/host-sync.ts`)
 *
 * A domain that no row tells of is nobody's to end: it is another platform's, or older than destroyed rows are kept (`db/prune.ts`).
 */
import { Fault, type IdSource, type Json } from '@typevisor/base'
import type { DomainRecord } from '@typevisor/model'
import { pgAbandonSagas, pgCreateSaga, sagaId, type SagaId, type SqlExecutor } from '@typevisor/saga'
import { destroyedEffect, eventEffect } from './effects.ts'
import type { VerbInput } from './sagas.ts'

/**
 * What is under way on a resource is over, as it stands: whoever runs it finds a newer fence. Locks sagas, so it comes before rows are locked.
 * Answers what the engine is to `drop` after the commit, so that no step of it goes on to a host that comes back at this moment.
 */
export const letGoOf = (tx: SqlExecutor, resource: string, reason: string): Promise<SagaId[]> =>
  pgAbandonSagas(tx, resource, new Fault('aborted', reason))

/** Destroys the rows of all that is on a host, and ends what it was doing. */
export async function forgetInstancesOf(tx: SqlExecutor, host: string): Promise<{ names: string[]; dropped: SagaId[] }> {
  const dropped: SagaId[] = []
  const { rows } = await tx.query('SELECT id, name FROM instance WHERE host = $1 AND destroyed_at IS NULL ORDER BY id', [host])
  for (const row of rows) {
    const [id, name] = [String(row['id']), String(row['name'])]
    dropped.push(...(await letGoOf(tx, id, `host ${host} was removed`)))
    const destroyed = destroyedEffect(id)
    await tx.query(destroyed.text, destroyed.values)
    const event = eventEffect('instance.destroyed', id, name, { host, cause: 'host removed' })
    await tx.query(event.text, event.values)
  }
  return { names: rows.map((row) => String(row['name'])), dropped }
}

/** Has ended what a host lists though its instance was destroyed, or moved to another host. Answers the ids. */
export async function cleanUpListed(
  tx: SqlExecutor,
  ids: IdSource,
  host: string,
  domains: readonly DomainRecord[],
): Promise<ReadonlySet<string>> {
  if (domains.length === 0) return new Set()
  const moving = domains.filter(({ migration }) => migration !== undefined)
  const { rows } = await tx.query(
    `SELECT id, name, host FROM instance WHERE id = ANY ($2::uuid[]) AND ((host = $1 AND destroyed_at IS NOT NULL)
       OR (host <> $1 AND id = ANY ($3::uuid[]) AND (destroyed_at IS NOT NULL OR operation_name IS DISTINCT FROM 'instance.migrate')))`,
    [host, domains.map(({ id }) => id), moving.map(({ id }) => id)],
  )
  for (const row of rows) {
    const id = String(row['id'])
    const input = { id, name: String(row['name']), host, verb: 'destroy' } as VerbInput
    try {
      // What a move has left does not hold the instance, which is elsewhere.
      const resource = row['host'] === host ? id : `${id}@${host}`
      await pgCreateSaga(tx, { id: sagaId(ids.next()), name: 'instance.clean-up', resource, input: input as Json })
    } catch (error) {
      // One is at it already.
      if (!(error instanceof Fault) || error.code !== 'busy') throw error
    }
  }
  return new Set(rows.map((row) => String(row['id'])))
}
