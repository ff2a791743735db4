import { Link, Outlet } from '@tanstack/react-router'
import { useMay } from '../../api/session.ts'
import { path } from '../../paths.ts'
import { PageHead } from '../../ui/page.tsx'

export function Settings() {
  const may = useMay()
  return (
    <>
      <PageHead title="Settings" />
      <nav className="tabs" aria-label="Settings">
        <Link className="tab" {...path.settings()} activeOptions={{ exact: true }}>
          Your account
        </Link>
        <Link className="tab" {...path.tokens()}>
          API tokens
        </Link>
        {may('account.list') && (
          <Link className="tab" {...path.accounts()}>
            Accounts
          </Link>
        )}
        {may('audit.list') && (
          <Link className="tab" {...path.audit()}>
            Audit
          </Link>
        )}
      </nav>
      <Outlet />
    </>
  )
}
