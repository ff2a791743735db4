import type { Clock, Log } from '@typevisor/base'
import type { NewSaga, SagaDefinition, SagaId, SagaRecord, SagaStore } from './ports.ts'

export interface SagaEngineOptions<S> {
  readonly store: SagaStore
  // biome-ignore lint: each definition has its own input type
  readonly sagas: readonly SagaDefinition<never, S>[]
  readonly services: S
  readonly clock: Clock
  readonly log: Log
  /** Stable over restarts of the same process role on the same host, e.g. `agent:host-1`. */
  readonly owner: string
  readonly concurrencyMax?: number
  readonly leaseMs?: number
}

export interface SagaEngine {
  /** Claims and resumes what is unfinished, then goes on until `stop`. */
  start(): Promise<void>
  /** Aborts running steps (they are resumed at the next start) and waits for them. */
  stop(): Promise<void>
  submit(saga: NewSaga): Promise<SagaRecord>
  /** Tells the engine that a saga was created by another path (a PostgreSQL transaction of the caller's). */
  wake(): void
  /** Resolves when the saga is done, undone or stuck. Abort leaves the saga running. */
  wait(id: SagaId, options?: { signal?: AbortSignal | undefined }): Promise<SagaRecord>
  cancel(id: SagaId): Promise<void>
  progress(id: SagaId): { step: string; fraction: number; message: string } | null
}
export declare function createSagaEngine<S>(options: SagaEngineOptions<S>): SagaEngine
