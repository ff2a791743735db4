/**
 * What the toolstacks of two hosts say to each other while a domain moves: questions of the source and answers of the target, as lines of
 * JSON over the stream `control`.
 *
 *   {"id": 1, "ask": "loaded"}  -->     <--  {"id": 1, ...said}   or   {"id": 1, "fault": {...}}
 *
 *   alive        every two seconds, from both sides' view: who hears nothing for ten is alone
 *   disks-done   the mirrors have ended; answered when the target's exports are closed
 *   loaded       answered when all has come and the domain stands paused there
 *   go           it is the target's; answered when it runs there, and since when. `failed`: it never ran there and never will
 *   whole        of one whose memory follows it: answered when all has come, or never will
 *   abandon      it stays with the source; answered when nothing is left of it there
 */
import { Fault, faultFromJson, millis, toFault, type Clock } from '@typevisor/base'
import type { CallOptions, MigrationStream } from './ports.ts'

export const CONTROL = 'control'
export const QUESTIONS = ['alive', 'disks-done', 'loaded', 'go', 'whole', 'abandon'] as const
export type Question = (typeof QUESTIONS)[number]

/** What an answer says beside that it is one. */
export interface Said {
  /** For how long the guest has run by now. Absent: it does not, or the target is of before. */
  readonly sinceMs?: number
}

const ALIVE_EVERY = millis(2000)
export const SILENCE_LIMIT = millis(10_000)
const LINE_LENGTH_MAX = 64 * 1024

async function* linesOf(parts: AsyncIterable<Uint8Array>): AsyncGenerator<Record<string, unknown>, void, undefined> {
  const decoder = new TextDecoder()
  let half = ''
  for await (const part of parts) {
    half += decoder.decode(part, { stream: true })
    const lines = half.split('\n')
    half = lines.pop() ?? ''
    if (half.length > LINE_LENGTH_MAX)
      throw new Fault('invalid', `migration control: a line of more than ${LINE_LENGTH_MAX} characters`)
    for (const line of lines) {
      const parsed: unknown = JSON.parse(line)
      if (typeof parsed !== 'object' || parsed === null) throw new Fault('invalid', 'migration control: got no object')
      yield parsed as Record<string, unknown>
    }
  }
}

const encode = (message: object): Uint8Array => new TextEncoder().encode(`${JSON.stringify(message)}\n`)

/** The source's end. */
export class ControlClient {
  /** Aborted when the other side is gone, with the reason. */
  readonly lost: AbortSignal
  /** When all was sent; null: it was not. */
  sentAt: number | null = null
  readonly #stream: MigrationStream
  readonly #lost = new AbortController()
  readonly #waiting = new Map<number, PromiseWithResolvers<Said>>()
  #next = 1

  constructor(stream: MigrationStream, clock: Clock) {
    this.#stream = stream
    this.lost = this.#lost.signal
    void this.#read().then(
      () => this.#lose(new Fault('unavailable', 'the other host closed the connection')),
      (error: unknown) => this.#lose(toFault(error)),
    )
    void this.#keepAlive(clock)
  }

  /** @throws Fault of the other side; `unavailable` when it is gone. Abort leaves the question asked. */
  async ask(question: Question, { signal }: CallOptions = {}): Promise<Said> {
    signal?.throwIfAborted()
    this.lost.throwIfAborted()
    const id = this.#next++
    const answer = Promise.withResolvers<Said>()
    answer.promise.catch(() => {})
    this.#waiting.set(id, answer)
    const withdraw = (): void => answer.reject(toFault(signal?.reason))
    signal?.addEventListener('abort', withdraw, { once: true })
    try {
      await this.#stream.write(encode({ id, ask: question }))
      return await answer.promise
    } finally {
      signal?.removeEventListener('abort', withdraw)
      this.#waiting.delete(id)
    }
  }

  close(): void {
    this.#lose(new Fault('aborted', 'the connection was closed'))
  }

  async #read(): Promise<void> {
    for await (const { id, fault, sinceMs } of linesOf(this.#stream.readable)) {
      const answer = this.#waiting.get(Number(id))
      if (fault === undefined) answer?.resolve(typeof sinceMs === 'number' && sinceMs >= 0 ? { sinceMs } : {})
      else answer?.reject(faultFromJson(fault))
    }
  }

  async #keepAlive(clock: Clock): Promise<void> {
    while (!this.lost.aborted) {
      await clock.sleep(ALIVE_EVERY, { signal: this.lost }).catch(() => {})
      if (this.lost.aborted) return
      const answered = new AbortController()
      const late = clock.sleep(SILENCE_LIMIT, { signal: AbortSignal.any([answered.signal, this.lost]) }).then(
        () => this.#lose(new Fault('unavailable', `the other host says nothing for ${SILENCE_LIMIT} ms`)),
        () => {},
      )
      await this.ask('alive').catch(() => {})
      answered.abort()
      await late
    }
  }

  #lose(reason: Fault): void {
    if (this.lost.aborted) return
    this.#lost.abort(reason)
    this.#stream.close()
    for (const answer of this.#waiting.values()) answer.reject(reason)
    this.#waiting.clear()
  }
}

/** The target's end: answers until the stream ends, or nothing was asked for too long. */
export async function answerControl(
  stream: MigrationStream,
  clock: Clock,
  answer: (question: Question) => Promise<Said | void>,
): Promise<void> {
  let heardAt = clock.monotonic()
  const over = new AbortController()
  void (async () => {
    while (!over.signal.aborted) {
      await clock.sleep(ALIVE_EVERY, { signal: over.signal }).catch(() => {})
      if (clock.monotonic() - heardAt > SILENCE_LIMIT) return stream.close()
    }
  })()
  try {
    for await (const { id, ask } of linesOf(stream.readable)) {
      heardAt = clock.monotonic()
      const question = QUESTIONS.find((known) => known === ask)
      const work =
        question === undefined
          ? Promise.reject(new Fault('unsupported', `migration: got ${JSON.stringify(ask)}`))
          : answer(question)
      void work
        .then(
          (said) => stream.write(encode({ id, ...said })),
          (error: unknown) => stream.write(encode({ id, fault: toFault(error).toJSON() })),
        )
        .catch(() => {})
    }
  } catch {
    // It says something else than this, or is gone.
  } finally {
    over.abort()
    stream.close()
  }
}
