/**
 * Signals and exits of processes that are not our children, without races: a pidfd stays with its process when the number goes on to
 * another (pidfd_open(2), Linux 5.3). One thread waits for all processes at once.
 *
 *   waitForExit --> [ watched pidfds + eventfd ] --poll, at most 1 s--> those that ended
 *                         ^ the eventfd tells the waiting thread that there is one more
 *
 * Where pidfds are missing, /proc is asked every 100 ms.
 */
import { closeSync, readSync, writeSync } from 'node:fs'
import { constants } from 'node:os'
import { setTimeout as sleepFor } from 'node:timers/promises'
import { Fault } from '@typevisor/base'
import { libc, POLLIN, type Libc } from './libc.ts'
import { processAlive, type ProcessIdentity } from './process.ts'

export type SignalName = keyof typeof constants.signals

/** How long the waiting thread may hold up the end of this process. */
const POLL_MS_MAX = 1000
const PROC_POLL_MS = 100
const ESRCH = constants.errno.ESRCH

/** Signals the very process. Answers false when it is gone. @throws Fault `forbidden` when we may not. */
export function signalProcess(identity: ProcessIdentity, signal: SignalName): boolean {
  const pidfd = openPidfd(identity)
  if (pidfd === 'gone') return false
  if (pidfd === 'unsupported') return signalByNumber(identity, signal)
  try {
    const result = pidfd.libc.pidfdSendSignal(pidfd.fd, constants.signals[signal])
    if (result === 0) return true
    if (result === -ESRCH) return false
    throw new Fault('forbidden', `send ${signal} to process ${identity.pid}: errno ${-result}`)
  } finally {
    closeSync(pidfd.fd)
  }
}

function signalByNumber(identity: ProcessIdentity, signal: SignalName): boolean {
  try {
    return processAlive(identity) && process.kill(identity.pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
    throw new Fault('forbidden', `send ${signal} to process ${identity.pid}`, { cause: error })
  }
}

/** Resolves when the process has ended, at once when it is gone already. Abort ends the waiting, not the process. */
export async function waitForExit(identity: ProcessIdentity, options: { signal?: AbortSignal | undefined } = {}): Promise<void> {
  const { signal } = options
  signal?.throwIfAborted()
  const pidfd = openPidfd(identity)
  if (pidfd === 'gone') return
  if (pidfd !== 'unsupported') return watch(pidfd.libc, pidfd.fd, signal)
  while (processAlive(identity)) {
    signal?.throwIfAborted()
    await sleepFor(PROC_POLL_MS, undefined, signal ? { signal } : {}).catch(() => signal?.throwIfAborted())
  }
}

/**
 * Asks, waits, then kills: `signal`, and SIGKILL after `graceMs`. Answers how it ended; `gone` when there was nobody to end.
 */
export async function endProcess(
  identity: ProcessIdentity,
  options: { graceMs: number; askWith?: SignalName },
): Promise<'gone' | 'ended' | 'killed'> {
  const { graceMs, askWith = 'SIGTERM' } = options
  if (!signalProcess(identity, askWith)) return 'gone'
  try {
    await waitForExit(identity, { signal: AbortSignal.timeout(graceMs) })
    return 'ended'
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'TimeoutError') throw error
  }
  signalProcess(identity, 'SIGKILL')
  await waitForExit(identity)
  return 'killed'
}

/** First the descriptor, then the look at who it is: from then on it can be nobody else. */
function openPidfd(identity: ProcessIdentity): { libc: Libc; fd: number } | 'gone' | 'unsupported' {
  const c = libc()
  if (!c) return 'unsupported'
  const fd = c.pidfdOpen(identity.pid)
  if (fd === -ESRCH) return 'gone'
  if (fd < 0) return 'unsupported'
  if (processAlive(identity)) return { libc: c, fd }
  closeSync(fd)
  return 'gone'
}

interface Watch {
  readonly pidfd: number
  readonly ended: () => void
  abandoned: boolean
}

const watches = new Set<Watch>()
let waker = -1
let polling = false

function watch(c: Libc, pidfd: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      // The thread may be polling this descriptor: it is closed when the thread is back.
      one.abandoned = true
      wakePoller()
      reject(signal?.reason)
    }
    const ended = (): void => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }
    const one: Watch = { pidfd, ended, abandoned: false }
    signal?.addEventListener('abort', abort, { once: true })
    watches.add(one)
    if (polling) wakePoller()
    else void pollAll(c)
  })
}

async function pollAll(c: Libc): Promise<void> {
  polling = true
  if (waker < 0) waker = Math.max(c.eventfd(), -1)
  while (watches.size > 0) {
    const polled = [...watches]
    // poll(2) passes over a negative descriptor.
    const fds = [waker, ...polled.map((one) => one.pidfd)].map((fd) => ({ fd, events: POLLIN, revents: 0 }))
    await c.poll(fds, POLL_MS_MAX)
    if (fds[0]?.revents) drainWaker()
    polled.forEach((one, index) => {
      if (!fds[index + 1]?.revents && !one.abandoned) return
      watches.delete(one)
      closeSync(one.pidfd)
      if (!one.abandoned) one.ended()
    })
  }
  polling = false
}

function wakePoller(): void {
  if (waker >= 0) writeSync(waker, new Uint8Array(new BigUint64Array([1n]).buffer))
}

function drainWaker(): void {
  try {
    readSync(waker, new Uint8Array(8))
  } catch {
    // Nothing to read: an earlier turn took it.
  }
}
