import { Text } from '@mantine/core'
import { Fault } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { call } from '../../api/client.ts'
import { apiQuery } from '../../api/queries.ts'
import { useSession } from '../../api/session.ts'
import { PasswordField } from '../../forms/password-field.tsx'
import { SmallForm } from '../../forms/small-form.tsx'
import { Ago } from '../../ui/now.tsx'
import { Panel } from '../../ui/page.tsx'
import { lasting } from '../../ui/time.ts'

export function Account() {
  const { account } = useSession()
  const platform = useQuery(apiQuery('platform.get', {}))
  return (
    <div className="grid">
      <div className="stack">
        <Panel title="Your account">
          <dl className="facts">
            <dt>Name</dt>
            <dd>{account.name}</dd>
            <dt>Role</dt>
            <dd>{account.role}</dd>
            <dt>Since</dt>
            <dd>
              <Ago at={account.createdAt} />
            </dd>
          </dl>
        </Panel>
        {platform.data !== undefined && (
          <Panel title="This platform">
            <dl className="facts">
              <dt>Version</dt>
              <dd>{platform.data.version}</dd>
              <dt>Up for</dt>
              <dd className="num">{lasting(platform.data.uptimeMs)}</dd>
              <dt>Database</dt>
              <dd>{platform.data.database}</dd>
              <dt>Instances</dt>
              <dd className="num">{platform.data.instanceCount}</dd>
              <dt>Hosts</dt>
              <dd className="num">{platform.data.hostCount}</dd>
            </dl>
          </Panel>
        )}
      </div>
      <Panel title="Password">
        <PasswordForm account={account.name} />
      </Panel>
    </div>
  )
}

/** Setting one's own password asks for the one until now, and ends every other session of the account. */
function PasswordForm({ account }: { readonly account: string }) {
  const [current, setCurrent] = useState('')
  const [password, setPassword] = useState('')
  const [again, setAgain] = useState('')
  const [done, setDone] = useState(false)
  const send = async () => {
    setDone(false)
    if (password !== again)
      throw new Fault('invalid', 'The two are not the same.', {
        details: [{ path: 'again', want: 'the same password again', got: '' }],
      })
    await call('account.password', { params: { account }, body: { password, currentPassword: current } })
  }
  const sent = () => {
    setCurrent('')
    setPassword('')
    setAgain('')
    setDone(true)
  }
  return (
    <SmallForm
      fields={['currentPassword', 'password', 'again']}
      send={send}
      onSent={sent}
      action="Set the password"
      disabled={password === '' || current === ''}
      testId="password-form"
    >
      {(errors) => (
        <>
          <input type="text" name="username" autoComplete="username" defaultValue={account} hidden />
          <PasswordField
            label="Current password"
            autoComplete="current-password"
            value={current}
            onChange={setCurrent}
            error={errors.currentPassword === undefined ? undefined : 'This is not your password until now'}
          />
          <PasswordField
            label="New password"
            description="At least 10 characters"
            autoComplete="new-password"
            value={password}
            onChange={setPassword}
            error={errors.password}
          />
          <PasswordField label="Again" autoComplete="new-password" value={again} onChange={setAgain} error={errors.again} />
          <Text size="sm" c="dimmed" role="status">
            {done ? 'The password is set. Other sessions of yours have ended.' : 'Other sessions of yours will end.'}
          </Text>
        </>
      )}
    </SmallForm>
  )
}
