/**
 * What a support bundle has: facts of the machine, what doctor finds, what the platform says of itself, the ends of logs. Nothing of what users
 * gave: no specifications, labels, inputs of operations, files or consoles of guests. Every text goes through the redactor besides.
 */
import { execFile } from 'node:child_process'
import { open, readdir, readFile, stat, statfs } from 'node:fs/promises'
import { availableParallelism, loadavg, totalmem, freemem, uptime, release, version } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { toFault } from '@typevisor/base'
import { connection } from '../connect.ts'
import { fetchFor } from '../node-fetch.ts'
import type { Finding } from '../commands/doctor.ts'
import type { Terminal } from '../terminal.ts'
import { clientOf } from '../verb.ts'
import { VERSION } from '../version.ts'
import { redactor } from './redact.ts'
import type { TarEntry } from './tar.ts'

const run = promisify(execFile)
const LOG_BYTES_MAX = 1024 * 1024
const EVENT_COUNT = 500
const LISTED_MAX = 2000
const UNITS = ['typevisor-server', 'typevisor-agent', 'typevisor']

const output = async (program: string, ...words: string[]): Promise<string> =>
  run(program, words, { timeout: 20_000, maxBuffer: 16 * 1024 * 1024 }).then(
    ({ stdout, stderr }) => stdout || stderr,
    (error: unknown) => `not there: ${toFault(error).message.split('\n')[0]}`,
  )

/** The end of a file, whole lines. */
async function tailOf(path: string): Promise<string> {
  await using file = await open(path)
  const { size } = await file.stat()
  const start = Math.max(0, size - LOG_BYTES_MAX)
  const { buffer, bytesRead } = await file.read(Buffer.alloc(size - start), 0, size - start, start)
  const text = buffer.subarray(0, bytesRead).toString()
  return start === 0 ? text : text.slice(text.indexOf('\n') + 1)
}

/** Names and sizes, to the third level. */
async function listing(folder: string, level = 0, lines: string[] = []): Promise<string[]> {
  for (const entry of await readdir(folder, { withFileTypes: true }).catch(() => [])) {
    if (lines.length >= LISTED_MAX) break
    const path = join(folder, entry.name)
    const found = await stat(path).catch(() => null)
    lines.push(
      `${entry.isDirectory() ? 'folder' : String(found?.size ?? '?').padStart(12)} ${found?.mode.toString(8) ?? '?'} ${path}`,
    )
    if (entry.isDirectory() && level < 2) await listing(path, level + 1, lines)
  }
  return lines
}

/** What this machine's own files and environment hold, to be looked for in all texts. */
async function knownSecrets(dataDir: string, env: NodeJS.ProcessEnv): Promise<string[]> {
  const found: string[] = []
  for (const [name, value] of Object.entries(env))
    if (value !== undefined && /token|password|passwd|secret|database_url|key$/i.test(name)) found.push(value)
  const read = (path: string): Promise<string> => readFile(path, 'utf8').catch(() => '')
  found.push(await read(join(dataDir, 'postgresql/password')))
  const credentials = await read(join(dataDir, 'credentials.json'))
  found.push(/"token"\s*:\s*"([^"]+)"/.exec(credentials)?.[1] ?? '')
  for (const path of ['/etc/typevisor/agent.env', '/etc/typevisor/server.env'])
    for (const [, value = ''] of (await read(path)).matchAll(/^\w+="?(.*?)"?$/gm)) found.push(value)
  return found
}

/** Each part by itself: what cannot be had says why, and the rest is there. */
export async function collect(terminal: Terminal, dataDir: string, findings: readonly Finding[]): Promise<TarEntry[]> {
  const clean = redactor(await knownSecrets(dataDir, terminal.env))
  const entries: TarEntry[] = []
  const add = async (path: string, make: () => Promise<unknown>): Promise<void> => {
    const made = await make().catch((error: unknown) => ({ notThere: toFault(error).message }))
    const text = typeof made === 'string' ? made : `${JSON.stringify(made, null, 2)}\n`
    entries.push({ path: `typevisor-support/${path}`, content: Buffer.from(clean(text)) })
  }
  await add('doctor.json', async () => findings)
  await add('versions.json', async () => ({
    typevisor: VERSION,
    node: process.version,
    kernel: release(),
    kernelVersion: version(),
    qemu: (await output('qemu-system-x86_64', '--version')).split('\n')[0],
    system: /^PRETTY_NAME="?(.*?)"?$/m.exec(await readFile('/etc/os-release', 'utf8').catch(() => ''))?.[1] ?? null,
  }))
  await add('machine.json', async () => {
    const { bavail, blocks, bsize } = await statfs(dataDir)
    return {
      processors: availableParallelism(),
      load: loadavg(),
      memory: { freeBytes: freemem(), totalBytes: totalmem() },
      upSeconds: uptime(),
      dataDisk: { freeBytes: bavail * bsize, totalBytes: blocks * bsize },
      cgroups: (await readFile('/proc/self/cgroup', 'utf8')).trim().split('\n'),
    }
  })
  await add('data-directory.txt', async () => `${(await listing(dataDir)).join('\n')}\n`)
  await addPlatform(terminal, add)
  for (const [name, path] of [
    ['volume-server.log', join(dataDir, 'agent/disks.log')],
    ['postgresql-start.log', join(dataDir, 'postgresql/postgres-start.log')],
  ] as const)
    await add(`logs/${name}`, () => tailOf(path))
  await add('logs/services.log', () => output('journalctl', '--no-pager', '-n', '5000', ...UNITS.flatMap((unit) => ['-u', unit])))
  return entries
}

async function addPlatform(
  terminal: Terminal,
  add: (path: string, make: () => Promise<unknown>) => Promise<void>,
): Promise<void> {
  const client = () => clientOf(terminal)
  await add('platform/platform.json', () => client().call('platform.get'))
  await add('platform/hosts.json', async () => (await client().call('host.list')).items)
  await add('platform/instances.json', async () => {
    const { items, total } = await client().call('instance.list', { query: { limit: 500 } })
    const shown = items.map(
      ({ id, name, host, hostConnected, vcpuCount, memoryBytes, state, operation, snapshotCount, createdAt }) => ({
        ...{ id, name, host, hostConnected, vcpuCount, memoryBytes, state, operation, snapshotCount, createdAt },
      }),
    )
    return { total, shown }
  })
  await add(
    'platform/operations.json',
    async () => (await client().call('operation.list', { query: { limit: EVENT_COUNT } })).items,
  )
  await add('platform/events.json', async () => (await client().call('event.list', { query: { limit: EVENT_COUNT } })).items)
  // Counts of the database's rows and queues among them.
  await add('platform/metrics.txt', async () => {
    const { url, token, certificate } = connection(terminal.env)
    const response = await fetchFor(certificate)(`${url}/metrics`, { headers: { authorization: `Bearer ${token}` } })
    return response.text()
  })
}
