/** A new instance of one as it is now. */
import { Checkbox, TextInput } from '@mantine/core'
import type { Quiesce } from '@typevisor/model'
import { useState } from 'react'
import { call } from '../api/client.ts'
import { OperationForm } from '../forms/operation-form.tsx'
import { QuiesceField } from '../forms/quiesce-field.tsx'
import { WORD_PROPS } from '../forms/word-props.ts'
import type { DialogFormProps } from './instance-dialogs.tsx'

const NAME_LENGTH_MAX = 63

export function CopyInstance({ instance, onClose }: DialogFormProps) {
  const [name, setName] = useState(() => `${instance.name.slice(0, NAME_LENGTH_MAX - '-copy'.length)}-copy`)
  const [quiesce, setQuiesce] = useState<Quiesce>('try')
  const [start, setStart] = useState(true)
  const body = { name: name.trim(), quiesce, start }
  return (
    <OperationForm
      name={body.name}
      onClose={onClose}
      fields={['name', 'quiesce', 'start']}
      send={() => call('instance.copy', { params: { instance: instance.id }, query: {}, body })}
      action="Copy it"
      testId="copy-form"
    >
      {(errors) => (
        <>
          <p className="dim">
            A new instance with its disks as they are now, and a name and addresses of its own. Memory is not copied.
          </p>
          <TextInput
            data-autofocus
            label="Name of the new instance"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
            error={errors.name}
            data-testid="field-copy-name"
            {...WORD_PROPS}
          />
          {instance.state.kind === 'running' && <QuiesceField value={quiesce} onChange={setQuiesce} error={errors.quiesce} />}
          <Checkbox
            label="Start it at once"
            checked={start}
            onChange={(event) => setStart(event.currentTarget.checked)}
            error={errors.start}
          />
        </>
      )}
    </OperationForm>
  )
}
