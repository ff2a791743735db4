import { Skeleton, Text } from '@mantine/core'
import { formatBytes } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { Suspense, useEffect, useRef, useState } from 'react'
import { messageOf } from '../../api/message.ts'
import { apiQuery } from '../../api/queries.ts'
import { isAway, type Instance } from '../../api/verbs.ts'
import { FIRMWARE_TEXT } from '../../forms/firmware-text.ts'
import { lazyPart } from '../../lazy-page.ts'
import { CopyButton } from '../../ui/copy.tsx'
import { Ago } from '../../ui/now.tsx'
import { Panel } from '../../ui/page.tsx'
import { addressesQuery } from './addresses.ts'
import { useInstance } from './instance.tsx'
import { HISTORY_COUNT, linePoints, NO_HISTORY, withReading, type Rates, type StatisticsHistory } from './rates.ts'

/** Loaded behind the page, whose first load has a bound. */
const Resources = lazyPart(async () => (await import('./resources.tsx')).Resources)
const Recovery = lazyPart(async () => (await import('./recovery.tsx')).Recovery)
const Parts = lazyPart(async () => (await import('./resources.tsx')).Parts)

const READING_MS = 3_000

export function Overview() {
  const instance = useInstance()
  return (
    <div style={{ display: 'grid', gap: 16 }}>
      {(instance.state.kind === 'running' || instance.state.kind === 'paused') && !isAway(instance) && (
        <Usage instance={instance} />
      )}
      <div className="grid pairs">
        <Facts instance={instance} />
        <Suspense fallback={<Coming title="Resources" />}>
          <Resources instance={instance} />
        </Suspense>
        <Network instance={instance} />
        <Suspense fallback={<Coming title="Crashes and restarts" />}>
          <Recovery instance={instance} />
        </Suspense>
      </div>
    </div>
  )
}

/** A card whose code is under way, so that the others have their places. */
const Coming = ({ title }: { readonly title: string }) => (
  <Panel title={title}>
    <Skeleton height={18} width="60%" />
  </Panel>
)

function Facts({ instance }: { readonly instance: Instance }) {
  const labels = Object.entries(instance.labels)
  return (
    <Panel title="Machine" testId="facts">
      <dl className="facts">
        <dt>State</dt>
        <dd>
          {instance.state.kind} <span className="dim">({instance.state.cause})</span> since <Ago at={instance.state.since} />
        </dd>
        <dt>Image</dt>
        <dd>{instance.image}</dd>
        <dt>Host</dt>
        <dd>
          {instance.host ?? <span className="dim">none yet</span>}
          {!instance.hostConnected && instance.host !== null && <span className="dim"> (not connected)</span>}
        </dd>
        {(instance.firmware !== 'bios' || instance.tpm) && (
          <>
            <dt>Firmware</dt>
            <dd>
              {FIRMWARE_TEXT[instance.firmware]}
              {instance.tpm && ', with a TPM'}
            </dd>
          </>
        )}
        <dt>Root disk</dt>
        <dd className="num">{formatBytes(instance.rootDiskBytes)}</dd>
        <dt>Created</dt>
        <dd>
          <Ago at={instance.createdAt} />
        </dd>
        {labels.length > 0 && (
          <>
            <dt>Labels</dt>
            <dd style={{ display: 'flex', flexWrap: 'wrap', gap: 5 }}>
              {labels.map(([key, value]) => (
                <span key={key} className="label">
                  {value === '' ? key : `${key}=${value}`}
                </span>
              ))}
            </dd>
          </>
        )}
        <dt>Id</dt>
        <dd>
          <span className="mono">{instance.id}</span> <CopyButton text={instance.id} what="the id" />
        </dd>
      </dl>
    </Panel>
  )
}

function Network({ instance }: { readonly instance: Instance }) {
  const running = instance.state.kind === 'running' && !isAway(instance)
  const addresses = useQuery(addressesQuery(instance, running))
  const devices = (addresses.data?.items ?? []).filter((device) => device.device !== 'lo')
  return (
    <Panel title="Network" testId="network">
      {!running ? (
        <Text c="dimmed">
          {isAway(instance) ? 'Addresses are asked of the guest, through its host.' : 'Addresses are known while it runs.'}
        </Text>
      ) : addresses.data !== undefined ? (
        <dl className="facts">
          {devices.map((device) => (
            <DeviceRow
              key={device.device}
              device={device.device}
              mac={device.mac}
              addresses={device.addresses.map(({ address, prefixLength }) => ({ address, text: `${address}/${prefixLength}` }))}
            />
          ))}
          {devices.length === 0 && <dd className="dim">The guest has no network device.</dd>}
        </dl>
      ) : addresses.error !== null ? (
        <Text c="dimmed" title={messageOf(addresses.error)}>
          The guest's agent does not answer yet; it is asked again every few seconds.
        </Text>
      ) : (
        <Skeleton height={18} width="60%" />
      )}
      <h3 className="panel-title" style={{ margin: '20px 0 8px' }}>
        Ports of the host
      </h3>
      {instance.forwards.length === 0 ? (
        <Text c="dimmed">None reach the guest.</Text>
      ) : (
        <dl className="facts">
          {instance.forwards.map((forward) => (
            <ForwardRow key={`${forward.protocol}${forward.hostPort}-${forward.guestPort}`} {...forward} />
          ))}
        </dl>
      )}
    </Panel>
  )
}

function DeviceRow({
  device,
  mac,
  addresses,
}: {
  readonly device: string
  readonly mac: string | null
  readonly addresses: readonly { address: string; text: string }[]
}) {
  return (
    <>
      <dt className="mono">{device}</dt>
      <dd>
        {addresses.map(({ address, text }) => (
          <div key={address}>
            <span className="mono">{text}</span> <CopyButton text={address} what="the address" />
          </div>
        ))}
        {mac !== null && <div className="mono dim">{mac}</div>}
      </dd>
    </>
  )
}

function ForwardRow({ protocol, hostPort, guestPort }: Instance['forwards'][number]) {
  const command = `ssh -p ${hostPort} root@${location.hostname}`
  return (
    <>
      <dt className="num">
        {hostPort === 0 ? 'chosen at start' : hostPort} <span className="dim">{protocol}</span>
      </dt>
      <dd className="num">
        → {guestPort}
        {guestPort === 22 && protocol === 'tcp' && hostPort !== 0 && (
          <>
            {' '}
            <span className="mono dim">{command}</span> <CopyButton text={command} what="the command" />
          </>
        )}
      </dd>
    </>
  )
}

const perSecond = (count: number | null | undefined) =>
  count === null || count === undefined ? '\u2013' : `${formatBytes(Math.round(count))}/s`

function Usage({ instance }: { readonly instance: Instance }) {
  const reading = useQuery({
    ...apiQuery('instance.statistics', { params: { instance: instance.id } }),
    retry: false,
    staleTime: 0,
    gcTime: 0,
    refetchInterval: READING_MS,
    refetchIntervalInBackground: false,
  })
  const [history, setHistory] = useState<StatisticsHistory>(NO_HISTORY)
  const { data } = reading
  const vcpus = useRef(instance.vcpuCount)
  useEffect(() => {
    if (data !== undefined) setHistory((now) => withReading(now, data, vcpus.current))
  }, [data])
  if (reading.error !== null && data === undefined) {
    return (
      <Panel title="Usage">
        <Text c="dimmed">Not known now: {messageOf(reading.error)}</Text>
      </Panel>
    )
  }
  const last = history.rates.at(-1)
  const both = (left: keyof Rates, right: keyof Rates) => most(history.rates, [left, right], 64 * 1024)
  return (
    <Panel title="Usage" testId="usage">
      <div className="charts">
        <Chart
          title="Processors"
          text={last?.cpuShare == null ? '\u2013' : `${Math.round(last.cpuShare * 100)} %`}
          rates={history.rates}
          lines={['cpuShare']}
          top={1}
        />
        <Chart
          title="Memory held"
          text={data?.residentBytes == null ? '\u2013' : formatBytes(data.residentBytes)}
          rates={history.rates}
          lines={['residentBytes']}
          top={Math.max(instance.memoryBytes, most(history.rates, ['residentBytes'], 1))}
        />
        <Chart
          title="Disk"
          text={`${perSecond(last?.readBytesPerSecond)} read · ${perSecond(last?.writeBytesPerSecond)} written`}
          rates={history.rates}
          lines={['readBytesPerSecond', 'writeBytesPerSecond']}
          top={both('readBytesPerSecond', 'writeBytesPerSecond')}
        />
        {data?.nics.some((nic) => nic.receiveBytes !== null) === true && (
          <Chart
            title="Network"
            text={`${perSecond(last?.receiveBytesPerSecond)} in · ${perSecond(last?.transmitBytesPerSecond)} out`}
            rates={history.rates}
            lines={['receiveBytesPerSecond', 'transmitBytesPerSecond']}
            top={both('receiveBytesPerSecond', 'transmitBytesPerSecond')}
          />
        )}
      </div>
      <Suspense fallback={null}>
        <Parts parts={history.parts} />
      </Suspense>
    </Panel>
  )
}

const most = (rates: readonly Rates[], lines: readonly (keyof Rates)[], least: number): number =>
  Math.max(least, ...rates.flatMap((each) => lines.map((line) => each[line] ?? 0)))

const BOX = { width: 240, height: 54 }

interface ChartProps {
  readonly title: string
  readonly text: string
  readonly rates: readonly Rates[]
  readonly lines: readonly (keyof Rates)[]
  readonly top: number
}

function Chart({ title, text, rates, lines, top }: ChartProps) {
  return (
    <div>
      <div className="chart-head">
        <span className="dim">{title}</span>
        <span className="num">{text}</span>
      </div>
      <svg
        className="chart"
        viewBox={`0 0 ${BOX.width} ${BOX.height}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${title}: ${text}`}
      >
        <line x1="0" x2={BOX.width} y1={BOX.height} y2={BOX.height} />
        {lines.map((line, index) => (
          <polyline
            key={line}
            className={index === 1 ? 'second' : undefined}
            points={linePoints(
              rates.map((each) => each[line]),
              { ...BOX, most: top, count: HISTORY_COUNT },
            )}
          />
        ))}
      </svg>
    </div>
  )
}
