/** Doubles and a bare guest for tests: an image store in memory, and one QEMU process without the platform around it. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { bytes, epochMillis, Fault, mib } from '@typevisor/base'
import { parseImageName, type ImageName } from '@typevisor/model'
import type { Image, ImageStore } from './ports.ts'

/** The sim of the image port: `micro` can be built, in no time. */
export function memoryImageStore(built: readonly string[] = ['micro']): ImageStore {
  const images = new Map<ImageName, Image>(built.map((name) => [parseImageName(name), simImage(parseImageName(name))]))
  return {
    list: async () => [...images.values()],
    get: async (name) => images.get(parseImageName(name)) ?? null,
    async build(name, { signal, progress } = {}) {
      if (parseImageName(name) !== 'micro') throw new Fault('not_found', `build image ${name}: no such recipe, want micro`)
      signal?.throwIfAborted()
      progress?.(1, 'built')
      images.set(name, simImage(name))
      return simImage(name)
    },
    async remove(name) {
      images.delete(parseImageName(name))
    },
  }
}

const simImage = (name: ImageName): Image => ({
  name,
  title: `Simulated ${name}`,
  digest: `sha256:${'0'.repeat(64)}`,
  builtAt: epochMillis(0),
  boot: {
    kind: 'kernel',
    kernelPath: `/sim/images/${name}/kernel`,
    initrdPath: `/sim/images/${name}/initrd`,
    commandLine: 'console=ttyS0',
  },
  rootDisk: { path: `/sim/images/${name}/root.qcow2`, format: 'qcow2', virtualBytes: mib(256), fileBytes: bytes(0) },
  minimum: { memoryBytes: mib(128), diskBytes: mib(256) },
  defaultUser: 'root',
  contents: { kernel: 'sim' },
})

export { buildToolGuest, type ToolGuest, type ToolGuestOptions } from './testing/tool-guest.ts'

export interface BareGuest extends AsyncDisposable {
  /** Milliseconds from the start of QEMU to `typevisor: ready`. */
  readonly readyMs: number
  readonly folder: string
  /** Everything on the serial console so far. */
  console(): string
  /** Types a line on the serial console and answers what comes until `pattern`. */
  type(line: string, pattern: RegExp): Promise<string>
  /** Runs a program by the guest agent. */
  exec(...argv: [string, ...string[]]): Promise<{ exitCode: number; stdout: string }>
  agent(command: string, argument?: object): Promise<unknown>
  monitor(command: string): Promise<void>
  /** Resolves with QEMU's exit code when it ends by itself. */
  exited(timeoutMs: number): Promise<number | null>
}

export interface BareGuestOptions {
  readonly image: Image
  readonly diskPath: string
  readonly seedPath?: string
  readonly memoryMib?: number
  readonly vcpuCount?: number
  /** Host port that reaches the guest's port 22. */
  readonly sshPort?: number
  readonly extra?: readonly string[]
}

export const missingQemu = (): string | false =>
  spawnSync('qemu-system-x86_64', ['--version']).status === 0 ? false : 'qemu-system-x86_64 is missing: install qemu-system-x86'

/** Boots a guest by TCG with the devices that the qemu driver gives it; resolves at `typevisor: ready`. @throws when that takes over 60 s. */
export async function bootBareGuest(options: BareGuestOptions): Promise<BareGuest> {
  const { image } = options
  assert.ok(image.boot.kind === 'kernel' && image.boot.initrdPath !== null)
  const folder = await mkdtemp(join(tmpdir(), 'typevisor-guest-'))
  const startedAt = performance.now()
  const child = spawn('qemu-system-x86_64', argumentsFor(options, folder, image.boot), { stdio: ['pipe', 'pipe', 'pipe'] })
  let output = ''
  let complaints = ''
  const watchers = new Set<() => void>()
  const wake = (): void => watchers.forEach((watcher) => watcher())
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    output += part
    wake()
  })
  child.stderr.setEncoding('utf8').on('data', (part: string) => (complaints += part))
  child.on('exit', wake)
  child.on('error', wake)
  const ended = (): boolean => child.exitCode !== null || child.signalCode !== null || child.pid === undefined
  const until = async (ready: () => boolean, timeoutMs: number, what: string): Promise<void> => {
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const look = (): void => void (ready() ? resolve(true) : ended() && resolve(false))
    watchers.add(look)
    const timer = setTimeout(() => resolve(false), timeoutMs)
    look()
    const there = await promise
    clearTimeout(timer)
    watchers.delete(look)
    if (!there)
      throw new Error(`${what}: not seen in ${timeoutMs} ms; QEMU: ${complaints.slice(-500)}; console: ${output.slice(-1500)}`)
  }
  const dispose = async (): Promise<void> => {
    if (!ended()) {
      child.kill('SIGKILL')
      await new Promise((done) => child.once('exit', done))
    }
    await rm(folder, { recursive: true, force: true })
  }
  const agent = agentOf(join(folder, 'agent.sock'))
  try {
    await until(() => output.includes('typevisor: ready'), 60_000, 'typevisor: ready')
  } catch (error) {
    await dispose()
    throw error
  }
  return {
    readyMs: performance.now() - startedAt,
    folder,
    console: () => output,
    agent,
    async type(line, pattern) {
      // What is typed before the shell has its terminal is thrown away by it.
      await until(() => output.includes('# '), 30_000, 'a prompt')
      const from = output.length
      child.stdin.write(`${line}\n`)
      await until(() => pattern.test(output.slice(from)), 30_000, `answer to ${line}`)
      return output.slice(from)
    },
    exec: (...argv) => execBy(agent, argv),
    async monitor(command) {
      await exchange(join(folder, 'monitor.sock'), [{ execute: 'qmp_capabilities' }, { execute: command }])
    },
    async exited(timeoutMs) {
      await until(ended, timeoutMs, 'end of QEMU')
      return child.exitCode
    },
    [Symbol.asyncDispose]: dispose,
  }
}

/** Commas in paths are doubled: the one escape of QEMU's option syntax. */
const escaped = (path: string): string => path.replaceAll(',', ',,')

function argumentsFor(
  options: BareGuestOptions,
  folder: string,
  boot: { kernelPath: string; initrdPath: string | null; commandLine: string },
): string[] {
  const forward = options.sshPort === undefined ? '' : `,hostfwd=tcp:127.0.0.1:${options.sshPort}-:22`
  const drive = (id: string, path: string, format: string, more = ''): string =>
    `if=none,id=${id},format=${format},file=${escaped(path)}${more}`
  return [
    ...[
      '-M',
      'pc-q35-7.2',
      '-accel',
      'tcg',
      '-cpu',
      'Nehalem-v1',
      '-m',
      String(options.memoryMib ?? 256),
      '-smp',
      String(options.vcpuCount ?? 1),
    ],
    ...[
      '-nodefaults',
      '-display',
      'none',
      '-no-reboot',
      '-serial',
      'stdio',
      '-qmp',
      `unix:${escaped(join(folder, 'monitor.sock'))},server=on,wait=off`,
    ],
    ...['-kernel', boot.kernelPath, '-initrd', boot.initrdPath ?? '', '-append', boot.commandLine],
    ...['-drive', drive('root', options.diskPath, 'qcow2'), '-device', 'virtio-blk-pci,drive=root,addr=4.0'],
    ...(options.seedPath === undefined
      ? []
      : ['-drive', drive('seed', options.seedPath, 'raw', ',readonly=on'), '-device', 'virtio-blk-pci,drive=seed,addr=5.0']),
    ...['-netdev', `user,id=net${forward}`, '-device', 'virtio-net-pci,netdev=net,addr=6.0,romfile='],
    ...[
      '-device',
      'virtio-serial-pci,addr=7.0',
      '-chardev',
      `socket,id=agent,server=on,wait=off,path=${escaped(join(folder, 'agent.sock'))}`,
    ],
    ...[
      '-device',
      'virtserialport,chardev=agent,name=org.qemu.guest_agent.0',
      '-device',
      'virtio-rng-pci,addr=8.0',
      '-device',
      'virtio-balloon-pci,addr=9.0',
      '-device',
      'pvpanic',
    ],
    ...(options.extra ?? []),
  ]
}

type Agent = (command: string, argument?: object) => Promise<unknown>

function agentOf(path: string): Agent {
  return async (command, argument) => {
    const request = { execute: command, ...(argument === undefined ? {} : { arguments: argument }) }
    const [answer] = await exchange(path, [request])
    const { return: value, error } = answer as { return?: unknown; error?: unknown }
    if (error !== undefined) throw new Error(`${command}: ${JSON.stringify(error)}`)
    return value
  }
}

async function execBy(
  agent: Agent,
  [path, ...rest]: readonly [string, ...string[]],
): Promise<{ exitCode: number; stdout: string }> {
  const { pid } = (await agent('guest-exec', { path, arg: rest, 'capture-output': true })) as { pid: number }
  for (let tries = 0; tries < 200; tries += 1) {
    const status = (await agent('guest-exec-status', { pid })) as { exited: boolean; exitcode?: number; 'out-data'?: string }
    if (status.exited)
      return { exitCode: status.exitcode ?? -1, stdout: Buffer.from(status['out-data'] ?? '', 'base64').toString() }
    await new Promise((done) => setTimeout(done, 50))
  }
  throw new Error(`${path}: not ended in 10 s`)
}

/** Sends JSON lines, and reads as many answers (greetings and events are skipped). */
async function exchange(path: string, requests: readonly object[]): Promise<unknown[]> {
  const socket = connect(path)
  socket.setTimeout(20_000, () => socket.destroy(new Error(`${path}: no answer in 20 s`)))
  try {
    const answers: unknown[] = []
    socket.write(requests.map((request) => `${JSON.stringify(request)}\n`).join(''))
    for await (const line of createInterface({ input: socket })) {
      const message = JSON.parse(line) as Record<string, unknown>
      if (!('return' in message || 'error' in message)) continue
      answers.push(message)
      if (answers.length === requests.length) break
    }
    return answers
  } finally {
    socket.destroy()
  }
}
export { foreignGuest, type ForeignArchitecture } from './node-foreign-guest.ts'
