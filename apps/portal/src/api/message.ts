/** A failure in words for a person: the server's own, but for what never reached it. */
import { Fault } from '@typevisor/base'

/** `fetch` rejects with a TypeError when there was no answer at all (Fetch standard, section 5.6). */
const unanswered = (error: unknown): boolean =>
  error instanceof Fault && error.code === 'unavailable' && error.cause instanceof TypeError

export const messageOf = (error: unknown): string =>
  unanswered(error)
    ? 'The platform does not answer. Guests go on running; is it started, and can it be reached from here?'
    : error instanceof Error
      ? error.message
      : String(error)

/** The same with the places that the server names, for what has no fields to put them at. */
export const faultLines = (error: unknown): string[] => [
  messageOf(error),
  ...(error instanceof Fault ? error.details.map((detail) => `${detail.path}: want ${detail.want}, got ${detail.got}`) : []),
]
