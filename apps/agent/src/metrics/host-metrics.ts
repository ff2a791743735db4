/** What a host counts as metric families. The server joins those of all its hosts; an agent of its own tells its one. */
import type { DomainStateKind } from '@typevisor/model'
import type { HostStatistics } from '@typevisor/api/agent-wire'
import type { Labels, MetricFamily, MetricSample } from './exposition.ts'

export interface CountedHost {
  readonly host: string
  readonly statistics: HostStatistics
}

type HostDomain = HostStatistics['domains'][number]
type DomainCounters = NonNullable<HostDomain['statistics']>

const STATES: readonly DomainStateKind[] = ['stopped', 'running', 'paused', 'saved', 'crashed']
const seconds = (ns: number): number => ns / 1e9

/** One number of something, with the labels that tell it from its siblings; null: not known, and left out. */
type Reading = readonly [Labels, number | null | undefined]

interface DomainMetric {
  readonly name: string
  readonly help: string
  readonly type: 'counter' | 'gauge'
  readonly read: (counters: DomainCounters) => readonly Reading[]
}

type DiskCounters = DomainCounters['disks'][number]
const ofDisks =
  (read: (disk: DiskCounters) => number | null | undefined): DomainMetric['read'] =>
  ({ disks }) =>
    disks.map((disk) => [{ disk: disk.name }, read(disk)])
const secondsOf = (ns: number | null | undefined): number | null => (typeof ns === 'number' ? seconds(ns) : null)

const DOMAIN_METRICS: readonly DomainMetric[] = [
  {
    name: 'typevisor_instance_cpu_seconds_total',
    help: 'CPU time that its emulator has used, its vCPUs among it.',
    type: 'counter',
    read: ({ cpuTimeNs }) => [[{}, secondsOf(cpuTimeNs)]],
  },
  {
    name: 'typevisor_instance_vcpu_seconds_total',
    help: 'CPU time of each vCPU.',
    type: 'counter',
    read: ({ vcpus = [] }) => vcpus.map(({ index, cpuTimeNs }) => [{ vcpu: String(index) }, secondsOf(cpuTimeNs)]),
  },
  {
    name: 'typevisor_instance_vcpu_wait_seconds_total',
    help: 'How long each vCPU could have run and no CPU of the host was free.',
    type: 'counter',
    read: ({ vcpus = [] }) => vcpus.map(({ index, waitTimeNs }) => [{ vcpu: String(index) }, secondsOf(waitTimeNs)]),
  },
  {
    name: 'typevisor_instance_resident_memory_bytes',
    help: 'Memory of the host that its emulator holds.',
    type: 'gauge',
    read: ({ residentBytes }) => [[{}, residentBytes]],
  },
  {
    name: 'typevisor_instance_balloon_memory_bytes',
    help: 'Memory that its balloon leaves the guest.',
    type: 'gauge',
    read: ({ balloonBytes }) => [[{}, balloonBytes]],
  },
  {
    name: 'typevisor_instance_disk_read_bytes_total',
    help: 'Bytes read from each disk.',
    type: 'counter',
    read: ofDisks(({ readBytes }) => readBytes),
  },
  {
    name: 'typevisor_instance_disk_written_bytes_total',
    help: 'Bytes written to each disk.',
    type: 'counter',
    read: ofDisks(({ writeBytes }) => writeBytes),
  },
  {
    name: 'typevisor_instance_disk_reads_completed_total',
    help: 'Reads of each disk.',
    type: 'counter',
    read: ofDisks(({ readCount }) => readCount),
  },
  {
    name: 'typevisor_instance_disk_writes_completed_total',
    help: 'Writes of each disk.',
    type: 'counter',
    read: ofDisks(({ writeCount }) => writeCount),
  },
  {
    name: 'typevisor_instance_disk_flushes_completed_total',
    help: 'Flushes of each disk.',
    type: 'counter',
    read: ofDisks(({ flushCount }) => flushCount),
  },
  {
    name: 'typevisor_instance_disk_read_time_seconds_total',
    help: 'How long the reads of each disk took together.',
    type: 'counter',
    read: ofDisks(({ readTimeNs }) => secondsOf(readTimeNs)),
  },
  {
    name: 'typevisor_instance_disk_write_time_seconds_total',
    help: 'How long the writes of each disk took together.',
    type: 'counter',
    read: ofDisks(({ writeTimeNs }) => secondsOf(writeTimeNs)),
  },
  {
    name: 'typevisor_instance_network_receive_bytes_total',
    help: 'Bytes that each NIC took in; left out where the host does not count them.',
    type: 'counter',
    read: ({ nics }) => nics.map(({ name, receiveBytes }) => [{ nic: name }, receiveBytes]),
  },
  {
    name: 'typevisor_instance_network_transmit_bytes_total',
    help: 'Bytes that each NIC sent; left out where the host does not count them.',
    type: 'counter',
    read: ({ nics }) => nics.map(({ name, transmitBytes }) => [{ nic: name }, transmitBytes]),
  },
]

/**
 * `instance_name` and not `instance`: that is Prometheus' own label of what it scrapes. The id is in `typevisor_instance_info` alone, to be
 * joined where it is wanted.
 */
const labelsOf = (host: string, { name }: HostDomain): Labels => ({ host, instance_name: name })

export function hostFamilies(hosts: readonly CountedHost[]): MetricFamily[] {
  const domains = hosts.flatMap(({ host, statistics }) =>
    statistics.domains.map((domain) => ({ domain, labels: labelsOf(host, domain) })),
  )
  const gauge = (name: string, help: string, samples: readonly MetricSample[]): MetricFamily => ({
    name,
    help,
    type: 'gauge',
    samples,
  })
  return [
    gauge(
      'typevisor_host_domains',
      'Domains of each host by state, as its agent has them.',
      hosts.flatMap(({ host, statistics }) =>
        STATES.map((state) => ({
          labels: { host, state },
          value: statistics.domains.filter((domain) => domain.state === state).length,
        })),
      ),
    ),
    {
      name: 'typevisor_host_events_total',
      help: "Events that the host's journal has given a number.",
      type: 'counter',
      samples: hosts.map(({ host, statistics }) => ({ labels: { host }, value: statistics.sequence })),
    },
    ...volumeFamilies(hosts),
    gauge(
      'typevisor_instance_info',
      'One for each instance, with its id and state.',
      domains.map(({ domain, labels }) => ({ labels: { ...labels, id: domain.id, state: domain.state }, value: 1 })),
    ),
    gauge(
      'typevisor_instance_vcpus',
      'vCPUs that it was created with.',
      domains.map(({ domain, labels }) => ({ labels, value: domain.vcpuCount })),
    ),
    gauge(
      'typevisor_instance_memory_bytes',
      'Memory that it was created with.',
      domains.map(({ domain, labels }) => ({ labels, value: domain.memoryBytes })),
    ),
    ...DOMAIN_METRICS.map(({ name, help, type, read }): MetricFamily => {
      const samples: MetricSample[] = []
      for (const { domain, labels } of domains) {
        if (domain.statistics === null) continue
        for (const [more, value] of read(domain.statistics))
          if (typeof value === 'number') samples.push({ labels: { ...labels, ...more }, value })
      }
      return { name, help, type, samples }
    }),
  ]
}

function volumeFamilies(hosts: readonly CountedHost[]): MetricFamily[] {
  const kept = hosts.flatMap(({ host, statistics: { volumeServer } }) => (volumeServer ? [{ host, volumeServer }] : []))
  const spaces = kept.flatMap(({ host, volumeServer: { space } }) => (space ? [{ labels: { host }, space }] : []))
  return [
    {
      name: 'typevisor_volume_server_up',
      help: 'Whether the volume server of the host serves.',
      type: 'gauge',
      samples: kept.map(({ host, volumeServer: { state } }) => ({ labels: { host }, value: state === 'serving' ? 1 : 0 })),
    },
    {
      name: 'typevisor_volumes_attached',
      help: 'Volumes that guests of the host use.',
      type: 'gauge',
      samples: kept.map(({ host, volumeServer: { attachedCount } }) => ({ labels: { host }, value: attachedCount })),
    },
    {
      name: 'typevisor_volume_store_capacity_bytes',
      help: 'What the volume store can hold.',
      type: 'gauge',
      samples: spaces.map(({ labels, space }) => ({ labels, value: space.capacityBytes })),
    },
    {
      name: 'typevisor_volume_store_used_bytes',
      help: 'What the volume store holds.',
      type: 'gauge',
      samples: spaces.map(({ labels, space }) => ({ labels, value: space.usedBytes })),
    },
    {
      name: 'typevisor_volume_store_available_bytes',
      help: 'What can still be written to the volume store.',
      type: 'gauge',
      samples: spaces.map(({ labels, space }) => ({ labels, value: space.availableBytes })),
    },
  ]
}

/** Of this process, by the names that every client library has. */
export function processFamilies(version: string): MetricFamily[] {
  const { user, system } = process.cpuUsage()
  return [
    {
      name: 'typevisor_build_info',
      help: 'One, with the version that runs.',
      type: 'gauge',
      samples: [{ labels: { version }, value: 1 }],
    },
    {
      name: 'process_cpu_seconds_total',
      help: 'CPU time of this process.',
      type: 'counter',
      samples: [{ labels: {}, value: (user + system) / 1e6 }],
    },
    {
      name: 'process_resident_memory_bytes',
      help: 'Memory that this process holds.',
      type: 'gauge',
      samples: [{ labels: {}, value: process.memoryUsage.rss() }],
    },
    {
      name: 'process_start_time_seconds',
      help: 'When this process started, since 1970.',
      type: 'gauge',
      samples: [{ labels: {}, value: Math.round(Date.now() / 1000 - process.uptime()) }],
    },
  ]
}
