/**
 * All sagas of one process in memory, moved by events: the memory store is this table alone, the file store is this table with
 * every event in a journal. Leases and owners are not events: they end with the process, and so nobody holds a saga after a restart.
 *
 *   decide (create, claim, commit, ...)  -->  event  -->  apply  -->  records
 *                                               |
 *                                               +--> journal (file store), applied again at the next start
 */
import { assert, epochMillis, Fault, toFault, type Clock, type EpochMillis, type Json } from '@typevisor/base'
import {
  fence,
  type CommitAnswer,
  type NewSaga,
  type SagaId,
  type SagaRecord,
  type SagaState,
  type SagaTransition,
  type StuckVerdict,
} from './ports.ts'
import { claimable, holdsResource, moved } from './states.ts'

export type SagaEvent =
  | { readonly kind: 'created'; readonly saga: NewSaga; readonly at: number }
  /** The ids get the fences `fence`, `fence + 1`, ... in this order. */
  | { readonly kind: 'claimed'; readonly ids: readonly SagaId[]; readonly fence: number }
  | {
      readonly kind: 'moved'
      readonly id: SagaId
      readonly state: SagaState
      readonly output?: { readonly step: string; readonly value: Json }
      readonly attempt: number
      readonly at: number
    }
  | { readonly kind: 'cancel_requested'; readonly id: SagaId }
  /** Of a snapshot: the highest fence given so far, and each record whole. */
  | { readonly kind: 'fences'; readonly last: number }
  | { readonly kind: 'record'; readonly record: SagaRecord }

interface Lease {
  readonly owner: string
  /** On the monotonic clock. */
  readonly until: number
}

export interface SagaTableOptions {
  readonly clock: Clock
  /** Settled sagas that are remembered; older ones are forgotten. */
  readonly settledCountMax: number
  /** Called with each event just before it is applied, synchronously. When it throws the event is not applied. */
  readonly emit: (event: SagaEvent) => void
}

export class SagaTable {
  readonly #options: SagaTableOptions
  /** In order of creation, settled ones in order of settling at the end. */
  readonly #records = new Map<SagaId, SagaRecord>()
  readonly #open = new Set<SagaId>()
  readonly #settled = new Set<SagaId>()
  readonly #holders = new Map<string, SagaId>()
  readonly #leases = new Map<SagaId, Lease>()
  #lastFence = 0

  constructor(options: SagaTableOptions) {
    this.#options = options
  }

  create(saga: NewSaga): SagaRecord {
    const known = this.#records.get(saga.id)
    if (known) return known
    const holder = this.#holders.get(saga.resource)
    if (holder !== undefined) throw resourceBusy(saga.resource, holder, this.#records.get(holder)?.name ?? 'a saga')
    this.#emit({ kind: 'created', saga: pick(saga), at: this.#options.clock.now() })
    return this.#record(saga.id)
  }

  claim(request: {
    owner: string
    leaseMs: number
    limit: number
    names?: readonly string[]
    exclude?: ReadonlySet<SagaId>
  }): SagaRecord[] {
    const { owner, leaseMs, limit, names, exclude } = request
    const now = this.#options.clock.monotonic()
    const ids: SagaId[] = []
    for (const id of this.#open) {
      if (ids.length >= limit) break
      if (exclude?.has(id)) continue
      const lease = this.#leases.get(id)
      if (lease && lease.owner !== owner && lease.until > now) continue
      if (names && !names.includes(this.#record(id).name)) continue
      ids.push(id)
    }
    if (ids.length === 0) return []
    this.#emit({ kind: 'claimed', ids, fence: this.#lastFence + 1 })
    for (const id of ids) this.#leases.set(id, { owner, until: now + leaseMs })
    return ids.map((id) => this.#record(id))
  }

  renew(request: { owner: string; leaseMs: number; ids: readonly SagaId[] }): Map<SagaId, 'held' | 'cancel'> {
    const { owner, leaseMs, ids } = request
    const until = this.#options.clock.monotonic() + leaseMs
    const held = new Map<SagaId, 'held' | 'cancel'>()
    for (const id of ids) {
      if (this.#leases.get(id)?.owner !== owner) continue
      this.#leases.set(id, { owner, until })
      held.set(id, this.#record(id).cancelRequested ? 'cancel' : 'held')
    }
    return held
  }

  commit(transition: SagaTransition): CommitAnswer {
    const { id, state, output, attempt, effects } = transition
    const record = this.#records.get(id)
    if (!record || record.fence !== transition.fence || !claimable(record.state)) return 'stale'
    try {
      for (const effect of effects) {
        if (effect.kind === 'sql') return new Fault('unsupported', `commit saga ${id}: an SQL effect in a store without SQL`)
      }
      for (const effect of effects) if (effect.kind === 'call') effect.run()
    } catch (error) {
      return toFault(error)
    }
    this.#emit({ kind: 'moved', id, state, ...(output ? { output } : {}), attempt, at: this.#options.clock.now() })
    return record.cancelRequested ? 'cancel' : 'ok'
  }

  requestCancel(id: SagaId): void {
    const record = this.#records.get(id)
    if (!record) throw noSuchSaga(id)
    if (record.cancelRequested || record.state.kind !== 'running') return
    this.#emit({ kind: 'cancel_requested', id })
  }

  settleStuck(id: SagaId, verdict: StuckVerdict): void {
    const record = this.#records.get(id)
    if (!record) throw noSuchSaga(id)
    this.#emit({ kind: 'moved', id, state: settledStuck(record, verdict), attempt: 1, at: this.#options.clock.now() })
  }

  get(id: SagaId): SagaRecord | null {
    return this.#records.get(id) ?? null
  }

  list(filter: { unfinished?: boolean; resource?: string; limit?: number } = {}): SagaRecord[] {
    const { unfinished, resource, limit = Infinity } = filter
    return [...this.#records.values()]
      .filter((record) => unfinished === undefined || holdsResource(record.state) === unfinished)
      .filter((record) => resource === undefined || record.resource === resource)
      .sort((a, b) => b.createdAt - a.createdAt || (a.id < b.id ? 1 : -1))
      .slice(0, limit)
  }

  /** Applies an event of the journal. */
  replay(event: SagaEvent): void {
    this.#apply(event)
  }

  *snapshot(): Generator<SagaEvent> {
    yield { kind: 'fences', last: this.#lastFence }
    for (const record of this.#records.values()) yield { kind: 'record', record }
  }

  #emit(event: SagaEvent): void {
    // What cannot be written throws here, before anything has changed.
    this.#options.emit(event)
    this.#apply(event)
  }

  #record(id: SagaId): SagaRecord {
    const record = this.#records.get(id)
    assert(record, `saga ${id} is in the table`)
    return record
  }

  #apply(event: SagaEvent): void {
    switch (event.kind) {
      case 'created': {
        const at = epochMillis(event.at)
        this.#put(newRecord(event.saga, at))
        return
      }
      case 'claimed':
        event.ids.forEach((id, index) => {
          const record = this.#record(id)
          const attempt = record.fence > 0 ? record.attempt + 1 : record.attempt
          this.#put({ ...record, fence: fence(event.fence + index), attempt })
        })
        this.#lastFence = Math.max(this.#lastFence, event.fence + event.ids.length - 1)
        return
      case 'moved':
        this.#put(moved(this.#record(event.id), { ...event, updatedAt: epochMillis(event.at) }))
        return
      case 'cancel_requested':
        this.#put({ ...this.#record(event.id), cancelRequested: true })
        return
      case 'fences':
        this.#lastFence = Math.max(this.#lastFence, event.last)
        return
      case 'record':
        this.#put(event.record)
    }
  }

  #put(record: SagaRecord): void {
    const { id, resource, state } = record
    this.#records.set(id, record)
    if (holdsResource(state)) this.#holders.set(resource, id)
    else if (this.#holders.get(resource) === id) this.#holders.delete(resource)
    if (claimable(state)) {
      this.#open.add(id)
      return
    }
    this.#open.delete(id)
    this.#leases.delete(id)
    if (holdsResource(state)) return
    this.#settled.add(id)
    for (const oldest of this.#settled) {
      if (this.#settled.size <= this.#options.settledCountMax) break
      this.#settled.delete(oldest)
      this.#records.delete(oldest)
    }
  }
}

const pick = ({ id, name, resource, input }: NewSaga): NewSaga => ({ id, name, resource, input })

export const newRecord = (saga: NewSaga, at: EpochMillis): SagaRecord => ({
  ...pick(saga),
  state: { kind: 'running', stepIndex: 0 },
  outputs: {},
  fence: fence(0),
  attempt: 1,
  cancelRequested: false,
  createdAt: at,
  updatedAt: at,
})

export const noSuchSaga = (id: SagaId): Fault => new Fault('not_found', `saga ${id}: no such saga`)

export const resourceBusy = (resource: string, holder: string, name: string): Fault =>
  new Fault('busy', `${resource} is held by ${name} (saga ${holder})`)

/** The state after a person's verdict. @throws Fault `conflict` when the saga is not stuck. */
export function settledStuck(record: SagaRecord, verdict: StuckVerdict): SagaState {
  const { state } = record
  if (state.kind !== 'stuck') throw new Fault('conflict', `saga ${record.id} is ${state.kind}, not stuck`)
  return verdict === 'abandon'
    ? { kind: 'undone', fault: state.fault }
    : { kind: 'undoing', stepIndex: state.stepIndex, fault: state.fault }
}
