/** All that a host counts, for one answer: a scrape asks once for a host, not once for a guest. */
import { millis, withDeadline, type Clock } from '@typevisor/base'
import type { HostStatistics, VolumeServerStatus } from '@typevisor/api/agent-wire'
import type { Toolstack } from '@typevisor/toolstack'

/** Of one guest: an emulator that hangs takes nothing from the others. */
const ASK_LIMIT = millis(1000)
/** How many emulators are asked at the same time. */
const ASKED_AT_ONCE = 32

export interface HostStatisticsSources {
  readonly toolstack: Pick<Toolstack, 'list' | 'statistics' | 'lastSequence'>
  readonly volumeServer?: (() => VolumeServerStatus) | undefined
  readonly clock: Clock
}

const LIVE = new Set(['running', 'paused', 'crashed'])

export async function hostStatistics(sources: HostStatisticsSources, signal?: AbortSignal): Promise<HostStatistics> {
  const { toolstack, clock } = sources
  const domains = toolstack.list()
  const counted = new Map<string, HostStatistics['domains'][number]['statistics']>()
  const waiting = domains.filter(({ state }) => LIVE.has(state.kind))
  async function ask(): Promise<void> {
    for (let domain = waiting.pop(); domain; domain = waiting.pop()) {
      const { id, name } = domain
      const limits = { limit: ASK_LIMIT, clock, what: `statistics of ${name}`, ...(signal ? { signal } : {}) }
      counted.set(id, await withDeadline(limits, (within) => toolstack.statistics(id, { signal: within })).catch(() => null))
    }
  }
  await Promise.all(Array.from({ length: Math.min(ASKED_AT_ONCE, waiting.length) }, ask))
  signal?.throwIfAborted()
  return {
    domains: domains.map(({ id, name, state, spec }) => ({
      id,
      name,
      state: state.kind,
      vcpuCount: spec.vcpuCount,
      memoryBytes: spec.memoryBytes,
      statistics: counted.get(id) ?? null,
    })),
    sequence: toolstack.lastSequence(),
    volumeServer: sources.volumeServer?.() ?? null,
  }
}
