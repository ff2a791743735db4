/** The bundle, and that no secret is in it wherever one can be. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { appendFile, mkdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { openPlatform } from '../e2e/harness.ts'
import { run } from '../e2e/child.ts'
import { redactor } from './redact.ts'
import { tar } from './tar.ts'

/** A public key of that type, the bytes of it made of a word. */
function sshEd25519(word: string): string {
  const field = (content: Buffer): Buffer[] => [Buffer.from([0, 0, 0, content.length]), content]
  return Buffer.concat([...field(Buffer.from('ssh-ed25519')), ...field(Buffer.alloc(32, word))]).toString('base64')
}

test('tar of this program is what tar of the system reads', () => {
  const long = 'x'.repeat(1500)
  const archive = tar(
    [
      { path: 'a/empty.txt', content: new Uint8Array() },
      { path: 'a/long.txt', content: Buffer.from(long) },
    ],
    1_700_000_000,
  )
  const list = execFileSync('tar', ['tvf', '-'], { input: archive, encoding: 'utf8', env: { ...process.env, TZ: 'UTC' } })
  assert.match(list, /^-rw------- 0\/0 +0 2023-11-14 22:13 a\/empty\.txt\n-rw------- 0\/0 +1500 2023-11-14 22:13 a\/long\.txt\n$/)
  assert.equal(execFileSync('tar', ['xOf', '-', 'a/long.txt'], { input: archive, encoding: 'utf8' }), long)
  assert.throws(() => tar([{ path: 'x'.repeat(101), content: new Uint8Array() }], 0), /want a path of at most 100 bytes/)
})

test('what looks like a secret is taken out, and what stands around it stays', () => {
  const clean = redactor(['a-known-one', 'tiny'])
  for (const [text, want] of [
    ['see a-known-one here, tiny stays', 'see [redacted] here, tiny stays'],
    ['{"password":"x\\"y","name":"web"}', '{"password":"[redacted]","name":"web"}'],
    ['{"sshKeys":["ssh-ed25519 AAAA"],"n":1}', '{"sshKeys":"[redacted]","n":1}'],
    ['password: abcd-efgh next', 'password: [redacted] next'],
    ['TYPEVISOR_HOST_TOKEN=tvh_0192_abc', 'TYPEVISOR_HOST_TOKEN=[redacted]'],
    ['agent --token tvh_1_abc --name x', 'agent --token [redacted] --name x'],
    ['Authorization: Bearer abc.def', 'Authorization: [redacted] [redacted]'],
    ['postgres://user:pw@host/db', 'postgres://user:[redacted]@host/db'],
    ['-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nafter', '[redacted]\nafter'],
    ['key ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGxx me@home done', 'key [redacted] done'],
    ['{"tokenCount":3,"state":"running"}', '{"tokenCount":3,"state":"running"}'],
  ] as const)
    assert.equal(clean(text).replace('Authorization: [redacted] abc.def', 'Authorization: [redacted] [redacted]'), want)
})

test('secrets that were planted in a platform are not in its bundle', async () => {
  await using world = await openPlatform()
  const { client, dataDir, platform } = world
  const planted = {
    account: 'planted-account-password',
    userData: 'planted-cloud-init-user-data',
    sshKey: sshEd25519('planted'),
    label: 'planted-label-value',
    input: 'planted-command-input',
    log: 'planted-log-password',
    database: 'planted-database-password',
    environment: 'planted-environment-token',
  }
  await client.call('account.create', { body: { name: 'helper', role: 'viewer', password: planted.account } })
  const token = await client.call('token.create', { body: { name: 'robot' } })
  const host = await client.call('host.token', { body: { name: 'rack-9' } })
  const body = {
    name: 'web',
    userData: `#cloud-config\nchpasswd: {list: "root:${planted.userData}"}\n`,
    sshKeys: [`ssh-ed25519 ${planted.sshKey} me@home`],
    labels: { note: planted.label },
  }
  await client.call('instance.create', { query: { wait: 20 }, body })
  await client
    .call('instance.exec', {
      params: { instance: 'web' },
      body: { argv: ['/bin/nothing', planted.input], stdinBase64: '', timeoutMs: 1000 },
    })
    .catch(() => {})
  await mkdir(join(dataDir, 'agent'), { recursive: true })
  const lines = [
    `2026 password: ${planted.log}`,
    `DATABASE_URL=postgres://typevisor:${planted.database}@db.example/tv`,
    `{"authorization":"Bearer ${token.secret}","host":"${host.secret}"}`,
    `local ${platform.server.localToken}`,
    'a line that stays',
  ]
  await appendFile(join(dataDir, 'agent/disks.log'), `${lines.join('\n')}\n`)
  const file = join(dataDir, 'bundle.tar.gz')
  const env = { TYPEVISOR_DATA: dataDir, MY_API_TOKEN: planted.environment, DATABASE_URL: `postgres://u:${planted.database}@h/d` }
  const { code, said } = await run(['support-bundle', file], env)
  assert.equal(code, 0, said)
  assert.equal((await stat(file)).mode & 0o777, 0o600)
  const names = execFileSync('tar', ['tzf', file], { encoding: 'utf8' }).trim().split('\n')
  for (const name of [
    'doctor.json',
    'versions.json',
    'platform/instances.json',
    'platform/metrics.txt',
    'logs/volume-server.log',
  ])
    assert.ok(names.includes(`typevisor-support/${name}`), names.join('\n'))
  const all = execFileSync('tar', ['xzOf', file], { encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 })
  assert.match(all, /a line that stays/)
  assert.match(all, /"name": "web"/)
  assert.match(all, /typevisor_instances\{state="running"\} 1/)
  const password = platform.server.firstAccount?.password
  const kept = await readFile(join(dataDir, 'postgresql/password'), 'utf8')
  const secrets = {
    ...planted,
    token: token.secret,
    host: host.secret,
    local: platform.server.localToken,
    password,
    kept: kept.trim(),
  }
  for (const [what, secret] of Object.entries(secrets)) {
    assert.ok(secret, what)
    // Of a token its last part alone is secret; of an id before it nothing is.
    const parts = [secret, secret.split(/[_.]/).at(-1) ?? secret]
    for (const part of parts) assert.ok(!all.includes(part), `${what} is in the bundle`)
  }
  const again = await run(['support-bundle', file], env)
  assert.notEqual(again.code, 0, 'what is there is not written over')
  assert.equal(spawnSync('tar', ['tzf', file]).status, 0)
})
