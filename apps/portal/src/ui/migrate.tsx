/** An instance's move to another host: the menu's item, and the dialog in which the host is chosen. */
import { Checkbox, Menu } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { createContext, useContext, useState, type ReactNode } from 'react'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import { useSession } from '../api/session.ts'
import { canMove, migrateRefusal, type Instance } from '../api/verbs.ts'
import { NativeSelect } from '../forms/native-select.tsx'
import { OperationForm } from '../forms/operation-form.tsx'
import { FormDialog } from '../forms/small-form.tsx'
import { Icon } from './icons.tsx'

const MigrateContext = createContext<(instance: Instance) => void>(() => undefined)

/** Stands above the pages, so that the dialog outlives the menu that asked for it. */
export function MigrateProvider({ children }: { readonly children: ReactNode }) {
  const [asked, setAsked] = useState<Instance | null>(null)
  const close = () => setAsked(null)
  return (
    <MigrateContext value={setAsked}>
      {children}
      <FormDialog opened={asked !== null} onClose={close} title={`Migrate ${asked?.name ?? ''}`}>
        {asked !== null && <Migrate instance={asked} onClose={close} />}
      </FormDialog>
    </MigrateContext>
  )
}

export function MigrateItem({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const begin = useContext(MigrateContext)
  if (!canMove(instance)) return null
  const reason = migrateRefusal(instance, account.role)
  return (
    <Menu.Item
      leftSection={<Icon name="right" size={16} />}
      disabled={reason !== null}
      title={reason ?? undefined}
      onClick={() => begin(instance)}
      data-testid="verb-migrate"
    >
      Migrate{'\u2026'}
    </Menu.Item>
  )
}

/** What is to be expected of it meanwhile. */
function whatGoes({ host, state }: Instance): string {
  if (state.kind === 'saved') return `Its saved memory and its disks go from ${host}; it is restored there when you ask for it.`
  if (state.kind === 'stopped') return `Its disks go from ${host}; it is stopped there, as it is here.`
  return `It goes on running while its memory and its disk go from ${host}, and stands still for a moment at the end.`
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
