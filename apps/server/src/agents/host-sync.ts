/**
 * Takes in what a host says, for as long as its agent is connected: once all of its domains, then each transition. The host's row
 * remembers the last transition taken in, in the transaction that took it in; only then is it acknowledged.
 *
 *   attach --> upsert host, images --> compare domains with rows --> events after host.event_sequence --> acknowledge
 */
import { Fault, toFault, type IdSource, type Json, type Log } from '@typevisor/base'
import type { AgentPort } from '@typevisor/api/agent-wire'
import { isHostEvent, type AgentEvent, type DomainEvent, type HostEvent } from '@typevisor/model'
import type { SagaEffect, SqlExecutor } from '@typevisor/saga'
import {
  causeOf,
  dumpEffect,
  eventEffect,
  LOST,
  lostEffect,
  observedEffect,
  settingsEffect,
  snapshotsEffect,
  storable,
  storableJson,
} from '../instances/effects.ts'
import { cleanUpListed } from '../instances/forget.ts'
import { imageEffect } from '../instances/sagas.ts'

export interface HostSync {
  /** Ends when the agent's events end or `signal` is aborted; then the host is not connected. */
  readonly done: Promise<void>
  /** Resolves when every transition up to `sequence` was taken in, and when this ends; never rejects. */
  takenIn(sequence: number): Promise<void>
}

/** How far a host's transitions were taken in, and who waits for it. */
class Watermark {
  #sequence: number
  #waiting: { readonly sequence: number; readonly wake: () => void }[] = []

  constructor(sequence: number) {
    this.#sequence = sequence
  }

  rise(sequence: number): void {
    this.#sequence = Math.max(this.#sequence, sequence)
    const due = this.#waiting.filter((waiter) => waiter.sequence <= this.#sequence)
    this.#waiting = this.#waiting.filter((waiter) => waiter.sequence > this.#sequence)
    for (const { wake } of due) wake()
  }

  reached(sequence: number): Promise<void> {
    if (sequence <= this.#sequence) return Promise.resolve()
    return new Promise((wake) => this.#waiting.push({ sequence, wake }))
  }
}

/** Transitions taken in with one commit, when many wait. */
const GROUP_COUNT_MAX = 1024

const runAll = async (tx: SqlExecutor, effects: readonly SagaEffect[]): Promise<void> => {
  for (const effect of effects) if (effect.kind === 'sql') await tx.query(effect.text, effect.values)
}

export interface HostSyncOptions {
  readonly database: SqlExecutor
  readonly ids: IdSource
  readonly log: Log
}

export interface AttachedHost {
  readonly name: string
  readonly agent: AgentPort
  /** The server's own. Any other is a host only as long as its row is there: one that is forgotten while it joins stays forgotten. */
  readonly own: boolean
}

/** @throws Fault `unauthenticated` when the host was forgotten. */
export async function attachHost(options: HostSyncOptions, host: AttachedHost, signal: AbortSignal): Promise<HostSync> {
  const { database, log } = options
  const { name, agent, own } = host
  const { hello } = agent
  const journalId = hello.journalId ?? null
  const { from, epoch } = await database.transaction(async (tx) => {
    if (own) await tx.query('INSERT INTO host (name, created_at) VALUES ($1, now()) ON CONFLICT DO NOTHING', [name])
    const before = await tx.query('SELECT journal_id FROM host WHERE name = $1 FOR UPDATE', [name])
    const { rows } = await tx.query(
      `UPDATE host SET connected = true, connection_epoch = connection_epoch + 1, driver = $2, version = $3, accelerator = $4,
         accelerator_reason = $5, cpu_count = $6, memory_bytes = $7, last_seen_at = now()
       WHERE name = $1 RETURNING event_sequence, connection_epoch`,
      [name, hello.driver, hello.driverVersion, hello.accelerator, hello.acceleratorReason, hello.cpuCount, hello.memoryBytes],
    )
    if (rows.length === 0) throw new Fault('unauthenticated', `host ${name}: it was removed; a new token lets it join again`)
    await tx.query('DELETE FROM image WHERE host = $1 AND NOT (name = ANY ($2))', [name, hello.images.map((image) => image.name)])
    await runAll(tx, [
      ...hello.images.map((image) => imageEffect(name, image)),
      eventEffect('host.connected', name, name, { driver: hello.driver }),
    ])
    // A host that was set up anew counts from the beginning again, and so do the rows that follow it. One whose agent does not say which
    // journal it has is known for new when it has counted less far.
    const known = before.rows[0]?.['journal_id'] ?? null
    const after = Number(rows[0]?.['event_sequence'] ?? 0)
    const isNew = after > hello.sequence || (known !== null && journalId !== null && known !== journalId)
    if (isNew) await tx.query('UPDATE instance SET state_sequence = 0 WHERE host = $1', [name])
    await tx.query('UPDATE host SET journal_id = coalesce($2, journal_id), event_sequence = $3 WHERE name = $1', [
      name,
      journalId,
      isNew ? 0 : after,
    ])
    return { from: isNew ? 0 : after, epoch: rows[0]?.['connection_epoch'] }
  })
  await compare(options, name, agent)
  const watermark = new Watermark(from)
  const done = follow(database, name, agent, from, watermark, log, signal).finally(() => {
    watermark.rise(Infinity)
    return database
      .query('UPDATE host SET connected = false, last_seen_at = now() WHERE name = $1 AND connection_epoch = $2', [name, epoch])
      .catch((error: unknown) => log.error('host.detach_failed', { host: name, error: toFault(error).message }))
  })
  return { done: done.then(() => {}), takenIn: (sequence) => watermark.reached(sequence) }
}

/** Rows and domains side by side: rows follow the host; what one side lacks is said; what was destroyed meanwhile is ended there too. */
async function compare({ database, ids, log }: HostSyncOptions, name: string, agent: AgentPort): Promise<void> {
  const { domains, sequence } = agent.hello
  const byId = new Map(domains.map((domain) => [String(domain.id), domain]))
  const { rows } = await database.query(
    'SELECT id, name, state_kind, state_cause, operation_id FROM instance WHERE host = $1 AND destroyed_at IS NULL',
    [name],
  )
  const known = new Set<string>()
  await database.transaction(async (tx) => {
    for (const row of rows) {
      const id = String(row['id'])
      known.add(id)
      const domain = byId.get(id)
      const told = (to: string, cause: string) =>
        eventEffect('instance.state', id, String(row['name']), { from: String(row['state_kind']), to, cause })
      if (domain) {
        const found = row['state_kind'] === 'failed' && row['state_cause'] === LOST
        if (found) log.info('host.found_domain', { host: name, instance: id })
        await runAll(tx, [
          observedEffect(id, domain, sequence),
          snapshotsEffect(id, domain),
          settingsEffect(id, domain),
          dumpEffect(id, domain),
          ...(found ? [told(domain.state.kind, causeOf(domain.state).cause)] : []),
        ])
      } else if (row['operation_id'] === null && row['state_kind'] !== 'failed') {
        log.warn('host.lost_domain', { host: name, instance: id })
        await runAll(tx, [lostEffect(id, name), told('failed', LOST)])
      }
    }
  })
  const strange = domains.filter((domain) => !known.has(domain.id))
  const ended = await database.transaction((tx) => cleanUpListed(tx, ids, name, strange))
  for (const domain of strange) {
    const event = ended.has(domain.id) ? 'host.destroyed_domain' : 'host.unknown_domain'
    log.warn(event, { host: name, domain: domain.id, name: domain.name, state: domain.state.kind })
  }
}

async function follow(
  database: SqlExecutor,
  name: string,
  agent: AgentPort,
  from: number,
  watermark: Watermark,
  log: Log,
  signal: AbortSignal,
): Promise<void> {
  const waiting: AgentEvent[] = []
  const failing = new AbortController()
  let isWriting = false
  let written = Promise.resolve()
  const write = async (): Promise<void> => {
    isWriting = true
    try {
      while (waiting.length > 0) {
        const group = waiting.splice(0, GROUP_COUNT_MAX)
        const last = group.at(-1)?.sequence ?? 0
        await database.transaction(async (tx) => {
          await takeIn(tx, name, group)
          await tx.query('UPDATE host SET event_sequence = $2, last_seen_at = now() WHERE name = $1', [name, last])
        })
        watermark.rise(last)
        await agent.acknowledge(last)
      }
    } catch (error) {
      log.error('host.take_in_failed', { host: name, error: toFault(error).message })
      failing.abort(error)
    } finally {
      // In one breath with the look at `waiting`: what comes later begins the next writing.
      isWriting = false
    }
  }
  // What was not taken in is not acknowledged, and comes again with the next connection: a failure ends this one at once.
  for await (const event of agent.events(from, { signal: AbortSignal.any([signal, failing.signal]) })) {
    waiting.push(event)
    if (failing.signal.aborted) break
    if (!isWriting) written = write()
    if (waiting.length >= GROUP_COUNT_MAX) await written
  }
  await written
  failing.signal.throwIfAborted()
}

/** A row of `event` to be. */
type Told = readonly [kind: string, resource: string, name: string, content: Record<string, Json>]

/** What a part of the host went through is told, and kept nowhere else: how it is now is asked of the host. */
function partTold(host: string, { part, sequence, from, to, cause, detail, reconstructed, facts }: HostEvent): Told {
  return [`host.${part}`, host, host, { from, to, cause, detail, reconstructed, hostSequence: sequence, ...facts }]
}

/** A guest that waits for room is paused already when it is paused: that is a transition, and no guest resets itself standing still. */
const isReset = ({ from, to, cause }: DomainEvent): boolean =>
  from === to && !(to === 'paused' && cause === 'requested') && cause !== 'on-crash' && cause !== 'autostart'

function transitionTold(event: DomainEvent): Told {
  const { from, to, cause, detail, reconstructed, sequence } = event
  const content = { from, to, cause, detail, reconstructed, hostSequence: sequence }
  return [isReset(event) ? 'instance.reset' : 'instance.state', event.domain, event.name, content]
}

/** How a row stands, and what of it a group of events changes. */
interface Followed {
  readonly sequence: number
  kind: string
  newest: DomainEvent | null
  /** When it entered the state that it is left in; null: it was in it before. */
  since: number | null
}

/**
 * Takes in a group: each row follows to the newest word of it, unless it has heard something newer; every event is told, in order. In four
 * statements, however many they are.
 */
async function takeIn(tx: SqlExecutor, host: string, group: readonly AgentEvent[]): Promise<void> {
  // What the hosts of a move do with it is told by the move.
  const events = group.filter((event) => isHostEvent(event) || event.cause !== 'migrated')
  const ids = new Set(events.flatMap((event) => (isHostEvent(event) ? [] : [event.domain as string])))
  // A host speaks for what was placed on it, and for nothing else.
  const { rows } = await tx.query(
    'SELECT id, state_kind, state_sequence FROM instance WHERE host = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR UPDATE',
    [host, [...ids]],
  )
  const followed = new Map(
    rows.map((row): [string, Followed] => [
      String(row['id']),
      { sequence: Number(row['state_sequence']), kind: String(row['state_kind']), newest: null, since: null },
    ]),
  )
  const told: Told[] = []
  for (const event of events) {
    if (isHostEvent(event)) {
      told.push(partTold(host, event))
      continue
    }
    const row = followed.get(event.domain)
    if (!row) continue
    told.push(transitionTold(event))
    if (event.dump) await runAll(tx, [dumpEffect(event.domain, event)])
    if (event.to === null || event.sequence <= row.sequence) continue
    if (event.to !== row.kind) row.since = event.at
    row.kind = event.to
    row.newest = event
  }
  const changed = [...followed].flatMap(([id, { newest, since }]) => (newest === null ? [] : [{ id, newest, since }]))
  if (changed.length > 0) {
    await tx.query(
      `UPDATE instance SET state_kind = next.kind, state_cause = next.cause, state_detail = next.detail, state_sequence = next.sequence,
         state_since = coalesce(to_timestamp(next.since / 1000), state_since)
       FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::double precision[])
         AS next (id, kind, cause, detail, sequence, since)
       WHERE instance.id = next.id AND state_sequence < next.sequence AND destroyed_at IS NULL AND state_kind NOT IN ('failed', 'destroying')`,
      [
        changed.map(({ id }) => id),
        changed.map(({ newest }) => newest.to),
        changed.map(({ newest }) => newest.cause),
        changed.map(({ newest: { detail } }) => (detail === null ? null : storable(detail))),
        changed.map(({ newest }) => newest.sequence),
        changed.map(({ since }) => since),
      ],
    )
  }
  if (told.length > 0) await tellAll(tx, told)
}

/** As `eventEffect`, for many: they are numbered in their order. */
async function tellAll(tx: SqlExecutor, told: readonly Told[]): Promise<void> {
  await tx.query(
    `INSERT INTO event (at, kind, resource, name, content)
     SELECT now(), kind, resource, name, content::jsonb
     FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS told (kind, resource, name, content, place) ORDER BY place`,
    [
      told.map(([kind]) => kind),
      told.map(([, resource]) => resource),
      told.map(([, , name]) => storable(name)),
      told.map(([, , , content]) => JSON.stringify(storableJson(content))),
    ],
  )
}
