/** Instances as they are read: rows to wire, one by id or name, a page, and what hosts offer. */
import { sql } from 'kysely'
import { Fault } from '@typevisor/base'
import type { ParsedQuery, Reply } from '@typevisor/api'
import {
  AUTOSTART_ORDER_DEFAULT,
  formatCpuList,
  isUuid,
  type Architecture,
  type BootSource,
  type CpuSet,
  type DomainDump,
  type DomainSnapshot,
  type Firmware,
} from '@typevisor/model'
import type { SqlExecutor } from '@typevisor/saga'
import type { AgentRegistry } from '../agents/registry.ts'
import type { Db } from '../db/database.ts'
import { pageOf, searchPatterns, type PageKey } from '../db/paging.ts'
import { LOST } from './effects.ts'
import { portKey, type HostOffer } from './placement.ts'

export type WireInstance = Reply<'instance.get'>

const columns = [
  'id',
  'name',
  'image',
  'host',
  'vcpu_count',
  'memory_bytes',
  'root_disk_bytes',
  'labels',
  'forwards',
  'snapshots',
  'settings',
  'settings_notes',
  'dump',
  'vcpu_count_max',
  'memory_bytes_max',
  'huge_pages',
  'state_kind',
  'state_cause',
  'state_detail',
  'state_since',
  'operation_id',
  'operation_name',
  'created_at',
] as const

/** Absent in specifications of before. */
const begun = [
  sql<Architecture>`coalesce(instance.spec ->> 'architecture', 'x86_64')`.as('architecture'),
  sql<Firmware>`coalesce(instance.spec ->> 'firmware', 'bios')`.as('firmware'),
  sql<boolean>`coalesce((instance.spec ->> 'tpm')::boolean, false)`.as('tpm'),
  sql<BootSource[]>`coalesce(instance.spec -> 'bootOrder', '["disk"]')`.as('boot_order'),
] as const

const rowsOf = (db: Db) => db.selectFrom('instance').select(columns).select(begun).where('destroyed_at', 'is', null)
export type InstanceRow = Awaited<ReturnType<ReturnType<typeof rowsOf>['execute']>>[number]

export function toWireInstance(row: InstanceRow, agents: AgentRegistry): WireInstance {
  return {
    id: row.id,
    name: row.name,
    image: row.image,
    host: row.host,
    hostConnected: row.host !== null && agents.get(row.host) !== null,
    vcpuCount: row.vcpu_count,
    vcpuCountMax: row.vcpu_count_max,
    memoryBytes: row.memory_bytes,
    memoryBytesMax: row.memory_bytes_max,
    hugePages: row.huge_pages,
    architecture: row.architecture,
    firmware: row.firmware,
    tpm: row.tpm,
    bootOrder: row.boot_order,
    settings: toWireSettings(row),
    rootDiskBytes: row.root_disk_bytes,
    labels: row.labels,
    forwards: row.forwards,
    state: { kind: row.state_kind, cause: row.state_cause, detail: row.state_detail, since: row.state_since.getTime() },
    operation:
      row.operation_id !== null && row.operation_name !== null ? { id: row.operation_id, name: row.operation_name } : null,
    snapshotCount: row.snapshots.length,
    dump: row.dump && toWireDump(row.dump),
    createdAt: row.created_at.getTime(),
  }
}

const toWireDump = ({ path, format = 'elf', sizeBytes, takenAt }: DomainDump): WireInstance['dump'] => ({
  path,
  format,
  sizeBytes,
  takenAt,
})

const toWireSets = (sets: readonly CpuSet[] | undefined): string[] | null => sets?.map(formatCpuList) ?? null

function toWireSettings({ settings, settings_notes: notes }: InstanceRow): WireInstance['settings'] {
  return {
    memoryTargetBytes: settings.memoryTargetBytes ?? null,
    cpuWeight: settings.cpuWeight ?? null,
    cpuCapPercent: settings.cpuCapPercent ?? null,
    affinityHard: toWireSets(settings.affinityHard),
    affinitySoft: toWireSets(settings.affinitySoft),
    diskLimits: (settings.diskLimits ?? []).map((limit) => ({ ...limit })),
    autostart: settings.autostart ?? false,
    autostartOrder: settings.autostartOrder ?? AUTOSTART_ORDER_DEFAULT,
    onCrash: settings.onCrash ?? 'keep',
    notes: [...notes],
  }
}

export const toWireSnapshot = ({
  id,
  name,
  takenAt,
  state,
  memory,
  quiesced,
}: DomainSnapshot): Reply<'instance.snapshots'>['items'][number] => ({
  id,
  name,
  takenAt,
  state,
  memoryBytes: memory?.sizeBytes ?? null,
  quiesced,
})

/** By id or name. @throws Fault `not_found`. */
export async function needInstance(db: Db, idOrName: string): Promise<InstanceRow> {
  const row = await rowsOf(db)
    .where(isUuid(idOrName) ? 'id' : 'name', '=', idOrName)
    .executeTakeFirst()
  if (!row) throw new Fault('not_found', `instance ${idOrName}: there is none of this name or id`)
  return row
}

const ID_KEY: PageKey<InstanceRow> = { column: 'instance.id', kind: 'uuid', read: (row) => row.id }
const SORT_KEYS: Record<ParsedQuery<'instance.list'>['sort'], PageKey<InstanceRow>> = {
  name: { column: 'instance.name', kind: 'text', read: (row) => row.name },
  createdAt: { column: 'instance.created_at', kind: 'time', read: (row) => row.created_at },
  state: { column: 'instance.state_kind', kind: 'text', read: (row) => row.state_kind },
  memoryBytes: { column: 'instance.memory_bytes', kind: 'integer', read: (row) => row.memory_bytes },
}

export async function listInstances(
  db: Db,
  agents: AgentRegistry,
  query: ParsedQuery<'instance.list'>,
): Promise<Reply<'instance.list'>> {
  let rows = rowsOf(db)
  const patterns = searchPatterns(query.search)
  if (patterns.length > 0) rows = rows.where(sql<boolean>`instance.search LIKE ALL (${patterns})`)
  if (query.state !== undefined) rows = rows.where('state_kind', '=', query.state)
  if (query.host !== undefined) rows = rows.where('host', '=', query.host)
  return pageOf({
    rows,
    keys: [SORT_KEYS[query.sort], ID_KEY],
    order: query.order,
    context: ['instance', query.sort, query.order, query.search, query.state, query.host],
    cursor: query.cursor,
    limit: query.limit,
    toItem: (row: InstanceRow) => toWireInstance(row, agents),
  })
}

/**
 * What each host has left. `except`: the instance that is being placed and counts nowhere yet. One that is being made or started holds its
 * memory from the moment that this was accepted, though it is `stopped` in between. `ports`: those whose holders are asked for.
 */
export async function hostOffers(
  database: SqlExecutor,
  agents: AgentRegistry,
  except: string,
  ports: readonly number[] = [],
): Promise<HostOffer[]> {
  const { rows } = await database.query(
    `SELECT host.name, host.memory_bytes,
       (SELECT coalesce(sum(instance.memory_bytes), 0) FROM instance
        WHERE instance.host = host.name AND destroyed_at IS NULL AND id <> $1
          AND (state_kind IN ('creating', 'running', 'paused') OR operation_name IN ('instance.create', 'instance.clone', 'instance.copy', 'instance.start', 'instance.restore', 'instance.revert')))
       + (SELECT coalesce(sum(instance.memory_bytes), 0) FROM instance JOIN saga ON saga.id = instance.operation_id::text
        WHERE destroyed_at IS NULL AND instance.id <> $1 AND operation_name = 'instance.migrate' AND instance.state_kind IN ('running', 'paused')
          AND saga.input ->> 'to' = host.name AND instance.host <> host.name) AS committed,
       (SELECT coalesce(jsonb_object_agg(image.name, jsonb_build_array(image.minimum_memory_bytes, image.virtual_bytes)), '{}')
        FROM image WHERE image.host = host.name) AS images
     FROM host`,
    [except],
  )
  const holders = ports.length === 0 ? [] : await portHolders(database, except, ports)
  return rows.map((row) => {
    const name = String(row['name'])
    const images = Object.entries(row['images'] as Record<string, [memory: number, disk: number]>)
    return {
      name,
      connected: agents.get(name) !== null,
      guests: agents.get(name)?.hello.guests,
      memoryBytes: Number(row['memory_bytes']),
      committedBytes: Number(row['committed']),
      images: new Map(images.map(([image, [memory, disk]]) => [image, { minimumMemoryBytes: memory, minimumDiskBytes: disk }])),
      takenPorts: new Map(holders.filter(({ host }) => host === name).map(({ port, instance }) => [port, instance])),
    }
  })
}

/** Who forwards these ports: as long as it runs what the host gave it, and what it asked for whether or not it runs. */
async function portHolders(
  database: SqlExecutor,
  except: string,
  ports: readonly number[],
): Promise<{ host: string; port: string; instance: string }[]> {
  const { rows } = await database.query(
    `SELECT host, name, forward ->> 'protocol' AS protocol, (forward ->> 'hostPort')::integer AS port
     FROM instance, jsonb_array_elements(coalesce(spec -> 'forwards', '[]')
       || CASE WHEN state_kind IN ('creating', 'running', 'paused') THEN forwards ELSE '[]' END) AS forward
     WHERE destroyed_at IS NULL AND host IS NOT NULL AND id <> $1 AND (state_kind <> 'failed' OR state_cause = $3)
       AND (forward ->> 'hostPort')::integer = ANY ($2::integer[])`,
    [except, ports, LOST],
  )
  return rows.map((row) => ({
    host: String(row['host']),
    port: portKey({ protocol: String(row['protocol']), hostPort: Number(row['port']) }),
    instance: String(row['name']),
  }))
}
