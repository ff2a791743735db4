import { ActionIcon, Group } from '@mantine/core'
import { Icon } from '../ui/icons.tsx'
import { placeText, type PageTrail } from './pager.ts'

interface TableFootProps {
  readonly trail: PageTrail
  readonly cursor: string | undefined
  readonly shown: number
  readonly limit: number
  readonly total: number
  readonly nextCursor: string | null
  readonly onNext: (next: string) => void
  readonly onPrevious: () => void
  readonly pageSize?: { readonly sizes: readonly number[]; readonly onChange: (size: number) => void }
}

export function TableFoot(props: TableFootProps) {
  const { trail, cursor, shown, limit, total, nextCursor, onNext, onPrevious, pageSize } = props
  return (
    <div className="table-foot">
      <span className="num" role="status" data-testid="place">
        {placeText({ trail, cursor, shown, limit, total })}
      </span>
      {pageSize !== undefined && total > (pageSize.sizes[0] ?? 0) && (
        <label>
          <select
            value={limit}
            onChange={(event) => pageSize.onChange(Number(event.currentTarget.value))}
            aria-label="Rows on a page"
            data-testid="page-size"
          >
            {pageSize.sizes.map((size) => (
              <option key={size} value={size}>
                {size}
              </option>
            ))}
          </select>{' '}
          a page
        </label>
      )}
      <Group gap={4} ml="auto">
        <ActionIcon
          variant="default"
          aria-label="Previous page"
          disabled={cursor === undefined}
          onClick={onPrevious}
          data-testid="previous-page"
        >
          <Icon name="left" size={16} />
        </ActionIcon>
        <ActionIcon
          variant="default"
          aria-label="Next page"
          disabled={nextCursor === null}
          onClick={() => nextCursor !== null && onNext(nextCursor)}
          data-testid="next-page"
        >
          <Icon name="right" size={16} />
        </ActionIcon>
      </Group>
    </div>
  )
}
