import { ActionIcon, Button, Checkbox, Drawer, Stack, Text, Textarea, TextInput } from '@mantine/core'
import { Fault, formatBytes } from '@typevisor/base'
import { DISK_FULL } from '@typevisor/model'
import { useMutation, useQuery } from '@tanstack/react-query'
import { useNavigate } from '@tanstack/react-router'
import { useEffect, useRef, useState, type FormEvent } from 'react'
import { useActivity } from '../api/activity-provider.tsx'
import { call } from '../api/client.ts'
import { messageOf } from '../api/message.ts'
import { apiQuery } from '../api/queries.ts'
import { path } from '../paths.ts'
import { Icon } from '../ui/icons.tsx'
import { ADVANCED_FIELDS, AdvancedFields } from './advanced-fields.tsx'
import { FaultAlert } from './fault-alert.tsx'
import { faultErrors, NO_ERRORS, type FieldErrors } from './field-errors.ts'
import { Forwards } from './forwards.tsx'
import { NativeSelect } from './native-select.tsx'
import {
  DISK_FULL_TEXT,
  inSizes,
  newDraft,
  SIZE_NAMES,
  sizeOf,
  SIZES,
  suggestName,
  toBody,
  withSize,
  type InstanceDraft,
} from './instance-draft.ts'

const FIELDS = [
  'name',
  'image',
  'vcpuCount',
  'memory',
  'disk',
  'host',
  'sshKeys',
  'user',
  'userData',
  'forwards',
  'labels',
  'diskFull',
  ...ADVANCED_FIELDS,
] as const
type Field = (typeof FIELDS)[number]
const ALIASES = { memoryBytes: 'memory', memoryBytesMax: 'memoryMax', rootDiskBytes: 'disk' } as const

/** Keys are public; whoever creates one machine will want the same on the next. */
const KEYS_STORE = 'typevisor-ssh-keys'
const keptKeys = (): string => {
  try {
    return localStorage.getItem(KEYS_STORE) ?? ''
  } catch {
    return ''
  }
}
const keepKeys = (keys: string): void => {
  try {
    localStorage.setItem(KEYS_STORE, keys)
  } catch {
    // Storage is switched off: they are typed again next time.
  }
}

interface Props {
  readonly onClose: () => void
  readonly taken: ReadonlySet<string>
}

export function CreateInstance({ onClose, taken }: Props) {
  const navigate = useNavigate()
  const { follow } = useActivity()
  const [draft, setDraft] = useState<InstanceDraft>(() => ({ ...newDraft(suggestName(Math.random, taken)), sshKeys: keptKeys() }))
  const [errors, setErrors] = useState<FieldErrors<Field>>(NO_ERRORS)
  const form = useRef<HTMLFormElement>(null)

  const creating = useMutation({
    mutationFn: async () => {
      const made = toBody(draft)
      if (!made.ok) throw new Fault('invalid', 'Some fields cannot be taken as they are.', { details: made.details })
      return { accepted: await call('instance.create', { query: {}, body: made.body }), name: made.body.name }
    },
    onSuccess: ({ accepted, name }) => {
      keepKeys(draft.sshKeys)
      follow(accepted, name)
      void navigate(path.instance(name))
    },
    onError: (error) => {
      setErrors(error instanceof Fault ? faultErrors(error, FIELDS, { aliases: ALIASES, taken: 'name' }) : NO_ERRORS)
    },
  })
  useEffect(() => {
    if (creating.isError) form.current?.querySelector<HTMLElement>('[aria-invalid="true"], [role="alert"]')?.focus()
  }, [creating.isError, creating.submittedAt])

  const change = (part: Partial<InstanceDraft>) =>
    setDraft((now) => {
      const next = { ...now, ...part }
      return { ...next, size: sizeOf(next) }
    })
  const submit = (event: FormEvent) => {
    event.preventDefault()
    setErrors(NO_ERRORS)
    creating.mutate()
  }
  const shownElsewhere = Object.keys(errors.at).length > 0
  const lines = [...(creating.error !== null && !shownElsewhere ? [messageOf(creating.error)] : []), ...errors.rest]
  const inMore = (
    ['vcpuCount', 'memory', 'disk', 'host', 'user', 'userData', 'forwards', 'labels', 'sshKeys', 'diskFull'] as const
  ).some((field) => errors.at[field] !== undefined)
  const inAdvanced = ADVANCED_FIELDS.some((field) => errors.at[field] !== undefined)

  return (
    <Drawer
      opened
      onClose={onClose}
      position="right"
      size={520}
      title={<strong>Create an instance</strong>}
      closeButtonProps={{ 'aria-label': 'Close' }}
    >
      <form ref={form} onSubmit={submit} noValidate data-testid="create-form">
        <Stack gap="lg">
          <FaultAlert title="The platform refused" lines={lines} />
          <TextInput
            data-autofocus
            label="Name"
            value={draft.name}
            onChange={(event) => change({ name: event.currentTarget.value })}
            error={errors.at.name}
            autoComplete="off"
            autoCapitalize="none"
            spellCheck={false}
            maxLength={63}
            data-testid="field-name"
            rightSection={
              <ActionIcon aria-label="Another name" onClick={() => change({ name: suggestName(Math.random, taken) })}>
                <Icon name="refresh" size={16} />
              </ActionIcon>
            }
          />
          <ImageField value={draft.image} error={errors.at.image} onChange={(image) => change({ image })} />
          <SizeField draft={draft} onChange={setDraft} />
          <MoreFields draft={draft} errors={errors} change={change} open={inMore} />
          <AdvancedFields draft={draft} errors={errors} change={change} open={inAdvanced} />
          <Checkbox
            label="Start it at once"
            checked={draft.start}
            onChange={(event) => change({ start: event.currentTarget.checked })}
          />
        </Stack>
        <div className="form-foot">
          <Button variant="default" onClick={onClose}>
            Cancel
          </Button>
          <Button type="submit" loading={creating.isPending} data-testid="create-go">
            Create
          </Button>
        </div>
      </form>
    </Drawer>
  )
}

function ImageField({
  value,
  error,
  onChange,
}: {
  readonly value: string
  readonly error: string | undefined
  readonly onChange: (image: string) => void
}) {
  const images = useQuery(apiQuery('image.list', {}))
  const names = new Map((images.data?.items ?? []).map((image) => [image.name, image.title]))
  // Not there yet: the first instance may build it, and the server says so if it may not.
  if (!names.has(value)) names.set(value, value)
  return (
    <NativeSelect label="Image" value={value} error={error} onChange={onChange} testId="field-image">
      {[...names].map(([name, title]) => (
        <option key={name} value={name}>
          {title === name ? name : `${name} \u2014 ${title}`}
        </option>
      ))}
    </NativeSelect>
  )
}

function SizeField({ draft, onChange }: { readonly draft: InstanceDraft; readonly onChange: (draft: InstanceDraft) => void }) {
  return (
    <div>
      <fieldset className="sizes">
        <legend className="field-label">Size</legend>
        {SIZE_NAMES.map((name) => {
          const size = SIZES[name]
          return (
            <label key={name} className="size">
              <input
                type="radio"
                name="size"
                value={name}
                checked={draft.size === name}
                onChange={() => onChange(withSize(draft, name))}
                data-testid={`size-${name}`}
              />
              <b>{size.title}</b>
              <span className="num">{size.vcpuCount} vCPU</span>
              <span className="num">{formatBytes(size.memoryBytes)}</span>
              <span className="num">{formatBytes(size.rootDiskBytes)} disk</span>
            </label>
          )
        })}
      </fieldset>
      {draft.size === 'custom' && (
        <Text size="sm" c="dimmed" mt={6}>
          A size of your own: {draft.vcpuCount} vCPU, {draft.memory}, {draft.disk} disk
        </Text>
      )}
    </div>
  )
}

interface MoreProps {
  readonly draft: InstanceDraft
  readonly errors: FieldErrors<Field>
  readonly change: (part: Partial<InstanceDraft>) => void
  readonly open: boolean
}

function MoreFields({ draft, errors, change, open }: MoreProps) {
  const [opened, setOpened] = useState(false)
  const hosts = useQuery(apiQuery('host.list', {}))
  useEffect(() => {
    if (open) setOpened(true)
  }, [open])
  const text = (
    field: 'vcpuCount' | 'memory' | 'disk' | 'user',
    label: string,
    more: { placeholder?: string; inputMode?: 'numeric' } = {},
  ) => (
    <TextInput
      label={label}
      value={draft[field]}
      error={field === 'memory' || field === 'disk' ? inSizes(errors.at[field] ?? '') : errors.at[field]}
      onChange={(event) => change({ [field]: event.currentTarget.value })}
      spellCheck={false}
      autoComplete="off"
      autoCapitalize="none"
      data-testid={`field-${field}`}
      {...more}
    />
  )
  return (
    <details className="more" open={opened} onToggle={(event) => setOpened(event.currentTarget.open)} data-testid="more">
      <summary>More: access, ports, own size, labels</summary>
      <Stack gap="md">
        <Textarea
          label="SSH public keys"
          description="One a line; kept in this browser for the next instance"
          placeholder="ssh-ed25519 AAAA… you@laptop"
          autosize={false}
          rows={3}
          styles={{ input: { fontFamily: 'var(--mantine-font-family-monospace)', fontSize: '0.8rem' } }}
          spellCheck={false}
          value={draft.sshKeys}
          error={errors.at.sshKeys}
          onChange={(event) => change({ sshKeys: event.currentTarget.value })}
          data-testid="field-sshKeys"
        />
        {text('user', 'Account in the guest', { placeholder: "the image's own" })}
        <Forwards forwards={draft.forwards} error={errors.at.forwards} onChange={(forwards) => change({ forwards })} />
        <div className="field-row">
          {text('vcpuCount', 'vCPUs', { inputMode: 'numeric' })}
          {text('memory', 'Memory')}
          {text('disk', 'Disk')}
        </div>
        <NativeSelect
          label="Host"
          value={draft.host}
          error={errors.at.host}
          onChange={(host) => change({ host })}
          testId="field-host"
        >
          <option value="">the emptiest one</option>
          {(hosts.data?.items ?? []).map((host) => (
            <option key={host.name} value={host.name} disabled={!host.connected}>
              {host.name}
              {host.connected ? '' : ' (not connected)'}
            </option>
          ))}
        </NativeSelect>
        <NativeSelect
          label="When there is no room for what it writes"
          description={DISK_FULL_TEXT[draft.diskFull].means}
          value={draft.diskFull}
          error={errors.at.diskFull}
          onChange={(diskFull) => change({ diskFull: diskFull === 'error' ? 'error' : 'pause' })}
          testId="field-diskFull"
        >
          {DISK_FULL.map((choice) => (
            <option key={choice} value={choice}>
              {DISK_FULL_TEXT[choice].title}
            </option>
          ))}
        </NativeSelect>
        <Textarea
          label="Labels"
          description="key=value, one a line"
          rows={2}
          spellCheck={false}
          value={draft.labels}
          error={errors.at.labels}
          onChange={(event) => change({ labels: event.currentTarget.value })}
          data-testid="field-labels"
        />
        <Textarea
          label="User data"
          description="Passed to cloud-init as it is: a script, or #cloud-config"
          rows={4}
          spellCheck={false}
          value={draft.userData}
          error={errors.at.userData}
          onChange={(event) => change({ userData: event.currentTarget.value })}
          data-testid="field-userData"
        />
      </Stack>
    </details>
  )
}
