/**
 * A domain that is expected: the listener, and what comes by it.
 *
 *   waiting --control, memory, disks--> loaded --go--> over (runs here)       by post-copy: runs --its memory has come--> over
 *      |  nobody comes, or the source is gone           |  abandon
 *      +----------------------------------------> over (nothing left)
 *
 * Before all has come the source cannot have handed over, so one that goes silent is given up. Behind that it may have: then only `go` and
 * `abandon`, by the source or by whoever stands over both, decide. What is here is in memory; a toolstack that is opened anew gives up what
 * had not come, and keeps what had. One that lacks memory listens as before: the source comes again with what it has of it.
 */
import { Fault, millis, retryable, toFault, type Clock, type Json, type Log } from '@typevisor/base'
import type { DomainId, MigrationOffer } from '@typevisor/model'
import { joinStreams } from './join-streams.ts'
import { answerControl, CONTROL, type Question, type Said } from './migration-control.ts'
import type { MigrationLinks, MigrationListener, MigrationStream, MigrationTarget } from './ports.ts'

export interface IncomingOptions {
  readonly id: DomainId
  readonly target: MigrationTarget
  readonly links: MigrationLinks
  readonly clock: Clock
  readonly log: Log
  readonly go: () => Promise<void>
  readonly abandon: () => Promise<void>
  /** All of its memory has come, or none will any more. */
  readonly arrived: () => Promise<void>
  /** By which a listener of before is taken up: all but memory has come by it. Absent: it is a new one. */
  readonly kept?: Json | undefined
  /** Its memory follows it. Whoever has come once may come again, and is to be told how it stands. */
  readonly isFetched: boolean
}

/** From the offer to the source's first word. */
const COME_LIMIT = millis(60_000)
const ARRIVED_AGAIN = millis(1000)

export class Incoming {
  readonly #options: IncomingOptions
  readonly #over = new AbortController()
  #listener: MigrationListener | null = null
  #phase: 'waiting' | 'loaded' | 'runs' | 'over' = 'waiting'
  readonly #controls = new Set<MigrationStream>()
  #hasCome = false
  /** Of the memory that it lacks. */
  #arrival: Promise<void> = Promise.resolve()
  #loaded: Promise<void> | null = null
  /** When it was let go on here; null: it was not. */
  goneOnAt: number | null = null

  constructor(options: IncomingOptions) {
    this.#options = options
  }

  get offer(): MigrationOffer {
    if (!this.#listener) throw new Fault('unavailable', 'receive: nobody listens')
    return this.#listener.offer
  }

  get kept(): Json {
    if (!this.#listener) throw new Fault('unavailable', 'receive: nobody listens')
    return this.#listener.kept
  }

  async listen(): Promise<void> {
    const { links, clock, target, log, id, kept } = this.#options
    if (kept !== undefined) this.#hasCome = true
    this.#listener = await links.listen((channel, stream) => this.#take(channel, stream), kept)
    this.#loaded = target.loaded({ signal: this.#over.signal })
    this.#loaded.then(
      () => {
        if (this.#phase === 'waiting') this.#phase = 'loaded'
      },
      (error: unknown) => this.#giveUp(toFault(error).message),
    )
    clock.sleep(COME_LIMIT, { signal: this.#over.signal }).then(
      () => (this.#hasCome ? undefined : this.#giveUp(`nobody came in ${COME_LIMIT} ms`)),
      () => {},
    )
    log.debug('migration.expected', { domain: id })
  }

  /** It runs here, and lacks memory. */
  run(): void {
    if (this.#phase === 'runs') return
    this.#phase = 'runs'
    const { target, id, log, clock, arrived } = this.#options
    const { signal } = this.#over
    this.#arrival = (async () => {
      while (true) {
        try {
          await target.arrived({ signal })
          break
        } catch (error) {
          signal.throwIfAborted()
          log.warn('migration.not_arrived', { domain: id, error: toFault(error).message })
          // One that gives no answer now has not ended.
          if (!retryable(error)) break
          await clock.sleep(ARRIVED_AGAIN, { signal })
        }
      }
      await arrived()
    })().catch((error: unknown) => {
      if (!signal.aborted) log.warn('migration.not_settled', { domain: id, error: toFault(error).message })
    })
  }

  /** It goes its way, or is no more. */
  close(): void {
    this.#phase = 'over'
    this.#over.abort(new Fault('aborted', 'the migration is over'))
    void this.#listener?.close().catch(() => {})
  }

  /** The same, and nobody is answered any more. */
  end(): void {
    this.close()
    for (const stream of this.#controls) stream.close()
  }

  #take(channel: string, stream: MigrationStream): void {
    const { target, clock, log, id } = this.#options
    if (this.#over.signal.aborted) return stream.close()
    if (channel === CONTROL) {
      this.#hasCome = true
      this.#controls.add(stream)
      void answerControl(stream, clock, (question) => this.#answer(question)).then(() => {
        this.#controls.delete(stream)
        if (this.#phase === 'waiting') this.#giveUp('the other host is gone')
      })
      return
    }
    target.connect(channel, { signal: this.#over.signal }).then(
      (end) => {
        const cut = (): void => (end.close(), stream.close())
        this.#over.signal.addEventListener('abort', cut, { once: true })
        void joinStreams(stream, end).finally(() => this.#over.signal.removeEventListener('abort', cut))
      },
      (error: unknown) => {
        log.warn('migration.channel_refused', { domain: id, channel, error: toFault(error).message })
        stream.close()
      },
    )
  }

  async #answer(question: Question): Promise<Said | void> {
    const { target, clock, go, abandon } = this.#options
    switch (question) {
      case 'alive':
        return
      case 'disks-done':
        return await target.disksDone({ signal: this.#over.signal })
      case 'loaded':
        await this.#loaded
        // Before the answer, behind which the source may hand over.
        if (this.#phase === 'waiting') this.#phase = 'loaded'
        return
      case 'go':
        await go()
        return this.goneOnAt === null ? undefined : { sinceMs: clock.monotonic() - this.goneOnAt }
      case 'whole':
        if (this.#phase !== 'runs' && this.#phase !== 'over') throw new Fault('conflict', 'receive: it does not run here yet')
        return await this.#arrival
      case 'abandon':
        return await abandon()
    }
  }

  #giveUp(reason: string): void {
    const { id, log, abandon, isFetched } = this.#options
    if (this.#phase !== 'waiting' || (isFetched && this.#hasCome)) return
    this.close()
    log.info('migration.given_up', { domain: id, reason })
    void abandon().catch((error: unknown) => log.warn('migration.not_given_up', { domain: id, error: toFault(error).message }))
  }
}
