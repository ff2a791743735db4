import { Button, Skeleton, Title } from '@mantine/core'
import { Fault, FAULTS } from '@typevisor/base'
import { useEffect, useRef, type ReactNode } from 'react'
import { messageOf } from '../api/message.ts'
import { Icon, type IconName } from './icons.tsx'

export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Typevisor`
  }, [title])
}

let visited = false

/** The heading takes the focus when a page is come to, so that a screen reader says where one is and Tab begins there. */
function useHeadingFocus() {
  const heading = useRef<HTMLHeadingElement>(null)
  useEffect(() => {
    if (visited) heading.current?.focus({ preventScroll: true })
    visited = true
  }, [])
  return heading
}

interface PageHeadProps {
  readonly title: string
  /** The part of the page that is shown, for the window's title: `Console`. */
  readonly part?: string | undefined
  readonly beside?: ReactNode
  readonly actions?: ReactNode
}

export function PageHead({ title, part, beside, actions }: PageHeadProps) {
  useTitle(part === undefined ? title : `${part} · ${title}`)
  const heading = useHeadingFocus()
  return (
    <header className="page-head">
      <Title order={1} ref={heading} tabIndex={-1}>
        {title}
      </Title>
      {beside}
      {actions !== undefined && <div className="page-actions">{actions}</div>}
    </header>
  )
}

interface PanelProps {
  readonly title?: string
  readonly beside?: ReactNode
  readonly children: ReactNode
  readonly testId?: string
}

export function Panel({ title, beside, children, testId }: PanelProps) {
  return (
    <section className="panel panel-body" aria-label={title} data-testid={testId}>
      {title !== undefined && (
        <h2 className="panel-title">
          <span>{title}</span>
          {beside}
        </h2>
      )}
      {children}
    </section>
  )
}

interface EmptyProps {
  readonly icon: IconName
  readonly title: string
  readonly text: string
  readonly action?: ReactNode
}

export function Empty({ icon, title, text, action }: EmptyProps) {
  return (
    <div className="empty" data-testid="empty">
      <Icon name={icon} size={44} />
      <h2>{title}</h2>
      <p>{text}</p>
      {action}
    </div>
  )
}

/** A whole page or panel that could not be had. The server's message is shown as it is: it names action, operand, found and wanted. */
export function Failure({
  error,
  onRetry,
  what,
}: {
  readonly error: unknown
  readonly onRetry: () => void
  readonly what: string
}) {
  // What the browser could not even send is told in words already.
  const means = error instanceof Fault && messageOf(error) === error.message ? FAULTS[error.code].means : null
  return (
    <div
      className="empty tone-red"
      role="alert"
      data-testid="failure"
      data-code={error instanceof Fault ? error.code : undefined}
    >
      <Icon name="alert" size={40} />
      <h2>{what} could not be loaded</h2>
      <p>
        {messageOf(error)}
        {means !== null && <span className="dim"> ({means})</span>}
      </p>
      <Button variant="default" leftSection={<Icon name="refresh" />} onClick={onRetry}>
        Try again
      </Button>
    </div>
  )
}

export function Rows({ count = 6 }: { readonly count?: number }) {
  return (
    <div role="status" aria-label="Loading" style={{ padding: 16, display: 'grid', gap: 14 }} data-testid="loading">
      {Array.from({ length: count }, (_, index) => (
        <Skeleton key={index} height={20} width={`${92 - ((index * 17) % 34)}%`} radius="sm" />
      ))}
    </div>
  )
}
