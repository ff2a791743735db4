/** Replies as people read them. What has no table of its own is shown field by field; `--json` shows everything as it came. */
import { formatBytes } from '@typevisor/base'
import type { OperationName, Reply } from '@typevisor/api'
import { durationText, localTime } from './format.ts'
import { age, renderTable, type Column } from './table.ts'

type Instance = Reply<'instance.get'>
type Row = Record<string, unknown>
/** A server of an older version knows neither. */
type Operation = Reply<'operation.get'> & { readonly resourceName?: string | null; readonly waitsFor?: string | null }

const text = (value: unknown): string =>
  value === null || value === undefined ? '-' : typeof value === 'object' ? JSON.stringify(value) : String(value)

function tables(now: number): Partial<Record<OperationName, readonly Column<never>[]>> {
  const ago = (at: number | null): string => (at === null ? '-' : age(at, now))
  const instances: Column<Instance>[] = [
    { title: 'NAME', value: (row) => row.name },
    {
      title: 'STATE',
      value: (row) =>
        row.operation
          ? `${row.state.kind} (${row.operation.name.replace('instance.', '')})`
          : row.hostConnected || row.host === null
            ? row.state.kind
            : `${row.state.kind}?`,
    },
    { title: 'IMAGE', value: (row) => row.image },
    { title: 'VCPUS', value: (row) => String(row.vcpuCount), right: true },
    { title: 'MEMORY', value: (row) => formatBytes(row.memoryBytes), right: true },
    { title: 'HOST', value: (row) => row.host ?? '-' },
    {
      title: 'PORTS',
      value: (row) => row.forwards.map((forward) => `${forward.hostPort}->${forward.guestPort}`).join(' ') || '-',
    },
    { title: 'AGE', value: (row) => ago(row.createdAt), right: true },
  ]
  const snapshots: Column<Reply<'instance.snapshots'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'OF', value: (row) => row.state },
    { title: 'MEMORY', value: (row) => (row.memoryBytes === null ? '-' : formatBytes(row.memoryBytes)), right: true },
    { title: 'QUIESCED', value: (row) => (row.quiesced ? 'yes' : 'no') },
    { title: 'AGE', value: (row) => ago(row.takenAt), right: true },
  ]
  const devices: Column<Reply<'instance.devices'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'KIND', value: (row) => row.kind },
    { title: 'STATE', value: (row) => row.state },
    { title: 'PORT', value: (row) => row.port ?? '-' },
    { title: 'ADDRESS', value: (row) => row.address ?? '-' },
    { title: 'SIZE', value: (row) => (row.sizeBytes === null ? '-' : formatBytes(row.sizeBytes)), right: true },
    {
      title: 'WHAT',
      value: (row) =>
        row.mac ?? row.medium ?? row.model ?? (row.kind === 'cd' ? 'empty' : row.readOnly === true ? 'read-only' : '-'),
    },
  ]
  const hosts: Column<Reply<'host.list'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'CONNECTED', value: (row) => (row.connected ? 'yes' : 'no') },
    { title: 'DRIVER', value: (row) => row.version || row.driver },
    { title: 'ACCELERATOR', value: (row) => row.accelerator },
    { title: 'CPUS', value: (row) => String(row.cpuCount), right: true },
    { title: 'MEMORY', value: (row) => formatBytes(row.memoryBytes), right: true },
    { title: 'INSTANCES', value: (row) => String(row.instanceCount), right: true },
    { title: 'VOLUMES', value: volumesText },
  ]
  const images: Column<Reply<'image.list'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'HOST', value: (row) => row.host },
    { title: 'SIZE', value: (row) => formatBytes(row.sizeBytes), right: true },
    { title: 'TITLE', value: (row) => row.title },
    { title: 'BUILT', value: (row) => ago(row.builtAt), right: true },
  ]
  const operations: Column<Operation>[] = [
    { title: 'ID', value: (row) => row.id },
    { title: 'OPERATION', value: (row) => row.name },
    { title: 'OF', value: (row) => row.resourceName ?? row.resource },
    {
      title: 'STATE',
      value: (row) =>
        typeof row.waitsFor === 'string'
          ? 'waiting'
          : row.progress !== null && row.state === 'running'
            ? `${Math.round(row.progress * 100)} %`
            : row.state,
    },
    { title: 'AGE', value: (row) => ago(row.createdAt), right: true },
    {
      title: 'WHY',
      value: (row) => row.fault?.message ?? (typeof row.waitsFor === 'string' ? `waits for ${row.waitsFor}` : '-'),
    },
  ]
  const events: Column<Reply<'event.stream'>>[] = [
    { title: 'AT', value: (row) => localTime(row.at) },
    { title: 'KIND', value: (row) => row.kind },
    { title: 'NAME', value: (row) => row.name ?? '-' },
    { title: 'DATA', value: (row) => text(row.data) },
  ]
  const accounts: Column<Reply<'account.list'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'ROLE', value: (row) => row.role },
    { title: 'MAY SIGN IN', value: (row) => (row.disabled ? 'no' : 'yes') },
    { title: 'AGE', value: (row) => ago(row.createdAt), right: true },
  ]
  const tokens: Column<Reply<'token.list'>['items'][number]>[] = [
    { title: 'ID', value: (row) => row.id },
    { title: 'NAME', value: (row) => row.name },
    { title: 'ACCOUNT', value: (row) => row.account },
    { title: 'SCOPES', value: (row) => row.scopes.join(' ') },
    { title: 'EXPIRES', value: (row) => (row.expiresAt === null ? 'never' : localTime(row.expiresAt)) },
    { title: 'LAST USED', value: (row) => (row.lastUsedAt === null ? 'never' : `${ago(row.lastUsedAt)} ago`) },
    { title: 'AGE', value: (row) => ago(row.createdAt), right: true },
  ]
  const audit: Column<Reply<'audit.list'>['items'][number] & { resourceName?: string | null }>[] = [
    { title: 'AT', value: (row) => localTime(row.at) },
    { title: 'ACCOUNT', value: (row) => row.account ?? '-' },
    { title: 'VIA', value: (row) => row.via },
    { title: 'OPERATION', value: (row) => row.operation },
    { title: 'OF', value: (row) => row.resourceName ?? row.resource ?? '-' },
    { title: 'OUTCOME', value: (row) => row.outcome },
    { title: 'ADDRESS', value: (row) => row.address ?? '-' },
  ]
  const addresses: Column<Reply<'instance.addresses'>['items'][number]>[] = [
    { title: 'DEVICE', value: (row) => row.device },
    { title: 'MAC', value: (row) => row.mac ?? '-' },
    { title: 'ADDRESSES', value: (row) => row.addresses.map((each) => `${each.address}/${each.prefixLength}`).join(' ') || '-' },
  ]
  return {
    'instance.list': instances,
    'instance.snapshots': snapshots,
    'instance.devices': devices,
    'host.list': hosts,
    'image.list': images,
    'operation.list': operations,
    'event.list': events,
    'account.list': accounts,
    'token.list': tokens,
    'audit.list': audit,
    'instance.addresses': addresses,
  } as Partial<Record<OperationName, readonly Column<never>[]>> // each is written for the rows of its own operation
}

export function renderReply(name: OperationName, reply: unknown, now: number, widthMax: number): string {
  if (typeof reply !== 'object' || reply === null) return text(reply)
  if ('items' in reply && Array.isArray(reply.items)) {
    const rows = reply.items as Row[]
    const columns =
      tables(now)[name] ??
      Object.keys(rows[0] ?? {}).map((key) => ({ title: label(key).toUpperCase(), value: (row: Row) => scalar(key, row[key]) }))
    if (rows.length === 0) return 'none'
    const total = (reply as { total?: number }).total
    const more = total !== undefined && total > rows.length ? `\n${rows.length} of ${total}; --limit and --cursor show more` : ''
    return renderTable(rows, columns as readonly Column<Row>[], widthMax) + more + hint(name, rows)
  }
  const told = (Object.hasOwn(SENTENCES, name) ? SENTENCES[name] : undefined)?.(reply as Operation)
  return told ?? (Object.keys(reply).length === 0 ? 'done' : renderFields(reply as Row))
}

/** How the server of a host's volumes is, and how full their store: `12 % used`. */
function volumesText({ volumeServer }: Pick<Reply<'host.get'>, 'volumeServer'>): string {
  // A server of an older version does not tell.
  if (!volumeServer) return '-'
  const { state, space } = volumeServer
  if (state === 'away' || !space) return state
  const used = `${Math.round((100 * space.usedBytes) / space.capacityBytes)} % used`
  return space.warningPercent === null ? used : `${used}, over ${space.warningPercent} %`
}

/** What can be done about it, where something can. */
function hint(name: OperationName, rows: readonly Row[]): string {
  if (name !== 'operation.list' || !rows.some((row) => row['state'] === 'stuck')) return ''
  return '\n`typevisor operation retry ID` tries the undo of a stuck one again, `typevisor operation abandon ID` lets it go'
}

const named = ({ name, resourceName, resource }: Operation): string => `${name.replace('.', ' ')} of ${resourceName ?? resource}`
const later = ({ id }: Operation): string => `\`typevisor operation get ${id} --wait 60\` waits for its end`

/** Replies that are one fact, as a sentence. */
const SENTENCES: Readonly<Record<string, (operation: Operation) => string>> = {
  'operation.cancel': (operation) =>
    operation.state === 'undone'
      ? `${named(operation)}: cancelled; what it did is undone`
      : `${named(operation)}: turned round, what it did is being undone (${operation.state}); ${later(operation)}`,
  'operation.retry': (operation) => `${named(operation)}: tried again (${operation.state}); ${later(operation)}`,
  'operation.abandon': (operation) => `${named(operation)}: let go as it is (${operation.state})`,
  'account.delete': () => 'removed',
  'token.delete': () => 'revoked',
  'host.delete': () => 'removed; its token is no longer taken',
}

/** `rootDiskBytes` -> `root disk`: the unit stands behind the value. */
const label = (key: string): string =>
  key
    .replace(/(?<=[a-z])(?:Bytes|Ms|Ns|At)(Max)?$/, '$1')
    .replace(/CountMax$/, 'sMax')
    .replace(/shCount$/, 'shes')
    .replace(/edCount$/, 'ed')
    .replace(/Count$/, 's')
    .replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)

/** One value by what its name says of its unit. */
function scalar(key: string, value: unknown): string {
  if (typeof value === 'boolean') return value ? 'yes' : 'no'
  if (typeof value === 'number') {
    if (/[a-z]Bytes(?:Max)?$/.test(key)) return formatBytes(value)
    if (/[a-z]At$|^since$|^at$/.test(key)) return localTime(value)
    if (/[a-z]Ms$/.test(key)) return durationText(value)
    if (/[a-z]Ns$/.test(key)) return durationText(value / 1e6)
  }
  if (Array.isArray(value) && value.every((item) => typeof item !== 'object')) return value.map(String).join(', ') || '-'
  if (typeof value === 'object' && value !== null && Object.keys(value).length === 0) return '-'
  return text(value).replaceAll(/[\x00-\x1f\x7f]/g, '?')
}

export function renderFields(record: Row, indent = ''): string {
  const width = Math.max(...Object.keys(record).map((key) => label(key).length), 0)
  return Object.entries(record)
    .map(([key, value]) => {
      const isObject = typeof value === 'object' && value !== null && Object.keys(value).length > 0
      if (!isObject) return `${indent}${label(key).padEnd(width)}  ${scalar(key, value)}`
      if (!Array.isArray(value)) return `${indent}${label(key)}\n${renderFields(value as Row, `${indent}  `)}`
      if (typeof value[0] !== 'object') return `${indent}${label(key).padEnd(width)}  ${scalar(key, value)}`
      const rows = value as Row[]
      const columns = Object.keys(rows[0] ?? {}).map((each) => ({
        title: label(each).toUpperCase(),
        value: (row: Row) => scalar(each, row[each]),
      }))
      const lines = renderTable(rows, columns).split('\n')
      return [`${indent}${label(key)}`, ...lines.map((line) => `${indent}  ${line}`)].join('\n')
    })
    .join('\n')
}
