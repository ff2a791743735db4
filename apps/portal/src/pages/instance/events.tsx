import { Empty, Failure, Rows } from '../../ui/page.tsx'
import { useCursorPages } from '../../table/cursor-pages.tsx'
import { TableFoot } from '../../table/table-foot.tsx'
import { Ago } from '../../ui/now.tsx'
import { eventLine } from '../event-text.ts'
import { useInstance } from './instance.tsx'

const PAGE_SIZE = 50

/** What happened to it, the newest first; new ones appear as they happen. */
export function Events() {
  const instance = useInstance()
  const { answer, foot } = useCursorPages('event.list', { resource: instance.id }, PAGE_SIZE)
  const items = answer.data?.items
  if (items === undefined)
    return (
      <div className="panel">
        {answer.isPending ? <Rows /> : <Failure what="The history" error={answer.error} onRetry={() => void answer.refetch()} />}
      </div>
    )
  if (items.length === 0) {
    return (
      <div className="panel">
        <Empty icon="info" title="Nothing has happened yet" text="Starts, stops and their causes appear here as they happen." />
      </div>
    )
  }
  return (
    <div className="panel">
      <ol className="timeline" aria-label={`Events of ${instance.name}`} data-testid="events">
        {items.map((event) => {
          const { title, detail, tone } = eventLine(event)
          return (
            <li key={event.sequence} data-testid="event" data-kind={event.kind}>
              <span className="dim">
                <Ago at={event.at} />
              </span>
              <span className={`state tone-${tone}`}>{title}</span>
              <span style={{ overflowWrap: 'anywhere' }}>
                <span className="dim mono">{event.kind}</span> {detail}
              </span>
            </li>
          )
        })}
      </ol>
      <TableFoot {...foot} shown={items.length} />
    </div>
  )
}
