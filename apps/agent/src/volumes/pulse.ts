/**
 * Tells a volume server that hangs from one that is busy: it is asked at an interval, and hangs when several askings in a row got no answer.
 *
 *   asked --answers--> pause --> asked          asked --no answer in time--> asked at once, until it was so `unansweredMax` times
 *
 * The longest that a server let anybody wait was 1.3 s (64 writers in random places of 1 TiB, snapshots and checkpoints beside them, on two
 * processors with five times as much to do); it has 20 s. Several askings rather than one long one, since what stood still may have been this process: then the
 * answer is there already, and the next asking takes it in.
 */
import { millis, withDeadline, type Clock, type Millis } from '@typevisor/base'

export interface PulseLimits {
  readonly interval: Millis
  readonly answerLimit: Millis
  readonly unansweredMax: number
}

export const PULSE: PulseLimits = { interval: millis(2000), answerLimit: millis(5000), unansweredMax: 4 }

/** How long a server is silent, at least, before it hangs. */
export const silenceMs = ({ answerLimit, unansweredMax }: PulseLimits): number => answerLimit * unansweredMax

export interface PulseOptions<Answer> {
  /** May stay without an answer for ever. Rejects when there is nobody to ask any more. */
  readonly ask: () => Promise<Answer>
  readonly onAnswer: (answer: Answer) => void
  readonly clock: Clock
  readonly limits: PulseLimits
  readonly signal: AbortSignal
}

/** Resolves with true when it hangs, with false when it went away or `signal` is aborted. */
export async function hangs<Answer>({ ask, onAnswer, clock, limits, signal }: PulseOptions<Answer>): Promise<boolean> {
  const { interval, answerLimit, unansweredMax } = limits
  let unanswered = 0
  while (!signal.aborted) {
    let isGone = false
    const answer = ask().then(
      (value) => ({ value }),
      () => {
        isGone = true
        return null
      },
    )
    const answered = await withDeadline({ limit: answerLimit, clock, what: 'hello', signal }, () => answer).catch(() => null)
    if (signal.aborted || isGone) return false
    if (answered === null) {
      unanswered += 1
      if (unanswered >= unansweredMax) return true
      continue
    }
    unanswered = 0
    onAnswer(answered.value)
    await clock.sleep(interval, { signal }).catch(() => {})
  }
  return false
}
