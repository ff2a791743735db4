/** An instance's move to another host, in a dialog in which the host is chosen. */
import { Checkbox } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import type { Instance } from '../api/verbs.ts'
import { NativeSelect } from '../forms/native-select.tsx'
import { OperationForm } from '../forms/operation-form.tsx'
import type { DialogFormProps } from './instance-dialogs.tsx'

/** What is to be expected of it meanwhile. */
function whatGoes({ host, state }: Instance): string {
  if (state.kind === 'saved') return `Its saved memory and its disks go from ${host}; it is restored there when you ask for it.`
  if (state.kind === 'stopped') return `Its disks go from ${host}; it is stopped there, as it is here.`
  return `It goes on running while its memory and its disk go from ${host}, and stands still for a moment at the end.`
}

export function MigrateInstance({ instance, onClose }: DialogFormProps) {
  const hosts = useQuery(apiQuery('host.list', {}))
  const others = (hosts.data?.items ?? []).filter(({ name, connected }) => connected && name !== instance.host)
  const [chosen, setChosen] = useState<string | null>(null)
  const [dropSnapshots, setDropSnapshots] = useState(false)
  const [postCopy, setPostCopy] = useState(false)
  const host = chosen ?? others[0]?.name ?? ''
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['host', 'postCopy', 'dropSnapshots']}
      send={() =>
        call('instance.migrate', { params: { instance: instance.id }, query: {}, body: { host, postCopy, dropSnapshots } })
      }
      action="Migrate"
      disabled={host === ''}
      testId="migrate-form"
    >
      {(errors) => (
        <>
          <p className="dim">{whatGoes(instance)}</p>
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
          {(instance.state.kind === 'running' || instance.state.kind === 'paused') && (
            <Checkbox
              label="Go on there before all of its memory has come"
              description="For one that writes faster than its memory goes. Until all has come it needs both hosts"
              checked={postCopy}
              onChange={(event) => setPostCopy(event.currentTarget.checked)}
              error={errors.postCopy}
              data-testid="field-post-copy"
            />
          )}
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
