/** Times as people read them, on the clock of their own machine. */

const two = (value: number): string => String(value).padStart(2, '0')

/** `2026-11-27T08:20:49+01:00`: ISO 8601, local, to the second. */
export function localTime(at: number): string {
  const date = new Date(at)
  if (Number.isNaN(date.getTime())) return String(at)
  const offset = -date.getTimezoneOffset()
  const zone = `${offset < 0 ? '-' : '+'}${two(Math.trunc(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`
  const day = `${String(date.getFullYear()).padStart(4, '0')}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
  return `${day}T${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}${zone}`
}

/** `250 ms`, `60 s`, `10 min`, `2.5 h`, `3 d`. */
export function durationText(durationMs: number): string {
  const units = [
    [86_400_000, 'd', 2],
    [3_600_000, 'h', 2],
    [60_000, 'min', 2],
    [1000, 's', 1],
  ] as const
  for (const [size, unit, least] of units) {
    if (durationMs >= size * least) return `${Number((durationMs / size).toFixed(1))} ${unit}`
  }
  return `${Number(durationMs.toFixed(1))} ms`
}
