import { Button, TextInput } from '@mantine/core'
import type { Reply, RoleName } from '@typevisor/api'
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../../api/client.ts'
import { apiQuery } from '../../api/queries.ts'
import { useSession } from '../../api/session.ts'
import { PasswordField } from '../../forms/password-field.tsx'
import { FormDialog, SmallForm } from '../../forms/small-form.tsx'
import { DataTable, type Column } from '../../table/data-table.tsx'
import { Confirm } from '../../ui/confirm.tsx'
import { Icon } from '../../ui/icons.tsx'
import { useComplaints } from '../../ui/notices.tsx'
import { Ago } from '../../ui/now.tsx'
import { Failure, Rows } from '../../ui/page.tsx'

type Account = Reply<'account.list'>['items'][number]

const ROLES: Record<RoleName, string> = {
  viewer: 'looks at everything',
  operator: 'acts on instances and images',
  admin: 'does everything',
}

/** It is there from the first start, and has no password. */
const LOCAL = 'local'

const COLUMNS: readonly Column<Account>[] = [
  { title: 'Name', main: true, cell: (account) => <strong>{account.name}</strong> },
  {
    title: 'Role',
    cell: (account) => (
      <>
        {account.role}{' '}
        <span className="dim">{account.name === LOCAL ? "is the machine's own credentials file" : ROLES[account.role]}</span>
      </>
    ),
  },
  { title: 'State', wide: true, cell: (account) => (account.disabled ? 'disabled' : <span className="dim">active</span>) },
  { title: 'Since', wide: true, shrink: true, cell: (account) => <Ago at={account.createdAt} /> },
]

export function Accounts() {
  const accounts = useQuery(apiQuery('account.list', { query: {} }))
  const session = useSession()
  const queryClient = useQueryClient()
  const { complain } = useComplaints()
  const [making, setMaking] = useState(false)
  const [changed, setChanged] = useState<Account | null>(null)
  const [removed, setRemoved] = useState<Account | null>(null)
  const fresh = () => void queryClient.invalidateQueries({ queryKey: ['account.list'] })
  const remove = useMutation({
    mutationFn: (account: Account) => call('account.delete', { params: { account: account.name } }),
    onSuccess: () => {
      setRemoved(null)
      fresh()
    },
    onError: (error) => complain('The account was not removed', error),
  })
  const items = accounts.data?.items
  return (
    <>
      <div className="panel">
        <div className="toolbar" style={{ justifyContent: 'flex-end' }}>
          <Button leftSection={<Icon name="plus" />} onClick={() => setMaking(true)} data-testid="make-account">
            Add an account
          </Button>
        </div>
        {items === undefined ? (
          accounts.isPending ? (
            <Rows count={3} />
          ) : (
            <Failure what="The accounts" error={accounts.error} onRetry={() => void accounts.refetch()} />
          )
        ) : (
          <DataTable
            label="Accounts"
            rows={items}
            columns={COLUMNS}
            rowKey={(row) => row.id}
            rowName={(row) => row.name}
            menu={(row) =>
              row.id === session.account.id || row.name === LOCAL ? null : (
                <span className="decisions">
                  <Button
                    size="compact-xs"
                    variant="default"
                    onClick={() => setChanged(row)}
                    aria-label={`Set the password of ${row.name}`}
                  >
                    Password{'\u2026'}
                  </Button>
                  <Button
                    size="compact-xs"
                    variant="light"
                    color="red"
                    onClick={() => setRemoved(row)}
                    aria-label={`Remove ${row.name}`}
                  >
                    Remove{'\u2026'}
                  </Button>
                </span>
              )
            }
          />
        )}
      </div>
      <FormDialog opened={making} onClose={() => setMaking(false)} title="Add an account">
        <MakeAccount
          onMade={() => {
            setMaking(false)
            fresh()
          }}
          onClose={() => setMaking(false)}
        />
      </FormDialog>
      <FormDialog opened={changed !== null} onClose={() => setChanged(null)} title={`Set the password of ${changed?.name ?? ''}`}>
        {changed !== null && <SetPassword account={changed.name} onClose={() => setChanged(null)} />}
      </FormDialog>
      <Confirm
        opened={removed !== null}
        onClose={() => setRemoved(null)}
        onConfirm={() => removed !== null && remove.mutate(removed)}
        busy={remove.isPending}
        title={`Remove ${removed?.name ?? ''}?`}
        text="Its sessions and tokens end at once. What it made stays."
        word={removed?.name ?? ''}
        action="Remove"
      />
    </>
  )
}

function SetPassword({ account, onClose }: { readonly account: string; readonly onClose: () => void }) {
  const [password, setPassword] = useState('')
  return (
    <SmallForm
      fields={['password']}
      send={() => call('account.password', { params: { account }, body: { password } })}
      onSent={onClose}
      action="Set it"
      onCancel={onClose}
      disabled={password === ''}
      testId="set-password-form"
    >
      {(errors) => (
        <PasswordField
          label="New password"
          description="At least 10 characters. All sessions of the account end."
          autoComplete="new-password"
          value={password}
          onChange={setPassword}
          error={errors.password}
        />
      )}
    </SmallForm>
  )
}

function MakeAccount({ onMade, onClose }: { readonly onMade: () => void; readonly onClose: () => void }) {
  const [name, setName] = useState('')
  const [role, setRole] = useState<RoleName>('operator')
  const [password, setPassword] = useState('')
  return (
    <SmallForm
      fields={['name', 'role', 'password']}
      send={() => call('account.create', { body: { name: name.trim(), role, password } })}
      onSent={onMade}
      action="Add it"
      onCancel={onClose}
      testId="account-form"
    >
      {(errors) => (
        <>
          <TextInput
            data-autofocus
            label="Name"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
            error={errors.name}
            spellCheck={false}
            autoCapitalize="none"
            autoComplete="off"
          />
          <label className="stacked">
            <span>Role</span>
            <span className="select">
              <select
                style={{ width: '100%' }}
                value={role}
                onChange={(event) => setRole(event.currentTarget.value as RoleName /* the options are the roles */)}
              >
                {Object.entries(ROLES).map(([value, text]) => (
                  <option key={value} value={value}>
                    {value}: {text}
                  </option>
                ))}
              </select>
            </span>
          </label>
          <PasswordField
            label="First password"
            description="At least 10 characters"
            autoComplete="new-password"
            value={password}
            onChange={setPassword}
            error={errors.password}
          />
        </>
      )}
    </SmallForm>
  )
}
