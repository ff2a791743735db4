/** A platform of the test's own, started as a person starts it: the command line in a process, a data directory in a temporary folder. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import pg from 'pg'
import { createClient, type Client } from '@typevisor/api/client'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const PASSWORD = /^password: (\S+)$/m
const START_MS = 60_000
const STOP_MS = 20_000

export interface TestPlatform extends AsyncDisposable {
  readonly url: string
  readonly password: string
  readonly dataDir: string
  /** Another person at the same platform, with the machine's own credentials: what it does, the browser must see. */
  readonly client: Client
  kill(): Promise<void>
  /** The same port and data again. */
  start(): Promise<void>
  /** An agent in a process of its own, with the same driver; resolves when the platform says that it is connected. */
  join(host: string): Promise<TestHost>
  /** The same with a token that somebody else has made. */
  agent(host: string, secret: string): Promise<TestHost>
  /** For what no person can bring about in a test's time, such as an undo that has failed for good. */
  sql(text: string, values?: unknown[]): Promise<void>
}

export interface TestHost extends AsyncDisposable {
  readonly dataDir: string
  /** The machine is gone: its agent ends without a word. */
  kill(): Promise<void>
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (address === null || typeof address === 'string') throw new Error('freePort: no port')
  return address.port
}

async function ended(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const over = once(child, 'exit')
  child.kill(signal)
  await over
}

export interface PlatformOptions {
  readonly driver: 'sim' | 'qemu'
  /** false: a server alone, whose hosts are those that join. */
  readonly agent?: boolean
  /** Before the first start; what it answers is done when all has ended, before the data goes. */
  readonly prepare?: (dataDir: string) => Promise<() => Promise<void>>
}

export async function startPlatform(options: PlatformOptions): Promise<TestPlatform> {
  const folder = await mkdtemp(join(tmpdir(), 'tv-portal-'))
  const dataDir = join(folder, 'data')
  const port = await freePort()
  const cleanUp = await options.prepare?.(dataDir)
  const url = `http://127.0.0.1:${port}`
  let said = ''
  let child: ChildProcess | null = null
  let token: string | null = null
  const client = createClient({ baseUrl: url, token: () => token })

  const start = async (): Promise<void> => {
    said = ''
    const began = spawn(
      process.execPath,
      [
        ...[MAIN, 'start', '--port', String(port), '--data', dataDir, '--driver', options.driver, '--empty'],
        ...(options.agent === false ? ['--no-agent'] : []),
      ],
      { stdio: ['ignore', 'pipe', 'pipe'] },
    )
    child = began
    const hear = (content: Buffer): void => {
      said += content.toString()
    }
    began.stdout.on('data', hear)
    began.stderr.on('data', hear)
    const limit = Date.now() + START_MS
    while (!said.includes('portal: ')) {
      if (began.exitCode !== null || Date.now() > limit) throw new Error(`typevisor start: exit ${began.exitCode}, said: ${said}`)
      await sleep(50)
    }
    // Made anew at each start.
    token = (JSON.parse(await readFile(join(dataDir, 'credentials.json'), 'utf8')) as { token: string }).token
  }
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const running = child
    child = null
    if (running !== null) await ended(running, signal)
  }
  const hosts: ChildProcess[] = []
  const agent = async (host: string, secret: string): Promise<TestHost> => {
    const dataDir = join(folder, host)
    const child = spawn(
      process.execPath,
      [MAIN, 'agent', '--server', url, '--token', secret, '--data', dataDir, '--name', host, '--driver', options.driver],
      { stdio: 'ignore' },
    )
    hosts.push(child)
    const limit = Date.now() + START_MS
    while (!(await client.call('host.list')).items.some((each) => each.name === host && each.connected)) {
      if (child.exitCode !== null || Date.now() > limit) throw new Error(`typevisor agent ${host}: exit ${child.exitCode}`)
      await sleep(100)
    }
    const kill = () => ended(child, 'SIGKILL')
    return { dataDir, kill, [Symbol.asyncDispose]: kill }
  }
  const addHost = async (host: string): Promise<TestHost> =>
    agent(host, (await client.call('host.token', { body: { name: host } })).secret)
  const sql = async (text: string, values: unknown[] = []): Promise<void> => {
    const postgres = join(dataDir, 'postgresql')
    // Lines of postmaster.pid: pid, data directory, start time, port, socket directory.
    const lines = (await readFile(join(postgres, 'pgdata', 'postmaster.pid'), 'utf8')).split('\n')
    const password = (await readFile(join(postgres, 'password'), 'utf8')).trim()
    const database = new pg.Client({ host: lines[4], port: Number(lines[3]), user: 'typevisor', password, database: 'postgres' })
    await database.connect()
    await database.query(text, values).finally(() => database.end())
  }
  await start()
  const deadline = Date.now() + 5_000
  while (!PASSWORD.test(said) && Date.now() < deadline) await sleep(20)
  const password = PASSWORD.exec(said)?.[1]
  if (password === undefined) {
    await end('SIGKILL')
    await cleanUp?.()
    await rm(folder, { recursive: true, force: true })
    throw new Error(`typevisor start printed no password: ${said}`)
  }
  return {
    url,
    password,
    dataDir,
    client,
    start,
    join: addHost,
    agent,
    sql,
    kill: () => end('SIGKILL'),
    async [Symbol.asyncDispose]() {
      // Guests outlive the platform, so they are ended through it.
      await client.call('platform.stop', { body: { guests: true } }).catch(() => null)
      const stopped = await Promise.race([child === null ? null : once(child, 'exit'), sleep(STOP_MS, 'late', { ref: false })])
      if (stopped === 'late') await end('SIGTERM')
      // One that is killed would leave the server of its volumes.
      await Promise.all(hosts.map((host) => ended(host, 'SIGTERM')))
      await cleanUp?.()
      await rm(folder, { recursive: true, force: true })
    },
  }
}
