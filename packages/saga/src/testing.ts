/** What others run on their stores and sagas: the conformance suite of `SagaStore`, and the crash suite of a saga definition. */
export { sagaStoreConformance, type SagaStoreUnderTest } from './testing/store-conformance.ts'
export { sagaCrashSuite, type SagaCrashSubject, type SagaCrashWorld } from './testing/crash-suite.ts'
