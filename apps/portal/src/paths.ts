/**
 * Every address of the portal, typed: `<Link {...path.console('web-1')}>`. The templates are also what the router is built of, so a
 * link to a page that does not exist fails to compile.
 */
import type { InstanceSearch } from './pages/instance-search.ts'
import type { OperationSearch } from './pages/operation-search.ts'

export const PATHS = {
  signIn: '/sign-in',
  instances: '/instances',
  instance: '/instances/$instance',
  console: '/instances/$instance/console',
  screen: '/instances/$instance/screen',
  guest: '/instances/$instance/guest',
  snapshots: '/instances/$instance/snapshots',
  devices: '/instances/$instance/devices',
  events: '/instances/$instance/events',
  images: '/images',
  hosts: '/hosts',
  host: '/hosts/$host',
  operations: '/operations',
  settings: '/settings',
  tokens: '/settings/tokens',
  accounts: '/settings/accounts',
  audit: '/settings/audit',
} as const

export const path = {
  instances: (search: Partial<InstanceSearch> = {}) => ({ to: PATHS.instances, search }) as const,
  instance: (instance: string) => ({ to: PATHS.instance, params: { instance } }) as const,
  console: (instance: string) => ({ to: PATHS.console, params: { instance } }) as const,
  screen: (instance: string) => ({ to: PATHS.screen, params: { instance } }) as const,
  guest: (instance: string) => ({ to: PATHS.guest, params: { instance } }) as const,
  devices: (instance: string) => ({ to: PATHS.devices, params: { instance } }) as const,
  snapshots: (instance: string) => ({ to: PATHS.snapshots, params: { instance } }) as const,
  events: (instance: string) => ({ to: PATHS.events, params: { instance } }) as const,
  images: () => ({ to: PATHS.images }) as const,
  hosts: () => ({ to: PATHS.hosts }) as const,
  host: (host: string) => ({ to: PATHS.host, params: { host } }) as const,
  operations: (search: OperationSearch = {}) => ({ to: PATHS.operations, search }) as const,
  settings: () => ({ to: PATHS.settings }) as const,
  tokens: () => ({ to: PATHS.tokens }) as const,
  accounts: () => ({ to: PATHS.accounts }) as const,
  audit: () => ({ to: PATHS.audit }) as const,
} as const

/**
 * Where to go after signing in. Only an address of this portal: a link that someone else made must not send a person who has just
 * typed a password to another site (`//evil`, `/\evil`, `https:`).
 */
export function safeReturn(text: unknown): string {
  if (typeof text !== 'string' || !/^\/(?!\/)[^\\\p{Cc}]*$/u.test(text)) return PATHS.instances
  return text.startsWith(PATHS.signIn) ? PATHS.instances : text
}
