/**
 * Processes that outlive us: guests, volume servers, the database. They are started detached, found again after our own death, and
 * told apart from a stranger that got the same number.
 *
 *   spawnDetached --> { pid, startTimeTicks, bootId } --kept in a record--> processAlive(identity), signalProcess, waitForExit
 *
 * A pid alone names nobody: numbers are used again. Pid, start time and boot together name one process for ever.
 */
import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { Fault } from '@typevisor/base'
import { faultOf } from './errno.ts'

export interface ProcessIdentity {
  readonly pid: number
  /** When it started, in clock ticks since boot: `/proc/PID/stat` field 22 (proc_pid_stat(5)). */
  readonly startTimeTicks: number
  /** `/proc/sys/kernel/random/boot_id` */
  readonly bootId: string
}

export interface SpawnDetachedOptions {
  /** The program and its arguments; never read by a shell. Found through PATH when it has no slash. */
  readonly argv: readonly string[]
  /** The whole environment; nothing of ours is passed on by itself. */
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  /** Appended to; made (0600) when missing. Without it what the process says is dropped. */
  readonly stderrFile?: string
  /** Default: the same place as standard error. */
  readonly stdoutFile?: string
  /** Our descriptor that becomes its standard input; default: /dev/null. */
  readonly stdinFd?: number
  /** Our descriptors that become its 3, 4, ... */
  readonly extraFds?: readonly number[]
  readonly uid?: number
  readonly gid?: number
  /** From -1000 (never killed for want of memory) to 1000; below 0 needs privilege. */
  readonly oomScore?: number
}

export interface DetachedProcess extends ProcessIdentity {
  /** Resolves when it ends, as long as this process lives; does not keep this process alive. */
  readonly exited: Promise<ProcessExit>
}

export type ProcessExit = { readonly kind: 'exit'; readonly code: number } | { readonly kind: 'signal'; readonly signal: string }

/**
 * Starts a process in a session of its own: it gets no signal of our terminal, holds no pipe of ours and goes on when we are killed.
 * @throws Fault `not_found` or `forbidden` when the program cannot be started.
 */
export async function spawnDetached(options: SpawnDetachedOptions): Promise<DetachedProcess> {
  const { argv, env = {}, cwd = '/', stderrFile, stdoutFile, stdinFd, extraFds = [], uid, gid, oomScore } = options
  const [program, ...args] = argv
  if (program === undefined) throw new Fault('invalid', 'start a process: argv is empty')
  const opened: number[] = []
  const openLog = (file: string | undefined): number | 'ignore' => {
    if (file === undefined) return 'ignore'
    try {
      const fd = openSync(file, 'a', 0o600)
      opened.push(fd)
      return fd
    } catch (error) {
      throw faultOf(`open ${file} for ${program}`, error)
    }
  }
  try {
    const stderr = openLog(stderrFile)
    const stdout = stdoutFile === undefined ? stderr : openLog(stdoutFile)
    const child = spawn(program, args, {
      detached: true,
      shell: false,
      cwd,
      env: { ...env },
      stdio: [stdinFd ?? 'ignore', stdout, stderr, ...extraFds],
      ...(uid === undefined ? {} : { uid }),
      ...(gid === undefined ? {} : { gid }),
    })
    child.unref()
    const exited = new Promise<ProcessExit>((resolve) => {
      child.once('exit', (code, signal) =>
        resolve(signal === null ? { kind: 'exit', code: code ?? 0 } : { kind: 'signal', signal }),
      )
    })
    // Before the next turn of the event loop nobody has collected the child: even when it is dead, its number is still its own.
    const identity = child.pid === undefined ? null : readIdentity(child.pid)
    const failed = await new Promise<Error | null>((resolve) => {
      child.once('spawn', () => resolve(null))
      child.once('error', resolve)
    })
    if (failed) throw faultOf(`start ${program}`, failed)
    if (!identity) throw new Fault('failed', `start ${program}: it left no trace in /proc`)
    if (oomScore !== undefined) setOomScore(identity.pid, oomScore)
    return { ...identity, exited }
  } catch (error) {
    throw faultOf(`start ${program}`, error)
  } finally {
    for (const fd of opened) closeSync(fd)
  }
}

function setOomScore(pid: number, score: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, String(score))
  } catch {
    // Without the privilege, or when it ended already: the process is as good without.
  }
}

let bootIdRead: string | undefined

export function bootId(): string {
  bootIdRead ??= readFileSync('/proc/sys/kernel/random/boot_id', 'ascii').trim()
  return bootIdRead
}

/** Who has this number now; null when nobody has. A dead process that its parent has not collected is nobody. */
export function processIdentity(pid: number): ProcessIdentity | null {
  const stat = readStat(pid)
  return stat && stat.state !== 'Z' && stat.state !== 'X' ? { pid, startTimeTicks: stat.startTimeTicks, bootId: bootId() } : null
}

/** Whether the very process still runs. */
export function processAlive(identity: ProcessIdentity): boolean {
  const now = processIdentity(identity.pid)
  return now !== null && sameProcess(now, identity)
}

/**
 * How often a process has done something: the processor time of all its threads, in clock ticks, and how often its first one gave way or was
 * made to. It stands still when the process is stopped, or waits for something that does not come. null: it is not there any more.
 */
export function processActivity(identity: ProcessIdentity): number | null {
  if (!processAlive(identity)) return null
  try {
    const stat = readFileSync(`/proc/${identity.pid}/stat`, 'latin1')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const status = readFileSync(`/proc/${identity.pid}/status`, 'latin1')
    const switches = [...status.matchAll(/^(?:non)?voluntary_ctxt_switches:\s+(\d+)$/gm)]
    return [fields[11], fields[12], ...switches.map(([, count]) => count)].reduce((sum, count) => sum + Number(count), 0)
  } catch {
    return null
  }
}

/** What a process was started with; null when it is not there any more. */
export function processWords(identity: ProcessIdentity): readonly string[] | null {
  if (!processAlive(identity)) return null
  try {
    return readFileSync(`/proc/${identity.pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
  } catch {
    return null
  }
}

export const sameProcess = (a: ProcessIdentity, b: ProcessIdentity): boolean =>
  a.pid === b.pid && a.startTimeTicks === b.startTimeTicks && a.bootId === b.bootId

function readIdentity(pid: number): ProcessIdentity | null {
  const stat = readStat(pid)
  return stat && { pid, startTimeTicks: stat.startTimeTicks, bootId: bootId() }
}

function readStat(pid: number): { state: string; startTimeTicks: number } | null {
  if (!Number.isSafeInteger(pid) || pid <= 0) return null
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch {
    return null
  }
  return parseStat(stat)
}

/** The name of the program is in brackets and may hold anything, brackets and blanks too: fields are counted from the last one. */
export function parseStat(stat: string): { state: string; startTimeTicks: number } | null {
  const rest = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const [state, startTimeTicks] = [rest[0], Number(rest[19])]
  return state && Number.isSafeInteger(startTimeTicks) ? { state, startTimeTicks } : null
}
