/** What an instance has of its host, how much of it may be changed now, and the form that does. */
import { Button, TextInput, Tooltip } from '@mantine/core'
import { formatBytes } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { Fragment, useState } from 'react'
import { call } from '../../api/client.ts'
import { apiQuery } from '../../api/queries.ts'
import { useSession } from '../../api/session.ts'
import { settingsRefusal, type Instance } from '../../api/verbs.ts'
import { OperationForm } from '../../forms/operation-form.tsx'
import { FormDialog } from '../../forms/small-form.tsx'
import { WORD_PROPS } from '../../forms/word-props.ts'
import { Icon } from '../../ui/icons.tsx'
import { Panel } from '../../ui/page.tsx'
import type { PartRates } from './rates.ts'
import { bodyOf, draftOf, limitsOf, limitText, type LimitDrafts, type ResourceDraft } from './resource-draft.ts'

export function Resources({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const [changing, setChanging] = useState(false)
  const reason = settingsRefusal(instance, account.role)
  const { settings, vcpuCount, vcpuCountMax, memoryBytes, memoryBytesMax } = instance
  const pins = settings.affinityHard
  return (
    <Panel title="Resources" testId="resources">
      <dl className="facts">
        <dt>Processors</dt>
        <dd className="num">
          {vcpuCount} vCPU{vcpuCountMax > vcpuCount && <span className="dim"> of at most {vcpuCountMax}</span>}
        </dd>
        <dt>Memory</dt>
        <dd className="num">
          {formatBytes(memoryBytes)}
          {memoryBytesMax > memoryBytes && <span className="dim"> of at most {formatBytes(memoryBytesMax)}</span>}
          {instance.hugePages && <span className="dim"> in huge pages</span>}
        </dd>
        {settings.memoryTargetBytes !== null && (
          <>
            <dt>To do with</dt>
            <dd className="num">{formatBytes(settings.memoryTargetBytes)}</dd>
          </>
        )}
        <dt>Share of CPUs</dt>
        <dd className="num">
          weight {settings.cpuWeight ?? 100}
          {(settings.cpuCapPercent ?? 0) > 0 && `, at most ${settings.cpuCapPercent} %`}
        </dd>
        {pins !== null && (
          <>
            <dt>Runs on CPUs</dt>
            <dd className="mono">{pins.join(' ')}</dd>
          </>
        )}
        {settings.diskLimits.map((limit) => (
          <Fragment key={limit.disk}>
            <dt>Disk {limit.disk}</dt>
            <dd className="num">at most {limitText(limit)}</dd>
          </Fragment>
        ))}
      </dl>
      {settings.notes.map((note) => (
        <p key={note} className="dim" data-testid="settings-note">
          {note}
        </p>
      ))}
      <div style={{ marginTop: 14 }}>
        <Tooltip label={reason ?? ''} disabled={reason === null}>
          <Button
            variant="default"
            leftSection={<Icon name="gear" />}
            disabled={reason !== null}
            onClick={() => setChanging(true)}
            data-testid="change-resources"
          >
            Change
          </Button>
        </Tooltip>
      </div>
      <FormDialog opened={changing} onClose={() => setChanging(false)} title={`Resources of ${instance.name}`}>
        <ChangeResources instance={instance} onClose={() => setChanging(false)} />
      </FormDialog>
    </Panel>
  )
}

const FIELDS = [
  'vcpuCount',
  'memoryBytes',
  'memoryTargetBytes',
  'cpuWeight',
  'cpuCapPercent',
  'affinityHard',
  'diskLimits',
] as const
function ChangeResources({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const [draft, setDraft] = useState(() => draftOf(instance))
  const [limits, setLimits] = useState<LimitDrafts>({})
  const devices = useQuery(apiQuery('instance.devices', { params: { instance: instance.id } }))
  const disks = (devices.data?.items ?? []).flatMap(({ kind, name }) => (kind === 'disk' ? [name] : []))
  const shown = { ...limitsOf(instance, disks), ...limits }
  const { vcpuCountMax, memoryBytes, memoryBytesMax } = instance
  const growsVcpus = vcpuCountMax > 1
  const growsMemory = memoryBytesMax > memoryBytes
  const field = (key: keyof ResourceDraft, label: string, description: string, error: string | undefined, disabled = false) => (
    <TextInput
      label={label}
      description={description}
      value={draft[key]}
      disabled={disabled}
      onChange={(event) => {
        const { value } = event.currentTarget
        setDraft((now) => ({ ...now, [key]: value }))
      }}
      error={error}
      data-testid={`field-${key}`}
      {...WORD_PROPS}
    />
  )
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={FIELDS}
      send={async () =>
        call('instance.set', { params: { instance: instance.id }, query: {}, body: bodyOf(draft, limits, instance) })
      }
      action="Change it"
      testId="resources-form"
    >
      {(errors) => (
        <>
          {field(
            'vcpuCount',
            'Virtual processors',
            growsVcpus ? `Up to ${vcpuCountMax}, by its creation` : 'Fixed: it was created with room for one',
            errors.vcpuCount,
            !growsVcpus,
          )}
          {field(
            'memory',
            'Memory',
            growsMemory ? `Up to ${formatBytes(memoryBytesMax)}, by its creation` : 'It has all that its creation allows',
            errors.memoryBytes,
          )}
          {field(
            'memoryTarget',
            'Memory to do with',
            'Its balloon gives back the rest; empty: all of it',
            errors.memoryTargetBytes,
          )}
          {field('cpuWeight', 'Weight', 'Where CPUs are contended; empty: 100, as others have', errors.cpuWeight)}
          {field('cpuCapPercent', 'Cap', 'In percent of one CPU, for all vCPUs together; empty: none', errors.cpuCapPercent)}
          {field(
            'affinityHard',
            'CPUs of the host',
            'Such as 0-3,8; a second list is for vCPU 1 and on; empty: any',
            errors.affinityHard,
          )}
          {disks.map((disk, at) => (
            <TextInput
              key={disk}
              label={`Limit of disk ${disk}`}
              description="Such as 10M/s, 200 operations/s; empty: none"
              value={shown[disk] ?? ''}
              onChange={(event) => {
                const { value } = event.currentTarget
                setLimits((now) => ({ ...now, [disk]: value }))
              }}
              // What is wrong with one names its disk, and is said below them all.
              error={at === disks.length - 1 ? errors.diskLimits : errors.diskLimits !== undefined}
              data-testid={`field-limit-${disk}`}
              {...WORD_PROPS}
            />
          ))}
        </>
      )}
    </OperationForm>
  )
}

const percent = (share: number | null): string => (share === null ? '\u2013' : `${Math.round(share * 100)} %`)
const latency = (ms: number | null): string => (ms === null ? '\u2013' : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`)

/** Each processor and each disk, between the last two readings. */
export function Parts({ parts: { vcpus, disks } }: { readonly parts: PartRates }) {
  const busy = disks.filter(({ readLatencyMs, writeLatencyMs }) => readLatencyMs !== null || writeLatencyMs !== null)
  if (vcpus.length < 2 && busy.length === 0 && !vcpus.some(({ waitShare }) => (waitShare ?? 0) > 0.01)) return null
  return (
    <dl className="facts" style={{ marginTop: 14 }} data-testid="parts">
      {vcpus.map(({ index, share, waitShare }) => (
        <PartRow
          key={`vcpu${index}`}
          name={`vCPU ${index}`}
          text={`${percent(share)}, ${percent(waitShare)} waiting for a CPU`}
        />
      ))}
      {busy.map(({ name, readLatencyMs, writeLatencyMs }) => (
        <PartRow key={name} name={`Disk ${name}`} text={`${latency(readLatencyMs)} a read, ${latency(writeLatencyMs)} a write`} />
      ))}
    </dl>
  )
}

function PartRow({ name, text }: { readonly name: string; readonly text: string }) {
  return (
    <>
      <dt>{name}</dt>
      <dd className="num">{text}</dd>
    </>
  )
}
