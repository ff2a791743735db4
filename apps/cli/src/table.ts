/** Rows as people read them: columns aligned, numbers to the right, cut to the terminal's width where there is one. */
export interface Column<Row> {
  readonly title: string
  readonly value: (row: Row) => string
  readonly right?: boolean
}

export function renderTable<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  widthMax = Number.POSITIVE_INFINITY,
): string {
  const cells = [
    columns.map((column) => column.title),
    ...rows.map((row) => columns.map((column) => column.value(row).replaceAll(/[\x00-\x1f\x7f]/g, '?'))),
  ]
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => [...(line[index] ?? '')].length)))
  const lines = cells.map((line) =>
    line
      .map((cell, index) => {
        const gap = ' '.repeat(Math.max(0, (widths[index] ?? 0) - [...cell].length))
        return columns[index]?.right ? gap + cell : cell + gap
      })
      .join('  ')
      .trimEnd(),
  )
  return lines.map((line) => ([...line].length > widthMax ? `${[...line].slice(0, widthMax - 1).join('')}…` : line)).join('\n')
}

/** `3 s`, `5 min`, `2 h`, `4 d`: how long ago. */
export function age(at: number, now: number): string {
  const seconds = Math.max(0, Math.round((now - at) / 1000))
  if (seconds < 90) return `${seconds} s`
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`
  if (seconds < 36 * 3600) return `${Math.round(seconds / 3600)} h`
  return `${Math.round(seconds / 86_400)} d`
}
