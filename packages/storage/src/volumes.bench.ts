/**
 * The volume server beside its peers, each cell run by fio's nbd engine on all of them in turn, so that the pairs are of one moment; the
 * medians of the ratios count. Files lie on tmpfs and are filled before.
 *
 *   memory    beside nbdkit memory: at least 1.0 x at depth 32
 *   volume    (copy-on-write, checksums, journal) beside qemu-nbd on qcow2: random reads at depth 32 at least 1.5 x, random writes 1.0 x,
 *             every other cell 0.8 x
 *   snapshot  99th percentile under 5 ms while fio writes at depth 32, on 1 GiB and on 1 TiB alike; ten a second cost less than 5 %
 *   clone     99th percentile under 5 ms, a thousand of one master
 *   resident  1 TiB, written at random places, and 1,000 clones served within 512 MiB, at the highest
 *
 * Envelope of a random 4 KiB read of a volume: request 0.3 µs, two look-ups in the cache 0.1, pread 0.9, CRC-32 0.5, its share of the
 * socket's calls 1 to 2: about 3 to 4 µs of one core, 250,000 a second; fio takes the other core.
 *
 * `npm run bench -- volumes [ROUNDS] [SECONDS]`
 */
import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { askServer } from './node-volume-server.ts'

const ROUNDS = Number(process.argv[2] ?? 5)
const SECONDS = Number(process.argv[3] ?? 1.5)
const SIZE = '256M'
const MAIN = join(import.meta.dirname, '../../../apps/cli/src/main.ts')

const CELLS = [
  { name: 'random read 4 KiB, depth 1', words: ['--rw=randread', '--bs=4k', '--iodepth=1'] },
  { name: 'random read 4 KiB, depth 32', words: ['--rw=randread', '--bs=4k', '--iodepth=32'] },
  { name: 'random write 4 KiB, depth 1', words: ['--rw=randwrite', '--bs=4k', '--iodepth=1'] },
  { name: 'random write 4 KiB, depth 32', words: ['--rw=randwrite', '--bs=4k', '--iodepth=32'] },
  { name: 'read 1 MiB in order', words: ['--rw=read', '--bs=1m', '--iodepth=1'] },
  { name: 'write 1 MiB in order', words: ['--rw=write', '--bs=1m', '--iodepth=1'] },
] as const

/** What of ours is held against what of others, and how many times as fast it has to be in each cell. */
const PAIRS = [
  { ours: 'memory', peer: 'nbdkit memory', least: [0, 1, 0, 1, 0, 0] },
  { ours: 'volume', peer: 'qemu-nbd qcow2', least: [0.8, 1.5, 0.8, 1, 0.8, 0.8] },
  { ours: 'volume', peer: 'qemu-nbd raw', least: [0, 0, 0, 0, 0, 0] },
  { ours: 'volume', peer: 'nbdkit file', least: [0, 0, 0, 0, 0, 0] },
] as const

interface Served {
  readonly name: string
  readonly uri: string
  readonly process: ChildProcess
}

const dir = await mkdtemp('/dev/shm/tv-bench-')
const path = (name: string): string => join(dir, name)
const uriOf = (socket: string, name = ''): string => `nbd+unix:///${name}?socket=${path(socket)}`

function must(program: string, ...words: string[]): void {
  const { status, stderr } = spawnSync(program, words, { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${words.join(' ')}: ${stderr}`)
}

async function serve(name: string, socket: string, exportName: string, program: string, ...words: string[]): Promise<Served> {
  const child = spawn(program, words, { stdio: ['ignore', 'ignore', 'inherit'], env: { ...process.env, NODE_NO_WARNINGS: '1' } })
  for (let tries = 0; !existsSync(path(socket)); tries += 1) {
    if (tries > 400) throw new Error(`${name} does not listen`)
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  return { name, uri: uriOf(socket, exportName), process: child }
}

const fioWords = (uri: string, words: readonly string[], seconds: number): string[] => [
  '--name=cell',
  '--ioengine=nbd',
  `--uri=${uri}`,
  `--size=${SIZE}`,
  '--output-format=json',
  ...(seconds > 0 ? ['--time_based', `--runtime=${seconds}`] : []),
  ...words,
]

function rateOf(said: string): number {
  const start = said.indexOf('{')
  if (start < 0) throw new Error(`fio: ${said}`)
  const [job] = (JSON.parse(said.slice(start)) as { jobs: { read: { iops: number }; write: { iops: number } }[] }).jobs
  return Math.max(job?.read.iops ?? 0, job?.write.iops ?? 0)
}

/** Operations a second. */
function fio(uri: string, words: readonly string[], seconds = SECONDS): number {
  const { stdout, stderr } = spawnSync('fio', fioWords(uri, words, seconds), { encoding: 'utf8' })
  return rateOf(`${stdout}${stderr}`)
}

/** The same beside other work. */
async function fioBeside(uri: string, words: readonly string[], seconds: number): Promise<number> {
  const child = spawn('fio', fioWords(uri, words, seconds), { stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (part: Buffer) => (said += part.toString()))
  await new Promise((resolve) => child.once('close', resolve))
  return rateOf(said)
}

const quantile = (values: readonly number[], part: number): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * part)] ?? Number.NaN
const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const thousands = (value: number): string => `${(value / 1000).toFixed(value < 10_000 ? 2 : 1)}k`
let missed = 0
const row = (ok: boolean, text: string): void => {
  if (!ok) missed += 1
  process.stdout.write(`${ok ? 'ok  ' : 'OVER'} ${text}\n`)
}

const running: Served[] = []
try {
  must('qemu-img', 'create', '-q', '-f', 'qcow2', path('disk.qcow2'), SIZE)
  must('qemu-img', 'create', '-q', '-f', 'raw', path('disk.raw'), SIZE)
  must('qemu-img', 'create', '-q', '-f', 'raw', path('file.raw'), SIZE)
  must(process.execPath, MAIN, 'volume', 'create', 'disk', '--size', SIZE, '--dir', path('volumes'))
  const qemuNbd = ['--persistent', '--shared=8', '--discard=unmap', '--cache=writeback', '--aio=threads']
  running.push(
    await serve('memory', 'm.sock', '', process.execPath, MAIN, 'nbd', 'serve', '--memory', SIZE, '--socket', path('m.sock')),
    await serve(
      'volume',
      'v.sock',
      'disk',
      process.execPath,
      MAIN,
      'nbd',
      'serve',
      '--dir',
      path('volumes'),
      '--socket',
      path('v.sock'),
    ),
    await serve('nbdkit memory', 'km.sock', '', 'nbdkit', '-f', '-U', path('km.sock'), 'memory', SIZE),
    await serve('nbdkit file', 'kf.sock', '', 'nbdkit', '-f', '-U', path('kf.sock'), 'file', path('file.raw')),
    await serve('qemu-nbd raw', 'r.sock', '', 'qemu-nbd', ...qemuNbd, '-f', 'raw', '-k', path('r.sock'), path('disk.raw')),
    await serve('qemu-nbd qcow2', 'q.sock', '', 'qemu-nbd', ...qemuNbd, '-f', 'qcow2', '-k', path('q.sock'), path('disk.qcow2')),
  )
  for (const { uri } of running) fio(uri, ['--rw=write', '--bs=1m', '--iodepth=4', '--end_fsync=1'], 0)
  const found = new Map<string, number[]>()
  const key = (cell: number, name: string): string => `${cell} ${name}`
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [cell, { words }] of CELLS.entries()) {
      for (const { name, uri } of running) {
        const values = found.get(key(cell, name)) ?? []
        values.push(fio(uri, words))
        found.set(key(cell, name), values)
      }
    }
  }
  for (const { ours, peer, least } of PAIRS) {
    process.stdout.write(`\n${ours} beside ${peer}\n`)
    for (const [cell, { name }] of CELLS.entries()) {
      const [mine, theirs] = [found.get(key(cell, ours)) ?? [], found.get(key(cell, peer)) ?? []]
      const ratio = median(mine.map((value, index) => value / (theirs[index] ?? Number.NaN)))
      const want = least[cell] ?? 0
      row(
        ratio >= want,
        `${name}: ${ratio.toFixed(2)} x (${thousands(median(mine))} beside ${thousands(median(theirs))} a second, median of ${ROUNDS})${want > 0 ? `, want ${want.toFixed(1)} x` : ''}`,
      )
    }
  }
  must(process.execPath, MAIN, 'volume', 'create', 'filled', '--size', '1GiB', '--dir', path('volumes'))
  fio(uriOf('v.sock', 'filled'), ['--rw=write', '--bs=1m', '--iodepth=4', '--size=1G'], 0)
  await snapshots('filled', '1G')
  must(process.execPath, MAIN, 'volume', 'create', 'large', '--size', '1TiB', '--dir', path('volumes'))
  await snapshots('large', '1T')
  await clones()
  resident()
} finally {
  for (const { process: child } of running) child.kill('SIGKILL')
  await rm(dir, { recursive: true, force: true })
}
process.stdout.write(missed === 0 ? '\nall within their bars\n' : `\n${missed} below their bars\n`)
process.exit(missed === 0 ? 0 : 1)

async function volumeServer(): Promise<NonNullable<Awaited<ReturnType<typeof askServer>>>> {
  const server = await askServer(path('volumes'))
  if (!server) throw new Error('the volume server went away')
  return server
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const begin = performance.now()
  await work()
  return performance.now() - begin
}

/** How long a snapshot takes while fio writes, and what ten a second cost. */
async function snapshots(volume: string, size: string): Promise<void> {
  const words = ['--rw=randwrite', '--bs=4k', '--iodepth=32', `--size=${size}`]
  const uri = uriOf('v.sock', volume)
  const server = await volumeServer()
  const ratios: number[] = []
  const takenMs: number[] = []
  for (let round = 0; round < Math.max(3, ROUNDS); round += 1) {
    const plain = fio(uri, words, 2)
    const writing = fioBeside(uri, words, 2)
    const end = performance.now() + 2000
    const names: string[] = []
    while (performance.now() < end) {
      const name = `r${round}-${names.length}`
      const took = await timed(() => server.call('snapshot', { volume, name }))
      takenMs.push(took)
      names.push(name)
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, 100 - took)))
    }
    ratios.push((await writing) / plain)
    for (const name of names) await server.call('remove', { name: `${volume}@${name}` })
  }
  server.close()
  process.stdout.write(`\nsnapshots of ${size} while fio writes at depth 32\n`)
  const p99 = quantile(takenMs, 0.99)
  row(
    p99 < 5,
    `99th percentile ${p99.toFixed(2)} ms, median ${median(takenMs).toFixed(2)} ms of ${takenMs.length}, want under 5 ms`,
  )
  row(
    median(ratios) > 0.95,
    `ten a second: ${(median(ratios) * 100).toFixed(1)} % of the throughput without, median of ${ratios.length}, want more than 95 %`,
  )
}

/** A thousand clones of one master, each safe when it is answered. */
async function clones(): Promise<void> {
  const server = await volumeServer()
  await server.call('snapshot', { volume: 'disk', name: 'gold' })
  const takenMs: number[] = []
  for (let index = 0; index < 1000; index += 1)
    takenMs.push(await timed(() => server.call('clone', { snapshot: 'disk@gold', name: `clone-${index}` })))
  server.close()
  process.stdout.write('\n1,000 clones of one master\n')
  const p99 = quantile(takenMs, 0.99)
  row(p99 < 5, `99th percentile ${p99.toFixed(2)} ms, median ${median(takenMs).toFixed(2)} ms, want under 5 ms`)
}

/** The most it ever had, of all that was done with it. */
function resident(): void {
  const pid = running.find(({ name }) => name === 'volume')?.process.pid
  const kib = Number(/VmHWM:\s*(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'ascii'))?.[1])
  process.stdout.write('\nmemory of the volume server, 1 TiB and 1,000 clones served\n')
  row(kib < 512 * 1024, `${(kib / 1024).toFixed(0)} MiB resident at the highest, want less than 512 MiB`)
}
