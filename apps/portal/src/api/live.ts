/**
 * Which answers an event makes stale. An event names a noun and a thing; an answer is stale when it is about that thing or is a list
 * that may hold it. Nothing else is asked for again.
 */
import type { OperationName, Reply } from '@typevisor/api'

export type PlatformEvent = Reply<'event.stream'>
/** As `queries.ts` makes them: the operation, and what was asked. */
export type QueryKey = readonly [
  OperationName,
  { readonly params?: Record<string, unknown>; readonly query?: Record<string, unknown> }?,
]

const STALE: Record<string, readonly OperationName[]> = {
  instance: [
    'instance.list',
    'instance.get',
    'instance.addresses',
    'instance.snapshots',
    'instance.devices',
    'host.list',
    'host.get',
    'platform.get',
    'operation.list',
    'operation.get',
  ],
  operation: ['operation.list', 'operation.get', 'instance.list', 'instance.get'],
  image: ['image.list', 'operation.list', 'operation.get'],
  host: [
    'host.list',
    'host.get',
    'image.list',
    'instance.list',
    'instance.get',
    'instance.snapshots',
    'instance.devices',
    'host.media',
    'platform.get',
  ],
  account: ['account.list', 'session.get'],
  token: ['token.list'],
  session: [],
  audit: ['audit.list'],
}

const nounOf = (kind: string): string => kind.split('.', 1)[0] ?? kind

export function isStale(key: QueryKey, event: PlatformEvent): boolean {
  const [operation, asked] = key
  // Some events were not kept for a reader so late: whatever is shown may be old.
  if (event.kind === 'event.gap') return operation !== 'session.get'
  if (operation === 'event.list') {
    const about = asked?.query?.['resource']
    return about === undefined || about === event.resource || about === event.name
  }
  if (!STALE[nounOf(event.kind)]?.includes(operation)) return false
  const host = asked?.params?.['host']
  if (host !== undefined && nounOf(event.kind) === 'host') return host === event.name
  const thing = asked?.params?.['instance']
  // An operation's event may name the operation or its instance; what is on screen of an instance is one answer, so it is asked again.
  if (thing === undefined || nounOf(event.kind) !== 'instance') return true
  return thing === event.resource || thing === event.name || event.resource === null
}

/** The waits of an unreachable server grow to ten seconds. */
export const reconnectAfterMs = (attempt: number, random: number): number =>
  Math.min(10_000, 500 * 2 ** Math.min(attempt, 8)) * (0.75 + random / 2)
