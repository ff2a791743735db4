/**
 * Sees to it that a volume server runs for as long as this agent does, and leaves it to its guests afterwards.
 *
 *   look --answers, our version--> serving --connection ends--> look        (at once the first time; slower when it keeps ending)
 *     |  \--answers, another version--> asked to stop, waited for --> start
 *     \--nobody answers--> start --> look
 *
 * Whoever is attached is attached again to each server that comes, by the same path, where its QEMU is waiting, and under the lease that the
 * store says is ours: a guest goes on in the epoch in which it was started, and not when that is over.
 */
import { open } from 'node:fs/promises'
import { extname, join } from 'node:path'
import { Fault, millis, toFault, type Clock, type Log } from '@typevisor/base'
import { processIdentity, spawnDetached, waitForExit } from '@typevisor/runtime-node'
import { askServer, exportNameFor, type ServerCaller, type ServerHello, type VolumeServerConnection } from '@typevisor/storage'

export interface VolumeKeeperOptions {
  readonly dir: string
  readonly version: string
  readonly clock: Clock
  readonly log: Log
  /** Whose leases disks are served under; a UUID. */
  readonly holder: string
  /** Who may connect to what is attached; null: whoever runs this. */
  readonly owner: { readonly uid: number; readonly gid: number } | null
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
  /** Lets go. A server to which nothing is attached is stopped. */
  close(): Promise<void>
}

const PROGRAM = join(import.meta.dirname, `process${extname(import.meta.filename)}`)
const HEAP_MIB_MAX = 256
/** Guests stand still without it: it is among the last to be ended for want of memory. */
const OOM_SCORE = -500
const POLL = millis(10)
/** A journal that is read again after a power cut takes its time. */
const START_LIMIT_MS = 120_000
const CALL_LIMIT = millis(30_000)
const STOP_LIMIT = millis(30_000)
/** One that ends sooner than this after its start keeps ending. */
const STEADY_MS = 10_000
const PAUSE_MS_MIN = 100
const PAUSE_MS_MAX = 5000

export function keepVolumeServer(options: VolumeKeeperOptions): VolumeKeeper {
  return new Keeper(options)
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
    const { clock, log } = this.#options
    const { signal } = this.#closing
    const closes = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }))
    for (let quickEnds = 0; !signal.aborted;) {
      const begin = clock.monotonic()
      try {
        const server = await this.#connect()
        this.#lastFault = null
        this.#serving.resolve(server)
        await Promise.race([server.closed, closes])
        this.#serving = Promise.withResolvers()
        if (!signal.aborted) log.warn('volumes.server_gone', { dir: this.#options.dir })
        else if (this.#attached.size === 0) await this.#stop(server, false)
        else server.close()
      } catch (error) {
        this.#lastFault = toFault(error)
        if (!signal.aborted) log.error('volumes.server_not_there', { dir: this.#options.dir, error: this.#lastFault.message })
      }
      quickEnds = clock.monotonic() - begin > STEADY_MS && this.#lastFault === null ? 0 : quickEnds + 1
      if (quickEnds > 1)
        await clock.sleep(millis(Math.min(PAUSE_MS_MAX, PAUSE_MS_MIN * 2 ** (quickEnds - 2))), { signal }).catch(() => {})
    }
  }

  /** A server of our version, with all that is attached. */
  async #connect(): Promise<VolumeServerConnection> {
    const { dir, version, log } = this.#options
    const found = await this.#ask()
    let server = found?.server
    if (found && found.hello.version !== version) {
      log.info('volumes.server_replaced', { dir, from: found.hello.version, to: version, pid: found.hello.pid })
      await this.#stop(found.server, true)
      server = undefined
    }
    server ??= await this.#start()
    try {
      await Promise.all([...this.#attached].map(([socketPath, volume]) => this.#attachAgain(server, volume, socketPath)))
      return server
    } catch (error) {
      server.close()
      throw error
    }
  }

  async #ask(): Promise<{ server: VolumeServerConnection; hello: ServerHello } | null> {
    const server = await askServer(this.#options.dir)
    return server && { server, hello: await server.call('hello', {}) }
  }

  async #start(): Promise<VolumeServerConnection> {
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
    let hasEnded = false
    void child.exited.then(() => (hasEnded = true))
    for (const begin = clock.monotonic(); clock.monotonic() - begin < START_LIMIT_MS;) {
      const found = await this.#ask().catch(() => null)
      if (found) {
        log.info('volumes.server_started', { dir, pid: found.hello.pid, tookMs: Math.round(clock.monotonic() - begin) })
        return found.server
      }
      if (hasEnded)
        throw new Fault('failed', `volume server of ${dir}: it ended at once: ${(await endOf(stderrFile, said.size)).text}`)
      await clock.sleep(POLL)
    }
    throw new Fault('timeout', `volume server of ${dir}: process ${child.pid} does not answer after ${START_LIMIT_MS} ms`)
  }

  /** Resolves when its process is gone. */
  async #stop(server: VolumeServerConnection, force: boolean): Promise<void> {
    const { log, dir, clock } = this.#options
    const settled = new AbortController()
    try {
      const { pid } = await server.call('hello', {})
      const identity = processIdentity(pid)
      await server.call('stop', { force })
      if (identity === null) return
      const late = clock.sleep(STOP_LIMIT, { signal: settled.signal }).then(() => {
        throw new Fault('timeout', `volume server of ${dir}: process ${pid} does not end`)
      })
      late.catch(() => {})
      await Promise.race([waitForExit(identity, { signal: settled.signal }), late])
    } catch (error) {
      const fault = toFault(error)
      // It goes on with its guests, as it should.
      if (fault.code !== 'conflict') log.warn('volumes.server_not_stopped', { dir, error: fault.message })
      if (force) throw error
    } finally {
      settled.abort()
      server.close()
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

const WORDS_BYTES_MAX = 2048

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
