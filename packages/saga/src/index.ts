/**
 * Durable operations. A saga is a fixed sequence of steps, each with `do` and `undo`; killed at any moment, it resumes or is undone.
 *
 *   definition (steps)     store (memory | state file | PostgreSQL)          engine
 *        |                    ^  create, claim, renew, commit                  |
 *        +--------------------+------------------------------------------------+
 *
 *   submitted --> running --> done
 *                   |
 *        fault or   v
 *        cancel   undoing --> undone
 *                   |
 *                   +------> stuck --settleStuck--> undoing | undone
 *
 *   const create = defineSaga<Input, Services>({ name: 'instance.create', steps: [{ name: 'volume', do: ..., undo: ... }, ...] })
 *   const engine = createSagaEngine({ store, sagas: [create], services, clock, log, owner: 'server:1' })
 *   await engine.start()
 *   await engine.submit(newSaga(create, { id, resource: instanceId, input }))
 *   const { state } = await engine.wait(id)
 *
 * Invariants, and the test that holds them:
 *   a committed transition is never lost; effects happen once; do and undo balance     file-store.test.ts, testing/kill.test.ts, chaos.test.ts
 *   a resource has one unfinished saga at most                                         testing/store-conformance.ts
 *   an owner that lost its claim writes nothing and, by the fence, commands nothing    testing/store-conformance.ts, engine.test.ts
 *   a step runs at least once, and its end is recorded once: `do` and `undo` must be
 *   safe to run twice                                                                  sagaCrashSuite, on every definition of the platform
 *   5,000 steps a second are committed on embedded PostgreSQL                          saga.bench.ts
 *
 * Failure paths: see `engine.ts` (steps, commits, leases), `journal.ts` (torn writes, full disks, failed syncs), `postgres-store.ts` (refused
 * groups). `stuck` is the only state that needs a person.
 *
 * What it is not: a workflow language (no branches, loops or parallel steps: a step may do what it likes inside), a reconciler (that has no
 * end), or a queue for others' messages.
 *
 * `journal.ts` and `state-file.ts` serve others too: an agent keeps its own records in the file in which its sagas are, so that a saga's
 * effects on them are committed with its step.
 *
 * References: Garcia-Molina and Salem, "Sagas" (SIGMOD 1987); Gray and Cheriton, "Leases" (SOSP 1989); M. Burrows, "The Chubby Lock Service"
 * (OSDI 2006), section 2.4, sequencers (our fences); oxidecomputer/steno.
 */
export { createSagaEngine, type SagaEngine, type SagaEngineOptions, type SagaProgress } from './engine.ts'
export { defineSaga, newSaga } from './define.ts'
export { fileSagaStore, type FileSagaStoreOptions } from './file-store.ts'
export { crc32c } from './crc32c.hot.ts'
export { jsonCodec, openJournal, type Codec, type Journal, type JournalOptions } from './journal.ts'
export { memorySagaStore } from './memory-store.ts'
export { pgAbandonSagas, pgCreateSaga, postgresSagaStore, SAGA_SCHEMA_SQL, type PgSagaStore } from './postgres-store.ts'
export { claimable, holdsResource, settled } from './states.ts'
export { stateFile, type DurableMap, type StateFile, type StateFileOptions, type StateSection } from './state-file.ts'
export {
  fence,
  sagaId,
  type CommitAnswer,
  type Fence,
  type NewSaga,
  type SagaDefinition,
  type SagaEffect,
  type SagaId,
  type SagaRecord,
  type SagaState,
  type SagaStep,
  type SagaStore,
  type SagaTransition,
  type SqlExecutor,
  type StepContext,
  type StepOutcome,
  type StuckVerdict,
} from './ports.ts'
