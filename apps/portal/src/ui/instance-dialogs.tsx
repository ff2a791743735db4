/** What is asked of a person before something is done to an instance: whether it may be lost, where it is to go, what to call it. */
import { Checkbox, TextInput } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import { byForce, VERBS, type Instance, type VerbName } from '../api/verbs.ts'
import { NativeSelect } from '../forms/native-select.tsx'
import { OperationForm } from '../forms/operation-form.tsx'
import { FormDialog } from '../forms/small-form.tsx'
import { WORD_PROPS } from '../forms/word-props.ts'
import { Confirm } from './confirm.tsx'

export interface AskedVerb {
  readonly verb: VerbName
  readonly instances: readonly Instance[]
}
export type Dialog =
  | ({ readonly kind: 'confirm' } & AskedVerb)
  | { readonly kind: 'migrate' | 'rename'; readonly instance: Instance }

interface DialogsProps {
  readonly dialog: Dialog
  readonly opened: boolean
  readonly onClose: () => void
  /** A verb that destroys was confirmed. */
  readonly onConfirm: (asked: AskedVerb) => void
}

export function InstanceDialogs({ dialog, opened, onClose, onConfirm }: DialogsProps) {
  switch (dialog.kind) {
    case 'confirm':
      return <ConfirmVerb asked={dialog} opened={opened} onClose={onClose} onConfirm={onConfirm} />
    case 'migrate':
      return (
        <FormDialog opened={opened} onClose={onClose} title={`Migrate ${dialog.instance.name}`}>
          <Migrate instance={dialog.instance} onClose={onClose} />
        </FormDialog>
      )
    case 'rename':
      return (
        <FormDialog opened={opened} onClose={onClose} title={`Rename ${dialog.instance.name}`}>
          <Rename instance={dialog.instance} onClose={onClose} />
        </FormDialog>
      )
  }
}

function snapshotsText(instances: readonly Instance[]): string {
  const count = instances.reduce((sum, instance) => sum + instance.snapshotCount, 0)
  return count === 0 ? '' : count === 1 ? ' and a snapshot' : ` and ${count} snapshots`
}

interface ConfirmVerbProps {
  readonly asked: AskedVerb
  readonly opened: boolean
  readonly onClose: () => void
  readonly onConfirm: (asked: AskedVerb) => void
}

function ConfirmVerb({ asked, opened, onClose, onConfirm }: ConfirmVerbProps) {
  const { verb, instances } = asked
  const [first] = instances
  const count = instances.length
  const what = count === 1 ? (first?.name ?? '') : `${count} instances`
  const { title } = VERBS[verb]
  const away = instances.filter((instance) => byForce(verb, instance))
  const lost =
    verb === 'destroy'
      ? `${what} will be removed with ${count === 1 ? 'its' : 'their'} disks${snapshotsText(instances)}. This cannot be undone.`
      : `The power of ${what} is cut at once. What the guest has not written to its disks is lost.`
  const hosts = [...new Set(away.map((instance) => instance.host))].join(', ')
  return (
    <Confirm
      opened={opened}
      onClose={onClose}
      onConfirm={() => {
        onConfirm(asked)
        onClose()
      }}
      title={`${title} ${what}?`}
      text={
        <>
          <p>{lost}</p>
          {away.length > 0 && (
            <p data-testid="by-force">
              {count > away.length ? `${away.length} of them: host` : 'Host'} {hosts} is not connected, so this is done by force:
              removed from the platform now, and ended on the host if it ever comes back.
            </p>
          )}
        </>
      }
      word={count === 1 ? (first?.name ?? '') : String(count)}
      action={title}
    />
  )
}

function Migrate({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const hosts = useQuery(apiQuery('host.list', {}))
  const others = (hosts.data?.items ?? []).filter(({ name, connected }) => connected && name !== instance.host)
  const [chosen, setChosen] = useState<string | null>(null)
  const [dropSnapshots, setDropSnapshots] = useState(false)
  const host = chosen ?? others[0]?.name ?? ''
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['host', 'dropSnapshots']}
      send={() => call('instance.migrate', { params: { instance: instance.id }, query: {}, body: { host, dropSnapshots } })}
      action="Migrate"
      disabled={host === ''}
      testId="migrate-form"
    >
      {(errors) => (
        <>
          <p className="dim">
            It goes on running while its memory and its disk go from {instance.host}, and stands still for a moment at the end.
          </p>
          <NativeSelect
            label="To"
            {...(hosts.isSuccess && others.length === 0 && { description: 'No other host is connected' })}
            error={errors.host}
            value={host}
            onChange={setChosen}
            testId="field-host"
          >
            {others.map(({ name }) => (
              <option key={name} value={name}>
                {name}
              </option>
            ))}
          </NativeSelect>
          {instance.snapshotCount > 0 && (
            <Checkbox
              label={instance.snapshotCount === 1 ? 'Delete its snapshot' : `Delete its ${instance.snapshotCount} snapshots`}
              description="They are on the host's own disks and cannot go with it"
              checked={dropSnapshots}
              onChange={(event) => setDropSnapshots(event.currentTarget.checked)}
              error={errors.dropSnapshots}
              data-testid="field-drop-snapshots"
            />
          )}
        </>
      )}
    </OperationForm>
  )
}

function Rename({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const [text, setText] = useState(instance.name)
  const name = text.trim()
  return (
    <OperationForm
      name={name}
      onClose={onClose}
      fields={['name']}
      taken="name"
      send={() => call('instance.rename', { params: { instance: instance.id }, query: {}, body: { name } })}
      action="Rename it"
      disabled={name === '' || name === instance.name}
      testId="rename-form"
    >
      {(errors) => (
        <TextInput
          data-autofocus
          label="New name"
          description="Its guest is not told: what it calls itself stays. The old name is free for others at once"
          value={text}
          onChange={(event) => setText(event.currentTarget.value)}
          error={errors.name}
          maxLength={63}
          data-testid="field-name"
          {...WORD_PROPS}
        />
      )}
    </OperationForm>
  )
}
