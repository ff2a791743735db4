/** The command line as processes of a test's own: started, killed at any moment, started again, and nothing of them left at the end. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { createHash } from 'node:crypto'
import { tmpdir } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { createClient, type Client } from '@typevisor/api/client'
import { connection } from '../connect.ts'
import { temporaryFolder } from './harness.ts'

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))
const READY_MS = 60_000

export interface Child extends AsyncDisposable {
  readonly pid: number
  said(): string
  /** Resolves when what it said matches; @throws when it ends before, or in time. */
  says(pattern: RegExp, limitMs?: number): Promise<RegExpExecArray>
  /** Its exit code, or the signal's name. */
  readonly exited: Promise<number | NodeJS.Signals>
  /** Resolves when it is gone. */
  kill(signal: NodeJS.Signals): Promise<void>
}

export function typevisor(
  words: readonly string[],
  env: NodeJS.ProcessEnv = {},
  command: readonly string[] = [process.execPath, MAIN],
): Child {
  const [program = '', ...args] = [...command, ...words]
  const child: ChildProcess = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env } })
  let said = ''
  const hear = (content: Buffer) => (said += content.toString())
  child.stdout?.on('data', hear)
  child.stderr?.on('data', hear)
  const exited = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | NodeJS.Signals)
  exited.catch(() => {})
  const isOver = () => child.exitCode !== null || child.signalCode !== null
  const kill = async (signal: NodeJS.Signals) => {
    if (!isOver()) child.kill(signal)
    await exited
  }
  return {
    pid: child.pid ?? 0,
    said: () => said,
    exited,
    async says(pattern, limitMs = READY_MS) {
      const end = performance.now() + limitMs
      while (true) {
        const match = pattern.exec(said)
        if (match) return match
        assert.ok(!isOver() && performance.now() < end, `${words.join(' ')}: never said ${pattern}, but: ${said}`)
        await sleep(15)
      }
    },
    kill,
    [Symbol.asyncDispose]: () => kill('SIGKILL'),
  }
}

/** Runs a command to its end. */
export async function run(
  words: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<{ code: number | NodeJS.Signals; said: string }> {
  const child = typevisor(words, env)
  return { code: await child.exited, said: child.said() }
}

export interface Machine extends AsyncDisposable {
  readonly dataDir: string
  /** `typevisor start` on the data directory; resolves when the portal is up. */
  start(...words: string[]): Promise<Life>
  /** SIGKILL to every platform of this data directory that was started here. */
  killAll(): void
}

export interface Life {
  readonly child: Child
  readonly url: string
  readonly token: string
  readonly client: Client
}

/** Processes with `text` in their command line, but for ourselves: with a path that only this test has, they are its own. */
export function processesOf(text: string): { pid: number; command: string }[] {
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) return []
    try {
      const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8').replaceAll('\0', ' ')
      return command.includes(text) ? [{ pid: Number(entry), command }] : []
    } catch {
      return []
    }
  })
}

export async function machine(): Promise<Machine> {
  const dataDir = await temporaryFolder()
  const lives: Child[] = []
  return {
    dataDir,
    async start(...words) {
      const child = typevisor(['start', '--port', '0', '--data', dataDir, '--empty', ...words])
      lives.push(child)
      const url = (await child.says(/portal: (\S+)\n/))[1] ?? ''
      const { token } = connection({ TYPEVISOR_DATA: dataDir })
      return { child, url, token, client: createClient({ baseUrl: url, token }) }
    },
    killAll: () => {
      for (const life of lives) void life.kill('SIGKILL')
    },
    async [Symbol.asyncDispose]() {
      for (const life of lives) await life.kill('SIGKILL')
      await endAll(dataDir)
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}

/** What names the folders of sockets that belong to an agent's data directory. */
const tagOf = (folder: string): string => createHash('sha256').update(resolve(folder)).digest('hex').slice(0, 12)
export const runTagOf = (agentDir: string): string => `agent-${tagOf(agentDir)}`

/** Guests by id, of the agent with this data directory. */
export function guestsOf(agentDir: string): Map<string, number> {
  const found = new Map<string, number>()
  for (const { pid, command } of processesOf(runTagOf(agentDir))) {
    const id = /-uuid ([0-9a-f-]{36})/.exec(command)?.[1]
    if (id !== undefined && command.includes('qemu-system')) found.set(id, pid)
  }
  return found
}

/** Ends what a killed platform left on purpose: its guests and its database. */
export async function endAll(dataDir: string, agentDir = join(dataDir, 'agent')): Promise<void> {
  for (let round = 0; round < 200; round += 1) {
    const left = [...processesOf(dataDir), ...processesOf(runTagOf(agentDir))]
    if (left.length === 0) break
    for (const { pid } of left) {
      try {
        process.kill(pid, round < 100 && left.some(({ command }) => command.includes('postgres')) ? 'SIGINT' : 'SIGKILL')
      } catch {
        // It is gone.
      }
    }
    await sleep(50)
  }
  for (const base of ['/run/typevisor', process.env['XDG_RUNTIME_DIR'], tmpdir()]) {
    if (base === undefined) continue
    for (const name of [runTagOf(agentDir), `pg-${process.geteuid?.() ?? 0}-${tagOf(join(dataDir, 'postgresql'))}`]) {
      await rm(join(base, name), { recursive: true, force: true })
    }
  }
}

export interface Relay extends AsyncDisposable {
  readonly url: string
  /** Where new connections go; null: refused. */
  target: string | null
  /** Cuts all connections. */
  cut(): void
}

/** An address that stays while the server behind it comes and goes. */
export async function relay(): Promise<Relay> {
  const sockets = new Set<import('node:net').Socket>()
  const relayed: { target: string | null } = { target: null }
  const server = createServer((near) => {
    if (relayed.target === null) return near.destroy()
    const { hostname, port } = new URL(relayed.target)
    const far = connect(Number(port), hostname)
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one)
      one.pipe(other)
      one.on('error', () => other.destroy())
      one.on('close', () => {
        other.destroy()
        sockets.delete(one)
      })
    }
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const cut = () => {
    for (const socket of sockets) socket.destroy()
  }
  return Object.assign(relayed, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut,
    async [Symbol.asyncDispose]() {
      cut()
      server.close()
      await once(server, 'close')
    },
  })
}

export async function until<T>(
  what: string,
  look: () => Promise<T | null | false | undefined> | T | null | false | undefined,
  limitMs = 60_000,
): Promise<T> {
  const end = performance.now() + limitMs
  while (true) {
    const found = await look()
    if (found !== null && found !== false && found !== undefined) return found
    assert.ok(performance.now() < end, `${what}: not in ${limitMs} ms`)
    await sleep(25)
  }
}
