import { Outlet } from '@tanstack/react-router'
import { useMay } from '../../api/session.ts'
import { path } from '../../paths.ts'
import { PageHead } from '../../ui/page.tsx'
import { Tabs, usePart } from '../../ui/tabs.tsx'

const PARTS = { tokens: 'API tokens', accounts: 'Accounts', audit: 'Audit' } as const

export function Settings() {
  const may = useMay()
  return (
    <>
      <PageHead title="Settings" part={usePart(PARTS)} />
      <Tabs
        label="Settings"
        tabs={[
          { title: 'Your account', at: path.settings(), first: true },
          { title: PARTS.tokens, at: path.tokens() },
          ...(may('account.list') ? [{ title: PARTS.accounts, at: path.accounts() }] : []),
          ...(may('audit.list') ? [{ title: PARTS.audit, at: path.audit() }] : []),
        ]}
      />
      <Outlet />
    </>
  )
}
