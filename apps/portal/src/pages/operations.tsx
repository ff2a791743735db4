import { Progress, Text } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useNavigate, useSearch } from '@tanstack/react-router'
import { useEffect } from 'react'
import {
  decisionsOf,
  isUnfinished,
  operationTitle,
  percentOf,
  progressWords,
  resourceText,
  type Operation,
} from '../api/activity.ts'
import { apiQuery } from '../api/queries.ts'
import { useSession } from '../api/session.ts'
import { useCursorPages } from '../table/cursor-pages.tsx'
import { DataTable, type Column } from '../table/data-table.tsx'
import { TableFoot } from '../table/table-foot.tsx'
import { path, PATHS } from '../paths.ts'
import { ButtonLink, TextLink } from '../ui/link.tsx'
import { Ago } from '../ui/now.tsx'
import { OperationButtons } from '../ui/operation-buttons.tsx'
import { Empty, Failure, PageHead, Rows } from '../ui/page.tsx'
import { OperationBadge } from '../ui/state-badge.tsx'
import { lasting } from '../ui/time.ts'
import { SHOWN, toOperationQuery, type Shown } from './operation-search.ts'

const PAGE_SIZE = 50
const PROGRESS_MS = 1_500

function Progressing({ operation }: { readonly operation: Operation }) {
  // Steps are no events, so what is under way and on screen is asked for, one question each second and a half.
  const following = useQuery({
    ...apiQuery('operation.get', { params: { operation: operation.id }, query: {} }),
    initialData: operation,
    refetchInterval: PROGRESS_MS,
  })
  const now = following.data
  const percent = percentOf(now)
  return (
    <div style={{ minWidth: 150 }}>
      <Text size="sm" c="dimmed" mb={4}>
        <span className="num">{progressWords(now).join(' · ') || 'waiting'}</span>
      </Text>
      <Progress
        value={percent ?? 100}
        animated={percent === null}
        striped={percent === null}
        size="xs"
        aria-label={`Progress of ${operation.name}`}
      />
    </div>
  )
}

function Ending({ operation }: { readonly operation: Operation }) {
  if (isUnfinished(operation)) return <Progressing operation={operation} />
  if (operation.fault === null) return <span className="dim num">{lasting(operation.updatedAt - operation.createdAt)}</span>
  return (
    <span className="fault-text" title={operation.fault.message}>
      {operation.fault.message}
    </span>
  )
}

/** An instance's page can be opened by its id too, which still names this one when another has taken its name. */
function ResourceCell({ operation }: { readonly operation: Operation }) {
  const text = resourceText(operation)
  const shown = operation.resourceName === null ? <span className="mono dim">{text}</span> : text
  return operation.name.startsWith('instance.') ? (
    <TextLink className="link" c="inherit" {...path.instance(operation.resource)}>
      {shown}
    </TextLink>
  ) : (
    shown
  )
}

const COLUMNS: readonly Column<Operation>[] = [
  {
    title: 'Operation',
    main: true,
    cell: (operation) => (
      <span title={operation.name}>
        <strong>{operationTitle(operation.name)}</strong> <ResourceCell operation={operation} />
      </span>
    ),
  },
  { title: 'State', shrink: true, cell: (operation) => <OperationBadge operation={operation} /> },
  { title: 'Progress', ownLine: true, cell: (operation) => <Ending operation={operation} /> },
  { title: 'Begun', shrink: true, cell: (operation) => <Ago at={operation.createdAt} /> },
]
const DECIDE: Column<Operation> = {
  title: 'Decide',
  shrink: true,
  cell: (operation) => <OperationButtons operation={operation} />,
}

const NOTHING: Record<Shown, string> = {
  all: 'Nothing has been done yet',
  unfinished: 'Nothing is under way',
  stuck: 'Nothing is stuck',
}

export function Operations() {
  const { show = 'all' } = useSearch({ from: `/signed-in${PATHS.operations}` })
  const { account } = useSession()
  const navigate = useNavigate({ from: PATHS.operations })
  const { answer, foot, first } = useCursorPages('operation.list', toOperationQuery(show), PAGE_SIZE)
  useEffect(first, [show])
  const items = answer.data?.items
  return (
    <>
      <PageHead title="Operations" />
      <div className="panel">
        <div className="toolbar">
          <label className="select">
            <span className="select-label">Show</span>
            <select
              value={show}
              onChange={(event) => {
                const next = SHOWN.find(({ show: each }) => each === event.currentTarget.value)?.show
                void navigate({ search: next === undefined || next === 'all' ? {} : { show: next } })
              }}
              data-testid="show"
            >
              {SHOWN.map((each) => (
                <option key={each.show} value={each.show}>
                  {each.title}
                </option>
              ))}
            </select>
          </label>
        </div>
        {items === undefined ? (
          answer.isPending ? (
            <Rows />
          ) : (
            <Failure what="The operations" error={answer.error} onRetry={() => void answer.refetch()} />
          )
        ) : items.length === 0 ? (
          <Empty
            icon="operation"
            title={NOTHING[show]}
            text="Whatever takes more than a moment is listed here, with its steps and how it ended."
            action={
              show === 'all' ? undefined : (
                <ButtonLink variant="default" {...path.operations()}>
                  Show all
                </ButtonLink>
              )
            }
          />
        ) : (
          <DataTable
            label="Operations"
            rows={items}
            columns={items.some((each) => decisionsOf(each, account.role).length > 0) ? [...COLUMNS, DECIDE] : COLUMNS}
            rowKey={(row) => row.id}
            rowName={(row) => `${row.name} ${resourceText(row)}`}
            stale={answer.isPlaceholderData}
          />
        )}
        {items !== undefined && items.length > 0 && <TableFoot {...foot} shown={items.length} />}
      </div>
    </>
  )
}
