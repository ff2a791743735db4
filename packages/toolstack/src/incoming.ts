/**
 * A domain that is expected: the listener, and what comes by it.
 *
 *   waiting --control, memory, disks--> loaded --go--> over (runs here)
 *      |  nobody comes, or the source is gone           |  abandon
 *      +----------------------------------------> over (nothing left)
 *
 * Before all has come the source cannot have handed over, so one that goes silent is given up. Behind that it may have: then only `go` and
 * `abandon`, by the source or by whoever stands over both, decide. What is here is in memory; a toolstack that is opened anew gives up what
 * had not come, and keeps what had.
 */
import { Fault, millis, toFault, type Clock, type Log } from '@typevisor/base'
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
}

/** From the offer to the source's first word. */
const COME_LIMIT = millis(60_000)

export class Incoming {
  readonly #options: IncomingOptions
  readonly #over = new AbortController()
  #listener: MigrationListener | null = null
  #phase: 'waiting' | 'loaded' | 'over' = 'waiting'
  readonly #controls = new Set<MigrationStream>()
  #hasCome = false
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

  async listen(): Promise<void> {
    const { links, clock, target, log, id } = this.#options
    this.#listener = await links.listen((channel, stream) => this.#take(channel, stream))
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
      case 'abandon':
        return await abandon()
    }
  }

  #giveUp(reason: string): void {
    const { id, log, abandon } = this.#options
    if (this.#phase !== 'waiting') return
    this.close()
    log.info('migration.given_up', { domain: id, reason })
    void abandon().catch((error: unknown) => log.warn('migration.not_given_up', { domain: id, error: toFault(error).message }))
  }
}
