/** What is asked of a person before something is done to an instance: whether it may be lost, where it is to go, what to call it. */
import { TextInput } from '@mantine/core'
import { useState } from 'react'
import { call } from '../api/client.ts'
import { byForce, VERBS, type Instance, type VerbName } from '../api/verbs.ts'
import { OperationForm } from '../forms/operation-form.tsx'
import { FormDialog } from '../forms/small-form.tsx'
import { WORD_PROPS } from '../forms/word-props.ts'
import { Confirm } from './confirm.tsx'
import { CopyInstance } from './copy-instance.tsx'
import { MigrateInstance } from './migrate.tsx'

export interface DialogFormProps {
  readonly instance: Instance
  readonly onClose: () => void
}

export interface AskedVerb {
  readonly verb: VerbName
  readonly instances: readonly Instance[]
}
export type Dialog =
  | ({ readonly kind: 'confirm' } & AskedVerb)
  | { readonly kind: 'migrate' | 'copy' | 'rename'; readonly instance: Instance }

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
          <MigrateInstance instance={dialog.instance} onClose={onClose} />
        </FormDialog>
      )
    case 'copy':
      return (
        <FormDialog opened={opened} onClose={onClose} title={`Copy ${dialog.instance.name}`}>
          <CopyInstance instance={dialog.instance} onClose={onClose} />
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

function Rename({ instance, onClose }: DialogFormProps) {
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
