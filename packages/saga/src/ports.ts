import type { Brand, EpochMillis, Fault, FaultJson, Json, Log } from '@typevisor/base'

/** One run of one saga (UUIDv7). The caller chooses it, so that submitting twice is submitting once. */
export type SagaId = Brand<string, 'SagaId'>

/**
 * Grows with every claim of any saga of a store. It goes with every command to a host, and a host refuses a command
 * whose fence is lower than the highest it has seen for the same resource: an owner that was taken for dead can do no harm.
 */
export type Fence = Brand<number, 'Fence'>

export const sagaId = (text: string): SagaId => text as SagaId
export const fence = (value: number): Fence => value as Fence

/**
 * What a step gets. Everything in it except `signal`, `fence`, `attempt` and `log` is the same at every run of the step.
 * @typeParam I the saga's input (JSON). @typeParam S the services that the composition root handed to the engine.
 */
export interface StepContext<I, S> {
  readonly sagaId: SagaId
  readonly resource: string
  readonly input: I
  /** Outputs of the steps that are done, by step name. */
  readonly outputs: Readonly<Record<string, Json>>
  readonly fence: Fence
  /** 1 at the first run of this step; more after a crash or a retryable fault. */
  readonly attempt: number
  readonly services: S
  /** Aborted when the engine stops, the saga is cancelled (forward steps only) or its claim is lost. */
  readonly signal: AbortSignal
  readonly log: Log
  /** Reports progress of this step in [0, 1], kept in memory only. */
  progress(fraction: number, message?: string): void
}

/**
 * What a step hands back. `effects` are committed in the same transaction as the fact that the step is done, so they
 * happen exactly once: for the PostgreSQL store they are SQL statements, for the others a function per effect.
 */
export interface StepOutcome {
  readonly output?: Json
  readonly effects?: readonly SagaEffect[]
}

/**
 * `sql` runs in the transaction that records the step (PostgreSQL store). `call` runs synchronously while the step is recorded
 * (memory and file store): what it writes to the same state file goes to disk in the same frame, all or none. A call that
 * throws must have changed nothing; the step then counts as failed. A store refuses the kind that it cannot commit.
 */
export type SagaEffect =
  | { readonly kind: 'sql'; readonly text: string; readonly values: readonly unknown[] }
  | { readonly kind: 'call'; readonly run: () => void }

/**
 * `do` and `undo` stand side by side. Both must be safe to run twice, and `undo` must be safe when `do` ran only in part.
 * A step throws a Fault: retryable ones are tried again with growing pauses (at most `attemptCountMax`, default 5), the others
 * turn the saga round, and the steps done so far (and the one that failed) are undone in reverse order.
 */
export interface SagaStep<I, S> {
  readonly name: string
  readonly do: (context: StepContext<I, S>) => Promise<StepOutcome | void>
  /** Missing: there is nothing to undo. */
  readonly undo?: (context: StepContext<I, S>) => Promise<StepOutcome | void>
  readonly attemptCountMax?: number
}

export interface SagaDefinition<I, S> {
  /** `instance.create`; kept in the store, so never renamed while runs are open. */
  readonly name: string
  readonly steps: readonly SagaStep<I, S>[]
  /** Effects committed with the last transition. */
  readonly onDone?: (context: Omit<StepContext<I, S>, 'progress'>) => readonly SagaEffect[]
  /** Effects committed when everything is undone (or could not be: `stuck`). */
  readonly onFailed?: (
    context: Omit<StepContext<I, S>, 'progress'>,
    fault: FaultJson,
    outcome: 'undone' | 'stuck',
  ) => readonly SagaEffect[]
}

export interface NewSaga {
  readonly id: SagaId
  readonly name: string
  /** What the saga holds while it runs, such as a domain id: at most one unfinished saga a resource. */
  readonly resource: string
  readonly input: Json
}

/**
 *   submitted --> running --> done
 *                   |  ^
 *        fault or   v  | (never)
 *        cancel   undoing --> undone
 *                   |
 *                   +------> stuck     an undo failed for good: a person must look; the resource stays held
 */
export type SagaState =
  | { readonly kind: 'running'; readonly stepIndex: number }
  | { readonly kind: 'undoing'; readonly stepIndex: number; readonly fault: FaultJson }
  | { readonly kind: 'done' }
  | { readonly kind: 'undone'; readonly fault: FaultJson }
  | { readonly kind: 'stuck'; readonly fault: FaultJson; readonly undoFault: FaultJson; readonly stepIndex: number }

export interface SagaRecord extends NewSaga {
  readonly state: SagaState
  readonly outputs: Readonly<Record<string, Json>>
  readonly fence: Fence
  readonly attempt: number
  readonly cancelRequested: boolean
  readonly createdAt: EpochMillis
  readonly updatedAt: EpochMillis
}

export interface SagaTransition {
  readonly id: SagaId
  readonly fence: Fence
  readonly state: SagaState
  /** Output of the step just done, if any. */
  readonly output?: { readonly step: string; readonly value: Json }
  readonly attempt: number
  readonly effects: readonly SagaEffect[]
}

/**
 * `ok`: written. `cancel`: written, and somebody asked to cancel. `stale`: a newer fence owns the saga, nothing of it was written.
 * A Fault: its effects were refused, nothing of it was written.
 */
export type CommitAnswer = 'ok' | 'stale' | 'cancel' | Fault

/** What a person decides about a stuck saga: try the undo again, or let go of the resource as it is. */
export type StuckVerdict = 'retry' | 'abandon'

/** Where sagas live. The conformance suite in `testing.ts` runs on every store. */
export interface SagaStore {
  /** Idempotent on `id`. @throws Fault `busy` when another unfinished saga holds the resource. */
  create(saga: NewSaga): Promise<SagaRecord>
  /**
   * Takes up to `limit` unfinished sagas that nobody holds (never claimed, lease run out, or held by this same owner from before),
   * oldest first, gives each a new, higher fence and a lease. One owner never gets a saga that another holds. `names` limits it to
   * the sagas that the caller can run; `exclude` to those it does not run already. A saga that was claimed before has its
   * `attempt` counted up: its step may have run.
   */
  claim(request: {
    owner: string
    leaseMs: number
    limit: number
    names?: readonly string[]
    exclude?: ReadonlySet<SagaId>
  }): Promise<SagaRecord[]>
  /** Renews the leases of this owner (0 ms gives them back); answers the ids that it still holds, and which of them are to be cancelled. */
  renew(request: { owner: string; leaseMs: number; ids: readonly SagaId[] }): Promise<ReadonlyMap<SagaId, 'held' | 'cancel'>>
  /**
   * Commits many transitions as one group (one transaction, one sync), at most one a saga. When it throws, each may or may
   * not have been written: the caller claims anew and goes on from what the store says.
   */
  commit(transitions: readonly SagaTransition[]): Promise<readonly CommitAnswer[]>
  requestCancel(id: SagaId): Promise<void>
  /** @throws Fault `not_found`, or `conflict` when the saga is not stuck. */
  settleStuck(id: SagaId, verdict: StuckVerdict): Promise<void>
  get(id: SagaId): Promise<SagaRecord | null>
  /** Newest first. `unfinished` are those that hold their resource: running, undoing and stuck. */
  list(filter?: { unfinished?: boolean; resource?: string; limit?: number }): Promise<SagaRecord[]>
}

/** The one thing that the PostgreSQL store needs of a database client (pg's Pool or Client through a thin adapter). */
export interface SqlExecutor {
  query(text: string, values?: readonly unknown[]): Promise<{ rows: Record<string, unknown>[]; rowCount: number }>
  /** Runs `work` in one transaction; rolled back when it throws. */
  transaction<T>(work: (tx: SqlExecutor) => Promise<T>): Promise<T>
}
