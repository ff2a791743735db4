/**
 * Live migration beside QEMU's own by hand: two processes of the same arguments on this machine, the same disks, joined by unix sockets with
 * nobody in between. Ours goes through two toolstacks with journals on the disk and TLS over loopback.
 *
 * Envelope of our own part: the bytes cross two sockets more and are encrypted (1 GB/s and more: 100 MB take 0.1 s), five synced appends,
 * three questions over the control stream. Budget: total and downtime within 1.1 times of by hand; of the downtime 20 ms are granted for what
 * by hand is never written down.
 *
 * `npm run bench -- migration [RUNS]`
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, gib, mib, type Log } from '@typevisor/base'
import { createNodeHost, createQemuDriver } from '@typevisor/driver-qemu'
import { microImage } from '@typevisor/driver-qemu/testing'
import { parseDomainId, parseDomainName, type DomainSpec } from '@typevisor/model'
import * as runtime from '@typevisor/runtime-node'
import { stateFile } from '@typevisor/saga'
import { nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'
import { openToolstack, type Toolstack } from '@typevisor/toolstack'
import { saveFolder } from '../save-folder.ts'
import { agentLinks } from './links.ts'

const runCount = Number(process.argv[2] ?? 7)
const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet }
const clock = runtime.realClock()
const ids = runtime.uuidv7Ids(clock, runtime.realRng())
const image = await microImage()
const folder = await mkdtemp(join(tmpdir(), 'tvb-'))

interface Host {
  readonly folder: string
  readonly toolstack: Toolstack
}

async function host(name: string): Promise<Host> {
  const at = join(folder, name)
  for (const each of ['state', 'volumes', 'saves']) await mkdir(join(at, each), { recursive: true })
  const driver = createQemuDriver({
    dataDir: join(at, 'data'),
    runDir: join(at, 'run'),
    host: createNodeHost(runtime),
    clock,
    ids,
    log: quiet,
  })
  const files = await nodeVolumeFiles({ folder: join(at, 'volumes') })
  const toolstack = await openToolstack({
    driver,
    volumes: qcow2VolumeStore({ files, runner: nodeCommandRunner(), log: quiet }),
    images: { get: async () => image },
    state: stateFile({ disk: runtime.nodeDisk(join(at, 'state')), name: 'journal', clock, log: quiet }),
    saves: saveFolder(join(at, 'saves')),
    links: agentLinks({ address: '127.0.0.1', clock }),
    clock,
    ids,
    log: quiet,
    owner: name,
  })
  return { folder: at, toolstack }
}

const ID = parseDomainId(ids.next())
const spec: DomainSpec = {
  name: parseDomainName('bench'),
  vcpuCount: 1,
  memoryBytes: mib(256),
  image: image.name,
  rootDiskBytes: gib(1),
  cloudInit: { hostname: 'bench', user: null, sshKeys: [], userData: null },
  forwards: [],
  labels: {},
}
let commandCount = 0
const command = () => ({ commandId: `bench-${(commandCount += 1)}` })

interface Measured {
  readonly totalMs: number
  readonly downtimeMs: number
}

async function untilBooted(answers: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + 120_000
  while (!(await answers())) {
    if (performance.now() > end) throw new Fault('timeout', 'the guest does not boot')
    await sleep(100)
  }
}

async function byUs(from: Host, to: Host): Promise<Measured> {
  const request = await from.toolstack.migrationRequest(ID)
  const offer = await to.toolstack.receive(ID, request, command())
  const begin = performance.now()
  const { statistics } = await from.toolstack.migrate(ID, offer, command())
  return { totalMs: performance.now() - begin, downtimeMs: statistics.downtimeMs }
}

/** A monitor, as simple as it can be. */
class Qmp {
  readonly #socket: Socket
  readonly #answers: ((answer: Record<string, unknown>) => void)[] = []
  readonly #events: string[] = []
  #bell = Promise.withResolvers<void>()
  stoppedAt = 0

  constructor(socket: Socket) {
    this.#socket = socket
    createInterface({ input: socket }).on('line', (line) => {
      const message = JSON.parse(line) as Record<string, unknown>
      if (typeof message['event'] === 'string') {
        const status = (message['data'] as Record<string, unknown> | undefined)?.['status']
        if (message['event'] === 'STOP') this.stoppedAt = performance.now()
        this.#events.push(typeof status === 'string' ? `${message['event']} ${status}` : message['event'])
        this.#bell.resolve()
        this.#bell = Promise.withResolvers()
      } else if (!('QMP' in message)) this.#answers.shift()?.(message)
    })
  }

  static async open(path: string): Promise<Qmp> {
    const end = performance.now() + 10_000
    while (true) {
      const socket = connect({ path })
      try {
        await once(socket, 'connect')
        const qmp = new Qmp(socket)
        await qmp.execute('qmp_capabilities')
        return qmp
      } catch (error) {
        if (performance.now() > end) throw error
        await sleep(10)
      }
    }
  }

  async execute(name: string, args: object = {}): Promise<unknown> {
    const answer = Promise.withResolvers<Record<string, unknown>>()
    this.#answers.push(answer.resolve)
    this.#socket.write(`${JSON.stringify({ execute: name, arguments: args })}\n`)
    const { return: result, error } = await answer.promise
    if (error !== undefined) throw new Fault('failed', `${name}: ${JSON.stringify(error)}`)
    return result
  }

  async event(name: string): Promise<void> {
    while (!this.#events.includes(name)) await this.#bell.promise
  }

  close(): void {
    this.#socket.destroy()
  }
}

interface ByHand {
  readonly at: string
  readonly process: ChildProcess
  readonly qmp: Qmp
}

/** The same arguments as ours, in another folder. */
async function spawned(argv: readonly string[], of: Host, at: string, incoming: boolean): Promise<ByHand> {
  await mkdir(join(at, 'run', ID), { recursive: true })
  await mkdir(join(at, 'data', ID), { recursive: true })
  const [program = '', ...rest] = argv.map((word) => word.replaceAll(of.folder, at))
  const kept = rest.filter((word, index) => word !== '-incoming' && rest[index - 1] !== '-incoming')
  const process = spawn(program, [...kept, ...(incoming ? ['-incoming', 'defer'] : [])], { stdio: 'ignore' })
  return { at, process, qmp: await Qmp.open(join(at, 'run', ID, 'qmp.sock')) }
}

async function byHand(source: ByHand, target: ByHand): Promise<Measured> {
  const [nbd, memory] = [join(target.at, 'nbd.sock'), join(target.at, 'memory.sock')]
  const capabilities = [
    { capability: 'events', state: true },
    { capability: 'pause-before-switchover', state: true },
  ]
  await target.qmp.execute('migrate-set-capabilities', { capabilities: capabilities.slice(0, 1) })
  await target.qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: nbd } } })
  await target.qmp.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk0-format', name: 'd', writable: true })
  await target.qmp.execute('migrate-incoming', { uri: `unix:${memory}` })
  const begin = performance.now()
  const { qmp } = source
  await qmp.execute('migrate-set-capabilities', { capabilities })
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 50, 'downtime-limit': 300 })
  await qmp.execute('blockdev-add', { driver: 'nbd', 'node-name': 'm', server: { type: 'unix', path: nbd }, export: 'd' })
  await qmp.execute('blockdev-mirror', { 'job-id': 'm', device: 'disk0-format', target: 'm', sync: 'full' })
  await qmp.event('BLOCK_JOB_READY')
  await qmp.execute('migrate', { uri: `unix:${memory}` })
  await qmp.event('MIGRATION pre-switchover')
  await qmp.execute('block-job-cancel', { device: 'm' })
  await qmp.event('BLOCK_JOB_COMPLETED')
  await qmp.execute('blockdev-del', { 'node-name': 'm' })
  await target.qmp.execute('nbd-server-stop')
  await qmp.execute('migrate-continue', { state: 'pre-switchover' })
  await Promise.all([qmp.event('MIGRATION completed'), target.qmp.event('MIGRATION completed')])
  await target.qmp.execute('cont')
  const end = performance.now()
  return { totalMs: end - begin, downtimeMs: end - qmp.stoppedAt }
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const shown = (values: readonly number[]): string =>
  `median ${Math.round(median(values))} ms, ${Math.round(Math.min(...values))} to ${Math.round(Math.max(...values))}`

const ours: Measured[] = []
const hands: Measured[] = []
const children: ChildProcess[] = []
const [left, right] = [await host('left'), await host('right')]
try {
  await left.toolstack.define(ID, spec, command())
  await left.toolstack.carryOut('start', ID, command())
  const truth = { argv: ['/bin/true'], timeoutMs: 5000 }
  await untilBooted(() =>
    left.toolstack.exec(ID, truth).then(
      () => true,
      () => false,
    ),
  )
  const pid = readFileSync(join(left.folder, 'run', ID, 'qemu.pid'), 'utf8').trim()
  const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
  // The same guest by hand: it boots on a copy of the disk as it is, and is moved on from process to process.
  const disks = async (at: string): Promise<void> => {
    await mkdir(join(at, 'volumes'), { recursive: true })
    for (const name of ['root.qcow2', 'seed.raw'])
      await copyFile(join(left.folder, 'volumes', `${ID}.${name}`), join(at, 'volumes', `${ID}.${name}`))
  }
  await left.toolstack.carryOut('pause', ID, command())
  await disks(join(folder, 'hand0'))
  await left.toolstack.carryOut('unpause', ID, command())
  let source = await spawned(argv, left, join(folder, 'hand0'), false)
  children.push(source.process)
  await source.qmp.execute('cont')
  await sleep(20_000)
  let [here, there] = [left, right]
  for (let run = 0; run < runCount; run += 1) {
    ours.push(await byUs(here, there))
    ;[here, there] = [there, here]
    const at = join(folder, `hand${run + 1}`)
    await mkdir(join(at, 'volumes'), { recursive: true })
    await copyFile(join(folder, 'hand0', 'volumes', `${ID}.seed.raw`), join(at, 'volumes', `${ID}.seed.raw`))
    await nodeCommandRunner().run([
      'qemu-img',
      'create',
      '-q',
      '-f',
      'qcow2',
      join(at, 'volumes', `${ID}.root.qcow2`),
      String(gib(1)),
    ])
    const plain = argv.map((word) => word.replaceAll(/"backing":"[^"]*"/g, '"backing":null'))
    const target = await spawned(plain, left, at, true)
    children.push(target.process)
    hands.push(await byHand(source, target))
    source.qmp.close()
    source.process.kill('SIGKILL')
    source = target
    const [us, them] = [ours.at(-1), hands.at(-1)]
    process.stdout.write(
      `run ${run + 1}: ours ${Math.round(us?.totalMs ?? 0)} ms, ${us?.downtimeMs} still; by hand ${Math.round(them?.totalMs ?? 0)} ms, ${Math.round(them?.downtimeMs ?? 0)} still\n`,
    )
  }
} finally {
  for (const child of children) child.kill('SIGKILL')
  for (const { toolstack } of [left, right]) {
    if (toolstack.get(ID)) await toolstack.carryOut('destroy', ID, command()).catch(() => {})
    await toolstack.close()
  }
  await rm(folder, { recursive: true, force: true })
}

let isOver = false
const budget = (what: string, read: (measured: Measured) => number, grantMs: number): void => {
  const [us, them] = [ours.map(read), hands.map(read)]
  const limit = median(them) * 1.1 + grantMs
  const ok = median(us) <= limit
  isOver ||= !ok
  process.stdout.write(
    `${ok ? 'ok  ' : 'OVER'} ${what}: ${shown(us)}; by hand ${shown(them)} (budget ${Math.round(limit)} ms, ${(median(us) / median(them)).toFixed(2)} x)\n`,
  )
}
budget('total', ({ totalMs }) => totalMs, 0)
budget('downtime', ({ downtimeMs }) => downtimeMs, 20)
process.exitCode = isOver ? 1 : 0
