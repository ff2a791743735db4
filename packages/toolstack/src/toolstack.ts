import { Fault, faultFromJson, retryable, toFault, type Clock, type Json, type Log } from '@typevisor/base'
import type {
  DomainEvent,
  DomainId,
  DomainRecord,
  DomainSpec,
  DomainState,
  DomainStatistics,
  ExecResult,
  GuestAddress,
  VerbName,
} from '@typevisor/model'
import {
  createSagaEngine,
  fence as toFence,
  fileSagaStore,
  sagaId,
  type SagaEngine,
  type SagaId,
  type SagaRecord,
  type SagaStore,
  type StateFile,
} from '@typevisor/saga'
import type { ImageStore } from '@typevisor/image'
import type { VolumeStore } from '@typevisor/storage'
import { Ledger } from './ledger.ts'
import type {
  ConsoleOptions,
  ConsoleSlice,
  DomainDriver,
  DriverCapabilities,
  DriverEvent,
  ExecRequest,
  GuestStream,
} from './ports.ts'
import { holdsProcess, stateFromDriver } from './state.ts'
import { toRecord, type StoredDomain } from './stored-domain.ts'
import { TOOLSTACK_SAGAS, type SaveFolder, type ToolstackServices } from './verbs.ts'

export interface ToolstackOptions {
  readonly driver: DomainDriver
  readonly volumes: VolumeStore
  readonly images: Pick<ImageStore, 'get'>
  /** Where sagas, domains, fences and events are kept; not opened yet, and the toolstack's own from then on. */
  readonly state: StateFile
  readonly saves: SaveFolder
  readonly clock: Clock
  readonly log: Log
  /** Names this toolstack among the users of the saga store. */
  readonly owner: string
}

/**
 * `commandId` makes a command idempotent: given twice it is done once, also over a crash. `fence` goes with commands of a control
 * plane; one that is lower than the highest seen for the domain is refused (`stale_fence`).
 */
export interface CommandOptions {
  readonly commandId: string
  readonly fence?: number
  /** Abort stops the waiting, not the command. */
  readonly signal?: AbortSignal | undefined
}

export interface ReadOptions {
  readonly signal?: AbortSignal | undefined
}

export interface Toolstack {
  capabilities(options?: ReadOptions): Promise<DriverCapabilities>
  list(): DomainRecord[]
  get(id: DomainId): DomainRecord | null
  /** Makes disks and record; the domain is `stopped`. */
  define(id: DomainId, spec: DomainSpec, options: CommandOptions): Promise<DomainRecord>
  /** Carries out a verb of `VERBS`; null when the domain is gone by it. @throws Fault `conflict` from a state in which the table does not allow it. */
  carryOut(verb: VerbName, id: DomainId, options: CommandOptions & { timeoutMs?: number }): Promise<DomainRecord | null>
  /** Transitions after `afterSequence`: kept ones, then live. At least once, in order. */
  events(afterSequence: number, options?: ReadOptions): AsyncIterable<DomainEvent>
  acknowledge(sequence: number): Promise<void>
  /** Sequence of the newest transition; `list` and `get` show at least it. */
  lastSequence(): number
  statistics(id: DomainId, options?: ReadOptions): Promise<DomainStatistics>
  exec(id: DomainId, request: ExecRequest, options?: ReadOptions): Promise<ExecResult>
  addresses(id: DomainId, options?: ReadOptions): Promise<readonly GuestAddress[]>
  openConsole(id: DomainId, options?: ConsoleOptions): Promise<GuestStream>
  readConsole(id: DomainId, fromOffset: number, sizeMax: number, options?: ReadOptions): Promise<ConsoleSlice>
  openVnc(id: DomainId, options?: ReadOptions): Promise<GuestStream>
  /** Lets go; domains go on, and the next toolstack on the same ledger adopts them. */
  close(): Promise<void>
}

/** Adopts what runs, resumes what was cut short, and serves. */
export async function openToolstack(options: ToolstackOptions): Promise<Toolstack> {
  const toolstack = new SagaToolstack(options)
  await toolstack.open()
  return toolstack
}

class SagaToolstack implements Toolstack {
  readonly #options: ToolstackOptions
  readonly #ledger: Ledger
  readonly #engine: SagaEngine
  readonly #sagas: SagaStore
  readonly #intents = new Map<DomainId, VerbName>()
  /** Domains of which a driver's event was left to the verb at work. */
  readonly #missed = new Set<DomainId>()
  readonly #waiters = new Map<DomainId, Set<() => void>>()
  readonly #closing = new AbortController()
  #watching: Promise<void> = Promise.resolve()

  constructor(options: ToolstackOptions) {
    this.#options = options
    this.#ledger = new Ledger(options.state, options.clock)
    this.#sagas = fileSagaStore({ state: options.state, clock: options.clock })
    const services: ToolstackServices = {
      driver: options.driver,
      volumes: options.volumes,
      images: options.images,
      ledger: this.#ledger,
      saves: options.saves,
      clock: options.clock,
      untilNotRunning: (id, signal) => this.#untilNotRunning(id, signal),
      look: async (id, signal) => this.#follow(id, await options.driver.state(id, { signal }), true),
      intend: (id, verb) => this.#intend(id, verb),
    }
    this.#engine = createSagaEngine({
      store: this.#sagas,
      sagas: Object.values(TOOLSTACK_SAGAS),
      services,
      clock: options.clock,
      log: options.log,
      owner: options.owner,
    })
  }

  async open(): Promise<void> {
    const { state, log } = this.#options
    await state.open()
    const unfinished = await this.#sagas.list({ unfinished: true })
    // A domain that a saga holds is left to it: the saga knows what it was doing, and says so in its own transition.
    const held = new Set(unfinished.map((saga) => saga.resource))
    await this.#adopt(held)
    this.#watching = this.#watch()
    await this.#engine.start()
    for (const saga of unfinished) {
      void this.#engine
        .wait(saga.id, { signal: this.#closing.signal })
        .then(() => this.#adopt(new Set(), new Set([saga.resource])))
        .catch((error: unknown) => {
          if (!this.#closing.signal.aborted)
            log.error('toolstack.resume_failed', { saga: saga.id, error: toFault(error).message })
        })
    }
  }

  capabilities(options?: ReadOptions): Promise<DriverCapabilities> {
    return this.#options.driver.capabilities(options)
  }
  list(): DomainRecord[] {
    return this.#ledger.list().map(toRecord)
  }
  get(id: DomainId): DomainRecord | null {
    const stored = this.#ledger.get(id)
    return stored && toRecord(stored)
  }

  async define(id: DomainId, spec: DomainSpec, options: CommandOptions): Promise<DomainRecord> {
    await this.#command('domain.define', id, { id, spec } as unknown as Json, options)
    return toRecord(this.#ledger.need(id))
  }

  async carryOut(verb: VerbName, id: DomainId, options: CommandOptions & { timeoutMs?: number }): Promise<DomainRecord | null> {
    const input = options.timeoutMs === undefined ? { id } : { id, timeoutMs: options.timeoutMs }
    await this.#command(`domain.${verb}`, id, input, options)
    return this.get(id)
  }

  events(afterSequence: number, options?: ReadOptions): AsyncIterable<DomainEvent> {
    const signal = options?.signal ? AbortSignal.any([options.signal, this.#closing.signal]) : this.#closing.signal
    return this.#ledger.events(afterSequence, signal)
  }
  acknowledge(sequence: number): Promise<void> {
    return this.#ledger.acknowledge(sequence)
  }

  lastSequence(): number {
    return this.#ledger.lastSequence
  }

  async statistics(id: DomainId, options?: ReadOptions): Promise<DomainStatistics> {
    return this.#options.driver.statistics(this.#live(id, 'statistics').id, options)
  }
  async exec(id: DomainId, request: ExecRequest, options?: ReadOptions): Promise<ExecResult> {
    return this.#options.driver.exec(this.#running(id, 'exec').id, request, options)
  }
  async addresses(id: DomainId, options?: ReadOptions): Promise<readonly GuestAddress[]> {
    return this.#options.driver.addresses(this.#running(id, 'addresses').id, options)
  }
  async openConsole(id: DomainId, options?: ConsoleOptions): Promise<GuestStream> {
    return this.#options.driver.openConsole(this.#live(id, 'console').id, options)
  }
  async readConsole(id: DomainId, fromOffset: number, sizeMax: number, options?: ReadOptions): Promise<ConsoleSlice> {
    return this.#options.driver.readConsole(this.#ledger.need(id).id, fromOffset, sizeMax, options)
  }
  async openVnc(id: DomainId, options?: ReadOptions): Promise<GuestStream> {
    return this.#options.driver.openVnc(this.#live(id, 'vnc').id, options)
  }

  async close(): Promise<void> {
    this.#closing.abort(new Fault('aborted', 'the toolstack closes'))
    await this.#engine.stop()
    await this.#options.driver.close()
    await this.#watching
    this.#ledger.close()
    await this.#options.state.close()
  }

  #live(id: DomainId, what: string): StoredDomain {
    const domain = this.#ledger.need(id)
    if (!holdsProcess(domain.state.kind))
      throw new Fault('conflict', `${what} ${domain.name}: it is ${domain.state.kind}, want running or paused`)
    return domain
  }
  #running(id: DomainId, what: string): StoredDomain {
    const domain = this.#ledger.need(id)
    if (domain.state.kind !== 'running')
      throw new Fault('conflict', `${what} ${domain.name}: it is ${domain.state.kind}, want running`)
    return domain
  }

  async #command(name: string, id: DomainId, input: Json, options: CommandOptions): Promise<void> {
    options.signal?.throwIfAborted()
    if (options.fence !== undefined) await this.#ledger.admit(id, toFence(options.fence))
    if (name === 'domain.destroy') await this.#letGo(id)
    const saga = name === 'domain.destroy' ? await this.#runOf(options.commandId) : sagaId(options.commandId)
    await this.#engine.submit({ id: saga, name, resource: id, input })
    const settled = await this.#engine.wait(saga, { signal: options.signal })
    throwUnlessDone(settled)
  }

  /**
   * The saga of a destruction. One that was undone for a reason that passes has not been done: given again, it is tried again, since an
   * owner that undoes a creation gives the same command until the domain is gone. Other commands fail for good, and their owner gives another.
   */
  async #runOf(commandId: string): Promise<SagaId> {
    for (let run = 1; ; run += 1) {
      const id = sagaId(run === 1 ? commandId : `${commandId}~${run}`)
      const known = await this.#sagas.get(id)
      if (known?.state.kind !== 'undone' || !retryable(faultFromJson(known.state.fault))) return id
    }
  }

  /** A domain that a stuck saga holds can still be destroyed: nothing of what could not be undone is wanted any more. */
  async #letGo(id: DomainId): Promise<void> {
    for (const { id: saga, state } of await this.#sagas.list({ unfinished: true, resource: id })) {
      if (state.kind === 'stuck') await this.#engine.settleStuck(saga, 'abandon')
    }
  }

  /** Compares what was thought with what is there. `skip`: domains that a saga holds; `only`: no others. */
  async #adopt(skip: ReadonlySet<string>, only?: ReadonlySet<string>): Promise<void> {
    const { driver, log } = this.#options
    const domains = this.#ledger.list().filter((domain) => !only || only.has(domain.id))
    if (domains.length === 0) return
    const seen = await driver.adopt(domains)
    for (const domain of domains) {
      const state = seen.get(domain.id)
      if (!state || skip.has(domain.id)) continue
      await this.#follow(domain.id, state, true).catch((error: unknown) =>
        log.error('toolstack.adopt_failed', { domain: domain.id, error: toFault(error).message }),
      )
    }
  }

  async #watch(): Promise<void> {
    const { driver, log } = this.#options
    while (!this.#closing.signal.aborted) {
      try {
        for await (const event of driver.events({ signal: this.#closing.signal })) {
          await this.#onEvent(event).catch((error: unknown) =>
            log.error('toolstack.event_failed', { domain: event.domain, error: toFault(error).message }),
          )
        }
        return
      } catch (error) {
        if (this.#closing.signal.aborted) return
        // The reader was too slow and events are lost: ask for the states themselves.
        log.warn('toolstack.events_lost', { error: toFault(error).message })
        await this.#adopt(new Set(this.#intents.keys()))
      }
    }
  }

  async #onEvent(event: DriverEvent): Promise<void> {
    if (!this.#ledger.get(event.domain)) return
    if (event.kind === 'reset') {
      const cause = this.#intents.get(event.domain) === 'reboot' ? 'requested' : 'guest'
      await this.#ledger.noteReset(event.domain, { cause })
      return
    }
    // Somebody of ours ended it, and writes what that means.
    if (event.state.kind === 'gone' && event.state.cause === 'requested') return
    const intent = this.#intents.get(event.domain)
    // Verbs write their own transitions; only a shutdown waits for the guest to make it.
    if (intent !== undefined && intent !== 'shutdown' && event.state.kind !== 'crashed') {
      this.#missed.add(event.domain)
      return
    }
    await this.#follow(event.domain, event.state, false)
  }

  #intend(id: DomainId, verb: VerbName | null): void {
    if (verb !== null) {
      this.#intents.set(id, verb)
      return
    }
    this.#intents.delete(id)
    // The guest may have done something of its own while the verb was at work: look once more.
    if (!this.#missed.delete(id) || this.#closing.signal.aborted) return
    void this.#options.driver
      .state(id, { signal: this.#closing.signal })
      .then(async (seen) => (this.#ledger.get(id) && !this.#intents.has(id) ? this.#follow(id, seen, false) : undefined))
      .catch((error: unknown) => {
        if (!this.#closing.signal.aborted)
          this.#options.log.error('toolstack.look_failed', { domain: id, error: toFault(error).message })
      })
  }

  async #follow(id: DomainId, seen: Parameters<typeof stateFromDriver>[1], reconstructed: boolean): Promise<void> {
    const domain = this.#ledger.need(id)
    const requested = this.#intents.get(id) === 'shutdown' && (seen.kind === 'powered-off' || seen.kind === 'gone')
    const next: DomainState | null = requested
      ? { kind: 'stopped', cause: 'requested', detail: null }
      : stateFromDriver(domain.state.kind, seen)
    if (next) {
      const cause = 'cause' in next ? next.cause : reconstructed ? 'adopted' : 'guest'
      await this.#ledger.enter(id, next, { cause, detail: 'detail' in next ? next.detail : null, reconstructed })
    }
    // The process of a guest that is off is kept only until the transition is safe.
    const now = this.#ledger.get(id)?.state.kind
    if (seen.kind === 'powered-off' && now === 'stopped') await this.#options.driver.destroy(id)
    if (now !== undefined && now !== 'running') for (const wake of this.#waiters.get(id) ?? []) wake()
  }

  async #untilNotRunning(id: DomainId, signal: AbortSignal): Promise<void> {
    const running = () => this.#ledger.get(id)?.state.kind === 'running'
    if (!running()) return
    await new Promise<void>((resolve, reject) => {
      const waiters = this.#waiters.get(id) ?? new Set()
      this.#waiters.set(id, waiters)
      const end = (settle: () => void) => {
        waiters.delete(wake)
        if (waiters.size === 0) this.#waiters.delete(id)
        signal.removeEventListener('abort', abort)
        settle()
      }
      const wake = () => end(resolve)
      const abort = () => end(() => reject(toFault(signal.reason)))
      waiters.add(wake)
      signal.addEventListener('abort', abort, { once: true })
      if (signal.aborted) abort()
    })
  }
}

function throwUnlessDone(saga: SagaRecord): void {
  const { state } = saga
  if (state.kind === 'undone') throw faultFromJson(state.fault)
  if (state.kind === 'stuck') {
    throw new Fault('failed', `${saga.name} failed (${state.fault.message}) and could not be undone: ${state.undoFault.message}`)
  }
}
