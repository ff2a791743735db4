/**
 * By which names the server may be called. A page of another site can make its own name point at 127.0.0.1 (DNS rebinding) and would
 * then be of the same origin as this server; its name stays in the Host header. An address is no name and cannot be rebound.
 */
import { isIP } from 'node:net'

/** `example.org:8006` -> `example.org`, `[::1]:8006` -> `::1`; null for what is no host. */
export function hostnameOf(hostHeader: string): string | null {
  const match = /^(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))(?::(\d{1,5}))?$/.exec(hostHeader)
  if (!match) return null
  return (match[1] ?? match[2] ?? '').toLowerCase().replace(/\.$/, '')
}

export function nameAllowed(hostHeader: string | undefined, names: readonly string[]): boolean {
  const name = hostHeader === undefined ? null : hostnameOf(hostHeader)
  if (name === null || name === '') return false
  return isIP(name) !== 0 || name === 'localhost' || names.some((allowed) => allowed.toLowerCase() === name)
}

/** Whether a page of `origin` belongs to this server: the same host and port as the request was sent to. */
export function sameOrigin(origin: string, hostHeader: string | undefined, secure: boolean, trusted: readonly string[]): boolean {
  if (trusted.includes(origin)) return true
  if (hostHeader === undefined || !URL.canParse(origin)) return false
  const url = new URL(origin)
  const here = `${secure ? 'https' : 'http'}://${hostHeader}`
  return URL.canParse(here) && url.origin === new URL(here).origin
}

/** What counts as one client in rate limits: an IPv4 address, or the /64 that one subscriber has of IPv6. */
export function addressKey(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/, '')
  if (isIP(plain) !== 6) return plain
  const [head = '', tail = ''] = plain.split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === '' ? [] : tail.split(':')
  const groups = plain.includes('::')
    ? [...left, ...Array.from({ length: Math.max(0, 8 - left.length - right.length) }, () => '0'), ...right]
    : left
  return `${groups
    .slice(0, 4)
    .map((group) => group.replace(/^0+(?=.)/, ''))
    .join(':')}::/64`
}
