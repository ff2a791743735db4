/**
 * What `typevisor install` and `--uninstall` do, as a list of steps. The plan is pure; `carry-out.ts` does it, looks before each step whether it is
 * done already, and so makes a second run, and one after an upgrade, change what is another alone.
 */
import { join } from 'node:path'
import { AGENT_UNIT, agentUnit, SERVER_UNIT, serverUnit } from './units.ts'

export type Role = 'server' | 'agent'

export interface InstallOptions {
  readonly roles: readonly Role[]
  /** Path of the launcher that the units start. */
  readonly program: string
  readonly dataDir: string
  readonly hostName: string
  /** Of the agent, where the server is elsewhere. */
  readonly serverUrl: string | null
  readonly port: number
  /** Words for `typevisor start`, behind the ones that the installer gives itself. */
  readonly serverWords: readonly string[]
  /** Words for `typevisor agent`. */
  readonly agentWords: readonly string[]
  /** null: made by the server of this machine, or there already. Never printed. */
  readonly token: string | null
  /** DATABASE_URL, for the server's environment; null: its own PostgreSQL. Never printed. */
  readonly databaseUrl: string | null
  /** Of services that run: also where no file of theirs has changed, as after an upgrade in place. */
  readonly restart: boolean
}

export type Step =
  | { readonly kind: 'user'; readonly name: string; readonly why: string }
  | { readonly kind: 'folder'; readonly path: string; readonly mode: number }
  | {
      readonly kind: 'file'
      readonly path: string
      readonly mode: number
      readonly content: string
      /** It is not printed. */
      readonly secret: boolean
    }
  /** Asks this machine's server for the agent's token, once it serves; left as it is where the file is there. */
  | {
      readonly kind: 'host-token'
      readonly path: string
      readonly host: string
      readonly dataDir: string
    }
  | { readonly kind: 'reload' }
  /** At each boot and now; one that runs is started anew when its unit or environment was changed by the steps before, or by `restart`. */
  | { readonly kind: 'run-unit'; readonly unit: string; readonly files: readonly string[]; readonly restart: boolean }
  | { readonly kind: 'stop-unit'; readonly unit: string }
  | { readonly kind: 'remove-file'; readonly path: string }

export const UNIT_FOLDER = '/etc/systemd/system'
export const CONFIGURATION_FOLDER = '/etc/typevisor'
export const SERVER_ENVIRONMENT = join(CONFIGURATION_FOLDER, 'server.env')
export const AGENT_ENVIRONMENT = join(CONFIGURATION_FOLDER, 'agent.env')

/** In an EnvironmentFile a value in double quotes takes backslashes before these. */
export const environmentLine = (name: string, value: string): string =>
  `${name}="${value.replaceAll(/[\\"$`]/g, (character) => `\\${character}`)}"\n`

export function planInstall(options: InstallOptions): Step[] {
  const { roles, program, dataDir, restart } = options
  const [server, agent] = [roles.includes('server'), roles.includes('agent')]
  const unitPath = (unit: string): string => join(UNIT_FOLDER, unit)
  const steps: Step[] = []
  if (server) steps.push({ kind: 'user', name: 'typevisor', why: 'PostgreSQL' })
  if (agent) steps.push({ kind: 'user', name: 'typevisor-qemu', why: 'guests' })
  steps.push({ kind: 'folder', path: dataDir, mode: 0o711 }, { kind: 'folder', path: CONFIGURATION_FOLDER, mode: 0o700 })
  if (server) {
    if (options.databaseUrl !== null)
      steps.push(secretFile(SERVER_ENVIRONMENT, environmentLine('DATABASE_URL', options.databaseUrl)))
    const words = ['start', '--no-agent', '--empty', '--data', dataDir, '--port', String(options.port), ...options.serverWords]
    steps.push(file(unitPath(SERVER_UNIT), serverUnit({ program, words, environmentFile: SERVER_ENVIRONMENT })))
  }
  if (agent) {
    if (options.token !== null) steps.push(secretFile(AGENT_ENVIRONMENT, environmentLine('TYPEVISOR_HOST_TOKEN', options.token)))
    const url = options.serverUrl ?? `http://127.0.0.1:${options.port}`
    const words = ['agent', '--server', url, '--name', options.hostName, '--data', join(dataDir, 'agent'), ...options.agentWords]
    steps.push(file(unitPath(AGENT_UNIT), agentUnit({ program, words, environmentFile: AGENT_ENVIRONMENT, hasServer: server })))
  }
  steps.push({ kind: 'reload' })
  if (server) steps.push({ kind: 'run-unit', unit: SERVER_UNIT, files: [unitPath(SERVER_UNIT), SERVER_ENVIRONMENT], restart })
  if (agent) {
    if (server) steps.push({ kind: 'host-token', path: AGENT_ENVIRONMENT, host: options.hostName, dataDir })
    steps.push({ kind: 'run-unit', unit: AGENT_UNIT, files: [unitPath(AGENT_UNIT), AGENT_ENVIRONMENT], restart })
  }
  return steps
}

/** Data, users and guests stay: what was made by hand of years is not removed by one word. */
export function planUninstall(): Step[] {
  return [
    { kind: 'stop-unit', unit: AGENT_UNIT },
    { kind: 'stop-unit', unit: SERVER_UNIT },
    ...[join(UNIT_FOLDER, AGENT_UNIT), join(UNIT_FOLDER, SERVER_UNIT), AGENT_ENVIRONMENT, SERVER_ENVIRONMENT].map(
      (path): Step => ({ kind: 'remove-file', path }),
    ),
    { kind: 'reload' },
  ]
}

const file = (path: string, content: string): Step => ({ kind: 'file', path, mode: 0o644, content, secret: false })
const secretFile = (path: string, content: string): Step => ({ kind: 'file', path, mode: 0o600, content, secret: true })

/** For `--dry-run` and for what was done: one line, and the content of a file that is no secret. */
export function stepText(step: Step): string {
  switch (step.kind) {
    case 'user':
      return `system user ${step.name} (${step.why})`
    case 'folder':
      return `folder ${step.path} (${step.mode.toString(8)})`
    case 'file':
      return `file ${step.path} (${step.mode.toString(8)})${step.secret ? ', with a secret' : ''}`
    case 'host-token':
      return `file ${step.path} (600), with a token of host ${step.host} that the server makes`
    case 'reload':
      return 'systemctl daemon-reload'
    case 'run-unit':
      return `systemctl enable --now ${step.unit}; restart it where ${step.restart ? 'it runs' : 'it runs with another file'}`
    case 'stop-unit':
      return `systemctl disable --now ${step.unit}; guests go on`
    case 'remove-file':
      return `remove ${step.path}`
  }
}
