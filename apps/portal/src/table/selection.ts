/** Which rows of a list are chosen, by id. Rows that have left the list are dropped, so that no verb reaches what nobody sees. */
export type Selection = ReadonlySet<string>

export const NOTHING: Selection = new Set()

export function toggled(selection: Selection, id: string): Selection {
  const next = new Set(selection)
  if (!next.delete(id)) next.add(id)
  return next
}

/** Shift-click: everything from the row clicked last to this one takes this row's new state. */
export function toggledRange(selection: Selection, ids: readonly string[], from: string | null, to: string): Selection {
  const start = from === null ? -1 : ids.indexOf(from)
  const end = ids.indexOf(to)
  if (start === -1 || end === -1) return toggled(selection, to)
  const choose = !selection.has(to)
  const next = new Set(selection)
  for (const id of ids.slice(Math.min(start, end), Math.max(start, end) + 1)) {
    if (choose) next.add(id)
    else next.delete(id)
  }
  return next
}

export const visible = (selection: Selection, ids: readonly string[]): Selection => new Set(ids.filter((id) => selection.has(id)))

export function allToggled(selection: Selection, ids: readonly string[]): Selection {
  return ids.every((id) => selection.has(id)) ? NOTHING : new Set(ids)
}
