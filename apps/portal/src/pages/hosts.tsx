import { Button } from '@mantine/core'
import { formatBytes } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { apiQuery } from '../api/queries.ts'
import { useMay } from '../api/session.ts'
import { JoinHost } from '../forms/join-host.tsx'
import { RemoveHost } from '../forms/remove-host.tsx'
import { versionOf, VolumesBadge, type Host } from './host-volumes.tsx'
import { DataTable, type Column } from '../table/data-table.tsx'
import { path } from '../paths.ts'
import { Icon } from '../ui/icons.tsx'
import { TextLink } from '../ui/link.tsx'
import { Ago } from '../ui/now.tsx'
import { Empty, Failure, PageHead, Rows } from '../ui/page.tsx'
import { ConnectedBadge } from '../ui/state-badge.tsx'

const COLUMNS: readonly Column<Host>[] = [
  {
    title: 'Host',
    main: true,
    cell: (host) => (
      <TextLink className="link whole" {...path.host(host.name)}>
        {host.name}
      </TextLink>
    ),
  },
  { title: 'State', shrink: true, cell: (host) => <ConnectedBadge connected={host.connected} /> },
  {
    title: 'Driver',
    label: true,
    cell: (host) => (
      <>
        {host.driver} <span className="dim num">{versionOf(host)}</span>
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
  {
    title: 'Memory',
    label: true,
    align: 'right',
    cell: (host) => <span className="num whole">{formatBytes(host.memoryBytes)}</span>,
  },
  {
    title: 'Instances',
    label: true,
    align: 'right',
    cell: (host) => (
      <TextLink c="inherit" className="num" {...path.instances({ search: host.name })}>
        {host.instanceCount}
      </TextLink>
    ),
  },
  { title: 'Volumes', label: true, cell: (host) => <VolumesBadge host={host} /> },
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
  const [removed, setRemoved] = useState<Host | null>(null)
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
            text="A host is a machine with an agent on it, which runs the guests. The platform's own appears here as soon as its agent is up; any other is added."
            action={button}
          />
        ) : (
          <DataTable
            label="Hosts"
            rows={hosts.data.items}
            columns={COLUMNS}
            rowKey={(row) => row.name}
            rowName={(row) => row.name}
            {...(may('host.delete') && {
              menu: (row: Host) => (
                <Button
                  size="compact-xs"
                  variant="light"
                  color="red"
                  disabled={row.connected}
                  title={row.connected ? 'It is connected: stop its agent first' : undefined}
                  aria-label={`Remove ${row.name}`}
                  onClick={() => setRemoved(row)}
                  data-testid="remove-host"
                >
                  Remove{'\u2026'}
                </Button>
              ),
            })}
          />
        )}
      </div>
      <JoinHost opened={joining} onClose={() => setJoining(false)} />
      <RemoveHost host={removed} onClose={() => setRemoved(null)} />
    </>
  )
}
