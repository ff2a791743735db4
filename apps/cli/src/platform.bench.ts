/**
 * The platform's budgets, measured. What has a peer is run in turn with it, in this one run, and medians are compared.
 *
 *   create to userspace   beside QEMU started by hand with the same kernel, disk and seed: what is above is the platform's own part
 *   instance list         beside `node -e 0`
 *
 * Envelope of the platform's own part: two commits in PostgreSQL a step (2 ms each), seven in the agent's journal (1 ms each), qemu-img
 * create (25 ms), QMP hand-shake and checks (30 ms): about 80 ms; budget 200 ms.
 *
 * `npm run bench -- platform [RUNS] [guests|domains|metrics|restart|portal|clone]`
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { WebSocket } from 'ws'
import { join } from 'node:path'
import { epochMillis, formatBytes, gib } from '@typevisor/base'
import { createClient, type Client } from '@typevisor/api/client'
import { buildSeed, createImageStore, type Image } from '@typevisor/image'
import { bootBareGuest } from '@typevisor/image/testing'
import { parseImageName, parseVolumeId } from '@typevisor/model'
import { fileOf, nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'

/** What an instance gets when nothing is said; the guest grows its file system to it at its first boot. */
const DISK_BYTES = gib(1)
const ROOT = join(import.meta.dirname, '../../..')
const MAIN = join(import.meta.dirname, 'main.ts')
const runCount = Number(process.argv[2] ?? 7)
const CACHE = process.geteuid?.() === 0 ? '/var/cache/typevisor' : join(process.env['HOME'] ?? '/', '.cache/typevisor')

interface Row {
  readonly what: string
  readonly measured: string
  readonly budget: string
  readonly ok: boolean
}
const rows: Row[] = []
const note = (what: string, measured: string, budget: string, ok: boolean): void => {
  rows.push({ what, measured, budget, ok })
  process.stdout.write(`${ok ? 'ok  ' : 'OVER'} ${what}: ${measured} (budget ${budget})\n`)
}
const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const spread = (values: readonly number[]): string =>
  `median ${Math.round(median(values))}, ${Math.round(Math.min(...values))} to ${Math.round(Math.max(...values))} ms of ${values.length}`

/** Runs `typevisor ...` as a child until its output says `ready`. */
async function child(
  argv: readonly string[],
  ready: RegExp,
  env: NodeJS.ProcessEnv = {},
): Promise<{ process: ChildProcess; text: string; startMs: number }> {
  const begin = performance.now()
  const started = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...argv], {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let text = ''
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  started.stdout.on('data', (part: Buffer) => {
    text += part.toString()
    if (ready.test(text)) resolve()
  })
  started.on('exit', (code) => reject(new Error(`typevisor ${argv.join(' ')} ended with ${code}: ${text}`)))
  await promise
  return { process: started, text, startMs: performance.now() - begin }
}

async function ended(running: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (running.exitCode !== null || running.signalCode !== null) return
  const exit = new Promise((resolve) => running.once('exit', resolve))
  running.kill(signal)
  await exit
}

function clientOf(dataDir: string): Client {
  const { url, token } = JSON.parse(readFileSync(join(dataDir, 'credentials.json'), 'utf8')) as { url: string; token: string }
  return createClient({ baseUrl: url, token })
}

const residentBytes = (pid: number): number =>
  Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? Number.NaN) * 1024
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Watches the console as a user does. Asking for its log again and again would take the processor that the guest boots on. */
async function untilPrinted(client: Client, instance: string, words: string): Promise<void> {
  const { url, headers } = client.stream('instance.console', { params: { instance }, query: { from: 0 } })
  const socket = new WebSocket(url, { headers })
  const { promise, resolve, reject } = Promise.withResolvers<void>()
  let text = ''
  socket.on('message', (content) => {
    text += (content as Buffer).toString()
    if (text.includes(words)) resolve()
  })
  socket.on('error', reject)
  socket.on('close', () => reject(new Error(`the console ended before ${words}: ${text.slice(-500)}`)))
  await promise
  socket.close()
}

/** From the call to the line that the guest prints when its userspace is up. */
async function createToReady(client: Client, name: string): Promise<number> {
  const begin = performance.now()
  const { instance } = await client.call('instance.create', { query: { wait: 30 }, body: { name } })
  if (!instance) throw new Error('no instance')
  await untilPrinted(client, instance.id, 'typevisor: ready')
  const total = performance.now() - begin
  await client.call('instance.destroy', { params: { instance: instance.id }, query: { wait: 30 } })
  return total
}

/** The same guest by hand: overlay and seed made ahead, QEMU started, the same line awaited. */
async function bareToReady(image: Image, folder: string, index: number): Promise<number> {
  const volumes = qcow2VolumeStore({ files: await nodeVolumeFiles({ folder }), runner: nodeCommandRunner() })
  const id = `01890000-0000-7000-8000-${String(index).padStart(12, '0')}`
  const disk = await volumes.clone(parseVolumeId(id), image.rootDisk, DISK_BYTES)
  const cloudInit = { hostname: 'bench', user: null, sshKeys: [], userData: null }
  const seed = await volumes.put(parseVolumeId(`${id}.seed`), buildSeed({ instanceId: id, cloudInit }))
  // The screen and the sandbox that the driver gives each guest: the firmware and the kernel take their time for the former.
  const extra = [
    '-device',
    'VGA,addr=1.0',
    '-vnc',
    `unix:${join(folder, 'vnc.sock')}`,
    '-sandbox',
    'on,obsolete=deny,elevateprivileges=deny,spawn=deny',
  ]
  await using guest = await bootBareGuest({ image, diskPath: fileOf(disk).path, seedPath: fileOf(seed).path, extra })
  return guest.readyMs
}

async function guests(folder: string): Promise<void> {
  const dataDir = join(folder, 'qemu')
  const imagesFolder = join(folder, 'images')
  const image = await createImageStore({
    folder: imagesFolder,
    cacheFolder: CACHE,
    clock: { now: () => epochMillis(Date.now()) },
  }).build(parseImageName('micro'))
  const platform = await child(['start', '--empty', '--port', '0', '--data', dataDir], /portal: /)
  const pid = platform.process.pid as number // it printed, so it runs
  try {
    const client = clientOf(dataDir)
    const built = await client.call('image.build', { params: { image: 'micro' }, query: { wait: 60 }, body: {} })
    if (built.operation.state !== 'done') throw new Error(JSON.stringify(built.operation))
    const ours: number[] = []
    const bare: number[] = []
    await createToReady(client, 'warm-up')
    for (let index = 0; index < runCount; index += 1) {
      bare.push(await bareToReady(image, join(folder, 'bare'), index))
      ours.push(await createToReady(client, `bench-${index}`))
    }
    note('API call to guest userspace', spread(ours), '4000 ms', median(ours) < 4000)
    process.stdout.write(`     beside QEMU by hand: ${spread(bare)}\n`)
    const own = median(ours.map((total, index) => total - (bare[index] as number))) // one of each a round
    note("the platform's own part of it", `${Math.round(own)} ms (median of the differences, pair by pair)`, '200 ms', own < 200)
    await sleep(5000)
    const resident = residentBytes(pid)
    note(
      `server resident memory, idle, after an image build and ${runCount + 1} instances`,
      formatBytes(resident),
      '250 MiB',
      resident < 250 * 1024 * 1024,
    )
    commandLine(dataDir)
  } finally {
    await ended(platform.process, 'SIGTERM')
  }
}

function commandLine(dataDir: string): void {
  const time = (command: string, argv: readonly string[]): number => {
    const begin = performance.now()
    const { status } = spawnSync(command, argv, { env: { ...process.env, TYPEVISOR_DATA: dataDir }, stdio: 'ignore' })
    if (status !== 0) throw new Error(`${command} ${argv.join(' ')}: exit code ${status}`)
    return performance.now() - begin
  }
  const ours: number[] = []
  const empty: number[] = []
  for (let index = 0; index < 3 * runCount; index += 1) {
    empty.push(time(process.execPath, ['-e', '0']))
    ours.push(time(join(ROOT, 'typevisor'), ['instance', 'list']))
  }
  const above = median(ours) - median(empty)
  note(
    '`typevisor instance list` above `node -e 0`',
    `${Math.round(above)} ms (${spread(ours)}; node ${spread(empty)})`,
    '80 ms',
    above <= 80,
  )
}

async function manyDomains(folder: string): Promise<void> {
  const dataDir = join(folder, 'sim')
  const platform = await child(['start', '--empty', '--driver', 'sim', '--port', '0', '--data', dataDir], /portal: /)
  try {
    const client = clientOf(dataDir)
    const count = 1000
    const begin = performance.now()
    let next = 0
    const worker = async (): Promise<void> => {
      while (next < count) {
        next += 1
        const { operation } = await client.call('instance.create', { query: { wait: 60 }, body: { name: `sim-${next}` } })
        if (operation.state !== 'done') throw new Error(JSON.stringify(operation))
      }
    }
    await Promise.all(Array.from({ length: 64 }, worker))
    const seconds = (performance.now() - begin) / 1000
    const { total } = await client.call('instance.list', { query: { state: 'running', limit: 1 } })
    note(
      '1,000 sim domains created and running',
      `${seconds.toFixed(1)} s (${total} running)`,
      '10 s',
      seconds < 10 && total === count,
    )
  } finally {
    await ended(platform.process, 'SIGTERM')
  }
}

async function metrics(folder: string): Promise<void> {
  const dataDir = join(folder, 'metrics')
  const count = 500
  const platform = await child(['start', '--empty', '--driver', 'sim', '--port', '0', '--data', dataDir], /portal: /)
  try {
    const client = clientOf(dataDir)
    await Promise.all(
      Array.from({ length: count }, (_, index) =>
        client.call('instance.create', { query: { wait: 60 }, body: { name: `sim-${index}` } }),
      ),
    )
    const { url, token } = JSON.parse(readFileSync(join(dataDir, 'credentials.json'), 'utf8')) as { url: string; token: string }
    const cpuSeconds = async (): Promise<{ text: string; seconds: number; ms: number }> => {
      const begin = performance.now()
      const text = await (await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${token}` } })).text()
      const ms = performance.now() - begin
      return { text, ms, seconds: Number(/^process_cpu_seconds_total (.*)$/m.exec(text)?.[1]) }
    }
    const first = await cpuSeconds()
    const scrapes = []
    for (let round = 0; round < 20; round += 1) scrapes.push(await cpuSeconds())
    const last = scrapes.at(-1) ?? first
    const times = scrapes.map(({ ms }) => ms)
    const lines = last.text.split('\n').length
    const cpuMs = ((last.seconds - first.seconds) * 1000) / scrapes.length
    note(
      `a scrape of /metrics with ${count} sim instances`,
      `${spread(times)}; ${Math.round(cpuMs)} ms of CPU, ${lines} lines, ${formatBytes(last.text.length)}`,
      '150 ms of CPU',
      cpuMs < 150,
    )
  } finally {
    await ended(platform.process, 'SIGTERM')
  }
}

async function restart(folder: string): Promise<void> {
  const dataDir = join(folder, 'restart')
  const count = 200
  const startWords = ['start', '--empty', '--no-agent', '--data', dataDir]
  let server = await child([...startWords, '--port', '0'], /portal: /)
  const port = /portal: http:\/\/[^:]+:(\d+)/.exec(server.text)?.[1] ?? ''
  let client = clientOf(dataDir)
  const { secret } = await client.call('host.token', { body: { name: 'host-1' } })
  const agent = await child(
    ['agent', '--server', `http://127.0.0.1:${port}`, '--name', 'host-1', '--driver', 'sim', '--data', join(folder, 'agent')],
    /joined/,
    { TYPEVISOR_HOST_TOKEN: secret },
  )
  try {
    await Promise.all(
      Array.from({ length: count }, (_, index) =>
        client.call('instance.create', { query: { wait: 60 }, body: { name: `sim-${index}` } }),
      ),
    )
    const times: number[] = []
    for (let round = 0; round < 3; round += 1) {
      await ended(server.process, 'SIGKILL')
      const begin = performance.now()
      server = await child([...startWords, '--port', port], /portal: /)
      client = clientOf(dataDir)
      for (;;) {
        const { items, total } = await client.call('instance.list', { query: { state: 'running', limit: 500 } })
        if (total === count && items.every((item) => item.hostConnected)) break
        await sleep(10)
      }
      times.push(performance.now() - begin)
    }
    note(
      `restart after SIGKILL with ${count} running (sim) domains, until all are seen connected`,
      spread(times),
      '2000 ms',
      median(times) < 2000,
    )
  } finally {
    await ended(agent.process, 'SIGTERM')
    await ended(server.process, 'SIGTERM')
  }
}

/** What the sign-in page and the list load before anything is clicked: the entry and what it imports, as they are sent. */
function portal(): void {
  const dist = join(ROOT, 'apps/portal/dist')
  const html = readFileSync(join(dist, 'index.html'), 'utf8')
  const scripts = new Set([...html.matchAll(/(?:src|href)="\/?([^"]+\.js)"/g)].map((match) => match[1] as string))
  const assets = readdirSync(join(dist, 'assets'))
  for (let grown = true; grown;) {
    grown = false
    for (const script of [...scripts]) {
      const text = readFileSync(join(dist, script), 'utf8')
      for (const match of text.matchAll(/(?:^|[;}])import\s*(?:[^"';]*?from\s*)?["']\.\/([\w.-]+\.js)["']/g)) {
        const path = `assets/${match[1]}`
        if (assets.includes(match[1] as string) && !scripts.has(path)) grown = scripts.add(path) !== undefined
      }
    }
  }
  // What is too small to gain is not compressed ahead.
  const sentBytes = (script: string): number =>
    readFileSync(join(dist, existsSync(join(dist, `${script}.gz`)) ? `${script}.gz` : script)).length
  const sent = [...scripts].reduce((sum, script) => sum + sentBytes(script), 0)
  const all = assets
    .filter((name) => name.endsWith('.js.gz') && !/xterm|terminal|console|screen/i.test(name))
    .reduce((sum, name) => sum + readFileSync(join(dist, 'assets', name)).length, 0)
  note(
    "portal's first load, JavaScript by gzip",
    `${formatBytes(sent)} (all pages but console and screen together: ${formatBytes(all)})`,
    '300 KB',
    sent < 300_000,
  )
}

async function freshClone(folder: string): Promise<void> {
  const clone = join(folder, 'clone')
  if (spawnSync('git', ['clone', '-q', ROOT, clone], { stdio: 'inherit' }).status !== 0) throw new Error('git clone failed')
  for (const [title, limitMs] of [
    ['`npm start` in a fresh clone until a guest is up', 180_000],
    ['the second `npm start`, until instances are listed', 10_000],
  ] as const) {
    const begin = performance.now()
    const started = spawn('npm', ['start', '--', '--port', '0', '--data', join(folder, 'clone-data')], {
      cwd: clone,
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    })
    let text = ''
    await new Promise<void>((resolve, reject) => {
      started.stdout.on('data', (part: Buffer) => {
        text += part.toString()
        if (/hello is up|instances: 1/.test(text)) resolve()
      })
      started.on('exit', (code) => reject(new Error(`npm start ended with ${code}: ${text}`)))
    })
    const took = performance.now() - begin
    note(title, `${(took / 1000).toFixed(1)} s`, `${limitMs / 1000} s`, took < limitMs)
    const exit = new Promise((resolve) => started.once('exit', resolve))
    process.kill(-(started.pid as number), 'SIGINT') // the whole group, as Ctrl-C in a terminal
    await exit
  }
  // The guest goes on by design; here it must not.
  const again = await child(['start', '--empty', '--port', '0', '--data', join(folder, 'clone-data')], /portal: /)
  await clientOf(join(folder, 'clone-data')).call('platform.stop', { body: { guests: true } })
  await new Promise((resolve) => again.process.once('exit', resolve))
}

const PARTS: Readonly<Record<string, (folder: string) => void | Promise<void>>> = {
  guests,
  domains: manyDomains,
  metrics,
  restart,
  portal,
  clone: freshClone,
}
const only = process.argv[3]
if (only !== undefined && !Object.hasOwn(PARTS, only)) throw new Error(`part: got ${only}, want ${Object.keys(PARTS).join(', ')}`)
const folder = await mkdtemp(join(tmpdir(), 'typevisor-bench-'))
await chmod(folder, 0o711)
try {
  for (const [name, part] of Object.entries(PARTS)) if (only === undefined || only === name) await part(folder)
} finally {
  await rm(folder, { recursive: true, force: true })
}
const missed = rows.filter((row) => !row.ok)
process.stdout.write(
  missed.length === 0
    ? 'all within their budgets\n'
    : `${missed.length} over budget: ${missed.map((row) => row.what).join('; ')}\n`,
)
process.exitCode = missed.length === 0 ? 0 : 1
