/**
 * A certificate for one listener, known by its fingerprint and nothing else: self-signed, of a key that is made for it (P-256, RFC 5480).
 *
 *   Certificate ::= { tbs { [0] v3, serial, ecdsa-with-SHA256, issuer, validity, subject, key }, ecdsa-with-SHA256, signature }   RFC 5280
 *
 * Node makes keys and signatures and no certificates; the little DER (X.690) that one needs is here.
 */
import { createHash, createPrivateKey, createPublicKey, generateKeyPair, randomBytes, sign, X509Certificate } from 'node:crypto'
import { promisify } from 'node:util'

export interface ListenerCertificate {
  readonly certificate: string
  readonly key: string
  /** SHA-256 of the certificate, 64 digits of hexadecimal. */
  readonly fingerprint: string
}

const SEQUENCE = 0x30
const SET = 0x31
const ECDSA_WITH_SHA256 = '06082a8648ce3d040302'
const COMMON_NAME = '0603550403'
const DAY_MS = 24 * 60 * 60 * 1000

function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts)
  const size = content.length
  const length = size < 0x80 ? [size] : size < 0x100 ? [0x81, size] : [0x82, size >> 8, size & 0xff]
  return Buffer.concat([Buffer.from([tag, ...length]), content])
}

const hex = (digits: string): Buffer => Buffer.from(digits, 'hex')
const nameOf = (text: string): Buffer => der(SEQUENCE, der(SET, der(SEQUENCE, hex(COMMON_NAME), der(0x0c, Buffer.from(text)))))
/** GeneralizedTime: `20261127204500Z`. */
const timeOf = (at: number): Buffer => der(0x18, Buffer.from(`${new Date(at).toISOString().replaceAll(/[-:T]|\.\d+/g, '')}`))

/** `now`: milliseconds since 1970; it is valid for a day around. */
export async function listenerCertificate(now: number): Promise<ListenerCertificate> {
  const { privateKey, publicKey } = await promisify(generateKeyPair)('ec', {
    namedCurve: 'P-256',
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  const algorithm = der(SEQUENCE, hex(ECDSA_WITH_SHA256))
  const name = nameOf('typevisor migration')
  const serial = randomBytes(16)
  // Positive, and of no leading zeros.
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40
  const tbs = der(
    SEQUENCE,
    der(0xa0, hex('020102')),
    der(0x02, serial),
    algorithm,
    name,
    der(SEQUENCE, timeOf(now - DAY_MS), timeOf(now + DAY_MS)),
    name,
    createPublicKey(publicKey).export({ type: 'spki', format: 'der' }),
  )
  const signature = sign('sha256', tbs, createPrivateKey(privateKey))
  const raw = der(SEQUENCE, tbs, algorithm, der(0x03, Buffer.from([0]), signature))
  return {
    certificate: new X509Certificate(raw).toString(),
    key: privateKey,
    fingerprint: createHash('sha256').update(raw).digest('hex'),
  }
}
