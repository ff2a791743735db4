/**
 * The engine runs sagas: it claims them from a store, runs their steps one after the other, and has each step's end committed before
 * the next begins. It keeps no truth of its own: after SIGKILL the next engine claims what is unfinished and goes on.
 *
 *   submit --> store --claim--> run: step --> commit --> step --> commit --> ... done
 *                ^                     |fault (final, or attempts used up), cancel
 *                |                     v
 *                +-- lost claim ---- undo <-- commit <-- undo ...   undone | stuck
 *
 * What can go wrong, and what happens:
 *   a step throws a retryable fault   it is run again after a growing pause; the attempt is committed, so it survives a restart
 *   a step throws anything else       the saga turns round, the failed step itself is undone first
 *   an undo fails for good            `stuck`: the resource stays held until a person decides (`settleStuck`)
 *   a commit throws                   nobody knows whether it was written: the run is dropped and claimed anew with a higher fence
 *   a commit answers `stale`          another owner has it: the run ends in silence
 *   a step throws `stale_fence`       a host has seen a higher fence: dropped as well, claimed anew if it is still ours
 *   the lease cannot be renewed       the step's signal is aborted before the lease ends elsewhere
 */
import {
  assert,
  Fault,
  millis,
  retryable,
  toFault,
  unreachable,
  type Clock,
  type FaultJson,
  type Json,
  type Log,
} from '@typevisor/base'
import { GroupCommitter } from './committer.ts'
import type {
  NewSaga,
  SagaDefinition,
  SagaEffect,
  SagaId,
  SagaRecord,
  SagaState,
  SagaStep,
  SagaStore,
  StepContext,
  StepOutcome,
  StuckVerdict,
} from './ports.ts'
import { retryPauseMs } from './retry.ts'
import { moved, settled, undoingFrom } from './states.ts'

export interface SagaEngineOptions<S> {
  readonly store: SagaStore
  /** Made with `defineSaga`; each has its own input type. */
  readonly sagas: readonly SagaDefinition<never, S>[]
  readonly services: S
  readonly clock: Clock
  readonly log: Log
  /** Stable over restarts of the same process role on the same host, e.g. `agent:host-1`. No two engines at work share one. */
  readonly owner: string
  /** Sagas run at the same time; default 64. */
  readonly concurrencyMax?: number
  /** After this time without a sign of life another owner takes over; default 15 s. */
  readonly leaseMs?: number
  /** How often the store is asked for sagas that came by another path; default 1 s. `wake` asks at once. */
  readonly pollMs?: number
  /** Told of each saga that this engine saw to its end, or to where it is stuck. For counting: what must not be missed is an effect. */
  readonly onSettled?: (record: SagaRecord) => void
}

export interface SagaEngine {
  /** Claims and resumes what is unfinished, then goes on until `stop`. */
  start(): Promise<void>
  /** Aborts running steps (they are resumed at the next start) and waits for them. */
  stop(): Promise<void>
  /** Idempotent on `id`. @throws Fault `busy` when another saga holds the resource, `unsupported` when no definition has the name. */
  submit(saga: NewSaga): Promise<SagaRecord>
  /** Tells the engine that a saga was created by another path (a PostgreSQL transaction of the caller's). */
  wake(): void
  /** Resolves when the saga is done, undone or stuck. Abort leaves the saga running. @throws Fault `not_found`. */
  wait(id: SagaId, options?: { signal?: AbortSignal | undefined }): Promise<SagaRecord>
  /** Asks that the saga be undone. Too late when its last step is done. */
  cancel(id: SagaId): Promise<void>
  /** Tries the undo of a stuck saga again, or lets go of its resource as it is. */
  settleStuck(id: SagaId, verdict: StuckVerdict): Promise<void>
  /** Ends the runs of sagas that were given up by another path (`pgAbandonSagas`): their steps are aborted now, not at the next renewal. */
  drop(ids: readonly SagaId[]): void
  progress(id: SagaId): SagaProgress | null
}

export interface SagaProgress {
  readonly step: string
  /** In [0, 1], of this step. */
  readonly fraction: number
  readonly message: string
}

const ATTEMPT_COUNT_MAX = 5
const GROUP_COUNT_MAX = 1024
const WAIT_POLL_MS_MAX = 2000
const CLAIM_PAUSE_MS_MAX = 5000
const CANCELLED = new Fault('aborted', 'cancelled')

/** Ends a run without a word: the store says, or may say, something newer. */
class ClaimDropped extends Error {
  override name = 'ClaimDropped'
}

interface Run<S> {
  record: SagaRecord
  readonly definition: SagaDefinition<never, S>
  readonly log: Log
  /** Ends every step: the engine stops, or the claim is lost. */
  readonly ending: AbortController
  /** Ends forward steps; follows `ending`. */
  readonly forwardEnding: AbortController
  cancelRequested: boolean
  /** Whether the step at hand may have run before this moment. */
  entered: boolean
  progress: SagaProgress | null
}

export function createSagaEngine<S>(options: SagaEngineOptions<S>): SagaEngine {
  return new Engine(options)
}

class Engine<S> implements SagaEngine {
  readonly #options: SagaEngineOptions<S>
  readonly #definitions: ReadonlyMap<string, SagaDefinition<never, S>>
  readonly #names: readonly string[]
  readonly #store: SagaStore
  readonly #clock: Clock
  readonly #log: Log
  readonly #committer: GroupCommitter
  readonly #concurrencyMax: number
  readonly #leaseMs: number
  readonly #runs = new Map<SagaId, Run<S>>()
  readonly #drives = new Set<Promise<void>>()
  readonly #waiters = new Map<SagaId, Set<(record: SagaRecord) => void>>()
  readonly #stopping = new AbortController()
  readonly #unreleased = new Set<SagaId>()
  /** What was logged: the fault of a group is one fault, though it ends many runs. */
  readonly #told = new WeakSet<Fault>()
  #wakeUp: () => void = () => {}
  /** Whether a claim may find something: asked by `wake`, or the last claim got all that it wanted. */
  #mayHaveMore = true
  #loops: Promise<unknown> | undefined

  constructor(options: SagaEngineOptions<S>) {
    this.#options = options
    this.#store = options.store
    this.#clock = options.clock
    this.#log = options.log.with({ owner: options.owner })
    this.#definitions = new Map(options.sagas.map((definition) => [definition.name, definition]))
    assert(this.#definitions.size === options.sagas.length, 'saga names are unique')
    this.#names = [...this.#definitions.keys()]
    this.#committer = new GroupCommitter(options.store, GROUP_COUNT_MAX)
    this.#concurrencyMax = options.concurrencyMax ?? 64
    this.#leaseMs = options.leaseMs ?? 15_000
  }

  async start(): Promise<void> {
    assert(!this.#loops && !this.#stopping.signal.aborted, 'an engine is started once')
    const unfinished = await this.#store.list({ unfinished: true, limit: 1000 })
    for (const { id, name, state } of unfinished) {
      if (!this.#definitions.has(name)) this.#log.warn('saga.unknown', { saga: id, name })
      if (state.kind === 'stuck') this.#log.warn('saga.still_stuck', { saga: id, name, fault: state.undoFault.message })
    }
    await this.#claimOnce()
    this.#loops = Promise.all([this.#claimLoop(), this.#renewLoop()])
  }

  async stop(): Promise<void> {
    if (!this.#stopping.signal.aborted) {
      this.#stopping.abort(new Fault('aborted', 'the engine stops'))
      for (const run of this.#runs.values()) this.#end(run, this.#stopping.signal.reason)
      this.#wakeUp()
    }
    await this.#loops
    while (this.#drives.size > 0) await Promise.all(this.#drives)
    // Gives the leases back, so that another owner need not wait for them to run out.
    const ids = [...this.#unreleased]
    if (ids.length > 0) await this.#store.renew({ owner: this.#options.owner, leaseMs: 0, ids }).catch(() => {})
  }

  async submit(saga: NewSaga): Promise<SagaRecord> {
    if (!this.#definitions.has(saga.name)) throw new Fault('unsupported', `submit saga ${saga.name}: no such definition here`)
    const record = await this.#store.create(saga)
    this.wake()
    return record
  }

  wake(): void {
    this.#mayHaveMore = true
    this.#wakeUp()
  }

  async wait(id: SagaId, options: { signal?: AbortSignal | undefined } = {}): Promise<SagaRecord> {
    const { signal } = options
    const waiters = this.#waiters.get(id) ?? new Set()
    this.#waiters.set(id, waiters)
    let resolve: (record: SagaRecord) => void = () => {}
    const here = new Promise<SagaRecord>((done) => (resolve = done))
    waiters.add(resolve)
    const over = new AbortController()
    const sleepSignal = signal ? AbortSignal.any([signal, over.signal]) : over.signal
    try {
      // Asked for again and again because the saga may be run by another process.
      for (let pauseMs = 50; ; pauseMs = Math.min(pauseMs * 2, WAIT_POLL_MS_MAX)) {
        signal?.throwIfAborted()
        const record = await this.#store.get(id).catch((error: unknown): 'not known' => {
          // The saga goes on without us looking; so does the waiting.
          if (retryable(error)) return 'not known'
          throw error
        })
        if (!record) throw new Fault('not_found', `wait for saga ${id}: no such saga`)
        if (record !== 'not known' && settled(record.state)) return record
        // A run of this engine announces its end; the question is then only for the case that another owner takes it over.
        const patienceMs = this.#runs.has(id) ? WAIT_POLL_MS_MAX : pauseMs
        const pause = this.#clock.sleep(millis(patienceMs), { signal: sleepSignal }).then(
          () => null,
          (error: unknown) => {
            if (over.signal.aborted) return null
            throw error
          },
        )
        const ended = await Promise.race([here, pause])
        if (ended) return ended
      }
    } finally {
      over.abort()
      waiters.delete(resolve)
      if (waiters.size === 0) this.#waiters.delete(id)
    }
  }

  async cancel(id: SagaId): Promise<void> {
    await this.#store.requestCancel(id)
    const run = this.#runs.get(id)
    if (run) this.#cancel(run)
    else this.wake()
  }

  async settleStuck(id: SagaId, verdict: StuckVerdict): Promise<void> {
    await this.#store.settleStuck(id, verdict)
    this.#log.info('saga.stuck_settled', { saga: id, verdict })
    this.wake()
  }

  drop(ids: readonly SagaId[]): void {
    for (const id of ids) {
      const run = this.#runs.get(id)
      if (run) this.#end(run, new ClaimDropped('the saga was given up'))
    }
  }

  progress(id: SagaId): SagaProgress | null {
    return this.#runs.get(id)?.progress ?? null
  }

  // ---- claims

  async #claimOnce(): Promise<void> {
    const limit = this.#concurrencyMax - this.#runs.size
    this.#mayHaveMore = false
    const { owner } = this.#options
    const exclude = new Set(this.#runs.keys())
    const records = await this.#store.claim({ owner, leaseMs: this.#leaseMs, limit, names: this.#names, exclude })
    if (records.length === limit) this.#mayHaveMore = true
    for (const record of records) this.#launch(record)
  }

  async #claimLoop(): Promise<void> {
    const { signal } = this.#stopping
    const pollMs = this.#options.pollMs ?? 1000
    let failureCount = 0
    while (!signal.aborted) {
      const full = this.#runs.size >= this.#concurrencyMax
      if (full || !this.#mayHaveMore) {
        await this.#pause(pollMs)
        if (full) continue
      }
      if (signal.aborted) return
      try {
        await this.#claimOnce()
        failureCount = 0
      } catch (error) {
        failureCount += 1
        const fault = toFault(error)
        const pauseMs = Math.min(retryPauseMs(this.#options.owner, failureCount), CLAIM_PAUSE_MS_MAX)
        this.#log.warn('saga.claim_failed', { fault: fault.message, code: fault.code, pauseMs })
        await this.#clock.sleep(millis(pauseMs), { signal }).catch(() => {})
        this.#mayHaveMore = true
      }
    }
  }

  /** Until somebody calls `#wakeUp` or the time is over. */
  async #pause(durationMs: number): Promise<void> {
    const over = new AbortController()
    const woken = new Promise<void>((resolve) => (this.#wakeUp = resolve))
    await Promise.race([woken, this.#clock.sleep(millis(durationMs), { signal: over.signal }).catch(() => {})])
    over.abort()
  }

  async #renewLoop(): Promise<void> {
    const { signal } = this.#stopping
    let renewedAt = this.#clock.monotonic()
    while (!signal.aborted) {
      await this.#clock.sleep(millis(this.#leaseMs / 3), { signal }).catch(() => {})
      if (signal.aborted) return
      const runs = [...this.#runs.values()]
      const askedAt = this.#clock.monotonic()
      if (runs.length === 0) {
        renewedAt = askedAt
        continue
      }
      try {
        const ids = runs.map((run) => run.record.id)
        const held = await this.#store.renew({ owner: this.#options.owner, leaseMs: this.#leaseMs, ids })
        renewedAt = askedAt
        for (const run of runs) {
          const answer = held.get(run.record.id)
          if (answer === 'cancel') this.#cancel(run)
          if (answer === undefined && this.#runs.get(run.record.id) === run)
            this.#end(run, new ClaimDropped('another owner holds the saga'))
        }
      } catch (error) {
        const fault = toFault(error)
        this.#log.warn('saga.renew_failed', { fault: fault.message, code: fault.code })
        if (this.#clock.monotonic() - renewedAt < (this.#leaseMs * 2) / 3) continue
        for (const run of runs) this.#end(run, new ClaimDropped('the lease could not be renewed'))
      }
    }
  }

  #end(run: Run<S>, reason: unknown): void {
    run.ending.abort(reason)
    run.forwardEnding.abort(reason)
  }

  #cancel(run: Run<S>): void {
    if (run.cancelRequested || run.record.state.kind !== 'running') return
    run.cancelRequested = true
    run.forwardEnding.abort(CANCELLED)
  }

  // ---- one run

  #launch(record: SagaRecord): void {
    const definition = this.#definitions.get(record.name)
    assert(definition, `saga ${record.name} was claimed though it was not asked for`)
    const run: Run<S> = {
      record,
      definition,
      log: this.#log.with({ saga: record.id, name: record.name, resource: record.resource }),
      ending: new AbortController(),
      forwardEnding: new AbortController(),
      cancelRequested: record.cancelRequested,
      entered: record.attempt > 1,
      progress: null,
    }
    this.#runs.set(record.id, run)
    if (this.#stopping.signal.aborted) this.#end(run, this.#stopping.signal.reason)
    if (run.entered) run.log.info('saga.resumed', { state: record.state.kind, attempt: record.attempt, fence: record.fence })
    const drive = this.#drive(run).finally(() => {
      this.#drives.delete(drive)
      this.#runs.delete(record.id)
      if (!settled(run.record.state)) {
        this.#unreleased.add(record.id)
        this.#mayHaveMore = true
      }
      if (this.#mayHaveMore) this.#wakeUp()
    })
    this.#drives.add(drive)
  }

  async #drive(run: Run<S>): Promise<void> {
    try {
      while (!settled(run.record.state) && !run.ending.signal.aborted) await this.#advance(run)
      if (settled(run.record.state)) this.#announce(run)
    } catch (error) {
      if (error instanceof ClaimDropped) {
        run.log.debug('saga.dropped', { reason: error.message })
        return
      }
      // A defect of the engine or the store, or a commit whose fate is unknown: the claim loop takes the saga up again.
      const fault = toFault(error)
      if (!this.#told.has(fault)) run.log.error('saga.run_failed', { fault: fault.message, code: fault.code })
      this.#told.add(fault)
      const pauseMs = retryPauseMs(run.record.id, run.record.attempt)
      await this.#clock.sleep(millis(pauseMs), { signal: this.#stopping.signal }).catch(() => {})
    }
  }

  async #advance(run: Run<S>): Promise<void> {
    const { state } = run.record
    switch (state.kind) {
      case 'running':
        return this.#forward(run, state)
      case 'undoing':
        return this.#backward(run, state)
      case 'done':
      case 'undone':
      case 'stuck':
        return
      default:
        unreachable(state)
    }
  }

  async #forward(run: Run<S>, state: SagaState & { kind: 'running' }): Promise<void> {
    const { stepIndex } = state
    const { steps, onDone } = run.definition
    const step = steps[stepIndex]
    if (run.cancelRequested) return this.#turnRound(run, CANCELLED, run.entered ? stepIndex : stepIndex - 1)
    let outcome: StepOutcome | void = undefined
    if (step) {
      const attempt = await this.#attempt(run, step, step.do, run.forwardEnding.signal)
      if (attempt.kind === 'retry') return
      if (attempt.kind === 'failed') return this.#turnRound(run, run.cancelRequested ? CANCELLED : attempt.fault, stepIndex)
      outcome = attempt.outcome
    }
    const last = stepIndex + 1 >= steps.length
    const output = step && outcome?.output !== undefined ? { step: step.name, value: outcome.output } : undefined
    const next: SagaState = last ? { kind: 'done' } : { kind: 'running', stepIndex: stepIndex + 1 }
    const refused = await this.#commit(run, next, {
      output,
      effects: () => [...(outcome?.effects ?? []), ...((last && onDone?.(this.#context(run, run.ending.signal, output))) || [])],
    })
    run.entered = false
    if (refused) {
      run.log.warn('saga.effects_refused', { step: step?.name, fault: refused.message, code: refused.code })
      return this.#turnRound(run, refused, stepIndex)
    }
  }

  async #turnRound(run: Run<S>, fault: Fault, stepIndex: number): Promise<void> {
    run.log.warn('saga.turned_round', { step: run.definition.steps[stepIndex]?.name, fault: fault.message, code: fault.code })
    await this.#commitUndo(run, stepIndex, fault.toJSON(), [])
  }

  async #backward(run: Run<S>, state: SagaState & { kind: 'undoing' }): Promise<void> {
    const { stepIndex, fault } = state
    const step = run.definition.steps[stepIndex]
    let outcome: StepOutcome | void = undefined
    if (step?.undo) {
      const attempt = await this.#attempt(run, step, step.undo, run.ending.signal)
      if (attempt.kind === 'retry') return
      if (attempt.kind === 'failed') return this.#getStuck(run, stepIndex, fault, attempt.fault)
      outcome = attempt.outcome
    }
    await this.#commitUndo(run, stepIndex - 1, fault, outcome?.effects ?? [])
  }

  /** Commits that the step at `stepIndex` is to be undone next; below 0 all is undone, which brings the definition's `onFailed` effects. */
  async #commitUndo(run: Run<S>, stepIndex: number, fault: FaultJson, effects: readonly SagaEffect[]): Promise<void> {
    const next = undoingFrom(stepIndex, fault)
    const failed = () =>
      (next.kind === 'undone' && run.definition.onFailed?.(this.#context(run, run.ending.signal), fault, 'undone')) || []
    const refused = await this.#commit(run, next, { effects: () => [...effects, ...failed()] })
    if (refused) await this.#getStuck(run, stepIndex + 1, fault, refused)
  }

  async #getStuck(run: Run<S>, stepIndex: number, fault: FaultJson, undoFault: Fault): Promise<void> {
    const next: SagaState = { kind: 'stuck', stepIndex, fault, undoFault: undoFault.toJSON() }
    const effects = () => run.definition.onFailed?.(this.#context(run, run.ending.signal), fault, 'stuck') ?? []
    const refused = await this.#commit(run, next, { effects })
    if (!refused) return
    run.log.error('saga.effects_refused', { step: 'onFailed', fault: refused.message, code: refused.code })
    const refusedAgain = await this.#commit(run, next, { effects: () => [] })
    if (refusedAgain) throw refusedAgain
  }

  /** Runs `work` once. A retryable fault is committed as one more attempt, then waited for. */
  async #attempt(
    run: Run<S>,
    step: SagaStep<never, S>,
    work: SagaStep<never, S>['do'],
    signal: AbortSignal,
  ): Promise<{ kind: 'ok'; outcome: StepOutcome | void } | { kind: 'retry' } | { kind: 'failed'; fault: Fault }> {
    const { record } = run
    run.entered = true
    run.progress = { step: step.name, fraction: 0, message: '' }
    try {
      return { kind: 'ok', outcome: await work(this.#stepContext(run, step, signal)) }
    } catch (error) {
      const fault = toFault(error)
      if (run.ending.signal.aborted) throw new ClaimDropped('the run was ended during a step', { cause: error })
      if (fault.code === 'stale_fence') await this.#fenceRefused(run, fault)
      if (run.cancelRequested && record.state.kind === 'running') return { kind: 'failed', fault: CANCELLED }
      const { attempt } = record
      const attemptCountMax = step.attemptCountMax ?? ATTEMPT_COUNT_MAX
      if (!retryable(fault) || attempt >= attemptCountMax) {
        if (fault.code === 'internal')
          run.log.error('saga.step_defect', { step: step.name, fault: fault.message, stack: stackOf(fault) })
        return { kind: 'failed', fault }
      }
      const pauseMs = retryPauseMs(record.id, attempt)
      run.log.info('saga.step_retried', { step: step.name, attempt, pauseMs, fault: fault.message, code: fault.code })
      const refused = await this.#commit(run, record.state, { attempt: attempt + 1, effects: () => [] })
      if (refused) return { kind: 'failed', fault: refused }
      // An abort only ends the pause: the caller's loop sees why.
      await this.#clock.sleep(millis(pauseMs), { signal }).catch(() => {})
      return { kind: 'retry' }
    } finally {
      run.progress = null
    }
  }

  /** A host has seen a higher fence. Either another owner took over, or the host remembers fences that the store lost: a new claim brings a higher one. */
  async #fenceRefused(run: Run<S>, fault: Fault): Promise<never> {
    const { id } = run.record
    const held = await this.#store.renew({ owner: this.#options.owner, leaseMs: this.#leaseMs, ids: [id] })
    if (held.has(id)) {
      const pauseMs = retryPauseMs(id, run.record.attempt)
      run.log.warn('saga.fence_refused', { fence: run.record.fence, pauseMs, fault: fault.message })
      await this.#clock.sleep(millis(pauseMs), { signal: run.ending.signal }).catch(() => {})
    }
    throw new ClaimDropped('a host has seen a higher fence', { cause: fault })
  }

  /** Answers the fault when the store or the definition refused the effects: nothing was written then. */
  async #commit(
    run: Run<S>,
    state: SagaState,
    change: {
      output?: { step: string; value: Json } | undefined
      attempt?: number
      effects: () => readonly SagaEffect[]
    },
  ): Promise<Fault | null> {
    const { output, attempt = 1 } = change
    const { id, fence } = run.record
    let effects: readonly SagaEffect[]
    try {
      effects = change.effects()
      // What is no JSON (a cycle, a BigInt) is the step's defect, and must not reach the store in a group with others.
      if (output) JSON.stringify(output.value)
    } catch (error) {
      return toFault(error)
    }
    const answer = await this.#committer.commit({ id, fence, state, ...(output ? { output } : {}), attempt, effects })
    if (answer instanceof Fault) return answer
    if (answer === 'stale') throw new ClaimDropped('another owner committed')
    run.record = moved(run.record, { state, output, attempt, updatedAt: this.#clock.now() })
    if (answer === 'cancel') this.#cancel(run)
    return null
  }

  #context(run: Run<S>, signal: AbortSignal, output?: { step: string; value: Json }): Omit<StepContext<never, S>, 'progress'> {
    const { id, resource, input, outputs, fence, attempt } = run.record
    return {
      sagaId: id,
      resource,
      // The input was JSON when it was submitted under this definition's name; `never` stands for the definition's own type.
      input: input as never,
      outputs: output === undefined ? outputs : { ...outputs, [output.step]: output.value },
      fence,
      attempt,
      services: this.#options.services,
      signal,
      log: run.log,
    }
  }

  #stepContext(run: Run<S>, step: SagaStep<never, S>, signal: AbortSignal): StepContext<never, S> {
    return {
      ...this.#context(run, signal),
      progress: (fraction, message = '') => {
        if (run.progress?.step === step.name)
          run.progress = { step: step.name, fraction: Math.min(Math.max(fraction, 0), 1), message }
      },
    }
  }

  #announce(run: Run<S>): void {
    const { record } = run
    const { state } = record
    if (state.kind === 'stuck') run.log.error('saga.stuck', { fault: state.fault.message, undoFault: state.undoFault.message })
    else run.log.info(`saga.${state.kind}`, state.kind === 'undone' ? { fault: state.fault.message, code: state.fault.code } : {})
    this.#options.onSettled?.(record)
    for (const resolve of this.#waiters.get(record.id) ?? []) resolve(record)
  }
}

const stackOf = (fault: Fault): string | undefined => (fault.cause instanceof Error ? fault.cause.stack : fault.stack)
