/**
 * Pages by cursor. The server gives the next page's cursor only, so the way back is the trail of cursors already visited, kept in the
 * history entry: it survives a reload, and a link opened without it still goes on, and back to the first page.
 */
export interface PageTrail {
  /** Cursors of the pages before this one; null is the first page. */
  readonly before: readonly (string | null)[]
}

export const EMPTY_TRAIL: PageTrail = { before: [] }

export function readTrail(state: unknown): PageTrail {
  const before = (state as { trail?: unknown } | null)?.trail
  if (!Array.isArray(before)) return EMPTY_TRAIL
  return { before: before.filter((cursor): cursor is string | null => cursor === null || typeof cursor === 'string') }
}

export interface PageStep {
  readonly cursor: string | undefined
  readonly trail: PageTrail
}

export const nextPage = (trail: PageTrail, current: string | undefined, next: string): PageStep => ({
  cursor: next,
  trail: { before: [...trail.before, current ?? null] },
})

export const previousPage = (trail: PageTrail): PageStep => ({
  cursor: trail.before.at(-1) ?? undefined,
  trail: { before: trail.before.slice(0, -1) },
})

/** `51-100 of 240`; a page opened by a link without its trail cannot know its place: `50 of 240`. */
export function placeText(options: {
  trail: PageTrail
  cursor: string | undefined
  shown: number
  limit: number
  total: number
}): string {
  const { trail, cursor, shown, limit, total } = options
  const sum = total.toLocaleString('en')
  if (shown === 0) return `0 of ${sum}`
  if (cursor !== undefined && trail.before.length === 0) return `${shown} of ${sum}`
  const first = trail.before.length * limit + 1
  return `${first.toLocaleString('en')}\u2013${(first + shown - 1).toLocaleString('en')} of ${sum}`
}
