import type { ReactNode } from 'react'
import { useRouter, type ErrorComponentProps } from '@tanstack/react-router'
import { path } from '../paths.ts'
import { ButtonLink } from '../ui/link.tsx'
import { Empty, Failure, PageHead, Rows, useTitle } from '../ui/page.tsx'

export const PagePending = () => <Rows count={8} />

export function PageFailure({ error, reset }: ErrorComponentProps) {
  const router = useRouter()
  const again = () => {
    reset()
    void router.invalidate()
  }
  return <Failure what="The page" error={error} onRetry={again} />
}

export function PageMissing() {
  useTitle('Nothing here')
  return (
    <Empty
      icon="search"
      title="There is nothing here"
      text="The address is wrong, or what it named is gone."
      action={<ButtonLink {...path.instances()}>To the instances</ButtonLink>}
    />
  )
}

/** The address names something that there is not. */
export function GonePage({
  name,
  what,
  text,
  action,
}: Readonly<Record<'name' | 'what' | 'text', string>> & { action: ReactNode }) {
  return (
    <>
      <PageHead title={name} />
      <div className="panel">
        <Empty icon="search" title={`There is no ${what} ${name}`} text={text} action={action} />
      </div>
    </>
  )
}
