/**
 * Sees to it that a volume server runs for as long as this agent does, and leaves it to its guests afterwards.
 *
 *   look --answers, our version--> serving --connection ends--> look        (at once the first time; slower when it keeps ending)
 *     |  |                            \--hangs--> killed --> look
 *     |  \--answers, another version--> asked to stop, waited for --> start
 *     |  \--takes the question and is silent--> killed --> start
 *     |--is starting--> waited for --hangs--> killed --> look
 *     \--nobody is there--> start --> is starting
 *
 * SIGKILL is what a store is made for: all that was acknowledged is with the kernel, and guests' QEMUs connect to the next one. What
 * happens is told to a watcher, in order.
 *
 * Whoever is attached is attached again to each server that comes, by the same path, where its QEMU is waiting, and under the lease that the
 * store says is ours: a guest goes on in the epoch in which it was started, and not when that is over.
 */
import { open } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { Fault, millis, toFault, withDeadline, type Clock, type Log } from '@typevisor/base'
import type { VolumeServerCause } from '@typevisor/model'
import {
  lockHolder,
  processActivity,
  processIdentity,
  processWords,
  signalProcess,
  spawnDetached,
  waitForExit,
  type ProcessExit,
  type ProcessIdentity,
} from '@typevisor/runtime-node'
import { askServer, exportNameFor, type ServerCaller, type ServerHello, type VolumeServerConnection } from '@typevisor/storage'
import { hangs, PULSE, silenceMs, type PulseLimits } from './pulse.ts'
import { StartWatch } from './starting.ts'

/** What a server went through. `hello`: the server that is there now, or that was there before. */
export type VolumeServerChange =
  | { readonly to: 'serving'; readonly cause: 'started' | 'found'; readonly hello: ServerHello }
  | {
      readonly to: 'away'
      readonly cause: Exclude<VolumeServerCause, 'started' | 'found' | 'unknown'>
      readonly detail: string | null
      readonly hello: ServerHello | null
    }

export interface VolumeServerWatcher {
  changed(change: VolumeServerChange): void
  /** What the server that serves says of itself, every few seconds. */
  heard(hello: ServerHello): void
}

export interface VolumeKeeperOptions {
  readonly dir: string
  readonly version: string
  readonly clock: Clock
  readonly log: Log
  /** Whose leases disks are served under; a UUID. */
  readonly holder: string
  /** Who may connect to what is attached; null: whoever runs this. */
  readonly owner: { readonly uid: number; readonly gid: number } | null
  readonly watcher?: VolumeServerWatcher
  /** Default: `PULSE`. */
  readonly pulse?: PulseLimits
}

export interface VolumeKeeper {
  /** Asks the server; waits for one, a while. @throws Fault `unavailable` when none comes, or when it goes away before it has answered. */
  readonly call: ServerCaller
  /**
   * Serves a volume on a socket until `detach`, by whichever server there is. Resolves when it is served, with the export's name: `VOLUME:EPOCH`
   * where the lease is ours, else `VOLUME`.
   */
  attach(volume: string, socketPath: string): Promise<string>
  detach(socketPath: string): Promise<void>
  /** Whether nothing is attached, so that `close` stops the server. */
  readonly isIdle: boolean
  /** Lets go. A server to which nothing is attached is stopped. */
  close(): Promise<void>
}

const PROGRAM = join(import.meta.dirname, `process${extname(import.meta.filename)}`)
const HEAP_MIB_MAX = 256
/** Guests stand still without it: it is among the last to be ended for want of memory. */
const OOM_SCORE = -500
const POLL = millis(10)
/** A start that takes longer is told in the log; who closes waits no longer for it. */
const START_MS_MAX = 120_000
const CALL_LIMIT = millis(30_000)
const STOP_LIMIT = millis(30_000)
/** From the end of a connection to the end of its process. */
const EXIT_LIMIT = millis(1000)
/** One that ends sooner than this after its start keeps ending. */
const STEADY_MS = 10_000
const PAUSE_MS_MIN = 100
const PAUSE_MS_MAX = 5000

export function keepVolumeServer(options: VolumeKeeperOptions): VolumeKeeper {
  return new Keeper(options)
}

interface Serving {
  readonly server: VolumeServerConnection
  /** To be asked on how it is: its answers wait behind no other. */
  readonly pulse: VolumeServerConnection
  readonly hello: ServerHello
  readonly identity: ProcessIdentity | null
  /** Of one that we started. */
  readonly exited: Promise<ProcessExit> | null
  /** Of its log, when it was found. */
  readonly saidBytes: number
}

class Keeper implements VolumeKeeper {
  readonly #options: VolumeKeeperOptions
  /** Volume by socket. */
  readonly #attached = new Map<string, string>()
  #serving = Promise.withResolvers<VolumeServerConnection>()
  #lastFault: Fault | null = null
  readonly #closing = new AbortController()
  readonly #running: Promise<void>

  constructor(options: VolumeKeeperOptions) {
    this.#options = options
    this.#running = this.#run()
  }

  get isIdle(): boolean {
    return this.#attached.size === 0
  }

  readonly call: ServerCaller = async (command, args) => (await this.#server()).call(command, args)

  async attach(volume: string, socketPath: string): Promise<string> {
    this.#attached.set(socketPath, volume)
    try {
      return await this.#attachTo(await this.#server(), volume, socketPath)
    } catch (error) {
      if (toFault(error).code !== 'unavailable') throw error
      // It went away: the next one is served with it.
      return await this.#attachTo(await this.#server(), volume, socketPath)
    }
  }

  async detach(socketPath: string): Promise<void> {
    this.#attached.delete(socketPath)
    await this.call('detach', { socketPath })
  }

  async close(): Promise<void> {
    this.#closing.abort(new Fault('aborted', 'the agent closes'))
    await this.#running
  }

  async #server(): Promise<VolumeServerConnection> {
    this.#closing.signal.throwIfAborted()
    const settled = new AbortController()
    const late = this.#options.clock.sleep(CALL_LIMIT, { signal: settled.signal }).then(() => {
      const why = this.#lastFault === null ? '' : `: ${this.#lastFault.message}`
      throw new Fault('unavailable', `the volume server of ${this.#options.dir} does not answer${why}`)
    })
    late.catch(() => {})
    try {
      return await Promise.race([this.#serving.promise, late])
    } finally {
      settled.abort()
    }
  }

  async #run(): Promise<void> {
    const { clock, log, dir } = this.#options
    const { signal } = this.#closing
    for (let quickEnds = 0; !signal.aborted;) {
      const begin = clock.monotonic()
      try {
        await this.#serve(await this.#connect())
      } catch (error) {
        this.#lastFault = toFault(error)
        if (!signal.aborted) {
          log.error('volumes.server_not_there', { dir, error: this.#lastFault.message })
          // One that went away while it was looked at is looked for again.
          if (this.#lastFault.code !== 'unavailable')
            this.#tell({ to: 'away', cause: 'failed', detail: this.#lastFault.message, hello: null })
        }
      }
      quickEnds = clock.monotonic() - begin > STEADY_MS && this.#lastFault === null ? 0 : quickEnds + 1
      if (quickEnds > 1)
        await clock.sleep(millis(Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** (quickEnds - 2))), { signal }).catch(() => {})
    }
  }

  /** Until it goes away, hangs and was ended, or this closes. */
  async #serve(serving: Serving): Promise<void> {
    const { dir, clock, log, pulse: limits = PULSE, watcher } = this.#options
    const { server, pulse, hello } = serving
    const { signal } = this.#closing
    this.#lastFault = null
    this.#serving.resolve(server)
    const over = new AbortController()
    const closes = new Promise<void>((resolve) => {
      signal.addEventListener('abort', () => resolve(), { once: true, signal: over.signal })
      if (signal.aborted) resolve()
    })
    const isHung = hangs({
      ask: () => pulse.call('hello', {}),
      onAnswer: (answer) => watcher?.heard(answer),
      clock,
      limits,
      signal: over.signal,
    })
    const end = await Promise.race([
      server.closed.then(() => 'gone' as const),
      closes.then(() => 'closing' as const),
      isHung.then((hung) => (hung ? ('hung' as const) : server.closed.then(() => 'gone' as const))),
    ])
    over.abort()
    pulse.close()
    this.#serving = Promise.withResolvers()
    if (end === 'closing') {
      if (this.isIdle) await this.#stop(serving, false)
      else server.close()
    } else if (end === 'hung') {
      server.close()
      await this.#kill(serving.identity, hello, 'did not answer', limits)
    } else {
      log.warn('volumes.server_gone', { dir })
      this.#tell({ to: 'away', cause: 'ended', detail: await this.#wordsOfEnd(serving), hello })
    }
  }

  #tell(change: VolumeServerChange): void {
    this.#options.watcher?.changed(change)
  }

  /** What is known of how it ended: the signal, else its exit code and what it said since it served. */
  async #wordsOfEnd({ identity, exited, saidBytes }: Serving): Promise<string | null> {
    const { dir, clock } = this.#options
    const end = async (): Promise<ProcessExit | null> => {
      if (exited !== null) return exited
      if (identity !== null) await waitForExit(identity)
      return null
    }
    const exit = await withDeadline({ limit: EXIT_LIMIT, clock, what: 'its end' }, end).catch(() => null)
    if (exit?.kind === 'signal') return exit.signal
    const words = lastLines((await endOf(`${dir}.log`, saidBytes)).text)
    return [...(exit === null ? [] : [`exit code ${exit.code}`]), ...(words === '' ? [] : [words])].join(': ') || null
  }

  /** A server of our version, with all that is attached. */
  async #connect(): Promise<Serving> {
    const { dir, version, clock, log } = this.#options
    let serving = await this.#find()
    const isFound = serving !== null && serving.hello.version === version
    if (serving !== null && !isFound) {
      const { pid, version: from } = serving.hello
      log.info('volumes.server_replaced', { dir, from, to: version, pid })
      await this.#stop(serving, true)
      this.#tell({ to: 'away', cause: 'upgrade', detail: `${from} makes way for ${version}`, hello: serving.hello })
      serving = null
    }
    serving ??= await this.#start()
    const { server, pulse, hello } = serving
    try {
      await withDeadline({ limit: CALL_LIMIT, clock, what: `volume server of ${dir}: attach` }, () =>
        Promise.all([...this.#attached].map(([socketPath, volume]) => this.#attachAgain(server, volume, socketPath))),
      )
      this.#tell({ to: 'serving', cause: isFound ? 'found' : 'started', hello })
      return serving
    } catch (error) {
      server.close()
      pulse.close()
      throw error
    }
  }

  /** null: nobody is there. One that takes the question and is silent is ended; one that is starting is waited for. */
  async #find(): Promise<Serving | null> {
    const { dir, pulse: limits = PULSE } = this.#options
    const holder = (): ProcessIdentity | null => lockHolder(join(dir, 'lock'))
    let found: Serving | null
    try {
      found = await this.#ask(null)
    } catch (error) {
      if (toFault(error).code !== 'timeout') throw error
      // Whoever listens there holds the lock.
      await this.#kill(holder(), null, 'did not answer', limits)
      return null
    }
    const starting = found === null ? holder() : null
    return starting !== null && isVolumeServer(starting, dir) ? await this.#awaitStart(starting, null) : found
  }

  /** null: nobody is there. @throws Fault `timeout` when somebody is and does not answer. */
  async #ask(exited: Promise<ProcessExit> | null): Promise<Serving | null> {
    const { dir, clock, pulse: limits = PULSE } = this.#options
    await using made = new AsyncDisposableStack()
    const open = async () => {
      const connection = await askServer(dir)
      if (connection) made.defer(() => connection.close())
      return connection
    }
    const server = await open()
    const pulse = server && (await open())
    if (!pulse) return null
    const hello = await withDeadline({ limit: millis(silenceMs(limits)), clock, what: `volume server of ${dir}: hello` }, () =>
      server.call('hello', {}),
    )
    const { size: saidBytes } = await endOf(`${dir}.log`)
    made.move()
    return { server, pulse, hello, identity: processIdentity(hello.pid), exited, saidBytes }
  }

  async #start(): Promise<Serving> {
    const { dir, version, clock, log } = this.#options
    const stderrFile = `${dir}.log`
    const said = await endOf(stderrFile)
    const words = ['--dir', dir, '--version', version]
    const child = await spawnDetached({
      argv: [
        process.execPath,
        '--disable-warning=ExperimentalWarning',
        `--max-old-space-size=${HEAP_MIB_MAX}`,
        PROGRAM,
        ...words,
      ],
      env: { PATH: process.env['PATH'] ?? '/usr/bin:/bin' },
      stderrFile,
      oomScore: OOM_SCORE,
    })
    const begin = clock.monotonic()
    const found = await this.#awaitStart(child, child.exited)
    if (!found)
      throw new Fault(
        'failed',
        `volume server of ${dir}: it ended at once: ${lastLines((await endOf(stderrFile, said.size)).text)}`,
      )
    log.info('volumes.server_started', { dir, pid: found.hello.pid, tookMs: Math.round(clock.monotonic() - begin) })
    return found
  }

  /** Until it answers. null: it has ended. @throws Fault `unavailable` when it hung and was ended. */
  async #awaitStart(identity: ProcessIdentity, exited: Promise<ProcessExit> | null): Promise<Serving | null> {
    const { dir, clock, log, pulse: limits = PULSE } = this.#options
    const { pid } = identity
    const watch = new StartWatch({ activity: () => processActivity(identity), clock, silenceMsMax: silenceMs(limits) })
    const begin = clock.monotonic()
    for (let isTold = false; ;) {
      let isSilent = false
      const found = await this.#ask(exited).catch((error: unknown) => {
        isSilent = toFault(error).code === 'timeout'
        return null
      })
      if (found) return found
      const state = isSilent ? 'hangs' : watch.look()
      if (state === 'gone') return null
      if (state === 'hangs') {
        await this.#kill(identity, null, 'did nothing while it started', limits)
        throw new Fault('unavailable', `volume server of ${dir}: process ${pid} hung while it started`)
      }
      const tookMs = Math.round(clock.monotonic() - begin)
      if (tookMs > START_MS_MAX) {
        this.#closing.signal.throwIfAborted()
        if (!isTold) log.warn('volumes.server_starts_slowly', { dir, pid, tookMs })
        isTold = true
      }
      await clock.sleep(POLL)
    }
  }

  /** Ends one that hangs. Resolves when its process is gone. */
  async #kill(identity: ProcessIdentity | null, hello: ServerHello | null, what: string, limits: PulseLimits): Promise<void> {
    const { dir, clock, log } = this.#options
    if (identity === null) throw new Fault('failed', `volume server of ${dir}: it hangs, and its process cannot be told`)
    const { pid } = identity
    const seconds = silenceMs(limits) / 1000
    log.error('volumes.server_hangs', { dir, pid, silentSeconds: seconds })
    signalProcess(identity, 'SIGKILL')
    await withDeadline({ limit: STOP_LIMIT, clock, what: `volume server of ${dir}: end of process ${pid}` }, (signal) =>
      waitForExit(identity, { signal }),
    )
    this.#tell({ to: 'away', cause: 'hung', detail: `process ${pid} ${what} for ${seconds} s and was killed`, hello })
  }

  /** Resolves when its process is gone. */
  async #stop({ server, pulse, identity }: Serving, force: boolean): Promise<void> {
    const { log, dir, clock } = this.#options
    try {
      await withDeadline({ limit: STOP_LIMIT, clock, what: `volume server of ${dir}: its end` }, async (signal) => {
        await server.call('stop', { force })
        if (identity !== null) await waitForExit(identity, { signal })
      })
    } catch (error) {
      const fault = toFault(error)
      // It goes on with its guests, as it should.
      if (fault.code !== 'conflict') log.warn('volumes.server_not_stopped', { dir, error: fault.message })
      if (force) throw error
    } finally {
      server.close()
      pulse.close()
    }
  }

  async #attachTo({ call }: VolumeServerConnection, volume: string, socketPath: string): Promise<string> {
    const { holder, owner } = this.#options
    const exportName = await exportNameFor(call, holder, volume)
    await call('attach', { volume: exportName, socketPath, ...owner })
    return exportName
  }

  /** One that cannot be is no reason to keep the others waiting. */
  async #attachAgain(server: VolumeServerConnection, volume: string, socketPath: string): Promise<void> {
    try {
      await this.#attachTo(server, volume, socketPath)
    } catch (error) {
      const fault = toFault(error)
      if (fault.code === 'unavailable') throw fault
      this.#options.log.error('volumes.not_attached', { volume, socketPath, error: fault.message })
    }
  }
}

/** Of any version: not whoever else has the folder, as `volume check`. */
const isVolumeServer = (identity: ProcessIdentity, dir: string): boolean => {
  const words = processWords(identity) ?? []
  return words.includes(dir) && words.some((word) => basename(word, extname(word)) === 'process')
}

const WORDS_BYTES_MAX = 2048
const LAST_LINES = 3

/** The last things that it said, without what a log adds to them. */
const lastLines = (text: string): string => text.split('\n').slice(-LAST_LINES).map(messageOf).join('\n')

function messageOf(line: string): string {
  try {
    const { message, error } = JSON.parse(line) as { message?: unknown; error?: unknown }
    const said = message ?? error
    return typeof said === 'string' ? said : line
  } catch {
    return line
  }
}

/** What a file says from an offset on, at its end. */
async function endOf(path: string, from = 0): Promise<{ size: number; text: string }> {
  const file = await open(path, 'r').catch(() => null)
  if (!file) return { size: 0, text: '' }
  try {
    const { size } = await file.stat()
    const start = Math.max(from, size - WORDS_BYTES_MAX)
    const { buffer, bytesRead } = await file.read(Buffer.alloc(Math.max(0, size - start)), 0, undefined, start)
    return { size, text: buffer.subarray(0, bytesRead).toString().trim() }
  } finally {
    await file.close()
  }
}
