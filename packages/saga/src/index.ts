export { createSagaEngine, type SagaEngine, type SagaEngineOptions, type SagaProgress } from './engine.ts'
export { defineSaga, newSaga } from './define.ts'
export { fileSagaStore, type FileSagaStoreOptions } from './file-store.ts'
export { crc32c } from './crc32c.hot.ts'
export { jsonCodec, openJournal, type Codec, type Journal, type JournalOptions } from './journal.ts'
export { memorySagaStore } from './memory-store.ts'
export { pgCreateSaga, postgresSagaStore, SAGA_SCHEMA_SQL, type PgSagaStore } from './postgres-store.ts'
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
