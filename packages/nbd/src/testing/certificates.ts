import { execFile } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)
const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']

/**
 * A folder of certificates as nbdkit, libnbd and QEMU have it, made with openssl: an authority of its own, a server called `localhost` and
 * 127.0.0.1, and a client.
 */
export async function makeCertificates(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true })
  const file = (name: string): string => join(dir, name)
  const openssl = (...words: string[]) => run('openssl', words)
  await openssl(
    'req',
    '-x509',
    ...EC,
    '-days',
    '2',
    '-subj',
    '/CN=ca',
    '-keyout',
    file('ca-key.pem'),
    '-out',
    file('ca-cert.pem'),
  )
  await writeFile(file('names'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n')
  for (const one of ['server', 'client']) {
    const request = file(`${one}.csr`)
    await openssl('req', ...EC, '-subj', `/CN=${one}`, '-keyout', file(`${one}-key.pem`), '-out', request)
    const signs = ['-CA', file('ca-cert.pem'), '-CAkey', file('ca-key.pem'), '-CAcreateserial', '-days', '2']
    await openssl('x509', '-req', '-in', request, ...signs, '-extfile', file('names'), '-out', file(`${one}-cert.pem`))
  }
}
