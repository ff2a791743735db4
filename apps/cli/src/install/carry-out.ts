/** Does the steps of a plan on this machine. Each looks first; what is as it is to be is left alone. */
import { execFile } from 'node:child_process'
import { chmod, mkdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { Fault, toFault } from '@typevisor/base'
import { createClient } from '@typevisor/api/client'
import { userByName } from '@typevisor/runtime-node'
import { connection } from '../connect.ts'
import { fetchFor } from '../node-fetch.ts'
import { environmentLine, type Step } from './plan.ts'

const run = promisify(execFile)
/** The first start makes a database. */
const SERVER_LIMIT_MS = 180_000

/** @throws Fault `failed` with the program's words. */
async function command(program: string, ...words: string[]): Promise<string> {
  try {
    return (await run(program, words, { env: { ...process.env, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` } })).stdout
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string }
    throw new Fault('failed', `${program} ${words.join(' ')}: ${stderr.trim() || toFault(error).message}`, { cause: error })
  }
}

const contentOf = (path: string): Promise<string | null> => readFile(path, 'utf8').catch(() => null)

/** Whole or not at all: systemd may read at any moment. */
async function writeWhole(path: string, content: string, mode: number): Promise<void> {
  const beside = `${path}.new`
  await rm(beside, { force: true })
  await writeFile(beside, content, { mode, flag: 'wx' })
  await chmod(beside, mode)
  await rename(beside, path)
}

/** `changed` has the paths of files that this run has written. Answers whether anything was another than it is to be. */
export async function carryOut(step: Step, changed: Set<string>): Promise<boolean> {
  switch (step.kind) {
    case 'user': {
      const known = userByName(step.name)
      if (known?.uid === 0) throw new Fault('conflict', `user ${step.name}: it is root itself`)
      if (known) return false
      const home = ['--no-create-home', '--home-dir', '/nonexistent', '--shell', '/usr/sbin/nologin']
      await command('useradd', '--system', '--user-group', ...home, step.name)
      return true
    }
    case 'folder': {
      const found = await stat(step.path).catch(() => null)
      if (found && (found.mode & 0o777) === step.mode) return false
      await mkdir(step.path, { recursive: true })
      await chmod(step.path, step.mode)
      return true
    }
    case 'file': {
      const mode = (await stat(step.path).catch(() => null))?.mode ?? 0
      if ((await contentOf(step.path)) === step.content && (mode & 0o777) === step.mode) return false
      await writeWhole(step.path, step.content, step.mode)
      changed.add(step.path)
      return true
    }
    case 'host-token':
      if ((await contentOf(step.path)) !== null) return false
      await writeWhole(step.path, environmentLine('TYPEVISOR_HOST_TOKEN', await hostToken(step.dataDir, step.host)), 0o600)
      changed.add(step.path)
      return true
    case 'reload':
      await command('systemctl', 'daemon-reload')
      return false
    case 'run-unit': {
      const isActive = (await unitState('is-active', step.unit)) === 'active'
      const isEnabled = (await unitState('is-enabled', step.unit)) === 'enabled'
      if (!isEnabled) await command('systemctl', 'enable', '--quiet', step.unit)
      if (!isActive) await command('systemctl', 'start', step.unit)
      else if (step.restart || step.files.some((path) => changed.has(path))) await command('systemctl', 'restart', step.unit)
      else return !isEnabled
      return true
    }
    case 'stop-unit':
      if ((await unitState('is-active', step.unit)) === 'inactive' && (await unitState('is-enabled', step.unit)) !== 'enabled')
        return false
      await command('systemctl', 'disable', '--now', '--quiet', step.unit)
      return true
    case 'remove-file':
      if ((await contentOf(step.path)) === null) return false
      await rm(step.path)
      return true
  }
}

/** What systemctl says in one word; it ends with another code than 0 for most of them. */
async function unitState(question: 'is-active' | 'is-enabled', unit: string): Promise<string> {
  const answer = await run('systemctl', [question, unit]).catch((error: unknown) => error as { stdout?: string })
  return (answer.stdout ?? '').trim()
}

/** @throws Fault `timeout` when the server of the data directory does not come up. */
async function hostToken(dataDir: string, host: string): Promise<string> {
  const end = performance.now() + SERVER_LIMIT_MS
  while (true) {
    try {
      const { url, token, certificate } = connection({ TYPEVISOR_DATA: dataDir })
      const client = createClient({ baseUrl: url, token, fetch: fetchFor(certificate) })
      return (await client.call('host.token', { body: { name: host } })).secret
    } catch (error) {
      const fault = toFault(error)
      // The credentials of a server before this one end with it.
      if (fault.code !== 'unavailable' && fault.code !== 'unauthenticated') throw fault
      if (performance.now() > end)
        throw new Fault('timeout', `the server does not answer (${fault.message}); \`journalctl -u typevisor-server\` says why`)
      await sleep(250)
    }
  }
}
