/** From `query-blockstats`, `query-balloon` and /proc to the port's counters. QEMU's user networking counts nothing: NICs say null. */
import type { EpochMillis } from '@typevisor/base'
import type { DomainHardware, DomainStatistics, VcpuStatistics } from '@typevisor/model'
import { volumeOf } from '@typevisor/toolstack'
import { deviceIds } from './command-line.ts'
import { balloonBytes } from './memory.ts'
import { listOf, numberOf, objectOf, textOf } from './read-json.ts'

export interface StatisticsSources {
  readonly at: EpochMillis
  readonly hardware: DomainHardware
  readonly usage: { readonly cpuTimeNs: number; readonly residentBytes: number } | null
  readonly blockStats: unknown
  /** null: QEMU could not tell. */
  readonly balloon: unknown
  readonly pluggedBytes: number
  readonly vcpus: readonly VcpuStatistics[]
}

export function statisticsOf(sources: StatisticsSources): DomainStatistics {
  const stats = new Map(
    listOf(sources.blockStats).map((entry) => [textOf(objectOf(entry)['node-name']) ?? '', objectOf(objectOf(entry)['stats'])]),
  )
  const ids = deviceIds(sources.hardware)
  const disks = sources.hardware.devices.flatMap((device) => {
    // A drive has counters while there is something in it.
    if (volumeOf(device) === null) return []
    const counters = stats.get(`${ids.get(device) ?? ''}-format`) ?? {}
    const count = (name: string): number => numberOf(counters[name]) ?? 0
    return [
      {
        name: device.name,
        readBytes: count('rd_bytes'),
        writeBytes: count('wr_bytes'),
        readCount: count('rd_operations'),
        writeCount: count('wr_operations'),
        flushCount: count('flush_operations'),
        readTimeNs: count('rd_total_time_ns'),
        writeTimeNs: count('wr_total_time_ns'),
        flushTimeNs: count('flush_total_time_ns'),
      },
    ]
  })
  return {
    at: sources.at,
    cpuTimeNs: sources.usage?.cpuTimeNs ?? null,
    residentBytes: sources.usage?.residentBytes ?? null,
    balloonBytes: balloonBytes(sources.balloon, sources.pluggedBytes),
    vcpus: sources.vcpus,
    disks,
    nics: sources.hardware.devices.flatMap((device) =>
      device.kind === 'nic' ? [{ name: device.name, receiveBytes: null, transmitBytes: null }] : [],
    ),
  }
}
