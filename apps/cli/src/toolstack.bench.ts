/**
 * The toolstack's budgets, measured. What has a peer is run in turn with it, in this one run, and medians are compared.
 *
 *   start            `create` and `unpause` to the first byte on the serial console, beside QEMU started by hand with the same arguments
 *   attach, detach   a disk of a running Linux guest, beside the same commands on a monitor by hand
 *   agent            resident memory of an agent's process with 500 domains in memory, and with 20 real guests
 *
 * `npm run bench -- toolstack [ROUNDS] [start|attach|agent]`
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { readFileSync, rmSync, statSync } from 'node:fs'
import { mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { formatBytes, gib, MIB, mib } from '@typevisor/base'
import { openHost } from '@typevisor/agent'
import { createNodeHost, createQemuDriver, type QemuDriver } from '@typevisor/driver-qemu'
import { microImage, testDomain, tinyGuestDisk } from '@typevisor/driver-qemu/testing'
import { SIM_IMAGE } from '@typevisor/image'
import { parseDomainId, parseDomainName, type DomainId, type DomainSpec, type VolumeId } from '@typevisor/model'
import * as runtime from '@typevisor/runtime-node'
import type { DriverDomain } from '@typevisor/toolstack'

const { consoleLog, realClock, realRng, uuidv7Ids } = runtime
const SELF = fileURLToPath(import.meta.url)
const roundCount = Number(process.argv[2] ?? 9)
const only = process.argv[3]
const clock = realClock()
const rng = realRng()
const ids = uuidv7Ids(clock, rng)
const log = consoleLog({ level: 'error' })

let overCount = 0
const note = (what: string, measured: string, budget: string, ok: boolean): void => {
  if (!ok) overCount += 1
  process.stdout.write(`${ok ? 'ok  ' : 'OVER'} ${what}: ${measured} (budget ${budget})\n`)
}
const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const spread = (values: readonly number[]): string =>
  `${median(values).toFixed(1)} ms (${Math.min(...values).toFixed(1)} to ${Math.max(...values).toFixed(1)} of ${values.length})`

/** Looks each millisecond. */
async function untilSized(path: string): Promise<void> {
  for (const end = performance.now() + 30_000; performance.now() < end; await sleep(1)) {
    try {
      if (statSync(path).size > 0) return
    } catch {
      // It is not there yet.
    }
  }
  throw new Error(`${path} stays empty`)
}

/** The arguments of a QEMU that the driver has started, for one by hand: folders and disks of its own, and the console straight into a file. */
function argvByHand(domain: DriverDomain, folder: string, own: string, isPaused: boolean): string[] {
  const pid = Number(readFileSync(join(folder, 'run', domain.id, 'qemu.pid'), 'utf8'))
  const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(1, -1)
  return argv
    .filter((word) => isPaused || word !== '-S')
    .map((word) =>
      word
        .replaceAll(join(folder, 'run', domain.id), own)
        .replaceAll(join(folder, 'disks'), join(own, 'disks'))
        .replace('null,id=console', `file,id=console,path=${join(own, 'console.log')}`),
    )
}

/** As a person at a monitor does it, without waiting between the commands. */
class Monitor {
  readonly #socket: Socket
  #text = ''
  readonly #lines: string[] = []
  #wake: () => void = () => {}

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', (part) => {
      const lines = (this.#text + part.toString()).split('\n')
      this.#text = lines.pop() ?? ''
      this.#lines.push(...lines)
      this.#wake()
    })
    socket.on('error', () => {})
  }

  async #take(isWanted: (line: string) => boolean): Promise<string> {
    for (;;) {
      const at = this.#lines.findIndex(isWanted)
      if (at >= 0) return this.#lines.splice(0, at + 1).at(-1) ?? ''
      await new Promise<void>((resolve) => (this.#wake = resolve))
    }
  }

  async run(execute: string, args: object = {}): Promise<void> {
    this.#socket.write(`${JSON.stringify({ execute, arguments: args })}\n`)
    const answer = await this.#take((line) => line.includes('"return"') || line.includes('"error"'))
    if (answer.includes('"error"')) throw new Error(`${execute}: ${answer}`)
  }

  async event(name: string): Promise<void> {
    await this.#take((line) => line.includes(`"${name}"`))
  }

  close(): void {
    this.#socket.destroy()
  }
}

async function connected(path: string): Promise<Socket> {
  for (const end = performance.now() + 20_000; performance.now() < end; await sleep(4)) {
    const socket = createConnection(path)
    const isThere = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true))
      socket.once('error', () => resolve(false))
    })
    if (isThere) return socket
  }
  throw new Error(`nobody listens at ${path}`)
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGKILL')
  await exit
}

const QEMU = 'qemu-system-x86_64'

interface World extends AsyncDisposable {
  readonly folder: string
  readonly driver: QemuDriver
}

async function world(): Promise<World> {
  const folder = await mkdtemp(join(tmpdir(), 'tv-bench-'))
  await mkdir(join(folder, 'disks'))
  const driver = createQemuDriver({
    dataDir: join(folder, 'data'),
    runDir: join(folder, 'run'),
    host: createNodeHost(runtime),
    clock,
    ids,
    log,
    accelerator: 'tcg',
  })
  return {
    folder,
    driver,
    async [Symbol.asyncDispose]() {
      await driver.close()
      await rm(folder, { recursive: true })
    },
  }
}

async function benchStart(): Promise<void> {
  await using place = await world()
  const { folder, driver } = place
  const disk = async (path: string): Promise<string> => {
    await writeFile(path, tinyGuestDisk())
    return path
  }
  const domain = testDomain({
    volumes: {
      root: { kind: 'file', path: await disk(join(folder, 'disks/root.raw')), format: 'raw' },
      data: { kind: 'file', path: await disk(join(folder, 'disks/data.raw')), format: 'raw' },
    },
  })
  const own = join(folder, 'own')
  await mkdir(join(own, 'disks'), { recursive: true })
  for (const name of ['root', 'data']) await disk(join(own, 'disks', `${name}.raw`))
  const ours: number[] = []
  const theirs: number[] = []
  let argv: string[] = []
  for (let round = 0; round <= roundCount; round += 1) {
    rmSync(join(folder, 'data', domain.id), { recursive: true, force: true })
    const begin = performance.now()
    await driver.create(domain)
    await driver.unpause(domain.id)
    await untilSized(join(folder, 'data', domain.id, 'console.log'))
    // The first of each is not counted: it fills caches.
    if (round > 0) ours.push(performance.now() - begin)
    argv = argvByHand(domain, folder, own, false)
    await driver.destroy(domain.id)

    rmSync(join(own, 'console.log'), { force: true })
    const beginByHand = performance.now()
    const child = spawn(QEMU, argv, { stdio: ['ignore', 'ignore', 'inherit'] })
    await untilSized(join(own, 'console.log'))
    if (round > 0) theirs.push(performance.now() - beginByHand)
    await ended(child)
  }
  const budget = 1.1 * median(theirs) + 20
  note(
    'start to the first serial byte',
    `${spread(ours)}, by hand ${spread(theirs)}, ${(median(ours) / median(theirs)).toFixed(2)} x`,
    `1.1 x + 20 ms = ${budget.toFixed(1)} ms`,
    median(ours) <= budget,
  )
}

/** A running Linux guest of the driver, and one by hand with the same arguments. */
async function benchAttach(): Promise<void> {
  await using place = await world()
  const { folder, driver } = place
  const image = await microImage()
  const own = join(folder, 'own')
  await mkdir(join(own, 'disks'), { recursive: true })
  const id = parseDomainId(ids.next())
  const overlay = async (path: string): Promise<string> => {
    const made = spawn('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', image.rootDisk.path, '-F', image.rootDisk.format, path])
    await new Promise((resolve) => made.once('exit', resolve))
    return path
  }
  const root = `${id}.root` as VolumeId
  const spec: DomainSpec = { ...testDomain().spec, memoryBytes: mib(192), hotplugPortCount: 2 }
  const hardware = await driver.planHardware(id, spec, [{ name: 'root', volume: root, readOnly: false }])
  const path = await overlay(join(folder, 'disks/root.qcow2'))
  await overlay(join(own, 'disks/root.qcow2'))
  const domain: DriverDomain = {
    id,
    name: parseDomainName('attach'),
    spec,
    hardware,
    boot: image.boot,
    volumes: { [root]: { kind: 'file', path, format: 'qcow2' } },
  }
  const data = join(folder, 'disks/data.raw')
  const dataByHand = join(own, 'disks/data.raw')
  for (const each of [data, dataByHand]) {
    await writeFile(each, '')
    await truncate(each, 16 * MIB)
  }
  await driver.create(domain)
  const argv = argvByHand(domain, folder, own, true)
  await driver.unpause(id)
  const child = spawn(QEMU, argv, { stdio: ['ignore', 'ignore', 'inherit'] })
  const monitor = new Monitor(await connected(join(own, 'qmp.sock')))
  try {
    await monitor.run('qmp_capabilities')
    await monitor.run('cont')
    const isReady = (text: string): boolean => text.includes('typevisor: ready')
    for (const log of [join(folder, 'data', id, 'console.log'), join(own, 'console.log')])
      while (!isReady(readFileSync(log, 'latin1'))) await sleep(50)
    const volume = `${id}.data` as VolumeId
    const [device] = await driver.planDevice(domain, { kind: 'disk', name: 'data' }, volume)
    if (!device) throw new Error('no device was planned')
    const next: DriverDomain = {
      ...domain,
      hardware: { ...hardware, devices: [...hardware.devices, device] },
      volumes: { ...domain.volumes, [volume]: { kind: 'file', path: data, format: 'raw' } },
    }
    const ours = { attach: [] as number[], detach: [] as number[] }
    const theirs = { attach: [] as number[], detach: [] as number[] }
    const timed = async (into: number[], round: number, work: () => Promise<void>): Promise<void> => {
      const begin = performance.now()
      await work()
      if (round > 0) into.push(performance.now() - begin)
      // The guest has seen to the one before the next comes.
      await sleep(1500)
    }
    const rounds = Math.min(roundCount, 15)
    for (let round = 0; round <= rounds; round += 1) {
      await timed(ours.attach, round, () => driver.attach(next, device))
      await timed(theirs.attach, round, async () => {
        const common = { 'read-only': false, discard: 'unmap' }
        const file = { driver: 'file', 'node-name': 'd-file', filename: dataByHand, locking: 'on', ...common }
        await monitor.run('blockdev-add', file)
        await monitor.run('blockdev-add', { driver: 'raw', 'node-name': 'd', file: 'd-file', ...common })
        const place = { bus: 'port0', addr: '0.0' }
        const how = { serial: 'data', werror: 'stop', rerror: 'stop', 'num-queues': 1 }
        await monitor.run('device_add', { driver: 'virtio-blk-pci', id: 'data', ...place, drive: 'd', ...how })
      })
      await timed(ours.detach, round, () => driver.detach(id, 'data', { timeoutMs: 30_000, force: false }))
      await timed(theirs.detach, round, async () => {
        await monitor.run('device_del', { id: 'data' })
        await monitor.event('DEVICE_DELETED')
        await monitor.run('blockdev-del', { 'node-name': 'd' })
        await monitor.run('blockdev-del', { 'node-name': 'd-file' })
      })
    }
    for (const what of ['attach', 'detach'] as const) {
      const ratio = median(ours[what]) / median(theirs[what])
      note(
        `${what} a disk`,
        `${spread(ours[what])}, by hand ${spread(theirs[what])}, ${ratio.toFixed(2)} x`,
        '1.2 x',
        ratio <= 1.2,
      )
    }
  } finally {
    monitor.close()
    await ended(child)
    await driver.destroy(id)
  }
}

const SIM_COUNT = 500
const REAL_COUNT = 20
const AGENT_BUDGET = 200_000_000

/** In a process of its own: an agent with so many running domains; says its resident memory. */
async function agentProcess(kind: 'sim' | 'qemu'): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), 'tv-bench-'))
  const host = await openHost({ name: 'bench', dataDir, driver: kind, version: '1', clock, rng, ids, log })
  const { toolstack, images } = host
  try {
    const image = kind === 'sim' ? SIM_IMAGE.name : (await microImage()).name
    if (kind === 'qemu') await images.build(image)
    const made: DomainId[] = []
    for (let index = 0; index < (kind === 'sim' ? SIM_COUNT : REAL_COUNT); index += 1) {
      const id = parseDomainId(ids.next())
      const name = parseDomainName(`guest-${index}`)
      const spec: DomainSpec = {
        name,
        vcpuCount: 1,
        memoryBytes: mib(128),
        image,
        rootDiskBytes: gib(1),
        cloudInit: { hostname: name, user: null, sshKeys: [], userData: null },
        forwards: [],
        labels: {},
      }
      await toolstack.define(id, spec, { commandId: ids.next() })
      await toolstack.carryOut('start', id, { commandId: ids.next() })
      made.push(id)
    }
    for (let look = 0; look < 5; look += 1) {
      await Promise.all(made.map((id) => toolstack.statistics(id)))
      await sleep(500)
    }
    process.stdout.write(`rss ${process.memoryUsage().rss}\n`)
    for (const id of made) await toolstack.carryOut('destroy', id, { commandId: ids.next() })
  } finally {
    await host.close()
    await rm(dataDir, { recursive: true })
  }
}

async function benchAgent(): Promise<void> {
  for (const [kind, what] of [
    ['sim', `agent with ${SIM_COUNT} domains in memory`],
    ['qemu', `agent with ${REAL_COUNT} real guests`],
  ] as const) {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', SELF, '--agent', kind], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    let text = ''
    child.stdout.on('data', (part: Buffer) => (text += part.toString()))
    await new Promise((resolve) => child.once('close', resolve))
    const rss = Number(/rss (\d+)/.exec(text)?.[1] ?? Number.NaN)
    note(what, `${formatBytes(rss)} resident`, formatBytes(AGENT_BUDGET), rss <= AGENT_BUDGET)
  }
}

if (process.argv[2] === '--agent') await agentProcess(process.argv[3] === 'qemu' ? 'qemu' : 'sim')
else {
  for (const [name, run] of Object.entries({ start: benchStart, attach: benchAttach, agent: benchAgent }))
    if (only === undefined || only === name) await run()
  process.exitCode = overCount > 0 ? 1 : 0
}
