/** What can begin a guest on the hosts that it may come to, as their agents say; and why not. */
import type { Reply } from '@typevisor/api'

type Host = Pick<Reply<'host.list'>['items'][number], 'name' | 'connected' | 'guests'>

/**
 * null: one of the hosts can, or none says anything. Otherwise the first reason why not. `host`: the one that is asked for; empty: any that is
 * connected. The platform builds images of this one architecture alone.
 */
export function lacking(what: string, hosts: readonly Host[], host: string): string | null {
  const asked = hosts.filter((each) => (host === '' ? each.connected : each.name === host))
  const offered = asked.flatMap(({ guests }) => guests.filter(({ architecture }) => architecture === 'x86_64'))
  if (offered.length < asked.length || offered.some(({ can }) => can.includes(what))) return null
  return offered.flatMap(({ cannot }) => cannot).find((each) => each.what === what)?.reason ?? null
}
