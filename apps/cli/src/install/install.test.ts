/** What would be installed; that it does as it says is tried on a machine of its own (`install.long.test.ts`). */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { test } from 'node:test'
import { Fault } from '@typevisor/base'
import { parseInstall } from '../commands/install.ts'
import { environmentLine, planInstall, planUninstall, stepText, type Step } from './plan.ts'
import { unitWord } from './units.ts'

const planOf = (words: readonly string[], env: NodeJS.ProcessEnv = {}): Step[] => {
  const { options } = parseInstall(words, env)
  assert.ok(options)
  return planInstall({ ...options, program: '/opt/typevisor/typevisor' })
}
const filesOf = (steps: readonly Step[]) => steps.flatMap((step) => (step.kind === 'file' ? [step] : []))
const contentOf = (steps: readonly Step[], name: string): string =>
  filesOf(steps).find(({ path }) => basename(path) === name)?.content ?? ''
const execStart = (unit: string): string => /^ExecStart=(.*)$/m.exec(unit)?.[1] ?? ''

test('both on one machine: users, units, and a token that the server makes', () => {
  const steps = planOf([])
  assert.deepEqual(steps.map(stepText), [
    'system user typevisor (PostgreSQL)',
    'system user typevisor-qemu (guests)',
    'folder /var/lib/typevisor (711)',
    'folder /etc/typevisor (700)',
    'file /etc/systemd/system/typevisor-server.service (644)',
    'file /etc/systemd/system/typevisor-agent.service (644)',
    'systemctl daemon-reload',
    'systemctl enable --now typevisor-server.service; restart it where it runs with another file',
    'file /etc/typevisor/agent.env (600), with a token of host local that the server makes',
    'systemctl enable --now typevisor-agent.service; restart it where it runs with another file',
  ])
  assert.equal(
    execStart(contentOf(steps, 'typevisor-server.service')),
    '/opt/typevisor/typevisor start --no-agent --empty --data /var/lib/typevisor --port 8006',
  )
  assert.equal(
    execStart(contentOf(steps, 'typevisor-agent.service')),
    '/opt/typevisor/typevisor agent --server http://127.0.0.1:8006 --name local --data /var/lib/typevisor/agent',
  )
})

test('a stop of the agent ends the agent alone', () => {
  const unit = contentOf(planOf([]), 'typevisor-agent.service')
  for (const line of ['KillMode=process', 'Delegate=yes', 'OOMPolicy=continue', 'TasksMax=infinity'])
    assert.match(unit, new RegExp(`^${line}$`, 'm'))
  // systemd would remove the sockets of guests with it, or hide their mounts from the next agent.
  assert.doesNotMatch(unit, /^(RuntimeDirectory|PrivateTmp|Protect\w+|PrivateMounts)=/m)
})

test('an agent alone takes its token by the environment, and it is never printed', () => {
  const secret = 'tvh_1_very-secret'
  const words = ['--only', 'agent', '--server', 'https://cloud.example:8006', '--host', 'rack-2', '--metrics-port', '9178']
  const steps = planOf(words, { TYPEVISOR_HOST_TOKEN: secret, DATABASE_URL: 'postgres://u:p@h/d' })
  assert.deepEqual(
    filesOf(steps).map(({ path, mode }) => [path, mode.toString(8)]),
    [
      ['/etc/typevisor/agent.env', '600'],
      ['/etc/systemd/system/typevisor-agent.service', '644'],
    ],
  )
  assert.equal(contentOf(steps, 'agent.env'), `TYPEVISOR_HOST_TOKEN="${secret}"\n`)
  for (const step of steps) {
    assert.doesNotMatch(stepText(step), /very-secret/)
    if (step.kind === 'file' && !step.secret) assert.doesNotMatch(step.content, /very-secret/)
  }
  assert.match(execStart(contentOf(steps, 'typevisor-agent.service')), /--name rack-2 .* --metrics-port 9178$/)
})

test('the password of a database stays out of the unit', () => {
  const steps = planOf(['--only', 'server', '--listen', '0.0.0.0'], { DATABASE_URL: 'postgres://u:a$b"c@h/d' })
  assert.equal(contentOf(steps, 'server.env'), 'DATABASE_URL="postgres://u:a\\$b\\"c@h/d"\n')
  assert.doesNotMatch(contentOf(steps, 'typevisor-server.service'), /postgres:/)
  assert.match(execStart(contentOf(steps, 'typevisor-server.service')), / --listen 0\.0\.0\.0$/)
})

test('what is taken back is what was made, and no data', () => {
  const made = filesOf(planOf([], {})).map(({ path }) => path)
  const removed = planUninstall().flatMap((step) => (step.kind === 'remove-file' ? [step.path] : []))
  assert.deepEqual(removed.toSorted(), [...made, '/etc/typevisor/agent.env', '/etc/typevisor/server.env'].toSorted())
  assert.deepEqual(parseInstall(['--uninstall', '--dry-run'], {}), { options: null, dryRun: true })
})

test('wrong words are refused by their flag', () => {
  const refused = (words: readonly string[], want: RegExp) =>
    assert.throws(
      () => parseInstall(words, {}),
      (error: unknown) => error instanceof Fault && error.code === 'invalid' && want.test(error.message),
    )
  refused(['--only', 'both'], /^--only: got "both", want server or agent/)
  refused(['--only', 'agent'], /^--server: got nothing/)
  refused(['--server', 'https://x'], /^--server goes with --only agent/)
  refused(['--port', '0'], /^--port: got 0/)
  refused(['--port', 'x'], /^--port: got "x"/)
  refused(['--host', 'Rack 2'], /^--host: got "Rack 2"/)
  refused(['--metrics-port', '99999'], /^--metrics-port/)
  refused(['--driver', 'kvm'], /^--driver/)
  refused(['--uninstall', '--port', '80'], /^--uninstall: got --port beside it/)
  refused(['--tls-cert', 'a.pem', '--tls-key', 'b.pem'], /^--tls-cert: an agent of the same machine/)
})

test('words of a unit are taken as they are', () => {
  assert.equal(unitWord('/srv/my data/100%$x'), '"/srv/my data/100%%$$x"')
  assert.equal(unitWord('a"b\\c'), '"a\\"b\\\\c"')
  assert.equal(unitWord('/var/lib/typevisor'), '/var/lib/typevisor')
  assert.equal(environmentLine('A', 'b`c\\'), 'A="b\\`c\\\\"\n')
})

const analyze = spawnSync('systemd-analyze', ['--version']).error === undefined

test('systemd has nothing to say against the units', { skip: analyze ? false : 'systemd-analyze is not here' }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'tv-units-'))
  try {
    // With words that need quotes, of a program that is there.
    const { options } = parseInstall(['--data', '/srv/my data/50%', '--name', 'a b'], {})
    assert.ok(options)
    const units = filesOf(planInstall(options)).filter(({ path }) => path.endsWith('.service'))
    const paths = await Promise.all(
      units.map(async ({ path, content }) => {
        const copy = join(folder, basename(path))
        await writeFile(copy, content)
        return copy
      }),
    )
    assert.equal(paths.length, 2)
    const { status, stderr, stdout } = spawnSync('systemd-analyze', ['verify', '--man=no', ...paths], { encoding: 'utf8' })
    const ours = `${stderr}${stdout}`.split('\n').filter((line) => line.includes('typevisor-'))
    assert.deepEqual([status, ours], [0, []], stderr)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
