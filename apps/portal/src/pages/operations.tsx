import { Button, Progress, Text } from '@mantine/core'
import { useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import { isUnfinished, operationTitle, type Operation } from '../api/activity.ts'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import { useMay } from '../api/session.ts'
import { useCursorPages } from '../table/cursor-pages.tsx'
import { DataTable, type Column } from '../table/data-table.tsx'
import { TableFoot } from '../table/table-foot.tsx'
import { path } from '../paths.ts'
import { TextLink } from '../ui/link.tsx'
import { useComplaints } from '../ui/notices.tsx'
import { Ago } from '../ui/now.tsx'
import { Empty, Failure, PageHead, Rows } from '../ui/page.tsx'
import { OperationBadge } from '../ui/state-badge.tsx'
import { lasting } from '../ui/time.ts'

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
  const percent = now.progress === null ? null : Math.round(now.progress * 100)
  return (
    <div style={{ minWidth: 150 }}>
      <Text size="sm" c="dimmed" mb={4}>
        {now.step ?? 'waiting'}
        {percent !== null && <span className="num"> · {percent} %</span>}
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

/** The operation names what it is about by id; an instance's page can be opened by that too. */
function ResourceCell({ operation: { name, resource } }: { readonly operation: Operation }) {
  const text = <span className="mono">{resource.slice(0, 18)}</span>
  return name.startsWith('instance.') ? (
    <TextLink c="dimmed" {...path.instance(resource)}>
      {text}
    </TextLink>
  ) : (
    <span className="dim">{text}</span>
  )
}

const COLUMNS: readonly Column<Operation>[] = [
  {
    title: 'Operation',
    main: true,
    cell: (operation) => (
      <>
        <strong>{operationTitle(operation.name)}</strong> <span className="dim mono">{operation.name}</span>
      </>
    ),
  },
  { title: 'Of', wide: true, cell: (operation) => <ResourceCell operation={operation} /> },
  { title: 'State', shrink: true, cell: (operation) => <OperationBadge operation={operation} /> },
  { title: 'Progress', ownLine: true, cell: (operation) => <Ending operation={operation} /> },
  { title: 'Begun', shrink: true, cell: (operation) => <Ago at={operation.createdAt} /> },
]

export function Operations() {
  const [unfinished, setUnfinished] = useState(false)
  const { answer, foot, first } = useCursorPages('operation.list', unfinished ? { unfinished: 'true' } : {}, PAGE_SIZE)
  const may = useMay()
  const { complain } = useComplaints()
  const cancel = async (operation: Operation) => {
    try {
      await call('operation.cancel', { params: { operation: operation.id } })
    } catch (error) {
      complain(`${operationTitle(operation.name)} was not cancelled`, error)
    }
    void answer.refetch()
  }
  const items = answer.data?.items
  return (
    <>
      <PageHead title="Operations" />
      <div className="panel">
        <div className="toolbar">
          <label className="select">
            <span className="select-label">Show</span>
            <select
              value={String(unfinished)}
              onChange={(event) => {
                setUnfinished(event.currentTarget.value === 'true')
                first()
              }}
            >
              <option value="false">all</option>
              <option value="true">those under way</option>
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
            title={unfinished ? 'Nothing is under way' : 'Nothing has been done yet'}
            text="Whatever takes more than a moment is listed here, with its steps and how it ended."
          />
        ) : (
          <DataTable
            label="Operations"
            rows={items}
            columns={COLUMNS}
            rowKey={(row) => row.id}
            rowName={(row) => row.name}
            menu={(row) =>
              row.state === 'running' && may('operation.cancel') ? (
                <Button size="compact-xs" variant="default" onClick={() => void cancel(row)}>
                  Cancel
                </Button>
              ) : null
            }
          />
        )}
        {items !== undefined && items.length > 0 && <TableFoot {...foot} shown={items.length} />}
      </div>
    </>
  )
}
