/** Devices of an instance: attaching and detaching, growing disks, media in CD drives. */
import { ActionIcon, Button, Checkbox, Menu, TextInput, Tooltip } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { Fault, formatBytes, MIB, parseBytes } from '@typevisor/base'
import { DEVICE_KINDS, USB_MODELS, type DeviceKind, type DeviceVerbName, type UsbModel } from '@typevisor/model'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../../api/client.ts'
import { apiQuery } from '../../api/queries.ts'
import { useSession } from '../../api/session.ts'
import { deviceRefusal, type Instance } from '../../api/verbs.ts'
import { forwardsOf, type ForwardDraft } from '../../forms/forward-draft.ts'
import { Forwards } from '../../forms/forwards.tsx'
import { NativeSelect } from '../../forms/native-select.tsx'
import { OperationForm } from '../../forms/operation-form.tsx'
import { FormDialog } from '../../forms/small-form.tsx'
import { WORD_PROPS } from '../../forms/word-props.ts'
import { DataTable, type Column } from '../../table/data-table.tsx'
import { Icon } from '../../ui/icons.tsx'
import { Failure, Rows } from '../../ui/page.tsx'
import { useInstance } from './instance.tsx'

type Device = Reply<'instance.device'>
type Act = Exclude<DeviceVerbName, 'attach'>
interface Asked {
  readonly act: Act
  readonly device: Device
}

const STATE_TEXT: Readonly<Record<Device['state'], string>> = {
  attached: 'attached',
  leaving: 'the guest was asked to let go',
  kept: 'detached, its volume is kept',
}

const whatOf = ({ kind, mac, medium, model, readOnly, forwards }: Device): string => {
  const ports = forwards
    .map(({ hostPort, guestPort }) => ` ${hostPort === 0 ? 'of its choice' : hostPort} to ${guestPort}`)
    .join(',')
  if (mac !== null) return `${mac}${ports === '' ? '' : `, ports${ports}`}`
  if (kind === 'cd') return medium ?? 'empty'
  return model ?? (readOnly === true ? 'read-only' : '')
}

const COLUMNS: readonly Column<Device>[] = [
  { title: 'Name', main: true, cell: (device) => <strong>{device.name}</strong> },
  { title: 'Kind', label: true, cell: (device) => device.kind },
  { title: 'State', label: true, cell: (device) => STATE_TEXT[device.state] },
  { title: 'Size', label: true, cell: (device) => (device.sizeBytes === null ? '' : formatBytes(device.sizeBytes)) },
  { title: 'What', label: true, cell: whatOf },
  {
    title: 'Where',
    label: true,
    cell: ({ port, address }) => <span className="dim">{[port, address].filter((part) => part !== null).join(' ')}</span>,
  },
]

export function Devices() {
  const instance = useInstance()
  const { account } = useSession()
  const found = useQuery(apiQuery('instance.devices', { params: { instance: instance.id } }))
  const [attaching, setAttaching] = useState(false)
  const [asked, setAsked] = useState<Asked | null>(null)
  const close = () => setAsked(null)
  const reason = deviceRefusal('attach', instance, account.role)
  const items = found.data?.items
  return (
    <>
      <div className="panel">
        <div className="toolbar" style={{ justifyContent: 'flex-end' }}>
          <Tooltip label={reason ?? ''} disabled={reason === null}>
            <Button
              leftSection={<Icon name="device" />}
              disabled={reason !== null}
              onClick={() => setAttaching(true)}
              data-testid="attach"
            >
              Attach a device
            </Button>
          </Tooltip>
        </div>
        {items === undefined ? (
          found.isPending ? (
            <Rows count={3} />
          ) : (
            <Failure what="The devices" error={found.error} onRetry={() => void found.refetch()} />
          )
        ) : (
          <DataTable
            label={`Devices of ${instance.name}`}
            rows={items}
            columns={COLUMNS}
            rowKey={(row) => row.name}
            rowName={(row) => row.name}
            menu={(row) => <DeviceMenu instance={instance} device={row} onAsk={setAsked} />}
          />
        )}
      </div>
      <FormDialog opened={attaching} onClose={() => setAttaching(false)} title={`Attach a device to ${instance.name}`}>
        <Attach instance={instance} onClose={() => setAttaching(false)} />
      </FormDialog>
      <FormDialog opened={asked !== null} onClose={close} title={asked === null ? '' : TITLES[asked.act](asked.device)}>
        {asked !== null && <Form {...asked} instance={instance} onClose={close} />}
      </FormDialog>
    </>
  )
}

const TITLES: Readonly<Record<Act, (device: Device) => string>> = {
  detach: ({ name, state }) => (state === 'kept' ? `Delete the volume ${name}` : `Detach ${name}`),
  resize: ({ name }) => `Grow ${name}`,
  insert: ({ name }) => `Insert a medium into ${name}`,
  eject: ({ name }) => `Eject the medium of ${name}`,
}

interface OfDevice {
  readonly instance: Instance
  readonly device: Device
  readonly onClose: () => void
}

function Form({ act, ...of }: OfDevice & { readonly act: Act }) {
  switch (act) {
    case 'detach':
      return <Detach {...of} />
    case 'resize':
      return <Resize {...of} />
    case 'insert':
      return <Insert {...of} />
    case 'eject':
      return <Eject {...of} />
  }
}

/** What makes sense of a device, whatever may be done now. */
function actsOf({ kind, state, detachable, readOnly, medium }: Device): readonly Act[] {
  if (state === 'kept') return ['detach']
  return [
    ...(kind === 'disk' && readOnly === false ? (['resize'] as const) : []),
    ...(kind === 'cd' ? (['insert'] as const) : []),
    ...(kind === 'cd' && medium !== null ? (['eject'] as const) : []),
    ...(detachable ? (['detach'] as const) : []),
  ]
}

interface MenuProps {
  readonly instance: Instance
  readonly device: Device
  readonly onAsk: (asked: Asked) => void
}

function DeviceMenu({ instance, device, onAsk }: MenuProps) {
  const { account } = useSession()
  const acts = actsOf(device)
  if (acts.length === 0) return null
  return (
    <Menu width={210}>
      <Menu.Target>
        <ActionIcon aria-label={`Actions of ${device.name}`} data-testid="row-menu">
          <Icon name="dots" />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        {acts.map((act) => {
          const reason = deviceRefusal(act, instance, account.role)
          return (
            <Menu.Item
              key={act}
              disabled={reason !== null}
              title={reason ?? undefined}
              {...(act === 'detach' && { color: 'red' })}
              onClick={() => onAsk({ act, device })}
              data-testid={`device-${act}`}
            >
              {act === 'detach' && device.state === 'kept' ? 'Delete the volume' : MENU_TEXT[act]}
              {'\u2026'}
            </Menu.Item>
          )
        })}
      </Menu.Dropdown>
    </Menu>
  )
}

const MENU_TEXT: Readonly<Record<Act, string>> = { detach: 'Detach', resize: 'Grow', insert: 'Insert a medium', eject: 'Eject' }

const KIND_TEXT: Readonly<Record<DeviceKind, string>> = { disk: 'Disk', nic: 'Network card', cd: 'CD drive', usb: 'USB device' }
const NEW_NAME: Readonly<Record<DeviceKind, string>> = { disk: 'data', nic: 'lan', cd: 'cd', usb: 'usb-1' }

/** @throws Fault `invalid` at the field. */
function refuse(path: string, want: string, got: string, cause?: unknown): never {
  throw new Fault('invalid', `${path}: want ${want}`, { cause, details: [{ path, want, got: JSON.stringify(got) }] })
}

/** @throws Fault `invalid` at the field. */
function sizeOf(text: string): number {
  try {
    const sizeBytes = parseBytes(text)
    return text.includes('.') ? Math.round(sizeBytes / MIB) * MIB : sizeBytes
  } catch (error) {
    return refuse('sizeBytes', 'a size such as 512M or 4 GiB', text, error)
  }
}

function Attach({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const [kind, setKind] = useState<DeviceKind>('disk')
  const [device, setDevice] = useState<string | null>(null)
  const [size, setSize] = useState('1 GiB')
  const [medium, setMedium] = useState('')
  const [model, setModel] = useState<UsbModel>('tablet')
  const [forwards, setForwards] = useState<readonly ForwardDraft[]>([])
  const hasVolume = kind === 'disk' || (kind === 'usb' && model === 'storage')
  const body = () => ({
    kind,
    device: (device ?? NEW_NAME[kind]).trim(),
    ...(hasVolume && size.trim() !== '' && { sizeBytes: sizeOf(size) }),
    ...(kind === 'cd' && medium !== '' && { medium }),
    ...(kind === 'usb' && { model }),
    ...(kind === 'nic' && forwards.length > 0 && { forwards: forwardsOf(forwards, refuse) }),
  })
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['kind', 'device', 'sizeBytes', 'medium', 'model', 'forwards']}
      send={async () => call('instance.attach', { params: { instance: instance.id }, query: {}, body: body() })}
      action="Attach it"
      testId="attach-form"
    >
      {(errors) => (
        <>
          <NativeSelect
            label="What"
            value={kind}
            onChange={(choice) => setKind(DEVICE_KINDS.find((each) => each === choice) ?? 'disk')}
            error={errors.kind}
            testId="field-kind"
          >
            {DEVICE_KINDS.map((each) => (
              <option key={each} value={each}>
                {KIND_TEXT[each]}
              </option>
            ))}
          </NativeSelect>
          {kind === 'usb' && (
            <NativeSelect
              label="Which"
              value={model}
              onChange={(choice) => setModel(USB_MODELS.find((each) => each === choice) ?? 'tablet')}
              error={errors.model}
              testId="field-model"
            >
              {USB_MODELS.map((each) => (
                <option key={each} value={each}>
                  {each}
                </option>
              ))}
            </NativeSelect>
          )}
          <TextInput
            data-autofocus
            label="Name"
            value={device ?? NEW_NAME[kind]}
            onChange={(event) => setDevice(event.currentTarget.value)}
            error={errors.device}
            data-testid="field-device"
            {...WORD_PROPS}
          />
          {hasVolume && (
            <TextInput
              label="Size of a new volume"
              description="Left empty, the kept volume of this name is attached again"
              value={size}
              onChange={(event) => setSize(event.currentTarget.value)}
              error={errors.sizeBytes}
              data-testid="field-size"
            />
          )}
          {kind === 'cd' && (
            <MediumField instance={instance} value={medium} onChange={setMedium} error={errors.medium} empty="Nothing" />
          )}
          {kind === 'nic' && <Forwards forwards={forwards} error={errors.forwards} onChange={setForwards} />}
        </>
      )}
    </OperationForm>
  )
}

interface MediumFieldProps {
  readonly instance: Instance
  readonly value: string
  readonly onChange: (medium: string) => void
  readonly error: string | undefined
  /** Of the choice of none. */
  readonly empty: string
}

function MediumField({ instance, value, onChange, error, empty }: MediumFieldProps) {
  const media = useQuery({
    ...apiQuery('host.media', { params: { host: instance.host ?? '' } }),
    enabled: instance.host !== null,
    staleTime: 0,
  })
  return (
    <NativeSelect
      label="Medium"
      description="Images in the media folder of its host"
      value={value}
      onChange={onChange}
      error={error}
      testId="field-medium"
    >
      <option value="">{empty}</option>
      {media.data?.items.map(({ name }) => (
        <option key={name} value={name}>
          {name}
        </option>
      ))}
    </NativeSelect>
  )
}

function Detach({ instance, device, onClose }: OfDevice) {
  const isKept = device.state === 'kept'
  const [deletes, setDeletes] = useState(isKept)
  const [force, setForce] = useState(device.state === 'leaving')
  const params = { instance: instance.id, device: device.name }
  const hasVolume = device.sizeBytes !== null && device.kind !== 'cd'
  const query = { force: force ? 'true' : 'false', delete: deletes ? 'true' : 'false' } as const
  const { kind } = instance.state
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['force', 'delete']}
      send={() => call('instance.detach', { params, query })}
      action={isKept ? 'Delete it' : 'Detach it'}
      disabled={isKept && !deletes}
      testId="detach-form"
    >
      {() => (
        <>
          {hasVolume && (
            <Checkbox
              label="Delete its volume"
              description={isKept ? 'What is on it is lost' : 'Else it is kept, and attached again by its name'}
              checked={deletes}
              onChange={(event) => setDeletes(event.currentTarget.checked)}
              data-testid="field-delete"
            />
          )}
          {!isKept && (kind === 'running' || kind === 'paused') && (
            <Checkbox
              label="Without asking the guest"
              description="As pulling a cable does: what it has not written is lost. A paused guest cannot answer"
              checked={force}
              onChange={(event) => setForce(event.currentTarget.checked)}
              data-testid="field-force"
            />
          )}
        </>
      )}
    </OperationForm>
  )
}

function Resize({ instance, device, onClose }: OfDevice) {
  const [size, setSize] = useState(() => formatBytes(2 * (device.sizeBytes ?? 0)))
  const params = { instance: instance.id, device: device.name }
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['sizeBytes']}
      send={async () => call('instance.resize', { params, query: {}, body: { sizeBytes: sizeOf(size) } })}
      action="Grow it"
      testId="resize-form"
    >
      {(errors) => (
        <TextInput
          data-autofocus
          label="New size"
          description={`It has ${formatBytes(device.sizeBytes ?? 0)}, and only grows; file systems on it are grown in the guest`}
          value={size}
          onChange={(event) => setSize(event.currentTarget.value)}
          error={errors.sizeBytes}
          data-testid="field-size"
        />
      )}
    </OperationForm>
  )
}

function Insert({ instance, device, onClose }: OfDevice) {
  const [medium, setMedium] = useState('')
  const params = { instance: instance.id, device: device.name }
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['medium']}
      send={() => call('instance.insert', { params, query: {}, body: { medium } })}
      action="Insert it"
      disabled={medium === ''}
      testId="insert-form"
    >
      {(errors) => (
        <MediumField instance={instance} value={medium} onChange={setMedium} error={errors.medium} empty="Choose one" />
      )}
    </OperationForm>
  )
}

function Eject({ instance, device, onClose }: OfDevice) {
  const params = { instance: instance.id, device: device.name }
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={[]}
      send={() => call('instance.eject', { params, query: {} })}
      action="Eject it"
      testId="eject-form"
    >
      {() => <p>{device.medium} is taken out, also where the guest has it in use.</p>}
    </OperationForm>
  )
}
