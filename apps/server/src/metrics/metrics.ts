/**
 * What the server counts, for Prometheus:
 *
 *   by itself      answers by operation and status, operations by outcome, events by kind: since this process started
 *   from the rows  instances by state, sagas that are not over, hosts: as they are at the scrape
 *   from agents    guests, disks, stores of volumes: one call to each host at the scrape, none waited for longer than `ASK_LIMIT`
 *
 * A scrape changes nothing. What a host does not answer is left out, and `typevisor_host_scrape_success` says so.
 */
import { millis, withDeadline, type Clock } from '@typevisor/base'
import {
  Counter,
  exposition,
  Histogram,
  hostFamilies,
  processFamilies,
  type CountedHost,
  type MetricFamily,
} from '@typevisor/agent'
import { schemas } from '@typevisor/api'
import type { SagaRecord, SqlExecutor } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'

const ASK_LIMIT = millis(5000)
/** Seconds; operations of the API that wait take up to a minute. */
const LATENCY_BOUNDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60]

/** An answer of the API, streams left out: those last as long as somebody looks. */
export interface HttpAnswer {
  readonly operation: string
  readonly status: number
  readonly seconds: number
}

export interface MetricsSources {
  readonly database: SqlExecutor
  readonly agents: AgentRegistry
  readonly clock: Clock
  readonly version: string
}

export interface ServerMetrics {
  noteAnswer(answer: HttpAnswer): void
  noteSettled(record: Pick<SagaRecord, 'name' | 'state'>): void
  noteEvent(event: { readonly kind: string }): void
  /** The text of a scrape. */
  collect(signal: AbortSignal): Promise<string>
}

export function serverMetrics({ database, agents, clock, version }: MetricsSources): ServerMetrics {
  const latency = new Histogram(LATENCY_BOUNDS)
  const operations = new Counter()
  const events = new Counter()

  const ownFamilies = (): MetricFamily[] => [
    {
      name: 'typevisor_http_request_duration_seconds',
      help: 'How long answers of the API took, by operation and status.',
      type: 'histogram',
      samples: latency.samples(),
    },
    {
      name: 'typevisor_operations_total',
      help: 'Operations that ended (done, undone) or got stuck since the server started.',
      type: 'counter',
      samples: operations.samples(),
    },
    {
      name: 'typevisor_events_total',
      help: 'Events since the server started, by kind.',
      type: 'counter',
      samples: events.samples(),
    },
  ]

  return {
    noteAnswer: ({ operation, status, seconds }) => latency.observe({ operation, code: String(status) }, seconds),
    noteSettled: ({ name, state }) => operations.add({ operation: name, outcome: state.kind }),
    noteEvent: ({ kind }) => events.add({ kind }),
    async collect(signal) {
      const asked = askHosts(agents, clock, signal)
      const [rows, { hosts, failed }] = await Promise.all([rowFamilies(database, agents), asked])
      return exposition([
        ...processFamilies(version),
        ...ownFamilies(),
        ...rows,
        {
          name: 'typevisor_host_scrape_success',
          help: 'Whether a connected host has told its counters; one of an older version cannot.',
          type: 'gauge',
          samples: [
            ...hosts.map(({ host }) => ({ labels: { host }, value: 1 })),
            ...failed.map((host) => ({ labels: { host }, value: 0 })),
          ],
        },
        ...hostFamilies(hosts),
      ])
    },
  }
}

async function askHosts(
  agents: AgentRegistry,
  clock: Clock,
  signal: AbortSignal,
): Promise<{ hosts: CountedHost[]; failed: string[] }> {
  const hosts: CountedHost[] = []
  const failed: string[] = []
  await Promise.all(
    agents.names().map(async (host) => {
      try {
        const agent = await agents.need(host, 0, signal)
        const statistics = await withDeadline({ limit: ASK_LIMIT, clock, what: `host ${host}`, signal }, (within) =>
          agent.call('host.statistics', {}, { signal: within }),
        )
        hosts.push({ host, statistics })
      } catch {
        failed.push(host)
      }
    }),
  )
  const byName = (one: { host: string }, other: { host: string }): number => (one.host < other.host ? -1 : 1)
  return { hosts: hosts.sort(byName), failed: failed.sort() }
}

const QUEUE_STATES = ['running', 'undoing', 'stuck'] as const

/** Three queries over indexes; a failing database fails the scrape, which is what it is for. */
async function rowFamilies(database: SqlExecutor, agents: AgentRegistry): Promise<MetricFamily[]> {
  const [instances, sagas, hosts] = await Promise.all([
    database.query('SELECT state_kind, count(*)::int AS count FROM instance WHERE destroyed_at IS NULL GROUP BY state_kind', []),
    database.query(
      `SELECT state_kind, count(*)::int AS count, extract(epoch FROM now() - min(created_at))::float8 AS age_seconds FROM saga
       WHERE state_kind IN ('running', 'undoing', 'stuck') GROUP BY state_kind`,
      [],
    ),
    database.query('SELECT name, cpu_count, memory_bytes FROM host ORDER BY name', []),
  ])
  const of = (rows: readonly Readonly<Record<string, unknown>>[], kind: string, column: string): number =>
    Number(rows.find((row) => row['state_kind'] === kind)?.[column] ?? 0)
  const oldest = QUEUE_STATES.filter((kind) => kind !== 'stuck').map((kind) => of(sagas.rows, kind, 'age_seconds'))
  const ofHosts = (value: (row: Readonly<Record<string, unknown>>) => number) =>
    hosts.rows.map((row) => ({ labels: { host: String(row['name']) }, value: value(row) }))
  return [
    {
      name: 'typevisor_instances',
      help: 'Instances by state.',
      type: 'gauge',
      samples: schemas.InstanceStateKind.options.map((state) => ({
        labels: { state },
        value: of(instances.rows, state, 'count'),
      })),
    },
    {
      name: 'typevisor_saga_queue',
      help: 'Operations that are not over: under way, being undone, or stuck until somebody decides.',
      type: 'gauge',
      samples: QUEUE_STATES.map((state) => ({ labels: { state }, value: of(sagas.rows, state, 'count') })),
    },
    {
      name: 'typevisor_saga_oldest_age_seconds',
      help: 'Age of the oldest operation under way.',
      type: 'gauge',
      samples: [{ labels: {}, value: Math.max(0, ...oldest) }],
    },
    {
      name: 'typevisor_host_connected',
      help: "Whether the host's agent is connected.",
      type: 'gauge',
      samples: ofHosts((row) => (agents.get(String(row['name'])) === null ? 0 : 1)),
    },
    {
      name: 'typevisor_host_cpus',
      help: 'CPUs of the host.',
      type: 'gauge',
      samples: ofHosts((row) => Number(row['cpu_count'])),
    },
    {
      name: 'typevisor_host_memory_bytes',
      help: 'Memory of the host.',
      type: 'gauge',
      samples: ofHosts((row) => Number(row['memory_bytes'])),
    },
  ]
}
