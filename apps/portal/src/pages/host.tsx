/** One host: the machine, the server of its volumes and how full their store is, and what happened to it. */
import { Text } from '@mantine/core'
import { formatBytes } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { useParams } from '@tanstack/react-router'
import { apiQuery } from '../api/queries.ts'
import { path, PATHS } from '../paths.ts'
import { ButtonLink, TextLink } from '../ui/link.tsx'
import { Ago } from '../ui/now.tsx'
import { Failure, PageHead, Panel, Rows } from '../ui/page.tsx'
import { ConnectedBadge } from '../ui/state-badge.tsx'
import { versionOf, VolumesBadge, VolumesNotice, type Host, type VolumeServer } from './host-volumes.tsx'
import { GonePage } from './page-states.tsx'
import { Timeline } from './timeline.tsx'

/** No event tells of each block that is used. */
const READING_MS = 10_000

export function HostPage() {
  const { host: name } = useParams({ from: `/signed-in${PATHS.host}` })
  const found = useQuery({ ...apiQuery('host.get', { params: { host: name } }), refetchInterval: READING_MS })
  if (found.error?.code === 'not_found')
    return (
      <GonePage
        name={name}
        what="host"
        text="It was removed, or it never was."
        action={<ButtonLink {...path.hosts()}>To the hosts</ButtonLink>}
      />
    )
  if (found.isPending) return <Rows count={8} />
  if (found.data === undefined) return <Failure what={name} error={found.error} onRetry={() => void found.refetch()} />
  const host = found.data
  return (
    <>
      <Text size="sm" mb={4}>
        <TextLink c="dimmed" {...path.hosts()}>
          Hosts
        </TextLink>
      </Text>
      <PageHead title={host.name} beside={<ConnectedBadge connected={host.connected} />} />
      {host.volumeServer !== null && <VolumesNotice server={host.volumeServer} />}
      <div className="grid" style={{ marginBottom: 18 }}>
        <Machine host={host} />
        <Volumes host={host} />
      </div>
      <h2 className="panel-title">Events</h2>
      <Timeline
        resource={host.name}
        name={host.name}
        awaits="Its connections, and what its volume server goes through, appear here as they happen."
      />
    </>
  )
}

function Machine({ host }: { readonly host: Host }) {
  return (
    <Panel title="Machine" testId="machine">
      <dl className="facts">
        <dt>Driver</dt>
        <dd>
          {host.driver} <span className="dim num">{versionOf(host)}</span>
        </dd>
        <dt>Accelerator</dt>
        <dd>
          {host.accelerator} <span className="dim">{host.acceleratorReason}</span>
        </dd>
        <dt>Processors</dt>
        <dd className="num">{host.cpuCount}</dd>
        <dt>Memory</dt>
        <dd className="num">{formatBytes(host.memoryBytes)}</dd>
        <dt>Instances</dt>
        <dd>
          <TextLink className="num" {...path.instances({ search: host.name })}>
            {host.instanceCount}
          </TextLink>
        </dd>
        <dt>Last seen</dt>
        <dd>{host.lastSeenAt === null ? <span className="dim">never</span> : <Ago at={host.lastSeenAt} />}</dd>
      </dl>
    </Panel>
  )
}

function Volumes({ host }: { readonly host: Host }) {
  const { volumeServer } = host
  if (volumeServer === null) {
    return (
      <Panel title="Volumes" testId="volumes">
        <Text c="dimmed">
          {host.connected
            ? 'It has no volume server to show: its disks are kept otherwise, or its agent cannot tell.'
            : 'Its agent is not connected: nothing is known of its volumes now.'}
        </Text>
      </Panel>
    )
  }
  return (
    <Panel title="Volumes" beside={<VolumesBadge host={host} />} testId="volumes">
      {volumeServer.space !== null && <Space space={volumeServer.space} />}
      <dl className="facts">
        <dt>Server</dt>
        <dd>
          {volumeServer.state === 'serving' ? 'serving' : 'away'} <span className="dim">({volumeServer.cause})</span> since{' '}
          <Ago at={volumeServer.since} />
        </dd>
        <dt>Version</dt>
        <dd className="num">{volumeServer.version ?? <span className="dim">none seen yet</span>}</dd>
        {volumeServer.startedAt !== null && volumeServer.state === 'serving' && (
          <>
            <dt>Started</dt>
            <dd>
              <Ago at={volumeServer.startedAt} />
            </dd>
          </>
        )}
        <dt>Attached</dt>
        <dd className="num">
          {volumeServer.attachedCount} {volumeServer.attachedCount === 1 ? 'volume' : 'volumes'}
        </dd>
      </dl>
    </Panel>
  )
}

function Space({ space }: { readonly space: NonNullable<VolumeServer['space']> }) {
  const percent = Math.round((100 * space.usedBytes) / space.capacityBytes)
  const tone = space.warningPercent === null ? 'blue' : space.warningPercent >= 95 ? 'red' : 'amber'
  return (
    <div className={`space tone-${tone}`} data-testid="space">
      <div
        className="meter"
        role="meter"
        aria-label="Space used"
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={percent}
        aria-valuetext={`${percent} %`}
      >
        <span style={{ width: `${percent}%` }} />
      </div>
      <div className="chart-head">
        <span className="num">{formatBytes(space.usedBytes)} used</span>
        <span className="num dim">
          {formatBytes(space.availableBytes)} available {space.limitedBy === 'host' ? 'on its file system' : 'in the store'}
        </span>
      </div>
    </div>
  )
}
