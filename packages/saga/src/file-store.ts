import type { Clock, Json } from '@typevisor/base'
import type { SagaStore } from './ports.ts'
import type { StateFile } from './state-file.ts'
import { SagaTable, type SagaEvent } from './table.ts'

export interface FileSagaStoreOptions {
  /** Not yet opened. Effects of kind `call` that change other sections of it are committed with their step. */
  readonly state: StateFile
  readonly clock: Clock
  /** Settled sagas that are remembered; default 1000. A forgotten id that is submitted again would run again. */
  readonly settledCountMax?: number
  /** The section's name in the state file. */
  readonly section?: string
}

/**
 * Sagas in a state file: of one process, which holds the lock of the data directory. Every change is in memory at once and answered when
 * it is on disk. Owners and leases are not kept: after a restart nobody holds anything.
 */
export function fileSagaStore(options: FileSagaStoreOptions): SagaStore {
  const { state, clock, settledCountMax = 1000, section = 'sagas' } = options
  let safe: Promise<void> = Promise.resolve()
  const table = new SagaTable({
    clock,
    settledCountMax,
    emit: (event) => {
      safe = append([toJson(event)])
      safe.catch(() => {})
    },
  })
  const append = state.section<Json>(section, {
    replay: (record) => table.replay(record as unknown as SagaEvent),
    *snapshot() {
      for (const event of table.snapshot()) yield toJson(event)
    },
  })
  /** Answers when all that was changed so far is on disk: also what another caller changed and this one has seen. */
  const committed = async <T>(work: () => T): Promise<T> => {
    const answer = work()
    await safe
    return answer
  }
  return {
    create: (saga) => committed(() => table.create(saga)),
    claim: (request) => committed(() => table.claim(request)),
    renew: async (request) => table.renew(request),
    commit: (transitions) => committed(() => transitions.map((transition) => table.commit(transition))),
    requestCancel: (id) => committed(() => table.requestCancel(id)),
    settleStuck: (id, verdict) => committed(() => table.settleStuck(id, verdict)),
    get: (id) => committed(() => table.get(id)),
    list: (filter) => committed(() => table.list(filter)),
  }
}

// Events are made of JSON only; the compiler cannot see that for interfaces.
const toJson = (event: SagaEvent): Json => event as unknown as Json
