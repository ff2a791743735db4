/**
 * NoCloud data for a guest: a small ISO 9660 disk labelled `cidata` that any cloud image (and the micro image) reads at its first boot.
 *
 *   meta-data       instance-id, local-hostname, public-keys
 *   user-data       the caller's own, byte for byte; without one, cloud-config made here: host name, account, keys
 *   vendor-data     only beside the caller's own user-data: what would have been said there, so that account and keys are not lost
 *   network-config  version 2: DHCP on every Ethernet card
 *
 * Everything made here is JSON, which is YAML: a name or key cannot break out of its place, whatever it contains.
 *
 * Reference: https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
 */
import { Fault, type FaultDetail } from '@typevisor/base'
import type { CloudInitSpec } from '@typevisor/model'
import { writeIso, type IsoFile } from './iso9660.ts'

export interface SeedInput {
  /** A new id makes a guest run cloud-init anew; the domain's id, as a rule. */
  readonly instanceId: string
  readonly cloudInit: CloudInitSpec
}

const USER_DATA_BYTES_MAX = 1024 * 1024
const KEY_COUNT_MAX = 256
const FIXED_TIME = new Date('2020-01-01T00:00:00Z')

const HOST_NAME =
  /^(?=.{1,253}$)[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/
/** useradd's rule in Debian (NAME_REGEX), lower case. */
const USER_NAME = /^[a-z_][a-z0-9_-]{0,31}$/
/** Type, base64, free comment: one line. `sk-` and certificates included. */
const SSH_KEY = /^(?:ssh-|ecdsa-|sk-)[a-z0-9@.-]{1,64} [A-Za-z0-9+/]{16,16384}={0,3}(?: [^\p{Cc}\u2028\u2029]{0,1024})?$/u

/** Pure, and equal for equal input. @throws Fault `invalid` naming each field that is wrong. */
export function buildSeed(input: SeedInput): Uint8Array {
  return writeIso('cidata', seedFiles(input), FIXED_TIME)
}

/** The files before they become a disk. */
export function seedFiles({ instanceId, cloudInit }: SeedInput): IsoFile[] {
  check(instanceId, cloudInit)
  const config = cloudConfig(cloudInit)
  const meta = {
    'instance-id': instanceId,
    'local-hostname': cloudInit.hostname,
    ...(cloudInit.sshKeys.length > 0 ? { 'public-keys': cloudInit.sshKeys } : {}),
  }
  const network = { version: 2, ethernets: { all: { match: { name: 'e*' }, dhcp4: true } } }
  const files = [file('meta-data', json(meta)), file('network-config', json(network))]
  if (cloudInit.userData === null) return [...files, file('user-data', config)]
  return [...files, file('user-data', cloudInit.userData), file('vendor-data', config)]
}

function cloudConfig({ hostname, user, sshKeys }: CloudInitSpec): string {
  const account = {
    name: user,
    ssh_authorized_keys: sshKeys,
    lock_passwd: true,
    ...(user === 'root' ? {} : { shell: '/bin/bash', sudo: 'ALL=(ALL) NOPASSWD:ALL', groups: ['sudo'] }),
  }
  const config = {
    [hostname.includes('.') ? 'fqdn' : 'hostname']: hostname,
    manage_etc_hosts: true,
    ssh_pwauth: false,
    ...(user === 'root' ? { disable_root: false } : {}),
    users: user === null ? ['default'] : [account],
    ...(user === null ? { ssh_authorized_keys: sshKeys } : {}),
  }
  return `#cloud-config\n${json(config)}`
}

function check(instanceId: string, { hostname, user, sshKeys, userData }: CloudInitSpec): void {
  const details: FaultDetail[] = []
  const want = (ok: boolean, path: string, wanted: string, got: unknown): void => {
    if (!ok) details.push({ path, want: wanted, got: (JSON.stringify(got) ?? 'nothing').slice(0, 100) })
  }
  want(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(instanceId), 'instanceId', '1 to 128 of A-Z a-z 0-9 . _ -', instanceId)
  want(HOST_NAME.test(hostname), 'cloudInit.hostname', 'a host name of letters, digits, - and .', hostname)
  want(user === null || USER_NAME.test(user), 'cloudInit.user', '1 to 32 of a-z 0-9 _ -, beginning with a letter or _', user)
  want(sshKeys.length <= KEY_COUNT_MAX, 'cloudInit.sshKeys', `at most ${KEY_COUNT_MAX} keys`, sshKeys.length)
  for (const [index, key] of sshKeys.slice(0, KEY_COUNT_MAX).entries()) {
    want(SSH_KEY.test(key), `cloudInit.sshKeys[${index}]`, 'one line as in authorized_keys: type, base64, comment', key)
  }
  if (userData !== null) {
    const sizeBytes = new TextEncoder().encode(userData).byteLength
    want(sizeBytes <= USER_DATA_BYTES_MAX, 'cloudInit.userData', `at most ${USER_DATA_BYTES_MAX} bytes`, `${sizeBytes} bytes`)
  }
  const [first] = details
  if (first) throw new Fault('invalid', `${first.path}: got ${first.got}, want ${first.want}`, { details })
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`
const file = (name: string, content: string): IsoFile => ({ name, content: new TextEncoder().encode(content) })
