const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

/** `just now`, `5 min ago`, `3 h ago`, `2 d ago`, then the date; a clock that is a little ahead is no reason to speak of the future. */
export function ago(atMs: number, nowMs: number): string {
  const past = nowMs - atMs
  if (past < 10_000) return 'just now'
  if (past < MINUTE_MS) return `${Math.floor(past / 1000)} s ago`
  if (past < HOUR_MS) return `${Math.floor(past / MINUTE_MS)} min ago`
  if (past < DAY_MS) return `${Math.floor(past / HOUR_MS)} h ago`
  if (past < 60 * DAY_MS) return `${Math.floor(past / DAY_MS)} d ago`
  return new Date(atMs).toISOString().slice(0, 10)
}

/** `850 ms`, `4.2 s`, `3 min 5 s`, `2 h 4 min`, `5 d 3 h`. */
export function lasting(durationMs: number): string {
  if (durationMs < 1000) return `${Math.max(0, Math.round(durationMs))} ms`
  if (durationMs < 10_000) return `${(durationMs / 1000).toFixed(1)} s`
  if (durationMs < MINUTE_MS) return `${Math.round(durationMs / 1000)} s`
  if (durationMs < HOUR_MS) return `${Math.floor(durationMs / MINUTE_MS)} min ${Math.floor((durationMs % MINUTE_MS) / 1000)} s`
  if (durationMs < DAY_MS) return `${Math.floor(durationMs / HOUR_MS)} h ${Math.floor((durationMs % HOUR_MS) / MINUTE_MS)} min`
  return `${Math.floor(durationMs / DAY_MS)} d ${Math.floor((durationMs % DAY_MS) / HOUR_MS)} h`
}

const exact = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' })
export const exactTime = (atMs: number): string => exact.format(atMs)

/** `2026-11-27-0907`, by the clock on the wall: of what is named after the moment. */
export function momentName(moment: Date): string {
  const two = (value: number) => String(value).padStart(2, '0')
  const day = `${moment.getFullYear()}-${two(moment.getMonth() + 1)}-${two(moment.getDate())}`
  return `${day}-${two(moment.getHours())}${two(moment.getMinutes())}`
}
