import { Button, Checkbox, Text, TextInput } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../../api/client.ts'
import { apiQuery } from '../../api/queries.ts'
import { Secret } from '../../forms/secret.tsx'
import { FormDialog, SmallForm } from '../../forms/small-form.tsx'
import { DataTable, type Column } from '../../table/data-table.tsx'
import { Confirm } from '../../ui/confirm.tsx'
import { Icon } from '../../ui/icons.tsx'
import { useComplaints } from '../../ui/notices.tsx'
import { Ago } from '../../ui/now.tsx'
import { Empty, Failure, Rows } from '../../ui/page.tsx'
import { exactTime } from '../../ui/time.ts'

type Token = Reply<'token.list'>['items'][number]
const DAY_MS = 86_400_000
const LIFETIMES = [
  { days: 7, title: '7 days' },
  { days: 30, title: '30 days' },
  { days: 365, title: 'a year' },
  { days: 0, title: 'until it is revoked' },
] as const
const SCOPES = [
  { scope: '*', title: 'Everything you may do' },
  { scope: '*:read', title: 'Look at everything' },
  { scope: 'instance:read', title: 'Look at instances' },
  { scope: 'instance:write', title: 'Act on instances' },
  { scope: 'image:write', title: 'Build images' },
  { scope: 'event:read', title: 'Follow events' },
  { scope: 'metrics:read', title: 'Read metrics' },
] as const

const COLUMNS: readonly Column<Token>[] = [
  { title: 'Name', main: true, cell: (token) => <strong>{token.name}</strong> },
  {
    title: 'May do',
    cell: (token) => (
      <span style={{ display: 'inline-flex', gap: 5, flexWrap: 'wrap' }}>
        {token.scopes.map((scope) => (
          <span key={scope} className="label mono">
            {scope}
          </span>
        ))}
      </span>
    ),
  },
  { title: 'Made', wide: true, cell: (token) => <Ago at={token.createdAt} /> },
  {
    title: 'Last used',
    label: true,
    cell: (token) => (token.lastUsedAt === null ? <span className="dim">never</span> : <Ago at={token.lastUsedAt} />),
  },
  {
    title: 'Ends',
    label: true,
    cell: (token) =>
      token.expiresAt === null ? <span className="dim">never</span> : <span className="num">{exactTime(token.expiresAt)}</span>,
  },
]

export function Tokens() {
  const tokens = useQuery(apiQuery('token.list', { query: {} }))
  const queryClient = useQueryClient()
  const { complain } = useComplaints()
  const [making, setMaking] = useState(false)
  const [revoked, setRevoked] = useState<Token | null>(null)
  const fresh = () => queryClient.invalidateQueries({ queryKey: ['token.list'] })
  const revoke = useMutation({
    mutationFn: (token: Token) => call('token.delete', { params: { token: token.id } }),
    onSuccess: () => {
      setRevoked(null)
      void fresh()
    },
    onError: (error) => complain('The token was not revoked', error),
  })
  const button = (
    <Button leftSection={<Icon name="plus" />} onClick={() => setMaking(true)} data-testid="make-token">
      Make a token
    </Button>
  )
  const items = tokens.data?.items
  return (
    <>
      <div className="panel">
        {items === undefined ? (
          tokens.isPending ? (
            <Rows count={3} />
          ) : (
            <Failure what="The tokens" error={tokens.error} onRetry={() => void tokens.refetch()} />
          )
        ) : items.length === 0 ? (
          <Empty
            icon="key"
            title="No tokens"
            text="A token lets a program act for you, within the scopes that you give it."
            action={button}
          />
        ) : (
          <>
            <div className="toolbar" style={{ justifyContent: 'flex-end' }}>
              {button}
            </div>
            <DataTable
              label="API tokens"
              rows={items}
              columns={COLUMNS}
              rowKey={(row) => row.id}
              rowName={(row) => row.name}
              menu={(row) => (
                <Button size="compact-xs" variant="light" color="red" onClick={() => setRevoked(row)}>
                  Revoke
                </Button>
              )}
            />
          </>
        )}
      </div>
      <FormDialog opened={making} onClose={() => setMaking(false)} title="Make an API token">
        <MakeToken onMade={() => void fresh()} onClose={() => setMaking(false)} />
      </FormDialog>
      <Confirm
        opened={revoked !== null}
        onClose={() => setRevoked(null)}
        onConfirm={() => revoked !== null && revoke.mutate(revoked)}
        busy={revoke.isPending}
        title={`Revoke ${revoked?.name ?? ''}?`}
        text="Programs that use it are refused from now on."
        word={revoked?.name ?? ''}
        action="Revoke"
      />
    </>
  )
}

function MakeToken({ onMade, onClose }: { readonly onMade: () => void; readonly onClose: () => void }) {
  const [name, setName] = useState('')
  const [scopes, setScopes] = useState<readonly string[]>(['*'])
  const [days, setDays] = useState(30)
  const [secret, setSecret] = useState<string | null>(null)
  if (secret !== null) {
    return (
      <>
        <Secret secret={secret} what="the token" />
        <Text size="sm" c="dimmed" mt="md">
          Send it as <span className="mono">Authorization: Bearer …</span>
        </Text>
        <Button fullWidth mt="md" onClick={onClose}>
          I have copied it
        </Button>
      </>
    )
  }
  const send = () =>
    call('token.create', {
      body: { name: name.trim(), scopes: [...scopes], ...(days > 0 && { expiresAt: Date.now() + days * DAY_MS }) },
    })
  const toggle = (scope: string) =>
    setScopes((now) =>
      now.includes(scope)
        ? now.filter((each) => each !== scope)
        : scope === '*'
          ? ['*']
          : [...now.filter((each) => each !== '*'), scope],
    )
  return (
    <SmallForm
      fields={['name', 'scopes', 'expiresAt']}
      send={send}
      onSent={(reply) => {
        setSecret(reply.secret)
        onMade()
      }}
      action="Make it"
      onCancel={onClose}
      disabled={scopes.length === 0}
      testId="token-form"
    >
      {(errors) => (
        <>
          <TextInput
            data-autofocus
            label="Name"
            placeholder="ci"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
            error={errors.name}
            spellCheck={false}
            autoCapitalize="none"
            autoComplete="off"
          />
          <fieldset style={{ border: 0, padding: 0, margin: 0, display: 'grid', gap: 7 }}>
            <legend className="field-label">May do</legend>
            {SCOPES.map(({ scope, title }) => (
              <Checkbox
                key={scope}
                size="sm"
                label={
                  <>
                    {title} <span className="mono dim">{scope}</span>
                  </>
                }
                checked={scopes.includes(scope)}
                onChange={() => toggle(scope)}
              />
            ))}
            {errors.scopes !== undefined && <span className="field-error">{errors.scopes}</span>}
          </fieldset>
          <label className="stacked">
            <span>Ends after</span>
            <span className="select">
              <select style={{ width: '100%' }} value={days} onChange={(event) => setDays(Number(event.currentTarget.value))}>
                {LIFETIMES.map((lifetime) => (
                  <option key={lifetime.days} value={lifetime.days}>
                    {lifetime.title}
                  </option>
                ))}
              </select>
            </span>
            {errors.expiresAt !== undefined && <span className="field-error">{errors.expiresAt}</span>}
          </label>
        </>
      )}
    </SmallForm>
  )
}
