import type { Clock } from '@typevisor/base'
import type { SagaStore } from './ports.ts'
import { SagaTable } from './table.ts'

/** A store that forgets everything with the process: for tests, simulations and tools. Effects are of kind `call`. */
export function memorySagaStore(options: { clock: Clock; settledCountMax?: number }): SagaStore {
  const { clock, settledCountMax = 10_000 } = options
  const table = new SagaTable({ clock, settledCountMax, emit: () => {} })
  return {
    create: async (saga) => table.create(saga),
    claim: async (request) => table.claim(request),
    renew: async (request) => table.renew(request),
    commit: async (transitions) => transitions.map((transition) => table.commit(transition)),
    requestCancel: async (id) => table.requestCancel(id),
    settleStuck: async (id, verdict) => table.settleStuck(id, verdict),
    get: async (id) => table.get(id),
    list: async (filter) => table.list(filter),
  }
}
