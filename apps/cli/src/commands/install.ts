/**
 * `typevisor install`: this machine's server and agent as services of systemd. Run again it changes what is another, which is how an upgrade is
 * taken in: guests go on under a stopped agent, and the next one takes them over.
 */
import { accessSync, constants, existsSync } from 'node:fs'
import { hostname } from 'node:os'
import { join, resolve } from 'node:path'
import { Fault } from '@typevisor/base'
import { isLabel, LABEL_WANT } from '@typevisor/model'
import { isRoot } from '@typevisor/runtime-node'
import { parseFlags, type FlagTable } from '../flags.ts'
import { carryOut } from '../install/carry-out.ts'
import { planInstall, planUninstall, stepText, type InstallOptions, type Role } from '../install/plan.ts'
import type { Command } from '../terminal.ts'
import { parseAgent } from './agent.ts'
import { parseStart } from './start.ts'

const FLAGS = {
  only: { value: 'server|agent', text: 'one of the two; left out: both on this machine' },
  server: { value: 'URL', text: 'with --only agent: the address of the server' },
  host: { value: 'NAME', text: "what this machine is called as a host (default local, with --only agent this machine's name)" },
  data: { value: 'DIR', text: 'data directory (default /var/lib/typevisor)' },
  port: { value: 'PORT', text: 'port of the portal and the API (default 8006)' },
  listen: { value: 'ADDRESS', text: 'address that the server listens on (default 127.0.0.1)' },
  name: { value: 'NAME', many: true, text: 'a name that the server is called by from elsewhere; again for more' },
  'tls-cert': { value: 'FILE', text: 'certificate (PEM) of the server, with --tls-key' },
  'tls-key': { value: 'FILE', text: 'its private key (PEM)' },
  driver: { value: 'qemu|sim', text: 'of the agent (default qemu)' },
  'migration-address': { value: 'ADDRESS', text: 'of the agent: IP address by which other hosts reach it' },
  'metrics-port': { value: 'PORT', text: 'of the agent: /metrics on 127.0.0.1' },
  restart: { text: 'start services that run anew, also when nothing of theirs has changed: after an upgrade in place' },
  'dry-run': { text: 'only print what would be done' },
  uninstall: { text: 'stop the services and remove them; data, users and guests stay' },
} as const satisfies FlagTable

const PROGRAM = resolve(import.meta.dirname, '../../../../typevisor')

interface Parsed {
  readonly options: InstallOptions | null
  readonly dryRun: boolean
}

/** @throws Fault `invalid` naming the flag. `options` null: take it back. */
export function parseInstall(words: readonly string[], env: NodeJS.ProcessEnv): Parsed {
  const values = parseFlags('install', FLAGS, words)
  const dryRun = values['dry-run'] ?? false
  if (values.uninstall) {
    const beside = words.filter((word) => word.startsWith('--') && word !== '--uninstall' && word !== '--dry-run')
    if (beside.length > 0) throw new Fault('invalid', `--uninstall: got ${beside.join(' ')} beside it, want --dry-run at most`)
    return { options: null, dryRun }
  }
  const { only } = values
  if (only !== undefined && only !== 'server' && only !== 'agent')
    throw new Fault('invalid', `--only: got ${JSON.stringify(only)}, want server or agent`)
  const roles: Role[] = only === undefined ? ['server', 'agent'] : [only]
  const elsewhere = only === 'agent'
  if (elsewhere !== (values.server !== undefined))
    throw new Fault('invalid', elsewhere ? "--server: got nothing, want the server's URL" : '--server goes with --only agent')
  const tls = values['tls-cert'] !== undefined
  if (tls && roles.length === 2)
    throw new Fault(
      'invalid',
      '--tls-cert: an agent of the same machine speaks to the server by 127.0.0.1, which the certificate does not name; install the two apart (--only server, then --only agent --server https://NAME:PORT)',
    )
  const dataDir = resolve(values.data ?? env['TYPEVISOR_DATA'] ?? '/var/lib/typevisor')
  const wordsOf = (names: readonly (keyof typeof values)[]): string[] =>
    names.flatMap((name) => {
      const value = values[name]
      const many = Array.isArray(value) ? value : typeof value === 'string' ? [value] : []
      return many.flatMap((each: string) => [`--${name}`, name.startsWith('tls-') ? resolve(each) : each])
    })
  const serverWords = wordsOf(['listen', 'name', 'tls-cert', 'tls-key'])
  const agentWords = wordsOf(['driver', 'migration-address', 'metrics-port'])
  const hostName = values.host ?? (elsewhere ? (hostname().split('.')[0]?.toLowerCase() ?? 'host') : 'local')
  if (!isLabel(hostName)) throw new Fault('invalid', `--host: got ${JSON.stringify(hostName)}, want ${LABEL_WANT}`)
  // What the services would refuse at their start is refused here.
  const { port } = parseStart([...serverWords, ...(values.port === undefined ? [] : ['--port', values.port])], {})
  if (port === 0) throw new Fault('invalid', '--port: got 0, want a port that stays the same')
  const token = env['TYPEVISOR_HOST_TOKEN'] ?? null
  parseAgent(['--server', values.server ?? `http://127.0.0.1:${port}`, '--name', hostName, ...agentWords], {
    TYPEVISOR_HOST_TOKEN: 'later',
  })
  const databaseUrl = roles.includes('server') ? (env['DATABASE_URL'] ?? null) : null
  const options = { roles, program: PROGRAM, dataDir, hostName, serverUrl: values.server ?? null, port, serverWords, agentWords }
  return { options: { ...options, token: elsewhere ? token : null, databaseUrl, restart: values.restart ?? false }, dryRun }
}

export const install: Command = {
  summary: 'Set up server and agent as services of systemd, or upgrade them; guests go on',
  usage: 'typevisor install [--only server|agent] [--dry-run] [--flag VALUE ...]',
  flags: FLAGS,
  async run(words, terminal) {
    const { options, dryRun } = parseInstall(words, terminal.env)
    const steps = options ? planInstall(options) : planUninstall()
    if (dryRun) {
      for (const step of steps) {
        terminal.out(stepText(step))
        if (step.kind === 'file' && !step.secret) terminal.out(step.content.trimEnd().replaceAll(/^/gm, '    '))
      }
      return 0
    }
    assertCanInstall(options)
    const changed = new Set<string>()
    for (const step of steps) {
      const did = await carryOut(step, changed)
      if (step.kind !== 'reload') terminal.out(`${did ? 'done' : 'is so already'}: ${stepText(step)}`)
    }
    if (options === null) terminal.out('data and users are kept; guests go on until they are stopped or the machine is')
    return 0
  },
}

/** @throws Fault before anything is changed. */
function assertCanInstall(options: InstallOptions | null): void {
  if (!isRoot()) throw new Fault('forbidden', 'install: services and users are made by root; `--dry-run` shows them to anybody')
  if (!existsSync('/run/systemd/system'))
    throw new Fault('unsupported', 'install: this machine was not started by systemd; docs/install.md says how it runs by itself')
  if (options === null) return
  try {
    accessSync(options.program, constants.X_OK)
  } catch (error) {
    throw new Fault('failed', `install: ${options.program} cannot be executed`, { cause: error })
  }
  if (options.serverUrl !== null && options.token === null && !existsSync(join('/etc/typevisor', 'agent.env')))
    throw new Fault('invalid', 'TYPEVISOR_HOST_TOKEN: got nothing, want what `typevisor host token NAME` printed on the server')
}
