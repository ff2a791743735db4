import { ActionIcon, Menu, Tooltip, UnstyledButton, useMantineColorScheme, type MantineColorScheme } from '@mantine/core'
import { Link, Outlet, useLocation, useNavigate } from '@tanstack/react-router'
import { useQueryClient } from '@tanstack/react-query'
import { useEffect, useRef, useState } from 'react'
import { useActivity } from '../api/activity-provider.tsx'
import { useLive } from '../api/event-source.tsx'
import { signOut, useSession } from '../api/session.ts'
import { path, PATHS } from '../paths.ts'
import { Icon, Logo, type IconName } from './icons.tsx'
import { MenuLink } from './link.tsx'
import { useComplaints } from './notices.tsx'

const ROOMS = [
  { title: 'Instances', icon: 'instance', at: path.instances() },
  { title: 'Images', icon: 'image', at: path.images() },
  { title: 'Hosts', icon: 'host', at: path.hosts() },
  { title: 'Operations', icon: 'operation', at: path.operations() },
  { title: 'Settings', icon: 'gear', at: path.settings() },
] as const satisfies readonly { title: string; icon: IconName; at: object }[]

export function Shell() {
  const [open, setOpen] = useState(false)
  const burger = useRef<HTMLButtonElement>(null)
  const { pathname } = useLocation()
  useEffect(() => setOpen(false), [pathname])
  useEffect(() => {
    if (!open) return
    const onKey = (event: KeyboardEvent) => {
      if (event.key !== 'Escape') return
      setOpen(false)
      burger.current?.focus()
    }
    document.addEventListener('keydown', onKey)
    return () => document.removeEventListener('keydown', onKey)
  }, [open])
  return (
    <>
      <a className="skip" href="#main">
        Skip to the content
      </a>
      <div className="shell">
        <div className="topbar">
          <ActionIcon
            ref={burger}
            size="lg"
            aria-label="Menu"
            aria-expanded={open}
            onClick={() => setOpen(!open)}
            data-testid="menu"
          >
            <Icon name="menu" size={20} />
          </ActionIcon>
          <Brand />
          <SchemeToggle />
        </div>
        <nav className="nav" aria-label="Main" data-open={open}>
          <Brand />
          <NavLinks />
          <div className="nav-foot">
            <AccountMenu />
            <SchemeToggle />
          </div>
        </nav>
        <button className="veil" type="button" aria-label="Close the menu" tabIndex={-1} onClick={() => setOpen(false)} />
        <div className="column">
          <ConnectionBanner />
          <main className="main" id="main" tabIndex={-1}>
            <Outlet />
          </main>
        </div>
      </div>
    </>
  )
}

function Brand() {
  return (
    <Link className="brand" {...path.instances()}>
      <Logo />
      Typevisor
    </Link>
  )
}

function NavLinks() {
  const { follows } = useActivity()
  return ROOMS.map((room) => (
    <Link key={room.title} className="nav-link" {...room.at} activeOptions={{ includeSearch: false }}>
      <Icon name={room.icon} />
      {room.title}
      {room.at.to === PATHS.operations && follows.length > 0 && (
        <span className="nav-count num" aria-label={`${follows.length} under way`}>
          {follows.length}
        </span>
      )}
    </Link>
  ))
}

function AccountMenu() {
  const { account } = useSession()
  const queryClient = useQueryClient()
  const navigate = useNavigate()
  const { complain } = useComplaints()
  const leave = async () => {
    try {
      await signOut(queryClient, () => navigate({ to: PATHS.signIn, search: {} }))
    } catch (error) {
      complain('Signing out failed', error)
    }
  }
  return (
    <Menu position="top-start" width={200}>
      <Menu.Target>
        <UnstyledButton className="account" data-testid="account">
          <span className="avatar" aria-hidden="true">
            {account.name.slice(0, 1)}
          </span>
          <span className="clip">
            {account.name}
            <br />
            <small className="dim">{account.role}</small>
          </span>
        </UnstyledButton>
      </Menu.Target>
      <Menu.Dropdown>
        <MenuLink {...path.settings()} leftSection={<Icon name="gear" size={16} />}>
          Account
        </MenuLink>
        <MenuLink {...path.tokens()} leftSection={<Icon name="key" size={16} />}>
          API tokens
        </MenuLink>
        <Menu.Divider />
        <Menu.Item leftSection={<Icon name="out" size={16} />} onClick={() => void leave()} data-testid="sign-out">
          Sign out
        </Menu.Item>
      </Menu.Dropdown>
    </Menu>
  )
}

const SCHEMES: Record<MantineColorScheme, { next: MantineColorScheme; icon: IconName; text: string }> = {
  auto: { next: 'light', icon: 'auto', text: 'Colours follow the system' },
  light: { next: 'dark', icon: 'sun', text: 'Light colours' },
  dark: { next: 'auto', icon: 'moon', text: 'Dark colours' },
}

export function SchemeToggle() {
  const { colorScheme, setColorScheme } = useMantineColorScheme()
  const { next, icon, text } = SCHEMES[colorScheme]
  return (
    <Tooltip label={text}>
      <ActionIcon size="lg" aria-label={`${text}; change`} onClick={() => setColorScheme(next)} data-testid="scheme">
        <Icon name={icon} />
      </ActionIcon>
    </Tooltip>
  )
}

function ConnectionBanner() {
  const { connection, retry } = useLive()
  if (connection !== 'lost') return null
  return (
    <div className="banner" role="alert" data-testid="connection-lost">
      <span>The connection to the platform is lost. What is shown may be old; guests go on running.</span>
      <UnstyledButton onClick={retry}>Try now</UnstyledButton>
    </div>
  )
}
