/**
 * Brings a clone to the point where its own Node can run it, then hands over. Runs on Node 20 with nothing installed.
 *
 *   npm start / npm test --> npm ci (when the lock changed) --> Debian packages (when missing) --> users (root) --> portal (when stale) --> Node 24
 *
 * Each step looks first and does nothing when there is nothing to do: the second start takes milliseconds here.
 */
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const cache = join(root, 'node_modules', '.typevisor')
const isRoot = process.getuid?.() === 0
const say = (text) => process.stderr.write(`setup: ${text}\n`)

class SetupFailure extends Error {}

function run(command, argv, { quiet = true, env = {} } = {}) {
  const result = spawnSync(command, argv, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: quiet ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'inherit', 'inherit'],
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  if (result.error) throw new SetupFailure(`${command}: ${result.error.message}`)
  if (result.status !== 0) {
    const last = `${result.stdout ?? ''}${result.stderr ?? ''}`.trim().split('\n').slice(-12).join('\n')
    throw new SetupFailure(`${command} ${argv.join(' ')}: exit code ${result.status}\n${last}`)
  }
  return result.stdout ?? ''
}

function step(title, work) {
  const begin = Date.now()
  say(`${title} ...`)
  work()
  say(`${title}: ${((Date.now() - begin) / 1000).toFixed(1)} s`)
}

const digestOf = (...files) => {
  const hash = createHash('sha256')
  for (const file of files)
    hash
      .update(file)
      .update('\0')
      .update(readFileSync(join(root, file)))
      .update('\0')
  return hash.digest('hex')
}
const stampIs = (name, digest) => existsSync(join(cache, name)) && readFileSync(join(cache, name), 'utf8') === digest
const stamp = (name, digest) => {
  mkdirSync(cache, { recursive: true })
  writeFileSync(join(cache, name), digest)
}

function npmPackages() {
  const digest = digestOf('package-lock.json')
  if (stampIs('npm', digest)) return
  step('npm packages', () => run('npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']))
  stamp('npm', digest)
}

function debianPackages(kinds) {
  const lists = JSON.parse(readFileSync(join(root, 'tools', 'debian-packages.json'), 'utf8'))
  const wanted = kinds.flatMap((kind) => lists[kind])
  const asked = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Status}\n', ...wanted], { encoding: 'utf8' })
  if (asked.error)
    throw new SetupFailure(
      'dpkg-query is not there: Typevisor sets itself up on Debian; elsewhere install QEMU yourself and see docs/install.md',
    )
  const installed = new Set(
    asked.stdout
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(' ')[0]),
  )
  const missing = wanted.filter((name) => !installed.has(name))
  if (missing.length === 0) return
  if (!isRoot)
    throw new SetupFailure(`Debian packages are missing; as root: apt-get install --no-install-recommends ${missing.join(' ')}`)
  const env = { DEBIAN_FRONTEND: 'noninteractive' }
  step(`Debian packages (${missing.join(', ')})`, () => {
    run('apt-get', ['update', '-q'], { env })
    run('apt-get', ['install', '-y', '-q', '--no-install-recommends', ...missing], { env })
  })
}

/** PostgreSQL and guests run as users of their own, with no rights but their files'. */
function users() {
  if (!isRoot) return
  const known = readFileSync('/etc/passwd', 'utf8')
  for (const name of ['typevisor', 'typevisor-qemu']) {
    if (known.includes(`\n${name}:`)) continue
    step(`user ${name}`, () =>
      run('/usr/sbin/useradd', [
        '--system',
        '--user-group',
        '--no-create-home',
        '--home-dir',
        '/nonexistent',
        '--shell',
        '/usr/sbin/nologin',
        name,
      ]),
    )
  }
}

function* filesBelow(folder) {
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`
    if (entry.name === 'dist' || entry.name === 'node_modules') continue
    if (entry.isDirectory()) yield* filesBelow(path)
    else yield path
  }
}

function portal() {
  const sources = [
    ...filesBelow('apps/portal'),
    ...filesBelow('packages/api/src'),
    ...filesBelow('packages/model/src'),
    'package-lock.json',
  ]
    .filter((file) => !/\.(test|browser\.test)\.tsx?$/.test(file))
    .sort()
  const digest = digestOf(...sources)
  if (stampIs('portal', digest) && existsSync(join(root, 'apps/portal/dist/index.html'))) return
  rmSync(join(cache, 'portal'), { force: true })
  step('portal', () => run(node, [join(root, 'node_modules/vite/bin/vite.js'), 'build', 'apps/portal', '--logLevel', 'warn']))
  stamp('portal', digest)
}

const node = join(root, 'node_modules', '.bin', 'node')

/** What is started says what it needs beside the platform's own. `guests`: firmware, TPM and architectures, which the platform starts without. */
function packagesFor(target) {
  if (target.includes('bench')) return ['run', 'test', 'guests', 'bench']
  return target.includes('test') || target === 'setup' ? ['run', 'test', 'guests'] : ['run']
}

function main() {
  const [target, ...argv] = process.argv.slice(2)
  if (target === undefined) throw new SetupFailure('usage: node tools/bootstrap.mjs setup | FILE [ARG ...]')
  const major = Number(process.versions.node.split('.')[0])
  if (major < 20) throw new SetupFailure(`Node ${process.versions.node} runs this; want 20 or newer`)
  if (process.platform !== 'linux' || process.arch !== 'x64')
    throw new SetupFailure(`this is ${process.platform} on ${process.arch}; want Linux on x86-64`)
  npmPackages()
  debianPackages(packagesFor(target))
  users()
  portal()
  if (target === 'setup') return 0
  return handOver(join(root, target), argv)
}

/** The pinned Node takes over. Signals that reach only this process are passed on; Ctrl-C reaches both by itself, and twice is once. */
function handOver(program, argv) {
  const child = spawn(node, [program, ...argv], { cwd: process.cwd(), stdio: 'inherit' })
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => child.kill(name))
  return new Promise((resolve, reject) => {
    child.once('error', (error) => reject(new SetupFailure(`${node}: ${error.message}`)))
    child.once('exit', (code) => resolve(code ?? 1))
  })
}

try {
  statSync(join(root, 'package-lock.json'))
  process.exitCode = await main()
} catch (error) {
  if (!(error instanceof SetupFailure)) throw error
  say(error.message)
  process.exitCode = 1
}
