import { Text, TextInput } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { useState } from 'react'
import { call } from '../api/client.ts'
import { CopyButton } from '../ui/copy.tsx'
import { Secret } from './secret.tsx'
import { FormDialog, SmallForm } from './small-form.tsx'

interface Props {
  readonly opened: boolean
  readonly onClose: () => void
}

export const JoinHost = ({ opened, onClose }: Props) => (
  <FormDialog opened={opened} onClose={onClose} title="Add a host">
    <JoinHostForm onClose={onClose} />
  </FormDialog>
)

function JoinHostForm({ onClose }: { readonly onClose: () => void }) {
  const [name, setName] = useState('')
  const [made, setMade] = useState<Reply<'host.token'> | null>(null)
  if (made !== null) {
    const command = `typevisor agent --server ${location.origin} --token ${made.secret} --data ./agent --name ${made.name}`
    return (
      <>
        <Secret secret={made.secret} what="the token" />
        <Text size="sm" mt="md" mb={6}>
          On the new host:
        </Text>
        <pre className="output">{command}</pre>
        <CopyButton text={command} what="the command" />
      </>
    )
  }
  return (
    <SmallForm
      fields={['name']}
      send={() => call('host.token', { body: { name: name.trim() } })}
      onSent={setMade}
      action="Make a token"
      onCancel={onClose}
      testId="join-form"
    >
      {(errors) => (
        <TextInput
          data-autofocus
          label="Name of the host"
          value={name}
          onChange={(event) => setName(event.currentTarget.value)}
          error={errors.name}
          spellCheck={false}
          autoCapitalize="none"
          autoComplete="off"
        />
      )}
    </SmallForm>
  )
}
