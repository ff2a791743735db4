/** The edge: real processes, by argument vectors only. */
import { spawn } from 'node:child_process'
import { Fault } from '@typevisor/base'
import type { CommandOptions, CommandResult, CommandRunner } from './ports.ts'

const STDERR_BYTES_MAX = 64 * 1024
const STDOUT_BYTES_MAX = 64 * 1024 * 1024
const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Debian packages that hold the programs which Typevisor runs, for the message when one is missing. */
const PACKAGE_OF: Readonly<Record<string, string>> = {
  'qemu-img': 'qemu-utils',
  'qemu-nbd': 'qemu-utils',
  setpriv: 'util-linux',
  mke2fs: 'e2fsprogs',
  debugfs: 'e2fsprogs',
  'dpkg-deb': 'dpkg',
  'apt-get': 'apt',
  'apt-cache': 'apt',
}

export const nodeCommandRunner = (): CommandRunner => ({ run: runCommand })

async function runCommand(argv: readonly [string, ...string[]], options: CommandOptions = {}): Promise<CommandResult> {
  options.signal?.throwIfAborted()
  const [program, ...rest] = argv
  const child = spawn(program, rest, {
    cwd: options.folder,
    env: { PATH: SEARCH_PATH, LC_ALL: 'C', HOME: process.env['HOME'] ?? '/', ...proxies(), ...options.env },
    stdio: ['pipe', 'pipe', 'pipe'],
    ...(options.signal ? { signal: options.signal, killSignal: 'SIGKILL' as const } : {}),
  })
  const stdout: Buffer[] = []
  let stdoutBytes = 0
  let stderr = ''
  child.stdout.on('data', (part: Buffer) => {
    stdoutBytes += part.byteLength
    options.onStdout?.(part.toString())
    if (stdoutBytes <= STDOUT_BYTES_MAX) stdout.push(part)
  })
  child.stderr.setEncoding('utf8').on('data', (part: string) => {
    stderr = (stderr + part).slice(-STDERR_BYTES_MAX) // the last words say why
  })
  child.stdin.on('error', () => {}) // a program that reads no input closes it; its exit code is what counts
  child.stdin.end(options.stdin)
  const { promise, resolve, reject } = Promise.withResolvers<number | null>()
  child.on('error', reject)
  child.on('close', resolve)
  let exitCode: number | null
  try {
    exitCode = await promise
  } catch (error) {
    if (options.signal?.aborted) {
      await new Promise<void>((done) =>
        child.exitCode !== null || child.signalCode !== null ? done() : child.once('close', () => done()),
      )
      throw options.signal.reason
    }
    const code = (error as NodeJS.ErrnoException).code // spawn rejects with an errno
    const hint =
      code === 'ENOENT' && PACKAGE_OF[program] !== undefined ? `; install the Debian package ${PACKAGE_OF[program]}` : ''
    throw new Fault('failed', `run ${program}: ${code ?? (error as Error).message}${hint}`, { cause: error })
  }
  if (stdoutBytes > STDOUT_BYTES_MAX)
    throw new Fault('failed', `run ${program}: ${stdoutBytes} bytes of output, want at most ${STDOUT_BYTES_MAX}`)
  return { exitCode, stdout: Buffer.concat(stdout), stderr }
}

/** apt needs the machine's way to the network. */
function proxies(): Record<string, string> {
  const found: Record<string, string> = {}
  for (const name of ['http_proxy', 'https_proxy', 'no_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY']) {
    const value = process.env[name]
    if (value !== undefined) found[name] = value
  }
  return found
}
