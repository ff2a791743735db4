/**
 * TLS for both sides on Node, and the files that nbdkit, libnbd and QEMU keep for it:
 *
 *   DIR/ca-cert.pem                         who signs
 *   DIR/server-cert.pem, server-key.pem     a server's own
 *   DIR/client-cert.pem, client-key.pem     a client's own
 *   FILE                                    pre-shared keys, a line each: IDENTITY:HEX (psktool's)
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createSecureContext, type ConnectionOptions, type TlsOptions } from 'node:tls'
import { Fault, toFault } from '@typevisor/base'
import type { TlsPolicy } from './negotiation.ts'

export interface NbdTlsOptions {
  readonly policy: Exclude<TlsPolicy, 'off'>
  /** PEM. */
  readonly certificate?: string
  readonly key?: string
  /** PEM of whoever signs the certificates of clients: with it a client must have one. */
  readonly clientAuthority?: string
  /** Pre-shared keys by identity (RFC 4279, as nbdkit and QEMU use them). Who has one needs no certificate. */
  readonly preSharedKeys?: ReadonlyMap<string, Uint8Array>
}

export interface NbdClientTls {
  /** PEM of whoever signs the server's certificate; else those that Node trusts. */
  readonly authority?: string
  /** Name that the server's certificate must have; else the host, and `localhost` on a Unix socket. */
  readonly serverName?: string
  /** PEM of the client's own certificate and of its key. */
  readonly certificate?: string
  readonly key?: string
  /** Instead of certificates: the server must have it too. */
  readonly preSharedKey?: { readonly identity: string; readonly key: Uint8Array }
}

/** Both sides prove that they have the key, and by nothing else: RSA-PSK and what proves nothing are left out. */
const KEY_CIPHERS = 'kECDHEPSK:kDHEPSK:kPSK:!aNULL:!eNULL'
/** Node has such keys up to this version. */
const KEY_VERSION = 'TLSv1.2'

/** What a TLS server on one connection is made of. @throws Fault `invalid` for what is no certificate or no key of it. */
export function serverTlsOptions({ certificate, key, clientAuthority, preSharedKeys }: NbdTlsOptions): TlsOptions {
  if (certificate === undefined && preSharedKeys === undefined)
    throw new Fault('invalid', 'TLS: got neither a certificate nor pre-shared keys')
  const options: TlsOptions = {
    ...(certificate === undefined ? {} : { cert: certificate }),
    ...(key === undefined ? {} : { key }),
    ...(clientAuthority === undefined ? {} : { ca: clientAuthority, requestCert: true, rejectUnauthorized: true }),
  }
  if (preSharedKeys !== undefined) {
    options.maxVersion = KEY_VERSION
    options.ciphers = certificate === undefined ? KEY_CIPHERS : `${KEY_CIPHERS}:HIGH`
    options.pskIdentityHint = 'nbd'
    options.pskCallback = (_socket, identity) => {
      const found = preSharedKeys.get(identity)
      return found ? Buffer.from(found) : null
    }
  }
  try {
    createSecureContext(options)
  } catch (error) {
    throw new Fault('invalid', `TLS: ${toFault(error).message}`, { cause: error })
  }
  return options
}

export function clientTlsOptions({ authority, serverName, certificate, key, preSharedKey }: NbdClientTls): ConnectionOptions {
  if (preSharedKey !== undefined)
    return {
      ciphers: KEY_CIPHERS,
      maxVersion: KEY_VERSION,
      pskCallback: () => ({ identity: preSharedKey.identity, psk: preSharedKey.key }),
      // There is no certificate: the key is the proof.
      checkServerIdentity: () => undefined,
    }
  return {
    ...(authority === undefined ? {} : { ca: authority }),
    ...(serverName === undefined ? {} : { servername: serverName }),
    ...(certificate === undefined ? {} : { cert: certificate }),
    ...(key === undefined ? {} : { key }),
  }
}

/** A server's files in a folder of certificates. `verifyPeer`: clients need a certificate that `ca-cert.pem` signs. @throws Fault. */
export async function readServerCertificates(
  dir: string,
  { verifyPeer = false }: { readonly verifyPeer?: boolean } = {},
): Promise<Pick<NbdTlsOptions, 'certificate' | 'key' | 'clientAuthority'>> {
  return {
    certificate: await readText(join(dir, 'server-cert.pem')),
    key: await readText(join(dir, 'server-key.pem')),
    ...(verifyPeer ? { clientAuthority: await readText(join(dir, 'ca-cert.pem')) } : {}),
  }
}

/** @throws Fault `not_found`, `failed`; `invalid` naming the line that is no key, which is not repeated. */
export async function readPreSharedKeys(path: string): Promise<ReadonlyMap<string, Uint8Array>> {
  const keys = new Map<string, Uint8Array>()
  for (const [index, line] of (await readText(path)).split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue
    const [, identity, hex] = /^([^:]+):((?:[0-9a-fA-F]{2})+)\s*$/.exec(line) ?? []
    if (identity === undefined || hex === undefined)
      throw new Fault('invalid', `${path}: line ${index + 1}: want IDENTITY:KEY, the key in pairs of hexadecimal digits`)
    keys.set(identity, Buffer.from(hex, 'hex'))
  }
  if (keys.size === 0) throw new Fault('invalid', `${path}: got no key, want a line IDENTITY:KEY at least`)
  return keys
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    throw new Fault(code === 'ENOENT' ? 'not_found' : 'failed', `TLS: ${message}`, { cause: error })
  }
}
