/** A platform of the test's own, started as a person starts it: the command line in a process, a data directory in a temporary folder. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'

const MAIN = fileURLToPath(new URL('../../cli/src/main.ts', import.meta.url))
const START_MS = 60_000

export interface TestPlatform extends AsyncDisposable {
  readonly url: string
  readonly password: string
  readonly dataDir: string
  /** Runs the command line against it. @throws Error with what it said, when it fails. */
  typevisor(...words: string[]): Promise<string>
  kill(): Promise<void>
  /** The same port and data again. */
  start(): Promise<void>
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

export async function startPlatform(options: { readonly driver: 'sim' | 'qemu' }): Promise<TestPlatform> {
  const folder = await mkdtemp(join(tmpdir(), 'tv-portal-'))
  const dataDir = join(folder, 'data')
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  let said = ''
  let child: ChildProcess | null = null

  const start = async (): Promise<void> => {
    said = ''
    const began = spawn(
      process.execPath,
      [MAIN, 'start', '--port', String(port), '--data', dataDir, '--driver', options.driver, '--empty'],
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
  }
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const running = child
    child = null
    if (running === null || running.exitCode !== null || running.signalCode !== null) return
    const over = once(running, 'exit')
    running.kill(signal)
    await over
  }
  const typevisor = async (...words: string[]): Promise<string> => {
    const run = spawn(process.execPath, [MAIN, ...words], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TYPEVISOR_URL: url, TYPEVISOR_DATA: dataDir },
    })
    let out = ''
    let err = ''
    run.stdout.on('data', (content: Buffer) => (out += content.toString()))
    run.stderr.on('data', (content: Buffer) => (err += content.toString()))
    const [code] = (await once(run, 'exit')) as [number | null]
    if (code !== 0) throw new Error(`typevisor ${words.join(' ')}: exit ${code}: ${err}`)
    return out
  }

  await start()
  const deadline = Date.now() + 5_000
  while (!/ with (\S+) \(shown/.test(said) && Date.now() < deadline) await sleep(20)
  const password = / with (\S+) \(shown/.exec(said)?.[1]
  if (password === undefined) throw new Error(`typevisor start printed no password: ${said}`)
  return {
    url,
    password,
    dataDir,
    typevisor,
    start,
    kill: () => end('SIGKILL'),
    async [Symbol.asyncDispose]() {
      await typevisor('down', '--guests').catch(() => '')
      await end('SIGTERM')
      await rm(folder, { recursive: true, force: true })
    },
  }
}
