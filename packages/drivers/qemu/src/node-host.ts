/**
 * The driver's ports on Node: the only file of this package that imports `node:*`.
 *
 *   createNodeHost(runtime)     `runtime`: the process functions of @typevisor/runtime-node, given by whoever composes
 *
 * Failure paths: every error of the system becomes a Fault that says action, path and reason; ENOSPC is `exhausted`.
 */
import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { constants, openSync, readdirSync, readFileSync, readlinkSync, renameSync, watch, writeFileSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import * as net from 'node:net'
import { dirname } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { Fault, millis, type FaultCode } from '@typevisor/base'
import type {
  ByteSocket,
  HostFiles,
  HostProcesses,
  HostSockets,
  KernelFiles,
  ProcessIdentity,
  ProcessUser,
  QemuHost,
  RunResult,
  SequentialWriter,
  SocketListener,
} from './ports.ts'

/** Processes by pidfd, as `@typevisor/runtime-node` has them; given by whoever composes, so that drivers need no runtime. */
export interface RuntimeProcesses {
  bootId(): string
  spawnDetached(options: {
    readonly argv: readonly string[]
    readonly env: Readonly<Record<string, string>>
    readonly stderrFile: string
    readonly extraFds: readonly number[]
    readonly uid?: number
    readonly gid?: number
  }): Promise<ProcessIdentity>
  processIdentity(pid: number): ProcessIdentity | null
  waitForExit(identity: ProcessIdentity, options: { signal?: AbortSignal | undefined }): Promise<void>
  signalProcess(identity: ProcessIdentity, name: 'SIGTERM' | 'SIGKILL'): boolean
  /** null: it can be set; else why not. */
  whyNoAffinity(): string | null
  /** False: there is no such thread. */
  setThreadAffinity(tid: number, cpus: readonly number[]): boolean
  /** Of `content` what the unix socket takes now, with a copy of `descriptor`; 0: nothing of either. */
  sendDescriptor(socket: number, content: Uint8Array, descriptor: number): number
  /** False: it cannot be made by a call here. */
  makeNamedPipe(path: string): boolean
}

export function createNodeHost(runtime: RuntimeProcesses): QemuHost {
  return { processes: nodeProcesses(runtime), sockets: nodeSockets(runtime), files: nodeFiles(runtime), kernel: nodeKernelFiles }
}

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''

const FAULT_CODES: Readonly<Record<string, FaultCode>> = {
  ENOSPC: 'exhausted',
  EDQUOT: 'exhausted',
  EMFILE: 'exhausted',
  ENOENT: 'not_found',
  EACCES: 'forbidden',
  EPERM: 'forbidden',
  ECONNREFUSED: 'unavailable',
  EROFS: 'forbidden',
  EBUSY: 'busy',
  ENOTEMPTY: 'busy',
  EINVAL: 'invalid',
  ENODEV: 'not_found',
}

function systemFault(action: string, path: string, error: unknown): Fault {
  if (error instanceof Fault) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new Fault(FAULT_CODES[codeOf(error)] ?? 'failed', `${action} ${path}: ${reason}`, { cause: error })
}

async function guarded<T>(action: string, path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    throw systemFault(action, path, error)
  }
}

// Processes

const TICKS_PER_SECOND = 100 // USER_HZ of every Linux port that Node runs on
const PAGE_SIZE = 4096
const OUTPUT_SIZE_MAX = 65536

/** Fields of /proc/PID/stat after the name, which is in brackets and may hold anything: [0] state, [11] utime, [12] stime, [19] start, [21] rss. */
async function statFields(pid: number): Promise<string[] | null> {
  try {
    const text = await fs.readFile(`/proc/${pid}/stat`, 'latin1')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return null
  }
}

function commandLineOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

/** Whether a process has the file open for writing: proc_pid_fdinfo(5) has the flags of open(2), in octal. */
function writesTo(pid: string, path: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      if (readlinkSync(`/proc/${pid}/fd/${fd}`) !== path) return false
      const flags = /^flags:\s*([0-7]+)/m.exec(readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1'))?.[1] ?? '0'
      return (Number.parseInt(flags, 8) & (constants.O_WRONLY | constants.O_RDWR)) !== 0
    })
  } catch {
    // It has ended, or is somebody else's.
    return false
  }
}

/** Exact, but without the threads that have ended; the process's own count has those, in steps of 10 ms. The larger one is nearer. */
function liveThreadsNs(pid: number): number {
  let sum = 0
  try {
    for (const thread of readdirSync(`/proc/${pid}/task`))
      sum += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'latin1').split(' ')[0])
  } catch {
    return 0
  }
  return sum
}

function nodeProcesses(runtime: RuntimeProcesses): HostProcesses {
  // Without waiting in between: /proc answers from memory, and each turn of the event loop would cost more than the read.
  const liveProcesses = (isWanted: (pid: string) => boolean): ProcessIdentity[] =>
    readdirSync('/proc').flatMap((name) => {
      const found = /^\d+$/.test(name) && isWanted(name) ? runtime.processIdentity(Number(name)) : null
      return found ? [found] : []
    })
  return {
    bootId: async () => runtime.bootId(),
    identity: async (pid) => runtime.processIdentity(pid),
    waitExit: (wanted, options) => runtime.waitForExit(wanted, options),
    signal: async (wanted, name) => runtime.signalProcess(wanted, name),
    async spawnDetached({ command, argv, environment, stderrPath, user, inherit }) {
      const { pid, startTimeTicks, bootId } = await runtime.spawnDetached({
        argv: [command, ...argv],
        env: environment,
        stderrFile: stderrPath,
        extraFds: inherit,
        ...(user ? { uid: user.uid, gid: user.gid } : {}),
      })
      return { pid, startTimeTicks, bootId }
    },
    async findByArguments(sequence) {
      const wanted = `\0${sequence.join('\0')}\0`
      return liveProcesses((pid) => commandLineOf(pid).includes(wanted))
    },
    async findByWriting(path) {
      const real = await fs.realpath(path).catch(() => null)
      return real === null ? [] : liveProcesses((pid) => Number(pid) !== process.pid && writesTo(pid, real))
    },
    async usage(wanted) {
      const fields = await statFields(wanted.pid)
      if (!fields || Number(fields[19]) !== wanted.startTimeTicks) return null
      const cpuTicks = Number(fields[11]) + Number(fields[12])
      const cpuTimeNs = Math.max(cpuTicks * (1e9 / TICKS_PER_SECOND), liveThreadsNs(wanted.pid))
      return { cpuTimeNs, residentBytes: Number(fields[21]) * PAGE_SIZE }
    },
    threadUsage({ pid }, tid) {
      try {
        const [cpuTimeNs, waitTimeNs] = readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'latin1').split(' ').map(Number)
        return { cpuTimeNs: cpuTimeNs ?? 0, waitTimeNs: waitTimeNs ?? 0 }
      } catch {
        return null
      }
    },
    whyNoAffinity: () => runtime.whyNoAffinity(),
    setThreadAffinity: (tid, cpus) => void runtime.setThreadAffinity(tid, cpus),
    run: runToEnd,
  }
}

async function runToEnd(
  command: string,
  argv: readonly string[],
  options: Parameters<HostProcesses['run']>[2],
): Promise<RunResult> {
  const limit = AbortSignal.timeout(options.limit)
  const signal = options.signal ? AbortSignal.any([limit, options.signal]) : limit
  const child = spawn(command, argv, {
    stdio: ['ignore', 'pipe', 'pipe'],
    signal,
    killSignal: 'SIGKILL',
    env: { PATH: process.env['PATH'] },
  })
  const output = { stdout: '', stderr: '' }
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('latin1').on('data', (text: string) => {
      if (output[name].length < OUTPUT_SIZE_MAX) output[name] += text
    })
  }
  return await new Promise((resolve, reject) => {
    let failure: Error | null = null
    child.once('error', (error) => {
      failure = error
      if (child.pid === undefined) reject(systemFault('start', command, error))
    })
    child.once('close', (exitCode) => {
      if (failure && options.signal?.aborted) reject(options.signal.reason)
      else resolve({ exitCode, ...output })
    })
  })
}

// Sockets

const WRITE_BUFFER_SIZE_MAX = 4 * 1024 * 1024
const FULL_SOCKET_POLL_MS = 2

/** Node has it and says so nowhere; null: the socket is closed. */
function descriptorOf(socket: net.Socket): number | null {
  const { _handle: handle } = socket as { _handle?: { readonly fd?: number } | null }
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : null
}

async function* chunksOf(socket: net.Socket): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for await (const chunk of socket) yield chunk as Uint8Array
  } catch {
    // The port says so: whatever ends the stream just ends it.
  }
}

function byteSocket(socket: net.Socket, runtime: Pick<RuntimeProcesses, 'sendDescriptor'>): ByteSocket {
  socket.on('error', () => {})
  const ended = new Promise<never>((_, reject) =>
    socket.once('close', () => reject(new Fault('unavailable', 'the other side has closed the connection'))),
  )
  ended.catch(() => {})
  return {
    readable: chunksOf(socket),
    async write(content) {
      if (socket.destroyed || !socket.writable) throw new Fault('unavailable', 'the other side has closed the connection')
      if (socket.writableLength > WRITE_BUFFER_SIZE_MAX)
        throw new Fault('busy', `${socket.writableLength} bytes wait to be taken by the other side`)
      if (socket.write(content)) return
      const drained = Promise.withResolvers<void>()
      socket.once('drain', drained.resolve)
      try {
        await Promise.race([drained.promise, ended])
      } finally {
        socket.off('drain', drained.resolve)
      }
    },
    async writeWith(content, descriptor) {
      while (true) {
        const own = descriptorOf(socket)
        if (own === null) throw new Fault('unavailable', 'the other side has closed the connection')
        const sent = socket.writableLength > 0 ? 0 : runtime.sendDescriptor(own, content, descriptor)
        if (sent === 0) await sleep(FULL_SOCKET_POLL_MS)
        else return sent < content.length ? void socket.write(content.subarray(sent)) : undefined
      }
    },
    async end() {
      if (socket.destroyed || !socket.writable) return
      const ended = Promise.withResolvers<void>()
      socket.once('close', ended.resolve)
      socket.end(ended.resolve)
      await ended.promise
    },
    close: () => void socket.destroy(),
  }
}

const nodeSockets = (runtime: Pick<RuntimeProcesses, 'sendDescriptor'>): HostSockets => ({
  connect: (path) =>
    new Promise((resolve, reject) => {
      const socket = net.connect({ path })
      socket.once('connect', () => {
        socket.off('error', reject)
        resolve(byteSocket(socket, runtime))
      })
      socket.once('error', (error) => reject(new Fault('unavailable', `connect to ${path}: ${error.message}`, { cause: error })))
    }),
  async listen(path, { user }): Promise<SocketListener> {
    await fs.rm(path, { force: true })
    const waiting: net.Socket[] = []
    let wake: (() => void) | null = null
    const server = net.createServer({ pauseOnConnect: true }, (socket) => {
      waiting.push(socket)
      wake?.()
    })
    await guarded(
      'listen on',
      path,
      () => new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve)),
    )
    await guarded('hand over', path, async () => {
      await fs.chmod(path, 0o600)
      if (user) await fs.chown(path, user.uid, user.gid)
    })
    return {
      async accept({ signal }) {
        while (true) {
          signal.throwIfAborted()
          const socket = waiting.shift()
          if (socket) return byteSocket(socket, runtime)
          await new Promise<void>((resolve) => {
            wake = resolve
            signal.addEventListener('abort', () => resolve(), { once: true })
          })
        }
      },
      async close() {
        for (const socket of waiting) socket.destroy()
        server.close()
        await fs.rm(path, { force: true })
      },
    }
  },
})

// Files

async function syncFolder(path: string): Promise<void> {
  const folder = await fs.open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

async function createWriter(path: string): Promise<SequentialWriter> {
  const file = await guarded('create', path, () => fs.open(path, 'w', 0o600))
  let end = 0
  const put = async (content: Uint8Array, offset: number): Promise<void> => {
    let written = 0
    while (written < content.length)
      written += (await file.write(content, written, content.length - written, offset + written)).bytesWritten
  }
  return {
    append: (content) =>
      guarded('write', path, async () => {
        await put(content, end)
        end += content.length
      }),
    writeAt: (offset, content) => guarded('write', path, () => put(content, offset)),
    sync: () => guarded('sync', path, () => file.sync()),
    close: () => guarded('close', path, () => file.close()),
  }
}

let replaceCount = 0

const nodeFiles = (runtime: RuntimeProcesses): HostFiles => ({
  async read(path, offset, sizeMax) {
    let file: fs.FileHandle
    try {
      file = await fs.open(path, 'r')
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null
      throw systemFault('read', path, error)
    }
    return await guarded('read', path, async () => {
      try {
        const buffer = new Uint8Array(Math.min(sizeMax, Math.max(0, (await file.stat()).size - offset)))
        let size = 0
        while (size < buffer.length) {
          const { bytesRead } = await file.read(buffer, size, buffer.length - size, offset + size)
          if (bytesRead === 0) break
          size += bytesRead
        }
        return buffer.subarray(0, size)
      } finally {
        await file.close()
      }
    })
  },
  async size(path) {
    try {
      return (await fs.stat(path)).size
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null
      throw systemFault('look at', path, error)
    }
  },
  replace: (path, content, { sync }) =>
    guarded('write', path, async () => {
      replaceCount += 1
      const next = `${path}.${process.pid}.${replaceCount}.new`
      try {
        // Four trips to a thread and back cost more than a small file that no disk is waited for.
        if (!sync && content.length < 65536) {
          writeFileSync(next, content, { mode: 0o600 })
          return renameSync(next, path)
        }
        await fs.writeFile(next, content, { mode: 0o600, flush: sync })
        await fs.rename(next, path)
      } catch (error) {
        await fs.rm(next, { force: true })
        throw error
      }
      if (sync) await syncFolder(dirname(path))
    }),
  ensureFile: (path, { user }) =>
    guarded('create', path, async () => {
      const file = await fs.open(path, 'a', 0o600)
      try {
        if (user) await file.chown(user.uid, user.gid)
      } finally {
        await file.close()
      }
    }),
  ensureFolder: (path, { user }) =>
    guarded('create', path, async () => {
      await fs.mkdir(path, { recursive: true, mode: 0o700 })
      if (user) await fs.chown(path, user.uid, user.gid)
    }),
  remove: (path) => guarded('remove', path, () => fs.rm(path, { recursive: true, force: true })),
  rename: (from, to) =>
    guarded('rename', from, async () => {
      await fs.rename(from, to)
      await syncFolder(dirname(to))
    }),
  async punchHole(path, offset, length) {
    const argv = ['--punch-hole', '--keep-size', '--offset', String(offset), '--length', String(length), path]
    const result = await runToEnd('fallocate', argv, { limit: millis(10_000) }).catch(() => null)
    return result?.exitCode === 0
  },
  create: createWriter,
  async *stream(path, offset) {
    const file = await guarded('read', path, () => fs.open(path, 'r'))
    try {
      for await (const chunk of file.createReadStream({ start: offset, highWaterMark: 1024 * 1024, autoClose: false }))
        yield chunk as Uint8Array
    } catch (error) {
      throw systemFault('read', path, error)
    } finally {
      await file.close()
    }
  },
  digest() {
    const hash = createHash('sha256')
    return { update: (content) => void hash.update(content), hex: () => hash.digest('hex') }
  },
  list: (path) =>
    guarded('list', path, () =>
      fs.readdir(path).catch((error: unknown) => {
        if (codeOf(error) === 'ENOENT') return []
        throw error
      }),
    ),
  makeLink: (path, target) =>
    guarded('make', path, async () => {
      await fs.rm(path, { force: true })
      await fs.symlink(target, path)
    }),
  makePipe: (path, { user }) =>
    guarded('make', path, async () => {
      await fs.rm(path, { force: true })
      if (!runtime.makeNamedPipe(path)) {
        const { exitCode, stderr } = await runToEnd('mkfifo', ['-m', '600', '--', path], { limit: millis(10_000) })
        if (exitCode !== 0) throw new Error(stderr.trim() || `mkfifo ended with ${exitCode}`)
      }
      if (user) await fs.chown(path, user.uid, user.gid)
    }),
  async openPipe(path) {
    let file: fs.FileHandle
    try {
      file = await fs.open(path, constants.O_WRONLY | constants.O_NONBLOCK)
    } catch (error) {
      throw new Fault('unavailable', `open ${path}: nobody reads it`, { cause: error })
    }
    return {
      async write(content) {
        try {
          return (await file.write(content)).bytesWritten
        } catch (error) {
          if (codeOf(error) === 'EAGAIN') return 0
          throw new Fault('unavailable', `write to ${path}: nobody reads it`, { cause: error })
        }
      },
      close: () => file.close(),
    }
  },
  async openPipeReader(path) {
    // Whoever has it open for both keeps it from ending before somebody has begun to write.
    const keeper = await guarded('open', path, () => fs.open(path, constants.O_RDWR | constants.O_NONBLOCK))
    let isKept = true
    const begun = (): void => {
      if (isKept) void keeper.close()
      isKept = false
    }
    try {
      const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
      const socket = new net.Socket({ fd, readable: true, writable: false })
      socket.on('error', () => {})
      return {
        readable: chunksOf(socket),
        begun,
        async close() {
          begun()
          socket.destroy()
        },
      }
    } catch (error) {
      begun()
      throw systemFault('open', path, error)
    }
  },
  watch(path, changed) {
    try {
      const watcher = watch(path, { persistent: false }, changed)
      watcher.on('error', () => watcher.close())
      return watcher
    } catch {
      return null
    }
  },
  async openDescriptor(path, mode) {
    const flags = {
      read: constants.O_RDONLY,
      write: constants.O_RDWR,
      both: constants.O_RDWR,
      append: constants.O_WRONLY | constants.O_APPEND,
    }[mode]
    const file = await guarded('open', path, () => fs.open(path, flags))
    return { fd: file.fd, close: () => file.close() }
  },
  whyUnreachable,
})

export const nodeKernelFiles: KernelFiles = {
  async read(path) {
    try {
      return await fs.readFile(path, 'utf8')
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return null
      throw systemFault('read', path, error)
    }
  },
  async write(path, text) {
    try {
      await fs.writeFile(path, text, { flag: 'r+' })
    } catch (error) {
      // A thread or a process that has ended.
      if (codeOf(error) !== 'ESRCH') throw systemFault('write', path, error)
    }
  },
  async whyNotWritable(path) {
    try {
      await fs.access(path, constants.W_OK)
      return null
    } catch (error) {
      return codeOf(error) || String(error)
    }
  },
  isFolder: (path) =>
    fs.stat(path).then(
      (stat) => stat.isDirectory(),
      () => false,
    ),
  async makeFolder(path) {
    try {
      await fs.mkdir(path)
      return true
    } catch (error) {
      if (codeOf(error) === 'EEXIST') return false
      throw systemFault('create', path, error)
    }
  },
  async removeFolder(path) {
    try {
      await fs.rmdir(path)
    } catch (error) {
      if (codeOf(error) !== 'ENOENT') throw systemFault('remove', path, error)
    }
  },
  async list(path) {
    try {
      return (await fs.readdir(path, { withFileTypes: true })).filter((entry) => entry.isDirectory()).map(({ name }) => name)
    } catch (error) {
      if (codeOf(error) === 'ENOENT') return []
      throw systemFault('list', path, error)
    }
  },
}

/** Reads modes only; access lists and security modules are not asked, and a wrong "yes" shows as QEMU's own error. */
async function whyUnreachable(path: string, user: ProcessUser, mode: 'read' | 'write' | 'read-open'): Promise<string | null> {
  if (user.uid === 0) return null
  const parts = path.split('/').filter((part) => part !== '')
  for (let depth = mode === 'read-open' ? parts.length : 0; depth <= parts.length; depth += 1) {
    const at = `/${parts.slice(0, depth).join('/')}`
    const isLast = depth === parts.length
    let stat
    try {
      stat = await fs.stat(at)
    } catch (error) {
      return `${at}: ${error instanceof Error ? error.message : String(error)}`
    }
    const wanted = !isLast || stat.isDirectory() ? 0o1 : mode === 'write' ? 0o6 : 0o4
    const shift = stat.uid === user.uid ? 6 : stat.gid === user.gid ? 3 : 0
    if (((stat.mode >> shift) & wanted) !== wanted) {
      const octal = (stat.mode & 0o7777).toString(8).padStart(4, '0')
      return `${stat.isDirectory() ? 'folder' : 'file'} ${at} has mode ${octal} and owner ${stat.uid}:${stat.gid}, which bars user ${user.uid}:${user.gid}`
    }
  }
  return null
}
