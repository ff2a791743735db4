import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { Fault } from '@typevisor/base'
import type { CloudInitSpec } from '@typevisor/model'
import { writeIso, type IsoFile } from './iso9660.ts'
import { buildSeed, seedFiles } from './seed.ts'

const KEY = 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINKcreSq0k9tIr6YyBiFlm5unFyRn6zeyK'
const spec = (change: Partial<CloudInitSpec> = {}): CloudInitSpec => ({
  hostname: 'web-1',
  user: 'kim',
  sshKeys: [KEY],
  userData: null,
  ...change,
})
const texts = (cloudInit: CloudInitSpec): Record<string, string> =>
  Object.fromEntries(
    seedFiles({ instanceId: 'i-1', cloudInit }).map((file) => [file.name, new TextDecoder().decode(file.content)]),
  )
const noIsoInfo = spawnSync('isoinfo', ['-version']).status === 0 ? false : 'isoinfo is missing: install genisoimage'

/** Reads the image back by its Rock Ridge names: an independent, smaller reading of the format. */
function readIso(image: Uint8Array): Map<string, Uint8Array> {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength)
  const rootAt = 16 * 2048 + 156
  const found = new Map<string, Uint8Array>()
  const [start, length] = [view.getUint32(rootAt + 2, true) * 2048, view.getUint32(rootAt + 10, true)]
  for (let at = start; at < start + length;) {
    const recordBytes = view.getUint8(at)
    if (recordBytes === 0) {
      at = Math.ceil((at + 1) / 2048) * 2048
      continue
    }
    const nameBytes = view.getUint8(at + 32)
    for (let use = at + 33 + nameBytes + ((nameBytes + 1) % 2); use + 4 <= at + recordBytes; use += view.getUint8(use + 2)) {
      if (view.getUint16(use, false) !== 0x4e4d) continue // NM
      const name = new TextDecoder().decode(image.subarray(use + 5, use + view.getUint8(use + 2)))
      const extent = view.getUint32(at + 2, true) * 2048
      found.set(name, image.subarray(extent, extent + view.getUint32(at + 10, true)))
    }
    at += recordBytes
  }
  return found
}

test('an image holds what was written, for any names and contents', () => {
  const files = fc.uniqueArray(
    fc.record({ name: fc.stringMatching(/^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$/), content: fc.uint8Array({ maxLength: 5000 }) }),
    {
      selector: (file) => file.name,
      maxLength: 64,
    },
  )
  fc.assert(
    fc.property(files, (input: IsoFile[]) => {
      const found = readIso(writeIso('cidata', input, new Date(0)))
      assert.equal(found.size, input.length)
      for (const file of input) assert.deepEqual(Buffer.from(found.get(file.name) ?? []), Buffer.from(file.content))
    }),
    { numRuns: 60 },
  )
})

test('isoinfo reads label, Rock Ridge and Joliet', { skip: noIsoInfo }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-seed-'))
  try {
    const path = join(folder, 'seed.iso')
    await writeFile(path, buildSeed({ instanceId: 'i-1', cloudInit: spec() }))
    const isoinfo = (...argv: string[]): string => spawnSync('isoinfo', [...argv, '-i', path], { encoding: 'utf8' }).stdout
    assert.match(isoinfo('-d'), /Volume id: cidata\n[^]*Joliet with UCS level 3 found\nRock Ridge signatures version 1 found/)
    assert.match(isoinfo('-R', '-f'), /\/meta-data\n\/network-config\n\/user-data/)
    assert.equal(isoinfo('-R', '-x', '/user-data'), texts(spec())['user-data'])
    assert.match(isoinfo('-J', '-f'), /\/user-data/)
  } finally {
    await rm(folder, { recursive: true })
  }
})

test('user-data made here is cloud-config with name, account and keys', () => {
  const { 'user-data': user = '', 'meta-data': meta = '' } = texts(spec())
  assert.ok(user.startsWith('#cloud-config\n'))
  const config = JSON.parse(user.slice('#cloud-config\n'.length))
  assert.equal(config.hostname, 'web-1')
  assert.deepEqual(config.users[0].ssh_authorized_keys, [KEY])
  assert.deepEqual(JSON.parse(meta), { 'instance-id': 'i-1', 'local-hostname': 'web-1', 'public-keys': [KEY] })
})

test("the caller's own user-data passes through byte for byte, and account and keys go beside it", () => {
  const userData = '#!/bin/sh\r\necho "ü $HOME" \'`x`\'\n'
  const files = texts(spec({ userData }))
  assert.equal(files['user-data'], userData)
  assert.match(files['vendor-data'] ?? '', /"name": "kim"/)
})

test('equal input gives equal bytes', () => {
  const make = (): Uint8Array => buildSeed({ instanceId: 'i-1', cloudInit: spec() })
  assert.deepEqual(make(), make())
})

test('a comment of a key stays inside its string', () => {
  const key = `${KEY} "]}\\u0022 \${x} 'y' $(id) # : - & *`
  const config = JSON.parse((texts(spec({ sshKeys: [key] }))['user-data'] ?? '').replace('#cloud-config\n', ''))
  assert.deepEqual(config.users[0].ssh_authorized_keys, [key])
})

test('hostile fields are refused, each by its name', () => {
  const cases: [Partial<CloudInitSpec>, string][] = [
    [{ hostname: '' }, 'cloudInit.hostname'],
    [{ hostname: '-x' }, 'cloudInit.hostname'],
    [{ hostname: 'a\nruncmd: x' }, 'cloudInit.hostname'],
    [{ user: 'Root' }, 'cloudInit.user'],
    [{ user: 'a:0:0' }, 'cloudInit.user'],
    [{ sshKeys: ['no key'] }, 'cloudInit.sshKeys[0]'],
    [{ sshKeys: [KEY, `${KEY}\ncommand="x" ${KEY}`] }, 'cloudInit.sshKeys[1]'],
    [{ userData: 'x'.repeat(2 ** 20 + 1) }, 'cloudInit.userData'],
  ]
  for (const [change, path] of cases) {
    assert.throws(
      () => buildSeed({ instanceId: 'i-1', cloudInit: spec(change) }),
      (error) => error instanceof Fault && error.code === 'invalid' && error.details[0]?.path === path,
      path,
    )
  }
  assert.throws(() => buildSeed({ instanceId: '../x', cloudInit: spec() }), Fault)
})
