/** Looks at the machine and the data directory, says what is wrong and what to do. Changes nothing. Exit code 1 when something is wrong. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, statfsSync } from 'node:fs'
import { availableParallelism, freemem, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { formatBytes, GIB, MIB, toFault, type FaultCode } from '@typevisor/base'
import type { Reply } from '@typevisor/api'
import { askServer } from '@typevisor/storage'
import type { Command, Terminal } from '../terminal.ts'
import { dataDirOf } from '../connect.ts'
import { EXIT } from '../exit-codes.ts'
import { parseFlags, type FlagTable } from '../flags.ts'
import { localTime } from '../format.ts'
import { clientOf } from '../verb.ts'
import { VERSION } from '../version.ts'

const FLAGS = {} as const satisfies FlagTable

export interface Finding {
  readonly what: string
  readonly ok: boolean
  readonly detail: string
  /** What to do about it; null where nothing is wrong. */
  readonly mend: string | null
}
const fine = (what: string, detail: string): Finding => ({ what, ok: true, detail, mend: null })
const wrong = (what: string, detail: string, mend: string): Finding => ({ what, ok: false, detail, mend })

const firstLine = (text: string): string => text.split('\n')[0]?.trim() ?? ''
const ROOM_LEAST = 2 * GIB
const MEMORY_LEAST = 512 * MIB
const NODE_LEAST = 24

function program(name: string, debianPackage: string): Finding {
  const { status, stdout, error } = spawnSync(name, ['--version'], { encoding: 'utf8' })
  if (status === 0) return fine(name, firstLine(stdout))
  const why = error ? `it does not run (${(error as NodeJS.ErrnoException).code})` : `it ends with ${status}`
  return wrong(name, why, `apt-get install ${debianPackage} (\`npm start\` as root does it by itself)`)
}

function node(): Finding {
  if (Number(process.versions.node.split('.')[0]) >= NODE_LEAST) return fine('node', process.version)
  return wrong(
    'node',
    `${process.version}, want ${NODE_LEAST} or newer`,
    'run `./typevisor`, which brings its own, after `npm ci`',
  )
}

function memory(): Finding {
  const detail = `${formatBytes(freemem())} free of ${formatBytes(totalmem())}`
  if (freemem() > MEMORY_LEAST) return fine('memory', detail)
  const mend = '`typevisor instance list` shows who holds it; `typevisor instance save NAME` puts a guest onto disk'
  return wrong('memory', `${detail}; a guest and the platform want ${formatBytes(MEMORY_LEAST)}`, mend)
}

function space(dataDir: string): Finding {
  let folder = dataDir
  while (!existsSync(folder) && folder !== '/') folder = dirname(folder)
  const { bavail, bsize } = statfsSync(folder)
  const detail = `${formatBytes(bavail * bsize)} free at ${folder}`
  if (bavail * bsize > ROOM_LEAST) return fine('disk space', detail)
  return wrong(
    'disk space',
    `${detail}; images and guests want ${formatBytes(ROOM_LEAST)} and more`,
    'destroy instances that are not needed, or put the data directory elsewhere (`npm start -- --data DIR`)',
  )
}

function dataDirectory(dataDir: string): Finding {
  if (!existsSync(dataDir)) return fine('data directory', `${dataDir} is not there yet; the first start makes it`)
  try {
    accessSync(dataDir, constants.R_OK | constants.W_OK | constants.X_OK)
    return fine('data directory', dataDir)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    return wrong(
      'data directory',
      `${dataDir} cannot be used (${code})`,
      'run this as the user that owns it, or set TYPEVISOR_DATA to the one that is meant',
    )
  }
}

/** The process that serves the disks of this machine's guests; no finding where there are no disks. */
async function volumeServer(dataDir: string, platformAnswers: boolean): Promise<Finding[]> {
  const dir = join(dataDir, 'agent/disks')
  if (!existsSync(join(dir, 'store'))) return []
  const server = await askServer(dir)
  if (!server) {
    if (!platformAnswers) return [fine('volume server', 'it does not run; the start of the platform starts it')]
    const mend = `\`${dir}.log\` has its last words; guests wait for their disks meanwhile; the agent of this machine starts it again and again`
    return [wrong('volume server', 'it does not answer', mend)]
  }
  try {
    const { pid, version, startedAt, attachmentCount } = await server.call('hello', {})
    const { usedBytes, availableBytes, warningPercent } = await server.call('usage', {})
    const served = `${attachmentCount} ${attachmentCount === 1 ? 'volume' : 'volumes'} attached`
    const findings = [fine('volume server', `version ${version}, process ${pid}, since ${localTime(startedAt)}, ${served}`)]
    const space = `${formatBytes(usedBytes)} in use, ${formatBytes(availableBytes)} available`
    const mend =
      'destroy instances that are not needed, or make room on the file system; guests stop when it is full, and go on when there is room'
    findings.push(
      warningPercent === null ? fine('volumes', space) : wrong('volumes', `${space}: over ${warningPercent} % are used`, mend),
    )
    return findings
  } catch (error) {
    return [wrong('volume server', toFault(error).message, `\`${dir}.log\` has its last words`)]
  } finally {
    server.close()
  }
}

/** What the platform, where one answers, says of itself. */
async function ofPlatform(terminal: Terminal): Promise<Finding[]> {
  const client = clientOf(terminal)
  const platform = await client.call('platform.get')
  const findings = [
    fine(
      'platform',
      `version ${platform.version}, process ${platform.pid}, ${platform.instanceCount} instance${platform.instanceCount === 1 ? '' : 's'}, database ${platform.database}`,
    ),
  ]
  if (platform.version !== VERSION)
    findings.push(
      wrong(
        'version',
        `this is ${VERSION}, the platform ${platform.version}`,
        'start the platform again, or use its own `typevisor`',
      ),
    )
  const hosts = (await client.call('host.list')).items
  if (hosts.length === 0)
    findings.push(
      wrong(
        'hosts',
        'there is none, so nothing can run',
        'start without --no-agent, or join one: `typevisor host token NAME` there shows how',
      ),
    )
  findings.push(...hosts.map(ofHost), ...hosts.flatMap(guestsOf))
  const stuck = await client.call('operation.list', { query: { state: 'stuck', limit: 100 } })
  for (const { id, name, fault } of stuck.items) {
    const mend = `\`typevisor operation retry ${id}\` tries its undo again; \`typevisor operation abandon ${id}\` lets go of what it holds`
    findings.push(wrong(`operation ${id}`, `${name} is stuck: ${fault?.message ?? 'it does not say why'}`, mend))
  }
  return findings
}

function ofHost(host: Reply<'host.list'>['items'][number]): Finding {
  if (host.connected) return fine(`host ${host.name}`, `${host.version}, ${host.accelerator}: ${host.acceleratorReason}`)
  const since = host.lastSeenAt === null ? 'it never was' : `last seen ${localTime(host.lastSeenAt)}`
  return wrong(
    `host ${host.name}`,
    `its agent is not connected (${since}); its guests go on`,
    `start the agent there: \`typevisor agent --server URL --name ${host.name}\`, with the token of \`typevisor host token ${host.name}\`; if it is gone for good, \`typevisor host delete ${host.name}\``,
  )
}

/** Nothing is wrong where something optional is missing: it says how it is got. */
const guestsOf = ({ name, guests }: Reply<'host.list'>['items'][number]): Finding[] =>
  guests.map(({ architecture, can, cannot }) => {
    const missing = cannot.map(({ what, reason }) => `no ${what} (${reason})`)
    const begun = can.length === 0 ? 'none' : can.join(', ')
    return fine(`host ${name}, ${architecture} guests`, [begun, ...missing].join('; '))
  })

const MENDS: Partial<Record<FaultCode, string>> = {
  unavailable: 'start it: `npm start`; or set TYPEVISOR_DATA, or TYPEVISOR_URL and TYPEVISOR_TOKEN, if it runs elsewhere',
  unauthenticated:
    "the token is another server's or has ended: start again, or set TYPEVISOR_TOKEN to one of `typevisor token create`",
  forbidden: 'use a token whose scopes allow to read platform, host and operation',
}

export async function findingsOf(terminal: Terminal): Promise<Finding[]> {
  const dataDir = dataDirOf(terminal.env)
  const findings: Finding[] = [
    node(),
    fine('processors', String(availableParallelism())),
    memory(),
    space(dataDir),
    dataDirectory(dataDir),
    program('qemu-system-x86_64', 'qemu-system-x86'),
    program('qemu-img', 'qemu-utils'),
    fine(
      '/dev/kvm',
      existsSync('/dev/kvm') ? 'there; used only when a probe guest really runs on it' : 'not there; guests are emulated',
    ),
  ]
  let answers = false
  try {
    findings.push(...(await ofPlatform(terminal)))
    answers = true
  } catch (error) {
    const { code, message } = toFault(error)
    findings.push(wrong('platform', message, MENDS[code] ?? 'look at what the platform prints: `npm start -- --log info`'))
  }
  findings.push(...(await volumeServer(dataDir, answers)))
  return findings
}

export const doctor: Command = {
  summary: 'Look at what this machine can do and what is wrong',
  usage: 'typevisor doctor [--json]',
  json: true,
  flags: FLAGS,
  async run(words, terminal, json) {
    parseFlags('doctor', FLAGS, words)
    const findings = await findingsOf(terminal)
    if (json) terminal.out(JSON.stringify(findings, null, 2))
    else for (const finding of findings) terminal.out(lineOf(finding))
    return findings.every((finding) => finding.ok) ? EXIT.ok : EXIT.failed
  },
}

const lineOf = ({ what, ok, detail, mend }: Finding): string =>
  `${ok ? 'ok   ' : 'WRONG'} ${what}: ${detail}${mend === null ? '' : `\n      mend: ${mend}`}`
