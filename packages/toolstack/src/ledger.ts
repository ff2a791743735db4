/**
 * What a toolstack must not forget: the domains it keeps, the highest fence seen for each, and the events that nobody has
 * acknowledged yet. One append is one fact: a state transition and its event are written together or not at all.
 *
 * Fences outlive their domains, since a zombie's late `define` must be refused; but not each for ever. Of domains that are gone the newest
 * `GONE_FENCES_KEPT` are kept one by one. Those forgotten leave one horizon, the highest of their ids and the highest of their fences, and
 * a fence of an unknown domain is refused when both its id and itself lie within it. A zombie's always do: its domain is one of those
 * forgotten, and the fence that ended that domain was higher. Whoever is refused wrongly (a slow owner, while ten thousand younger domains
 * came and went) claims anew, gets a fence above all given before, and is admitted. An owner that counts from the beginning (a new
 * control plane on an old host) is not held up, since its domains are younger than any forgotten: ids are in the order of time (UUIDv7).
 */
import { assert, Fault, type Clock, type Json } from '@typevisor/base'
import {
  isHostEvent,
  waitsForRoom,
  type AgentEvent,
  type DomainCause,
  type DomainDump,
  type DomainEvent,
  type DomainId,
  type DomainState,
  type DomainStateKind,
  type HostEvent,
  type HostPart,
  type ImageName,
} from '@typevisor/model'
import type { Fence, StateFile } from '@typevisor/saga'
import type { StoredDomain } from './stored-domain.ts'

type LedgerRecord =
  /** A transition of a domain of which nothing else has changed. */
  | { readonly kind: 'state'; readonly id: DomainId; readonly state: DomainState; readonly event: DomainEvent }
  | { readonly kind: 'domain'; readonly domain: StoredDomain; readonly event?: DomainEvent }
  | { readonly kind: 'gone'; readonly id: DomainId; readonly event?: DomainEvent }
  | { readonly kind: 'fence'; readonly id: DomainId; readonly fence: Fence }
  | { readonly kind: 'event'; readonly event: AgentEvent }
  /** The newest event of a part, when the event itself may be forgotten. */
  | { readonly kind: 'part'; readonly newest: HostEvent }
  | { readonly kind: 'horizon'; readonly id: DomainId; readonly fence: Fence }
  | { readonly kind: 'journal'; readonly id: string }
  | { readonly kind: 'boot'; readonly boot: HostBoot }
  | { readonly kind: 'image'; readonly name: ImageName; readonly command: ImageCommand }
  | { readonly kind: 'acknowledged'; readonly sequence: number }
  | { readonly kind: 'sequence'; readonly sequence: number }

/** What is kept for readers that come late; past it the oldest acknowledged go first, and unacknowledged ones are never dropped. */
const EVENTS_KEPT = 10_000
const READER_PAGE = 1024
const GONE_FENCES_KEPT = 10_000

/** The boot of the host that the toolstack runs in, and the domains that are still to be started with it, the first one first. */
export interface HostBoot {
  readonly id: string
  readonly pending: readonly DomainId[]
}

export interface TransitionNote {
  readonly cause: DomainCause
  readonly detail?: string | null
  readonly reconstructed?: boolean
  readonly dump?: DomainDump
}

/** What happened to a part of the host; `from` is what was noted of it before. */
export type PartNote = Omit<HostEvent, 'sequence' | 'at' | 'from'>

/** The newest command on an image: who may give the next, and whether this one is done. */
export interface ImageCommand {
  readonly fence: Fence
  readonly commandId: string
  readonly done: boolean
}

interface Reader {
  wake: () => void
  isOver: boolean
}

export class Ledger {
  readonly #append: (records: readonly Json[]) => Promise<void>
  readonly #clock: Clock
  readonly #domains = new Map<DomainId, StoredDomain>()
  readonly #names = new Map<string, DomainId>()
  /** The one that was raised longest ago first. */
  readonly #fences = new Map<DomainId, Fence>()
  /** Of those, how many are of domains that are not here. */
  #goneFenceCount = 0
  #horizon: { readonly id: DomainId; readonly fence: Fence } | null = null
  #journal: string | null = null
  #boot: HostBoot | null = null
  /** There are as many as recipes. */
  readonly #images = new Map<ImageName, ImageCommand>()
  readonly #parts = new Map<HostPart, HostEvent>()
  #events: AgentEvent[] = []
  #sequence = 0
  /** The newest that is on the disk. */
  #safeSequence = 0
  #acknowledged = 0
  /** The newest that is not kept any more. */
  #dropped = 0
  readonly #readers = new Set<Reader>()
  #isClosed = false

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

  /** Tells this journal from every other, such as one that was set up anew: sequences of two are not to be compared. */
  get journal(): string {
    assert(this.#journal !== null, 'the ledger has begun')
    return this.#journal
  }

  /** null: none was noted yet. */
  get boot(): HostBoot | null {
    return this.#boot
  }
  async noteBoot(boot: HostBoot): Promise<void> {
    await this.#write([{ kind: 'boot', boot }])
  }

  /** To be called once the state is open; `id` is used when the journal has none yet. */
  async begin(id: string): Promise<void> {
    if (this.#journal === null) await this.#write([{ kind: 'journal', id }])
  }

  /** @throws Fault `stale_fence` when a newer owner has commanded this domain. */
  async admit(id: DomainId, fence: Fence): Promise<void> {
    const highest = this.#fences.get(id) ?? (this.#horizon !== null && id <= this.#horizon.id ? this.#horizon.fence : 0)
    if (fence < highest) throw new Fault('stale_fence', `domain ${id}: fence ${fence} is older than ${highest}`)
    if (fence > highest) await this.#write([{ kind: 'fence', id, fence }])
  }

  /**
   * Admits a command on an image as one on a domain is; answers whether it has been done already.
   * @throws Fault `stale_fence` when a newer owner has commanded this image.
   */
  async admitImage(name: ImageName, commandId: string, fence: Fence): Promise<boolean> {
    const newest = this.#images.get(name)
    const highest = newest?.fence ?? 0
    if (fence < highest) throw new Fault('stale_fence', `image ${name}: fence ${fence} is older than ${highest}`)
    const done = newest?.commandId === commandId && newest.done
    if (fence > highest || newest?.commandId !== commandId)
      await this.#write([{ kind: 'image', name, command: { fence, commandId, done } }])
    return done
  }

  /** Unless a newer one has come since, which is done when it is done itself. */
  async imageDone(name: ImageName, commandId: string): Promise<void> {
    const newest = this.#images.get(name)
    if (newest?.commandId === commandId && !newest.done)
      await this.#write([{ kind: 'image', name, command: { ...newest, done: true } }])
  }

  /** Records a new domain, `stopped`. Idempotent. */
  async define(domain: StoredDomain): Promise<void> {
    if (this.#domains.has(domain.id)) return
    const event = this.#event(domain.id, domain.name, null, domain.state.kind, { cause: 'requested' })
    await this.#write([{ kind: 'domain', domain, event }])
  }

  /**
   * Enters `state`; the event is written with it. Entering the state that the domain is in already writes nothing; one that waits for room on
   * its disk enters another when somebody pauses it. `changed`: what else is another with it.
   */
  async enter(id: DomainId, state: DomainState, note: TransitionNote, changed?: StoredDomain): Promise<void> {
    const domain = this.need(id)
    if (changed !== undefined && domain.state.kind === state.kind) return await this.update({ ...changed, state })
    if (domain.state.kind === state.kind && !(waitsForRoom(domain.state) && !waitsForRoom(state))) return
    const event = this.#event(id, domain.name, domain.state.kind, state.kind, note)
    await this.#write([changed ? { kind: 'domain', domain: { ...changed, state }, event } : { kind: 'state', id, state, event }])
  }

  /** Keeps facts that change without a change of state, such as the host port that a forward got. */
  async update(domain: StoredDomain): Promise<void> {
    await this.#write([{ kind: 'domain', domain }])
  }

  /** An event without a change of state: the guest rebooted, or something was tried with it and did not come true. */
  async noteUnchanged(id: DomainId, note: TransitionNote): Promise<void> {
    const domain = this.need(id)
    await this.#write([{ kind: 'event', event: this.#event(id, domain.name, domain.state.kind, domain.state.kind, note) }])
  }

  /** What was noted of a part of the host last. */
  newestOf(part: HostPart): HostEvent | null {
    return this.#parts.get(part) ?? null
  }

  async notePart(note: PartNote): Promise<void> {
    this.#sequence += 1
    const from = this.newestOf(note.part)?.to ?? null
    await this.#write([{ kind: 'event', event: { ...note, from, sequence: this.#sequence, at: this.#clock.now() } }])
  }

  async forget(id: DomainId, cause: DomainCause = 'requested'): Promise<void> {
    const domain = this.#domains.get(id)
    if (!domain) return
    const event = this.#event(id, domain.name, domain.state.kind, null, { cause })
    await this.#write([{ kind: 'gone', id, event }])
  }

  /** Everything up to `sequence` has reached its reader for good. */
  async acknowledge(sequence: number): Promise<void> {
    if (sequence <= this.#acknowledged) return
    await this.#write([{ kind: 'acknowledged', sequence: Math.min(sequence, this.#sequence) }])
  }

  /**
   * Events after `after`, those kept first, then live: each reader goes through what is kept at its own pace. One that falls so far behind that
   * what comes next is not kept any more gets Fault `busy`, and comes back with its last sequence.
   */
  async *events(after: number, signal?: AbortSignal): AsyncGenerator<AgentEvent, void, undefined> {
    const reader: Reader = { wake: () => {}, isOver: signal?.aborted === true || this.#isClosed }
    const stop = (): void => {
      reader.isOver = true
      reader.wake()
    }
    signal?.addEventListener('abort', stop, { once: true })
    this.#readers.add(reader)
    let last = after
    let hasBegun = false
    try {
      while (!reader.isOver) {
        if (hasBegun && last < this.#dropped) throw new Fault('busy', `events: those behind ${last} are not kept any more`)
        const page = this.#pageAfter(last)
        hasBegun = true
        for (const event of page) {
          last = event.sequence
          yield event
        }
        // In one breath with the look at what is there.
        if (page.length === 0) await new Promise<void>((resolve) => (reader.wake = resolve))
      }
    } finally {
      signal?.removeEventListener('abort', stop)
      this.#readers.delete(reader)
    }
  }

  /** What is safe behind a sequence, a page of it. */
  #pageAfter(sequence: number): AgentEvent[] {
    let [low, high] = [0, this.#events.length]
    while (low < high) {
      const middle = (low + high) >> 1
      if ((this.#events[middle]?.sequence ?? 0) <= sequence) low = middle + 1
      else high = middle
    }
    const page = this.#events.slice(low, low + READER_PAGE)
    const end = page.findIndex((event) => event.sequence > this.#safeSequence)
    return end === -1 ? page : page.slice(0, end)
  }

  close(): void {
    this.#isClosed = true
    for (const reader of this.#readers) {
      reader.isOver = true
      reader.wake()
    }
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
      ...(note.dump ? { dump: note.dump } : {}),
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
    }
    for (const { wake } of this.#readers) wake()
  }

  #apply(record: LedgerRecord): void {
    if ('event' in record && record.event) {
      this.#sequence = Math.max(this.#sequence, record.event.sequence)
      this.#events.push(record.event)
      if (isHostEvent(record.event)) this.#parts.set(record.event.part, record.event)
      this.#trim()
    }
    switch (record.kind) {
      case 'domain':
        if (!this.#domains.has(record.domain.id) && this.#fences.has(record.domain.id)) this.#goneFenceCount -= 1
        // Those that were written before there were snapshots have none.
        this.#forgetName(record.domain.id)
        this.#domains.set(record.domain.id, { ...record.domain, snapshots: record.domain.snapshots ?? [] })
        this.#names.set(record.domain.name, record.domain.id)
        return
      case 'state': {
        const domain = this.#domains.get(record.id)
        if (domain) this.#domains.set(record.id, { ...domain, state: record.state })
        return
      }
      case 'gone': {
        const domain = this.#domains.get(record.id)
        if (domain) this.#forgetName(record.id)
        if (this.#domains.delete(record.id) && this.#fences.has(record.id)) this.#goneFenceCount += 1
        this.#forgetFences()
        return
      }
      case 'fence':
        if (!this.#fences.delete(record.id) && !this.#domains.has(record.id)) this.#goneFenceCount += 1
        this.#fences.set(record.id, record.fence)
        this.#forgetFences()
        return
      case 'horizon':
        this.#widen(record.id, record.fence)
        return
      case 'image':
        this.#images.set(record.name, record.command)
        return
      case 'journal':
        this.#journal = record.id
        return
      case 'boot':
        this.#boot = record.boot
        return
      case 'acknowledged':
        this.#acknowledged = Math.max(this.#acknowledged, record.sequence)
        return
      case 'sequence':
        this.#sequence = Math.max(this.#sequence, record.sequence)
        return
      case 'part':
        this.#parts.set(record.newest.part, record.newest)
        return
      case 'event':
        return
    }
  }

  /** Of one that gets another; whoever has it by now keeps it. */
  #forgetName(id: DomainId): void {
    const name = this.#domains.get(id)?.name
    if (name !== undefined && this.#names.get(name) === id) this.#names.delete(name)
  }

  /** Half at a time, so that the walk is paid for by as many domains that went. */
  #forgetFences(): void {
    if (this.#goneFenceCount < 2 * GONE_FENCES_KEPT) return
    for (const [id, fence] of this.#fences) {
      if (this.#goneFenceCount <= GONE_FENCES_KEPT) return
      if (this.#domains.has(id)) continue
      this.#fences.delete(id)
      this.#goneFenceCount -= 1
      this.#widen(id, fence)
    }
  }

  #widen(id: DomainId, fence: Fence): void {
    const now = this.#horizon ?? { id, fence }
    this.#horizon = { id: id > now.id ? id : now.id, fence: fence > now.fence ? fence : now.fence }
  }

  #trim(): void {
    // What nobody has acknowledged stays.
    if (this.#events.length < 2 * EVENTS_KEPT || (this.#events[0]?.sequence ?? 0) > this.#acknowledged) return
    const surplus = this.#events.length - EVENTS_KEPT
    const end = this.#events.findIndex((event, index) => index >= surplus || event.sequence > this.#acknowledged)
    this.#dropped = this.#events[end - 1]?.sequence ?? this.#dropped
    this.#events = this.#events.slice(end)
  }

  *#snapshot(): Iterable<LedgerRecord> {
    if (this.#journal !== null) yield { kind: 'journal', id: this.#journal }
    if (this.#boot !== null) yield { kind: 'boot', boot: this.#boot }
    if (this.#horizon !== null) yield { kind: 'horizon', ...this.#horizon }
    yield { kind: 'sequence', sequence: this.#sequence }
    yield { kind: 'acknowledged', sequence: this.#acknowledged }
    for (const newest of this.#parts.values()) yield { kind: 'part', newest }
    for (const event of this.#events) yield { kind: 'event', event }
    for (const domain of this.#domains.values()) yield { kind: 'domain', domain }
    for (const [name, command] of this.#images) yield { kind: 'image', name, command }
    for (const [id, fence] of this.#fences) yield { kind: 'fence', id, fence }
  }
}
