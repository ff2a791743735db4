/** Runs inside the machine of `install.long.test.ts`, as its only job: installs, and tells what became of a guest over stops, kills and an upgrade. */
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const TREE = '/opt/typevisor'
/** Without hardware virtualization an agent takes minutes to start here. */
const LIMIT_MS = 900_000
const said = (text) => process.stdout.write(`world: ${text}\n`)

function typevisor(tree, ...words) {
  const { status, stdout, stderr } = spawnSync(`${tree}/typevisor`, words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`typevisor ${words.join(' ')}: ${status} ${stdout} ${stderr}`)
  return stdout
}
const systemctl = (...words) => spawnSync('systemctl', words, { encoding: 'utf8' }).stdout.trim()

async function until(what, holds) {
  const end = performance.now() + LIMIT_MS
  for (;;) {
    try {
      if (holds()) return
    } catch {
      // It is asked again.
    }
    if (performance.now() > end) {
      const log = execFileSync('journalctl', ['-n', '60', '--no-pager', '-u', 'typevisor-agent', '-u', 'typevisor-server'], {
        encoding: 'utf8',
      })
      throw new Error(`it never came: ${what}\n${log}`)
    }
    await sleep(500)
  }
}

/** Identity of the process whose command line has the word: pid and start time, and the CPU time that it has used. */
function processOf(word) {
  for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const words = readFileSync(`/proc/${entry}/cmdline`, 'utf8').split('\0')
      if (!words.some((each) => each.endsWith(word))) continue
      const fields = readFileSync(`/proc/${entry}/stat`, 'utf8')
        .replace(/^.*\) /, '')
        .split(' ')
      return {
        identity: `${entry}@${fields[19]}`,
        ticks: Number(fields[11]) + Number(fields[12]),
        user: /^Uid:\s+(\d+)/m.exec(readFileSync(`/proc/${entry}/status`, 'utf8'))[1],
        group: readFileSync(`/proc/${entry}/cgroup`, 'utf8').trim(),
      }
    } catch {
      // It ended meanwhile.
    }
  }
  return null
}
const guest = () => processOf('qemu-system-x86_64')
const volumes = () => processOf('volumes/process.ts')
const identities = () => [guest()?.identity ?? null, volumes()?.identity ?? null]

const instanceIs = (state) => {
  const { state: found, hostConnected } = JSON.parse(typevisor(TREE, 'instance', 'get', 'web', '--json'))
  return found.kind === state && hostConnected
}

const told = {}
try {
  const first = typevisor(TREE, 'install')
  told.first = first.split('\n').filter((line) => line !== '')
  told.second = typevisor(TREE, 'install')
    .split('\n')
    .filter((line) => line !== '')
  told.users = ['typevisor', 'typevisor-qemu'].map(
    (name) => execFileSync('id', ['-u', name], { encoding: 'utf8' }).trim() !== '0',
  )
  said('installed')
  await until('the host is there', () =>
    JSON.parse(typevisor(TREE, 'host', 'list', '--json')).items.some(({ name, connected }) => name === 'local' && connected),
  )
  typevisor(TREE, 'instance', 'create', 'web', '--image', 'micro')
  await until('the guest runs', () => instanceIs('running'))
  said('a guest runs')
  const before = identities()
  told.before = before
  told.guestUser = guest().user === execFileSync('id', ['-u', 'typevisor-qemu'], { encoding: 'utf8' }).trim()
  told.group = guest().group

  systemctl('stop', 'typevisor-agent')
  told.stopped = systemctl('is-active', 'typevisor-agent')
  const { ticks } = guest()
  await until('the guest goes on under a stopped agent', () => guest().ticks > ticks + 5)
  told.afterStop = identities()
  systemctl('start', 'typevisor-agent')
  await until('the agent is back', () => instanceIs('running'))
  told.afterStart = identities()
  said('stop and start')

  systemctl('restart', 'typevisor-agent')
  await until('the agent is back again', () => instanceIs('running'))
  told.afterRestart = identities()
  const main = () => Number(systemctl('show', '-P', 'MainPID', 'typevisor-agent'))
  const killed = main()
  systemctl('kill', '--kill-whom=main', '-s', 'KILL', 'typevisor-agent')
  await until('systemd started it anew', () => main() !== 0 && main() !== killed && instanceIs('running'))
  told.afterKill = identities()
  said('restart and kill')

  systemctl('restart', 'typevisor-server')
  await until('the server is back', () => instanceIs('running'))
  told.afterServer = identities()

  cpSync(`${TREE}/`, '/opt/typevisor-2/', { recursive: true, verbatimSymlinks: true })
  told.upgrade = typevisor('/opt/typevisor-2', 'install')
    .split('\n')
    .filter((line) => line !== '')
  await until('the agent of the other tree is there', () => {
    return readFileSync(`/proc/${main()}/cmdline`, 'utf8').includes('/opt/typevisor-2/') && instanceIs('running')
  })
  told.afterUpgrade = [identities()[0]]
  said('upgrade')

  typevisor('/opt/typevisor-2', 'install', '--uninstall')
  told.uninstalled = [
    '/etc/systemd/system/typevisor-agent.service',
    '/etc/systemd/system/typevisor-server.service',
    '/etc/typevisor/agent.env',
  ].filter(existsSync)
  told.active = [systemctl('is-active', 'typevisor-agent'), systemctl('is-active', 'typevisor-server')]
  told.afterUninstall = [identities()[0]]
  told.dataKept = existsSync('/var/lib/typevisor/agent/state')
} catch (error) {
  told.error = String(error?.stack ?? error)
}
process.stdout.write(`told: ${JSON.stringify(told)}\n`)
