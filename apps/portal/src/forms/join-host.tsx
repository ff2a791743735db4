import { Button, Text, TextInput } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
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

const isLoopback = (name: string): boolean => name === 'localhost' || name === '[::1]' || name.startsWith('127.')

function JoinHostForm({ onClose }: { readonly onClose: () => void }) {
  const [name, setName] = useState('')
  const [made, setMade] = useState<Reply<'host.token'> | null>(null)
  const hosts = useQuery({ ...apiQuery('host.list', {}), enabled: made !== null })
  if (made !== null) {
    const joined = hosts.data?.items.some((host) => host.name === made.name && host.connected) ?? false
    const command = `typevisor agent --server ${location.origin} --token ${made.secret} --data ./agent --name ${made.name}`
    return (
      <>
        <Secret secret={made.secret} what="the token" />
        <Text size="sm" mt="md" mb={6}>
          Run this on the new host, where Typevisor is installed:
        </Text>
        <pre className="output" tabIndex={0} aria-label="Command for the new host">
          {command}
        </pre>
        <CopyButton text={command} what="the command" />
        {isLoopback(location.hostname) && (
          <Text size="sm" mt="sm" data-testid="loopback">
            {location.hostname} is this machine only. For a host elsewhere start the platform with{' '}
            <span className="mono">--listen</span> and an address that can be reached from there.
          </Text>
        )}
        <Text size="sm" mt="sm" role="status" fw={joined ? 600 : undefined} data-testid="joined" data-joined={joined}>
          {joined ? `${made.name} is connected.` : `Waiting for ${made.name}: it is listed as soon as its agent connects.`}
        </Text>
        <Button fullWidth mt="md" variant={joined ? 'filled' : 'default'} onClick={onClose}>
          {joined ? 'Done' : 'Close'}
        </Button>
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
          description="A token is made for it. If there is a host of this name, its token until now ends."
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
