/**
 * What a toolstack must not forget: the domains it keeps, the highest fence seen for each, and the events that nobody has
 * acknowledged yet. One append is one fact: a state transition and its event are written together or not at all.
 */
import { Channel, Fault, type Clock, type Json } from '@typevisor/base'
import type { DomainCause, DomainEvent, DomainId, DomainState, DomainStateKind } from '@typevisor/model'
import type { Fence, StateFile } from '@typevisor/saga'
import type { StoredDomain } from './stored-domain.ts'

type LedgerRecord =
  | { readonly kind: 'domain'; readonly domain: StoredDomain; readonly event?: DomainEvent }
  | { readonly kind: 'gone'; readonly id: DomainId; readonly event?: DomainEvent }
  | { readonly kind: 'fence'; readonly id: DomainId; readonly fence: Fence }
  | { readonly kind: 'event'; readonly event: DomainEvent }
  | { readonly kind: 'acknowledged'; readonly sequence: number }
  | { readonly kind: 'sequence'; readonly sequence: number }

/** What is kept for readers that come late; past it the oldest acknowledged go first, and unacknowledged ones are never dropped. */
const EVENTS_KEPT = 10_000
const READER_QUEUE = 4_096

export interface TransitionNote {
  readonly cause: DomainCause
  readonly detail?: string | null
  readonly reconstructed?: boolean
}

export class Ledger {
  readonly #append: (records: readonly Json[]) => Promise<void>
  readonly #clock: Clock
  readonly #domains = new Map<DomainId, StoredDomain>()
  readonly #names = new Map<string, DomainId>()
  readonly #fences = new Map<DomainId, Fence>()
  #events: DomainEvent[] = []
  #sequence = 0
  /** The newest that is on the disk. */
  #safeSequence = 0
  #acknowledged = 0
  readonly #readers = new Set<Channel<DomainEvent>>()

  /** Joins `state`, which is not open yet. */
  constructor(state: StateFile, clock: Clock) {
    this.#clock = clock
    this.#append = state.section<Json>('ledger', {
      // The section holds what this class wrote; the journal's checksums have vouched for it.
      replay: (record) => {
        this.#apply(record as unknown as LedgerRecord)
        this.#safeSequence = this.#sequence
      },
      snapshot: () => this.#snapshot() as unknown as Iterable<Json>,
    })
  }

  get(id: DomainId): StoredDomain | null {
    return this.#domains.get(id) ?? null
  }
  /** @throws Fault `not_found` */
  need(id: DomainId): StoredDomain {
    const domain = this.#domains.get(id)
    if (!domain) throw new Fault('not_found', `domain ${id}: this host does not know it`)
    return domain
  }
  byName(name: string): StoredDomain | null {
    const id = this.#names.get(name)
    return id === undefined ? null : this.get(id)
  }
  list(): StoredDomain[] {
    return [...this.#domains.values()]
  }
  /**
   * The newest transition that outlives a crash. Not the newest of all: a number that is told and then lost would be given again, to another
   * transition, which whoever keeps the first would take for an old one.
   */
  get lastSequence(): number {
    return this.#safeSequence
  }

  /** @throws Fault `stale_fence` when a newer owner has commanded this domain. */
  async admit(id: DomainId, fence: Fence): Promise<void> {
    const highest = this.#fences.get(id) ?? 0
    if (fence < highest) throw new Fault('stale_fence', `domain ${id}: fence ${fence} is older than ${highest}`)
    if (fence > highest) await this.#write([{ kind: 'fence', id, fence }])
  }

  /** Records a new domain, `stopped`. Idempotent. */
  async define(domain: StoredDomain): Promise<void> {
    if (this.#domains.has(domain.id)) return
    const event = this.#event(domain.id, domain.name, null, domain.state.kind, { cause: 'requested' })
    await this.#write([{ kind: 'domain', domain, event }])
  }

  /** Enters `state`; the event is written with it. Entering the state that the domain is in already writes nothing. */
  async enter(id: DomainId, state: DomainState, note: TransitionNote): Promise<void> {
    const domain = this.need(id)
    if (domain.state.kind === state.kind) return
    const event = this.#event(id, domain.name, domain.state.kind, state.kind, note)
    await this.#write([{ kind: 'domain', domain: { ...domain, state }, event }])
  }

  /** Keeps facts that change without a change of state, such as the host port that a forward got. */
  async update(domain: StoredDomain): Promise<void> {
    await this.#write([{ kind: 'domain', domain }])
  }

  /** The guest rebooted: an event without a change of state. */
  async noteReset(id: DomainId, note: TransitionNote): Promise<void> {
    const domain = this.need(id)
    await this.#write([{ kind: 'event', event: this.#event(id, domain.name, domain.state.kind, domain.state.kind, note) }])
  }

  async forget(id: DomainId): Promise<void> {
    const domain = this.#domains.get(id)
    if (!domain) return
    const event = this.#event(id, domain.name, domain.state.kind, null, { cause: 'requested' })
    await this.#write([{ kind: 'gone', id, event }])
  }

  /** Everything up to `sequence` has reached its reader for good. */
  async acknowledge(sequence: number): Promise<void> {
    if (sequence <= this.#acknowledged) return
    await this.#write([{ kind: 'acknowledged', sequence: Math.min(sequence, this.#sequence) }])
  }

  /** Events after `after`, those kept first, then live. A reader that falls too far behind gets Fault `busy` and comes back with its last sequence. */
  async *events(after: number, signal?: AbortSignal): AsyncGenerator<DomainEvent, void, undefined> {
    const live = new Channel<DomainEvent>(READER_QUEUE)
    const stop = () => live.close()
    signal?.addEventListener('abort', stop, { once: true })
    if (signal?.aborted) live.close()
    this.#readers.add(live)
    // What is not safe yet comes live, when it is.
    const kept = this.#events.filter((event) => event.sequence > after && event.sequence <= this.#safeSequence)
    let last = after
    try {
      for (const event of kept) {
        last = event.sequence
        yield event
      }
      for await (const event of live) if (event.sequence > last) yield event
    } finally {
      signal?.removeEventListener('abort', stop)
      this.#readers.delete(live)
    }
  }

  close(): void {
    for (const reader of this.#readers) reader.close()
  }

  #event(
    domain: DomainId,
    name: string,
    from: DomainStateKind | null,
    to: DomainStateKind | null,
    note: TransitionNote,
  ): DomainEvent {
    this.#sequence += 1
    return {
      sequence: this.#sequence,
      at: this.#clock.now(),
      domain,
      name,
      from,
      to,
      cause: note.cause,
      detail: note.detail ?? null,
      reconstructed: note.reconstructed ?? false,
    }
  }

  /** Memory first, so that a second caller in the same turn sees it; nobody is told before it is safe. */
  async #write(records: readonly LedgerRecord[]): Promise<void> {
    for (const record of records) this.#apply(record)
    await this.#append(records as unknown as Json[])
    for (const record of records) {
      const event = 'event' in record ? record.event : undefined
      if (!event) continue
      this.#safeSequence = Math.max(this.#safeSequence, event.sequence)
      this.#tell(event)
    }
  }

  #apply(record: LedgerRecord): void {
    if ('event' in record && record.event) {
      this.#sequence = Math.max(this.#sequence, record.event.sequence)
      this.#events.push(record.event)
      this.#trim()
    }
    switch (record.kind) {
      case 'domain':
        this.#domains.set(record.domain.id, record.domain)
        this.#names.set(record.domain.name, record.domain.id)
        return
      case 'gone': {
        const domain = this.#domains.get(record.id)
        if (domain) this.#names.delete(domain.name)
        this.#domains.delete(record.id)
        return
      }
      case 'fence':
        this.#fences.set(record.id, record.fence)
        return
      case 'acknowledged':
        this.#acknowledged = Math.max(this.#acknowledged, record.sequence)
        return
      case 'sequence':
        this.#sequence = Math.max(this.#sequence, record.sequence)
        return
      case 'event':
        return
    }
  }

  #trim(): void {
    if (this.#events.length < 2 * EVENTS_KEPT) return
    const surplus = this.#events.length - EVENTS_KEPT
    this.#events = this.#events.filter((event, index) => index >= surplus || event.sequence > this.#acknowledged)
  }

  #tell(event: DomainEvent): void {
    for (const reader of this.#readers) {
      try {
        reader.push(event)
      } catch (error) {
        reader.close(error)
      }
    }
  }

  *#snapshot(): Iterable<LedgerRecord> {
    yield { kind: 'sequence', sequence: this.#sequence }
    yield { kind: 'acknowledged', sequence: this.#acknowledged }
    for (const event of this.#events) yield { kind: 'event', event }
    for (const domain of this.#domains.values()) yield { kind: 'domain', domain }
    // A fence outlives its domain: a zombie's late `define` must still be refused.
    for (const [id, fence] of this.#fences) yield { kind: 'fence', id, fence }
  }
}
