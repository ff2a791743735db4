/** Links to the parts of a page, as tabs; the one that is shown is scrolled into view where not all fit. */
import { Link, useLocation, type LinkProps } from '@tanstack/react-router'
import { useEffect, useRef } from 'react'

export interface Tab {
  readonly title: string
  /** As `path` makes it. */
  readonly at: Pick<LinkProps, 'to' | 'params'>
  /** The page's own address, of which the others are part. */
  readonly first?: boolean
}

export function Tabs({ label, tabs }: { readonly label: string; readonly tabs: readonly Tab[] }) {
  const bar = useRef<HTMLElement>(null)
  const { pathname } = useLocation()
  useEffect(() => {
    bar.current?.querySelector('[data-status="active"]')?.scrollIntoView({ block: 'nearest', inline: 'center' })
  }, [pathname])
  return (
    <nav className="tabs" aria-label={label} ref={bar}>
      {tabs.map(({ title, at, first = false }) => (
        <Link key={title} className="tab" {...at} activeOptions={{ exact: first }}>
          {title}
        </Link>
      ))}
    </nav>
  )
}

/** The title of the tab at this address: the last part of it names the tab, none the first one. */
export function usePart(titles: Readonly<Record<string, string>>): string | undefined {
  const { pathname } = useLocation()
  return titles[pathname.replace(/\/$/, '').split('/').at(-1) ?? '']
}
