import { Empty, Failure, Rows } from '../ui/page.tsx'
import { useCursorPages } from '../table/cursor-pages.tsx'
import { TableFoot } from '../table/table-foot.tsx'
import { Ago } from '../ui/now.tsx'
import { eventLine } from './event-text.ts'

const PAGE_SIZE = 50

interface Props {
  /** Of the thing, as its events have it: an instance's id, a host's name. */
  readonly resource: string
  readonly name: string
  /** What will be here once something has happened. */
  readonly awaits: string
}

/** What happened to one thing, the newest first; new ones appear as they happen. */
export function Timeline({ resource, name, awaits }: Props) {
  const { answer, foot } = useCursorPages('event.list', { resource }, PAGE_SIZE)
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
        <Empty icon="info" title="Nothing has happened yet" text={awaits} />
      </div>
    )
  }
  return (
    <div className="panel">
      <ol className="timeline" aria-label={`Events of ${name}`} data-testid="events">
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
