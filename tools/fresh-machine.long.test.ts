/**
 * `npm start` on a machine with nothing but git, Node 20 and npm: a minimal Debian made by debootstrap, entered by chroot in a pid namespace of
 * its own. It installs what it needs from the mirrors that this machine is set up with.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'

const root = join(import.meta.dirname, '..')
const LIMIT_MS = 180_000
const CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt'

/** The Node that the machine brought, not the pinned one. */
function machineNode(): string | null {
  const folders = (process.env['PATH'] ?? '').split(':').filter((folder) => !folder.includes('node_modules'))
  const found = folders.map((folder) => join(folder, 'node')).find((path) => existsSync(path))
  return found === undefined ? null : realpathSync(found)
}

function mirror(): string {
  const texts = globSync(['/etc/apt/sources.list', '/etc/apt/sources.list.d/*.{list,sources}']).map((path) =>
    readFileSync(path, 'utf8'),
  )
  const uri = texts
    .flatMap((text) => [...text.matchAll(/^(?:URIs:\s*|deb\s+(?:\[[^\]]*\]\s+)?)(\S+)/gm)].map((match) => match[1] as string))
    .find((found) => /debian\/?$/.test(found) && !found.includes('security'))
  assert.ok(uri, 'this machine names a Debian mirror')
  return uri
}

function makeMachine(machine: string, node: string): void {
  execFileSync('debootstrap', ['--variant=minbase', '--include=git,ca-certificates', 'bookworm', machine, mirror()], {
    stdio: 'pipe',
  })
  for (const path of globSync([
    '/etc/apt/sources.list',
    '/etc/apt/sources.list.d/*.{list,sources}',
    '/etc/apt/apt.conf.d/*',
    '/etc/apt/preferences.d/*',
  ])) {
    mkdirSync(dirname(join(machine, path)), { recursive: true })
    copyFileSync(path, join(machine, path))
  }
  for (const path of ['/etc/resolv.conf', '/etc/hosts', CERTIFICATES]) copyFileSync(realpathSync(path), join(machine, path))
  copyFileSync(node, join(machine, 'usr/bin/node'))
  const npm = realpathSync(execFileSync('which', ['npm'], { encoding: 'utf8' }).trim())
  const npmFolder = dirname(dirname(npm))
  cpSync(npmFolder, join(machine, 'usr/lib/node_modules/npm'), { recursive: true })
  writeFileSync(join(machine, 'usr/bin/npm'), '#!/bin/sh\nexec node /usr/lib/node_modules/npm/bin/npm-cli.js "$@"\n', {
    mode: 0o755,
  })
  if (existsSync(join(homedir(), '.npmrc'))) copyFileSync(join(homedir(), '.npmrc'), join(machine, 'root/.npmrc'))
  execFileSync('git', ['clone', '-q', '--no-hardlinks', root, join(machine, 'typevisor')])
}

const reason =
  process.geteuid?.() !== 0
    ? 'making a machine wants root'
    : machineNode() === null
      ? 'the machine has no Node of its own'
      : false

test(
  'npm start on a bare Debian sets everything up and boots a guest in under three minutes',
  { skip: reason, timeout: 900_000 },
  async () => {
    const machine = mkdtempSync(join(tmpdir(), 'typevisor-machine-'))
    chmodSync(machine, 0o755) // it is the machine's /
    const env = {
      PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
      HOME: '/root',
      NODE_EXTRA_CA_CERTS: CERTIFICATES,
      SSL_CERT_FILE: CERTIFICATES,
    }
    try {
      makeMachine(machine, machineNode() as string)
      assert.equal(existsSync(join(machine, 'usr/bin/qemu-system-x86_64')), false)
      const begin = performance.now()
      const inside = ['--mount', '--pid', '--fork', '--kill-child', `--mount-proc=${join(machine, 'proc')}`, 'chroot', machine]
      const platform = spawn('unshare', [...inside, '/usr/bin/env', '-C', '/typevisor', 'npm', 'start', '--', '--port', '0'], {
        env,
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      const exited = new Promise((resolve) => platform.once('exit', resolve))
      let text = ''
      platform.stderr.on('data', (part: Buffer) => (text += part.toString()))
      try {
        await new Promise<void>((resolve, reject) => {
          platform.stdout.on('data', (part: Buffer) => {
            text += part.toString()
            if (text.includes('hello is up')) resolve()
          })
          void exited.then(() => reject(new Error(`it ended: ${text}`)))
        })
        const seconds = (performance.now() - begin) / 1000
        assert.ok(seconds * 1000 < LIMIT_MS, `a guest was up after ${seconds.toFixed(0)} s\n${text}`)
        process.stderr.write(`a guest on a bare machine was up after ${seconds.toFixed(0)} s\n`)
        const answer = execFileSync(
          'chroot',
          [machine, '/typevisor/typevisor', 'instance', 'exec', 'hello', '--', 'uname', '-n'],
          { env, encoding: 'utf8' },
        )
        assert.equal(answer, 'hello\n')
      } finally {
        platform.kill('SIGKILL') // and with it all that runs in its pid namespace
        await exited
      }
    } finally {
      rmSync(machine, { recursive: true, force: true })
    }
  },
)
