import { TextInput } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { useDebouncedValue } from '@mantine/hooks'
import { useEffect, useState } from 'react'
import { useCursorPages } from '../../table/cursor-pages.tsx'
import { DataTable, type Column } from '../../table/data-table.tsx'
import { TableFoot } from '../../table/table-foot.tsx'
import { Icon } from '../../ui/icons.tsx'
import { Empty, Failure, Rows } from '../../ui/page.tsx'
import { exactTime } from '../../ui/time.ts'

type Entry = Reply<'audit.list'>['items'][number]
const PAGE_SIZE = 100

const VIA: Record<Entry['via'], string> = {
  session: '',
  none: '',
  token: 'by a token',
  local: "by the machine's own credentials",
}

/** `begun`: it is under way, such as a console that is open, or was cut off. Anything else is the code of a fault. */
const TONES: Record<string, string> = { ok: 'green', begun: 'blue' }

/** By name; what was recorded without one, such as a token that is gone, by its id. */
function ResourceText({ entry: { resource, resourceName } }: { readonly entry: Entry }) {
  if (resource === null) return null
  if (resourceName !== null) return <span title={resource}>{resourceName}</span>
  return <span className="mono dim">{resource}</span>
}

const COLUMNS: readonly Column<Entry>[] = [
  { title: 'When', shrink: true, cell: (entry) => <span className="num">{exactTime(entry.at)}</span> },
  {
    title: 'Who',
    cell: (entry) => (
      <>
        {entry.account ?? <span className="dim">nobody signed in</span>} <span className="dim">{VIA[entry.via]}</span>
      </>
    ),
  },
  { title: 'What', cell: (entry) => <span className="mono">{entry.operation}</span> },
  { title: 'Of', cell: (entry) => <ResourceText entry={entry} /> },
  {
    title: 'Outcome',
    cell: (entry) => <span className={`state tone-${TONES[entry.outcome] ?? 'red'}`}>{entry.outcome}</span>,
  },
  { title: 'From', wide: true, cell: (entry) => <span className="mono dim">{entry.address}</span> },
]

export function Audit() {
  const [words, setWords] = useState('')
  const [search] = useDebouncedValue(words, 250)
  const { answer, foot, first } = useCursorPages('audit.list', search === '' ? {} : { search }, PAGE_SIZE)
  useEffect(first, [search])
  const items = answer.data?.items
  return (
    <div className="panel">
      <div className="toolbar" role="search">
        <TextInput
          type="search"
          aria-label="Search the audit log"
          placeholder="Account, operation, name, outcome"
          leftSection={<Icon name="search" size={16} />}
          value={words}
          onChange={(event) => setWords(event.currentTarget.value)}
          style={{ flex: '1 1 220px', maxWidth: 420 }}
        />
      </div>
      {items === undefined ? (
        answer.isPending ? (
          <Rows />
        ) : (
          <Failure what="The audit log" error={answer.error} onRetry={() => void answer.refetch()} />
        )
      ) : items.length === 0 ? (
        <Empty icon="search" title="Nothing found" text="Every change, and every refusal, is written here." />
      ) : (
        <>
          <DataTable label="Audit log" rows={items} columns={COLUMNS} rowKey={(row) => row.id} rowName={(row) => row.operation} />
          <TableFoot {...foot} shown={items.length} />
        </>
      )}
    </div>
  )
}
