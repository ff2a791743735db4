/** NBD's URIs (NetworkBlockDevice/nbd, doc/uri.md): what names a server and an export of it. */
import { Fault } from '@typevisor/base'

export interface NbdAddress {
  readonly socketPath?: string
  readonly host?: string
  readonly port?: number
}

/** Where servers listen and clients connect when nobody says otherwise: IANA's port of the protocol. */
export const NBD_PORT = 10_809

/** @throws Fault `invalid` for what is no URI of NBD. */
export function parseNbdUri(uri: string): { address: NbdAddress; exportName: string; tls: boolean } {
  const bad = (why: string) => new Fault('invalid', `NBD URI: got ${JSON.stringify(uri)}, want ${why}`)
  let url: URL
  let exportName: string
  try {
    url = new URL(uri)
    exportName = decodeURIComponent(url.pathname.replace(/^\//, ''))
  } catch {
    throw bad('nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH')
  }
  const tls = url.protocol === 'nbds:' || url.protocol === 'nbds+unix:'
  if (url.protocol === 'nbd+unix:' || url.protocol === 'nbds+unix:') {
    // A plus is a plus: `URLSearchParams` has the rules of forms.
    const socketPath = new URLSearchParams(url.search.replaceAll('+', '%2B')).get('socket')
    if (!socketPath) throw bad('?socket=PATH')
    return { address: { socketPath }, exportName, tls }
  }
  if (url.protocol !== 'nbd:' && url.protocol !== 'nbds:') throw bad('nbd, nbds, nbd+unix or nbds+unix')
  if (url.hostname === '') throw bad('a host')
  return {
    address: { host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port === '' ? NBD_PORT : Number(url.port) },
    exportName,
    tls,
  }
}

/** The inverse of `parseNbdUri`. Left out, the export is the one without a name. */
export function formatNbdUri(
  address: NbdAddress,
  options: { readonly exportName?: string; readonly tls?: boolean } = {},
): string {
  const scheme = options.tls ? 'nbds' : 'nbd'
  const path = escaped(options.exportName ?? '')
  if (address.socketPath !== undefined) return `${scheme}+unix:///${path}?socket=${escaped(address.socketPath)}`
  const { host = '127.0.0.1', port = NBD_PORT } = address
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}${path === '' ? '' : `/${path}`}`
}

/** Slashes stand for themselves in paths and in queries, and so do the marks of our names. */
const escaped = (text: string): string =>
  encodeURIComponent(text).replaceAll('%2F', '/').replaceAll('%40', '@').replaceAll('%3A', ':')
