/**
 * A table of rows that the server has sorted and cut. On a narrow screen each row becomes a card; the roles are written out because a
 * browser forgets that a table is one when its display changes.
 */
import { Checkbox, UnstyledButton } from '@mantine/core'
import { useRef, type ReactNode } from 'react'
import { Icon } from '../ui/icons.tsx'
import { allToggled, toggled, toggledRange, type Selection } from './selection.ts'

export interface Column<Row, Sort extends string = never> {
  readonly title: string
  readonly cell: (row: Row) => ReactNode
  readonly sort?: Sort
  readonly align?: 'right'
  /** The name of the thing: first on a card. */
  readonly main?: boolean
  /** Left out on a card. */
  readonly wide?: boolean
  /** Has a line of its own on a card. */
  readonly ownLine?: boolean
  /** Said before the value on a card. */
  readonly label?: boolean
  readonly shrink?: boolean
}

interface DataTableProps<Row, Sort extends string> {
  readonly label: string
  readonly rows: readonly Row[]
  readonly columns: readonly Column<Row, Sort>[]
  readonly rowKey: (row: Row) => string
  readonly rowName: (row: Row) => string
  readonly sort?: { readonly by: Sort; readonly order: 'asc' | 'desc'; readonly onSort: (by: Sort) => void }
  readonly selection?: { readonly chosen: Selection; readonly onChange: (chosen: Selection) => void }
  readonly menu?: (row: Row) => ReactNode
  /** Another page is on its way. */
  readonly stale?: boolean
}

export function DataTable<Row, Sort extends string = never>(props: DataTableProps<Row, Sort>) {
  const { label, rows, columns, rowKey, rowName, sort, selection, menu, stale = false } = props
  const lastClicked = useRef<string | null>(null)
  const keys = rows.map(rowKey)
  const choose = (key: string, shift: boolean) => {
    if (selection === undefined) return
    selection.onChange(shift ? toggledRange(selection.chosen, keys, lastClicked.current, key) : toggled(selection.chosen, key))
    lastClicked.current = key
  }
  const all = selection !== undefined && keys.length > 0 && keys.every((key) => selection.chosen.has(key))
  return (
    <div className="table-wrap">
      <table className="table" role="table" aria-label={label} data-stale={stale} data-testid="table">
        <thead role="rowgroup">
          <tr role="row">
            {selection !== undefined && (
              <th role="columnheader" className="shrink">
                <Checkbox
                  size="xs"
                  aria-label="Choose all on this page"
                  checked={all}
                  indeterminate={!all && selection.chosen.size > 0}
                  onChange={() => selection.onChange(allToggled(selection.chosen, keys))}
                />
              </th>
            )}
            {columns.map((column) => (
              <HeadCell key={column.title} column={column} sort={sort} />
            ))}
            {menu !== undefined && (
              <th role="columnheader" className="shrink">
                <span className="mantine-visually-hidden" style={{ position: 'absolute', clipPath: 'inset(50%)' }}>
                  Actions
                </span>
              </th>
            )}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {rows.map((row) => {
            const key = rowKey(row)
            const chosen = selection?.chosen.has(key) ?? false
            return (
              <tr key={key} role="row" data-chosen={chosen} data-testid="row" data-name={rowName(row)}>
                {selection !== undefined && (
                  <td role="cell" className="shrink">
                    <Checkbox
                      size="xs"
                      aria-label={`Choose ${rowName(row)}`}
                      checked={chosen}
                      onChange={(event) => choose(key, (event.nativeEvent as unknown as MouseEvent).shiftKey === true)}
                    />
                  </td>
                )}
                {columns.map((column) => (
                  <td
                    key={column.title}
                    role="cell"
                    className={[column.align, column.shrink === true && 'shrink'].filter(Boolean).join(' ') || undefined}
                    data-main={column.main}
                    data-wide={column.wide}
                    data-break={column.ownLine}
                    data-label={column.label === true ? column.title : undefined}
                  >
                    {column.cell(row)}
                  </td>
                ))}
                {menu !== undefined && (
                  <td role="cell" className="shrink row-menu">
                    {menu(row)}
                  </td>
                )}
              </tr>
            )
          })}
        </tbody>
      </table>
    </div>
  )
}

function HeadCell<Row, Sort extends string>({
  column,
  sort,
}: {
  readonly column: Column<Row, Sort>
  readonly sort: DataTableProps<Row, Sort>['sort']
}) {
  const by = column.sort
  if (by === undefined || sort === undefined) {
    return (
      <th role="columnheader" scope="col" className={column.align}>
        {column.title}
      </th>
    )
  }
  const direction = sort.by === by ? (sort.order === 'asc' ? 'ascending' : 'descending') : 'none'
  return (
    <th role="columnheader" scope="col" className={column.align} aria-sort={direction}>
      <UnstyledButton className="sort" onClick={() => sort.onSort(by)} data-testid={`sort-${by}`}>
        {column.title}
        <Icon name="up" size={13} />
      </UnstyledButton>
    </th>
  )
}
