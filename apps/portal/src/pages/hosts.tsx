import { Button } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { formatBytes } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { apiQuery } from '../api/queries.ts'
import { useMay } from '../api/session.ts'
import { JoinHost } from '../forms/join-host.tsx'
import { DataTable, type Column } from '../table/data-table.tsx'
import { Icon } from '../ui/icons.tsx'
import { Ago } from '../ui/now.tsx'
import { Empty, Failure, PageHead, Rows } from '../ui/page.tsx'
import { ConnectedBadge } from '../ui/state-badge.tsx'

type Host = Reply<'host.list'>['items'][number]

const COLUMNS: readonly Column<Host>[] = [
  { title: 'Host', main: true, cell: (host) => <strong>{host.name}</strong> },
  { title: 'State', shrink: true, cell: (host) => <ConnectedBadge connected={host.connected} /> },
  {
    title: 'Driver',
    label: true,
    cell: (host) => (
      <>
        {host.driver} <span className="dim">{host.version}</span>
      </>
    ),
  },
  {
    title: 'Accelerator',
    label: true,
    cell: (host) => (
      <span title={host.acceleratorReason}>
        {host.accelerator} <span className="dim">{host.acceleratorReason}</span>
      </span>
    ),
  },
  { title: 'Processors', label: true, align: 'right', cell: (host) => <span className="num">{host.cpuCount}</span> },
  { title: 'Memory', label: true, align: 'right', cell: (host) => <span className="num">{formatBytes(host.memoryBytes)}</span> },
  { title: 'Instances', label: true, align: 'right', cell: (host) => <span className="num">{host.instanceCount}</span> },
  {
    title: 'Last seen',
    wide: true,
    shrink: true,
    cell: (host) => (host.lastSeenAt === null ? <span className="dim">never</span> : <Ago at={host.lastSeenAt} />),
  },
]

export function Hosts() {
  const hosts = useQuery(apiQuery('host.list', {}))
  const may = useMay()
  const [joining, setJoining] = useState(false)
  const button = may('host.token') ? (
    <Button variant="default" leftSection={<Icon name="plus" />} onClick={() => setJoining(true)} data-testid="join">
      Add a host
    </Button>
  ) : undefined
  return (
    <>
      <PageHead title="Hosts" actions={button} />
      <div className="panel">
        {hosts.isPending ? (
          <Rows count={3} />
        ) : hosts.data === undefined ? (
          <Failure what="The hosts" error={hosts.error} onRetry={() => void hosts.refetch()} />
        ) : hosts.data.items.length === 0 ? (
          <Empty
            icon="host"
            title="No hosts yet"
            text="A host is a machine with an agent on it. The platform's own appears here as soon as its agent is up."
          />
        ) : (
          <DataTable
            label="Hosts"
            rows={hosts.data.items}
            columns={COLUMNS}
            rowKey={(row) => row.name}
            rowName={(row) => row.name}
          />
        )}
      </div>
      <JoinHost opened={joining} onClose={() => setJoining(false)} />
    </>
  )
}
