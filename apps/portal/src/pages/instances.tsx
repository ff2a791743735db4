import { Button, TextInput } from '@mantine/core'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useLocation, useNavigate, useSearch } from '@tanstack/react-router'
import { formatBytes } from '@typevisor/base'
import { lazy, Suspense, useEffect, useState, type ReactNode } from 'react'
import { apiQuery } from '../api/queries.ts'
import { useMay } from '../api/session.ts'
import type { Instance } from '../api/verbs.ts'
import { path, PATHS } from '../paths.ts'
import { DataTable, type Column } from '../table/data-table.tsx'
import { nextPage, previousPage, readTrail, type PageStep } from '../table/pager.ts'
import { NOTHING, visible } from '../table/selection.ts'
import { TableFoot } from '../table/table-foot.tsx'
import { Icon } from '../ui/icons.tsx'
import { ButtonLink, TextLink } from '../ui/link.tsx'
import { Ago } from '../ui/now.tsx'
import { Empty, Failure, PageHead, Rows } from '../ui/page.tsx'
import { StateBadge, stateText } from '../ui/state-badge.tsx'
import { VerbMenu } from '../ui/verb-menu.tsx'
import { BulkBar } from './bulk-bar.tsx'
import {
  DEFAULT_PAGE_SIZE,
  isFiltered,
  narrowed,
  PAGE_SIZES,
  sortedBy,
  STATE_KINDS,
  toListQuery,
  type InstanceSearch,
  type InstanceSort,
} from './instance-search.ts'

const loadCreate = () => import('../forms/create-instance.tsx')
const CreateInstance = lazy(async () => ({ default: (await loadCreate()).CreateInstance }))

const COLUMNS: readonly Column<Instance, InstanceSort>[] = [
  { title: 'Name', sort: 'name', main: true, cell: (instance) => <NameCell instance={instance} /> },
  { title: 'State', sort: 'state', shrink: true, cell: (instance) => <StateBadge instance={instance} /> },
  { title: 'Image', cell: (instance) => instance.image },
  {
    title: 'Host',
    wide: true,
    cell: (instance) =>
      instance.host === null ? <span className="dim">none yet</span> : <span className="whole">{instance.host}</span>,
  },
  { title: 'Size', sort: 'memoryBytes', cell: (instance) => <SizeText instance={instance} /> },
  { title: 'Created', sort: 'createdAt', wide: true, shrink: true, cell: (instance) => <Ago at={instance.createdAt} /> },
]

function NameCell({ instance }: { readonly instance: Instance }) {
  const labels = Object.entries(instance.labels)
  return (
    <span style={{ display: 'inline-flex', alignItems: 'center', flexWrap: 'wrap', gap: '3px 8px' }}>
      <TextLink className="link" c="inherit" {...path.instance(instance.name)}>
        {instance.name}
      </TextLink>
      {labels.slice(0, 3).map(([key, value]) => (
        <span key={key} className="label">
          {value === '' ? key : `${key}=${value}`}
        </span>
      ))}
      {labels.length > 3 && <span className="label">+{labels.length - 3}</span>}
    </span>
  )
}

const SizeText = ({ instance }: { readonly instance: Instance }) => (
  <span className="num" style={{ whiteSpace: 'nowrap' }}>
    {instance.vcpuCount} vCPU · {formatBytes(instance.memoryBytes)}
  </span>
)

export function Instances() {
  const search = useSearch({ from: `/signed-in${PATHS.instances}` })
  const navigate = useNavigate({ from: PATHS.instances })
  const trail = readTrail(useLocation({ select: (location) => location.state }))
  const may = useMay()
  const list = useQuery({ ...apiQuery('instance.list', { query: toListQuery(search) }), placeholderData: keepPreviousData })
  const [chosenEver, setChosen] = useState(NOTHING)

  const go = (next: InstanceSearch, options: { replace?: boolean } = {}) => void navigate({ search: next, ...options })
  const goPage = ({ cursor, trail: { before } }: PageStep) => {
    const { cursor: _here, ...rest } = search
    void navigate({ search: { ...rest, ...(cursor !== undefined && { cursor }) }, state: { trail: before } })
  }
  const openCreate = (create: boolean) => {
    const { create: _before, ...rest } = search
    void navigate({ search: create ? { ...rest, create } : rest, replace: !create })
  }

  const rows = list.data?.items ?? []
  const chosen = visible(
    chosenEver,
    rows.map((row) => row.id),
  )
  const mayCreate = may('instance.create')
  const createButton = (
    <Button
      leftSection={<Icon name="plus" />}
      onClick={() => openCreate(true)}
      onMouseEnter={() => void loadCreate()}
      onFocus={() => void loadCreate()}
      data-testid="create"
    >
      Create instance
    </Button>
  )
  const nothingAtAll = list.data?.total === 0 && !isFiltered(search) && search.cursor === undefined

  return (
    <>
      <PageHead title="Instances" actions={mayCreate && !nothingAtAll ? createButton : undefined} />
      <div className="panel">
        {nothingAtAll ? (
          <NoInstances action={mayCreate ? createButton : undefined} />
        ) : (
          <>
            <Filters search={search} onChange={(change) => go(narrowed(search, change), { replace: true })} />
            {list.isPending ? (
              <Rows />
            ) : list.isError && list.data === undefined ? (
              <Failure what="The list" error={list.error} onRetry={() => void list.refetch()} />
            ) : rows.length === 0 ? (
              <Empty
                icon="search"
                title="Nothing matches"
                text="No instance has these words or this state."
                action={
                  <Button variant="default" onClick={() => go({})}>
                    Show all
                  </Button>
                }
              />
            ) : (
              <DataTable
                label="Instances"
                rows={rows}
                columns={COLUMNS}
                rowKey={(row) => row.id}
                rowName={(row) => row.name}
                sort={{ by: search.sort ?? 'name', order: search.order ?? 'asc', onSort: (by) => go(sortedBy(search, by)) }}
                {...(may('instance.start') && {
                  selection: { chosen, onChange: setChosen },
                  menu: (row: Instance) => <VerbMenu instance={row} />,
                })}
                stale={list.isPlaceholderData}
              />
            )}
            {list.data !== undefined && (
              <TableFoot
                trail={trail}
                cursor={search.cursor}
                shown={rows.length}
                limit={search.limit ?? DEFAULT_PAGE_SIZE}
                total={list.data.total}
                nextCursor={list.data.nextCursor}
                onNext={(next) => goPage(nextPage(trail, search.cursor, next))}
                onPrevious={() => goPage(previousPage(trail))}
                pageSize={{ sizes: PAGE_SIZES, onChange: (limit) => go(narrowed(search, { limit })) }}
              />
            )}
          </>
        )}
      </div>
      {chosen.size > 0 && <BulkBar instances={rows.filter((row) => chosen.has(row.id))} onDone={() => setChosen(NOTHING)} />}
      {search.create === true && mayCreate && (
        <Suspense fallback={null}>
          <CreateInstance onClose={() => openCreate(false)} taken={new Set(rows.map((row) => row.name))} />
        </Suspense>
      )}
    </>
  )
}

function NoInstances({ action }: { readonly action: ReactNode }) {
  const hosts = useQuery(apiQuery('host.list', {}))
  if (hosts.data !== undefined && !hosts.data.items.some((host) => host.connected)) {
    return (
      <Empty
        icon="host"
        title="No host is connected"
        text="Instances run on hosts. As soon as an agent is connected, the first one can be made."
        action={<ButtonLink {...path.hosts()}>To the hosts</ButtonLink>}
      />
    )
  }
  return (
    <Empty
      icon="instance"
      title="No instances yet"
      text={
        action === undefined
          ? 'When somebody creates one, it appears here at once.'
          : 'An instance is a machine of your own, with a console and a disk. The first one is two clicks away and boots in seconds.'
      }
      action={action}
    />
  )
}

const TYPING_MS = 250

function Filters({
  search,
  onChange,
}: {
  readonly search: InstanceSearch
  readonly onChange: (change: { search?: string | undefined; state?: InstanceSearch['state'] | undefined }) => void
}) {
  const [words, setWords] = useState(search.search ?? '')
  useEffect(() => {
    setWords(search.search ?? '')
  }, [search.search])
  useEffect(() => {
    if (words === (search.search ?? '')) return
    const timer = setTimeout(() => onChange({ search: words }), TYPING_MS)
    return () => clearTimeout(timer)
    // Only typing starts the clock; an event that redraws the list must not.
  }, [words])
  return (
    <div className="toolbar" role="search">
      <TextInput
        type="search"
        aria-label="Search instances"
        placeholder="Search by name, image, host, label"
        leftSection={<Icon name="search" size={16} />}
        value={words}
        onChange={(event) => setWords(event.currentTarget.value)}
        style={{ flex: '1 1 220px', maxWidth: 420 }}
        data-testid="search"
      />
      <label className="select">
        <span className="select-label">State</span>
        <select
          value={search.state ?? ''}
          onChange={(event) => onChange({ state: STATE_KINDS.find((kind) => kind === event.currentTarget.value) })}
          data-testid="state-filter"
        >
          <option value="">any</option>
          {STATE_KINDS.map((kind) => (
            <option key={kind} value={kind}>
              {stateText(kind)}
            </option>
          ))}
        </select>
      </label>
    </div>
  )
}
