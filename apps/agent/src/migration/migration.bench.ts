/**
 * Live migration beside QEMU's own by hand, in turn: two processes of the same arguments on this machine, the same disks. Ours goes through two
 * toolstacks, each in a process of its own as agents are, with journals on the disk and TLS over loopback. By hand it is done twice: with the
 * same protection (QEMU's TLS with a pre-shared key over loopback, for memory and disks), and with none over unix sockets.
 *
 * Envelope of our own part: the bytes cross two sockets more, five synced appends, three questions over the control stream. Budget: total and
 * downtime within 1.1 times of by hand with the same protection; of the downtime 20 ms are granted for what by hand is never written down.
 * Total: from the command to when it runs there. By hand nothing is cleaned up behind that, and ours is not counted.
 *
 * `npm run bench -- migration [RUNS]`
 */
import { fork, spawn, type ChildProcess } from 'node:child_process'
import { getDiffieHellman, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, faultFromJson, gib, mib, toFault, type FaultJson, type Json, type Log } from '@typevisor/base'
import { createNodeHost, createQemuDriver } from '@typevisor/driver-qemu'
import { microImage } from '@typevisor/driver-qemu/testing'
import { parseDomainId, parseDomainName, parseImageName, type DomainSpec, type MigrationResult } from '@typevisor/model'
import * as runtime from '@typevisor/runtime-node'
import { stateFile } from '@typevisor/saga'
import { nodeCommandRunner, nodeVolumeFiles, qcow2VolumeStore } from '@typevisor/storage'
import { openToolstack } from '@typevisor/toolstack'
import { saveFolder } from '../save-folder.ts'
import { agentLinks } from './links.ts'

const HOST = '--host'
/** The same clock in all processes of this machine. */
const wallMs = (): number => performance.timeOrigin + performance.now()
const quiet: Log = { debug() {}, info() {}, warn() {}, error() {}, with: () => quiet }
const clock = runtime.realClock()
const ids = runtime.uuidv7Ids(clock, runtime.realRng())

// The process of a host

async function serve(at: string): Promise<void> {
  for (const each of ['state', 'volumes', 'saves']) await mkdir(join(at, each), { recursive: true })
  const driver = createQemuDriver({
    dataDir: join(at, 'data'),
    runDir: join(at, 'run'),
    host: createNodeHost(runtime),
    clock,
    ids,
    log: quiet,
  })
  const image = await microImage()
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
    owner: 'bench',
  })
  let ranAt = 0
  void (async () => {
    for await (const event of toolstack.events(0)) if (event.to === 'running') ranAt = wallMs()
  })()
  const methods = Object.assign(Object.create(toolstack), { ranAt: () => ranAt }) as Record<
    string,
    (...args: unknown[]) => unknown
  >
  const answer = async ({ id, method, args }: Call): Promise<void> => {
    try {
      const result = method === 'ranAt' ? ranAt : await methods[method]?.apply(toolstack, [...args])
      process.send?.({ id, result })
    } catch (error) {
      process.send?.({ id, fault: toFault(error).toJSON() })
    }
  }
  process.on('message', (call: Call) => void answer(call))
  process.on('disconnect', () => process.exit())
  process.send?.({ id: 0 })
}

interface Call {
  readonly id: number
  readonly method: string
  readonly args: readonly unknown[]
}

class Host {
  readonly folder: string
  readonly #process: ChildProcess
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>()
  #next = 1

  private constructor(folder: string, process: ChildProcess) {
    this.folder = folder
    this.#process = process
    process.on('message', ({ id, result, fault }: { id: number; result?: unknown; fault?: FaultJson }) => {
      if (fault) this.#waiting.get(id)?.reject(faultFromJson(fault))
      else this.#waiting.get(id)?.resolve(result)
    })
  }

  static async start(folder: string): Promise<Host> {
    const child = fork(import.meta.filename, [HOST, folder])
    await once(child, 'message')
    return new Host(folder, child)
  }

  /** A method of its toolstack. */
  async call<T>(method: string, ...args: readonly unknown[]): Promise<T> {
    const id = this.#next++
    const answer = Promise.withResolvers<unknown>()
    this.#waiting.set(id, answer)
    this.#process.send({ id, method, args })
    return (await answer.promise) as T
  }

  async end(): Promise<void> {
    if ((await this.call('get', ID)) !== null) await this.call('carryOut', 'destroy', ID, command()).catch(() => {})
    await this.call('close')
    this.#process.disconnect()
    await once(this.#process, 'exit')
  }
}

// The benchmark

const folder = process.argv[2] === HOST ? '' : await mkdtemp(join(tmpdir(), 'tvb-'))
const ID = parseDomainId(ids.next())
const spec: DomainSpec = {
  name: parseDomainName('bench'),
  vcpuCount: 1,
  memoryBytes: mib(256),
  image: parseImageName('micro'),
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
  const request = await from.call('migrationRequest', ID)
  const offer = await to.call('receive', ID, request, command())
  const begin = wallMs()
  const { statistics } = await from.call<MigrationResult>('migrate', ID, offer, command())
  return { totalMs: (await to.call<number>('ranAt')) - begin, downtimeMs: statistics.downtimeMs }
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
    const lines = createInterface({ input: socket })
    // The monitor of a QEMU that is killed.
    lines.on('error', () => {})
    lines.on('line', (line) => {
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

/** What joins the two by hand. */
interface Joint {
  readonly memory: string
  readonly nbdListen: Json
  readonly nbdConnect: Json
  /** Parameters of the migration, and of the disks' export. */
  readonly source: Record<string, Json>
  readonly target: Record<string, Json>
}

const openJoint = (at: string): Joint => {
  const path = join(at, 'nbd.sock')
  return {
    memory: `unix:${join(at, 'memory.sock')}`,
    nbdListen: { type: 'unix', data: { path } },
    nbdConnect: { type: 'unix', path },
    source: {},
    target: {},
  }
}

/** The Diffie-Hellman group as QEMU 7.2 wants it in a file, or it makes a new one for seconds. */
function groupFile(): string {
  const prime = getDiffieHellman('modp14').getPrime()
  const integers = Buffer.concat([Buffer.from([0x02, 0x82, 0x01, 0x01, 0x00]), prime, Buffer.from([0x02, 0x01, 0x02])])
  const der = Buffer.concat([Buffer.from([0x30, 0x82, integers.length >> 8, integers.length & 0xff]), integers])
  const lines = der.toString('base64').match(/.{1,64}/g) ?? []
  return ['-----BEGIN DH PARAMETERS-----', ...lines, '-----END DH PARAMETERS-----', ''].join('\n')
}

async function freePort(): Promise<string> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return String(port)
}

async function tlsJoint(source: ByHand, target: ByHand): Promise<Joint> {
  const dir = join(folder, 'keys')
  await mkdir(dir, { recursive: true })
  await writeFile(join(dir, 'keys.psk'), `qemu:${randomBytes(32).toString('hex')}\n`)
  await writeFile(join(dir, 'dh-params.pem'), groupFile())
  for (const [{ qmp }, endpoint] of [
    [source, 'client'],
    [target, 'server'],
  ] as const) {
    await qmp.execute('object-del', { id: endpoint }).catch(() => {})
    await qmp.execute('object-add', { 'qom-type': 'tls-creds-psk', id: endpoint, dir, endpoint })
  }
  const [nbdPort, memoryPort] = [await freePort(), await freePort()]
  return {
    memory: `tcp:127.0.0.1:${memoryPort}`,
    nbdListen: { type: 'inet', data: { host: '127.0.0.1', port: nbdPort } },
    nbdConnect: { type: 'inet', host: '127.0.0.1', port: nbdPort },
    source: { 'tls-creds': 'client', 'tls-hostname': 'localhost' },
    target: { 'tls-creds': 'server' },
  }
}

const credentials = ({ 'tls-creds': name }: Record<string, Json>) => (name === undefined ? {} : { 'tls-creds': name })

async function byHand(source: ByHand, target: ByHand, joint: Joint): Promise<Measured> {
  const capabilities = [
    { capability: 'events', state: true },
    { capability: 'pause-before-switchover', state: true },
  ]
  const { qmp } = source
  await target.qmp.execute('migrate-set-capabilities', { capabilities: capabilities.slice(0, 1) })
  await target.qmp.execute('migrate-set-parameters', joint.target)
  await target.qmp.execute('nbd-server-start', { addr: joint.nbdListen, ...credentials(joint.target) })
  await target.qmp.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'disk0-format', name: 'd', writable: true })
  await target.qmp.execute('migrate-incoming', { uri: joint.memory })
  const begin = performance.now()
  await qmp.execute('migrate-set-capabilities', { capabilities })
  // As ours does it: an emulated guest of an older QEMU loses what it writes in a second pass.
  await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 2 ** 50, 'downtime-limit': 0, ...joint.source })
  const node = { driver: 'nbd', 'node-name': 'm', server: joint.nbdConnect, export: 'd', ...credentials(joint.source) }
  await qmp.execute('blockdev-add', node)
  await qmp.execute('blockdev-mirror', { 'job-id': 'm', device: 'disk0-format', target: 'm', sync: 'full' })
  await qmp.event('BLOCK_JOB_READY')
  await qmp.execute('migrate', { uri: joint.memory })
  await qmp.event('MIGRATION pre-switchover')
  await qmp.execute('block-job-cancel', { device: 'm' })
  await qmp.event('BLOCK_JOB_COMPLETED')
  await qmp.execute('blockdev-del', { 'node-name': 'm' })
  await target.qmp.execute('nbd-server-stop')
  await qmp.execute('migrate-continue', { state: 'pre-switchover' })
  await Promise.all([qmp.event('MIGRATION completed'), target.qmp.event('MIGRATION completed')])
  await target.qmp.execute('cont')
  const end = performance.now()
  await target.qmp.execute('migrate-set-parameters', { 'tls-creds': '' })
  return { totalMs: end - begin, downtimeMs: end - qmp.stoppedAt }
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const shown = (values: readonly number[]): string =>
  `median ${Math.round(median(values))} ms, ${Math.round(Math.min(...values))} to ${Math.round(Math.max(...values))}`

async function bench(runCount: number): Promise<boolean> {
  const measured = { ours: [] as Measured[], tls: [] as Measured[], open: [] as Measured[] }
  const children: ChildProcess[] = []
  const [left, right] = [await Host.start(join(folder, 'left')), await Host.start(join(folder, 'right'))]
  try {
    await left.call('define', ID, spec, command())
    await left.call('carryOut', 'start', ID, command())
    const truth = { argv: ['/bin/true'], timeoutMs: 5000 }
    await untilBooted(() =>
      left.call('exec', ID, truth).then(
        () => true,
        () => false,
      ),
    )
    const pid = readFileSync(join(left.folder, 'run', ID, 'qemu.pid'), 'utf8').trim()
    const argv = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
    // The same guest by hand: it boots on a copy of the disk as it is, and is moved on from process to process.
    const first = join(folder, 'hand0')
    await mkdir(join(first, 'volumes'), { recursive: true })
    await left.call('carryOut', 'pause', ID, command())
    for (const name of ['root.qcow2', 'seed.raw'])
      await copyFile(join(left.folder, 'volumes', `${ID}.${name}`), join(first, 'volumes', `${ID}.${name}`))
    await left.call('carryOut', 'unpause', ID, command())
    let source = await spawned(argv, left, first, false)
    children.push(source.process)
    await source.qmp.execute('cont')
    await sleep(20_000)
    let handCount = 0
    const handed = async (how: 'tls' | 'open'): Promise<Measured> => {
      handCount += 1
      const at = join(folder, `hand${handCount}`)
      await mkdir(join(at, 'volumes'), { recursive: true })
      await copyFile(join(first, 'volumes', `${ID}.seed.raw`), join(at, 'volumes', `${ID}.seed.raw`))
      const disk = join(at, 'volumes', `${ID}.root.qcow2`)
      await nodeCommandRunner().run(['qemu-img', 'create', '-q', '-f', 'qcow2', disk, String(gib(1))])
      const plain = argv.map((word) => word.replaceAll(/"backing":"[^"]*"/g, '"backing":null'))
      const target = await spawned(plain, left, at, true)
      children.push(target.process)
      const result = await byHand(source, target, how === 'tls' ? await tlsJoint(source, target) : openJoint(at))
      measured[how].push(result)
      source.qmp.close()
      source.process.kill('SIGKILL')
      source = target
      return result
    }
    const shownOf = ({ totalMs, downtimeMs }: Measured): string => `${Math.round(totalMs)} ms, ${Math.round(downtimeMs)} still`
    let [here, there] = [left, right]
    for (let run = 1; run <= runCount; run += 1) {
      const us = await byUs(here, there)
      measured.ours.push(us)
      ;[here, there] = [there, here]
      const [tls, open] = [await handed('tls'), await handed('open')]
      process.stdout.write(
        `run ${run}: ours ${shownOf(us)}; by hand with TLS ${shownOf(tls)}; by hand without ${shownOf(open)}\n`,
      )
    }
  } finally {
    for (const child of children) child.kill('SIGKILL')
    await left.end()
    await right.end()
    await rm(folder, { recursive: true, force: true })
  }
  let isOver = false
  const budget = (what: string, read: (one: Measured) => number, grantMs: number): void => {
    const [ours, tls, open] = [measured.ours.map(read), measured.tls.map(read), measured.open.map(read)]
    const limit = median(tls) * 1.1 + grantMs
    const ok = median(ours) <= limit
    isOver ||= !ok
    const ratio = (of: readonly number[]): string => `${(median(ours) / median(of)).toFixed(2)} x`
    process.stdout.write(
      `${ok ? 'ok  ' : 'OVER'} ${what}: ${shown(ours)} (budget ${Math.round(limit)} ms)\n` +
        `       by hand with TLS ${shown(tls)}: ${ratio(tls)}\n       by hand without ${shown(open)}: ${ratio(open)}\n`,
    )
  }
  budget('total', ({ totalMs }) => totalMs, 0)
  budget('downtime', ({ downtimeMs }) => downtimeMs, 20)
  return !isOver
}

if (process.argv[2] === HOST) await serve(process.argv[3] ?? '')
else process.exitCode = (await bench(Number(process.argv[2] ?? 7))) ? 0 : 1
