/** Replies as people read them. What has no table of its own is shown field by field; `--json` shows everything as it came. */
import { formatBytes } from '@typevisor/base'
import type { OperationName, Reply } from '@typevisor/api'
import { age, renderTable, type Column } from './table.ts'

type Instance = Reply<'instance.get'>
type Row = Record<string, unknown>

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
  const hosts: Column<Reply<'host.list'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'CONNECTED', value: (row) => (row.connected ? 'yes' : 'no') },
    { title: 'DRIVER', value: (row) => row.version || row.driver },
    { title: 'ACCELERATOR', value: (row) => row.accelerator },
    { title: 'CPUS', value: (row) => String(row.cpuCount), right: true },
    { title: 'MEMORY', value: (row) => formatBytes(row.memoryBytes), right: true },
    { title: 'INSTANCES', value: (row) => String(row.instanceCount), right: true },
  ]
  const images: Column<Reply<'image.list'>['items'][number]>[] = [
    { title: 'NAME', value: (row) => row.name },
    { title: 'HOST', value: (row) => row.host },
    { title: 'SIZE', value: (row) => formatBytes(row.sizeBytes), right: true },
    { title: 'TITLE', value: (row) => row.title },
    { title: 'BUILT', value: (row) => ago(row.builtAt), right: true },
  ]
  const operations: Column<Reply<'operation.get'>>[] = [
    { title: 'ID', value: (row) => row.id },
    { title: 'NAME', value: (row) => row.name },
    {
      title: 'STATE',
      value: (row) => (row.progress !== null && row.state === 'running' ? `${Math.round(row.progress * 100)} %` : row.state),
    },
    { title: 'AGE', value: (row) => ago(row.createdAt), right: true },
    { title: 'FAULT', value: (row) => row.fault?.message ?? '-' },
  ]
  const events: Column<Reply<'event.stream'>>[] = [
    { title: 'AT', value: (row) => new Date(row.at).toISOString() },
    { title: 'KIND', value: (row) => row.kind },
    { title: 'NAME', value: (row) => row.name ?? '-' },
    { title: 'DATA', value: (row) => text(row.data) },
  ]
  return {
    'instance.list': instances,
    'host.list': hosts,
    'image.list': images,
    'operation.list': operations,
    'event.list': events,
  } as Partial<Record<OperationName, readonly Column<never>[]>> // each is written for the rows of its own operation
}

export function renderReply(name: OperationName, reply: unknown, now: number, widthMax: number): string {
  if (typeof reply !== 'object' || reply === null) return text(reply)
  if ('items' in reply && Array.isArray(reply.items)) {
    const rows = reply.items as Row[]
    const columns =
      tables(now)[name] ??
      Object.keys(rows[0] ?? {}).map((key) => ({ title: key.toUpperCase(), value: (row: Row) => text(row[key]) }))
    if (rows.length === 0) return 'none'
    const total = (reply as { total?: number }).total
    const more = total !== undefined && total > rows.length ? `\n${rows.length} of ${total}; --limit and --cursor show more` : ''
    return renderTable(rows, columns as readonly Column<Row>[], widthMax) + more
  }
  return renderFields(reply as Row)
}

export function renderFields(record: Row, indent = ''): string {
  const width = Math.max(...Object.keys(record).map((key) => key.length), 0)
  return Object.entries(record)
    .map(([key, value]) => {
      const shown =
        key.endsWith('Bytes') && typeof value === 'number'
          ? formatBytes(value)
          : /At$|^since$/.test(key) && typeof value === 'number'
            ? new Date(value).toISOString()
            : null
      if (shown === null && typeof value === 'object' && value !== null && !Array.isArray(value))
        return `${indent}${key}\n${renderFields(value as Row, `${indent}  `)}`
      return `${indent}${key.padEnd(width)}  ${shown ?? text(value)}`
    })
    .join('\n')
}
