import { isUuid } from '@typevisor/model'
import { sql } from 'kysely'
import type { Db } from '../db/database.ts'
import { pageOf, searchPatterns } from '../db/paging.ts'
import { eventFromRow, settled } from '../event-log.ts'
import type { Handlers } from '../http/handler.ts'

export function eventHandlers(db: Db): Pick<Handlers, 'event.list'> {
  return {
    // Only what is settled, as in the stream: whoever goes on after the newest one shown here misses nothing.
    'event.list': async ({ query }) => {
      const patterns = searchPatterns(query.search)
      let rows = db.selectFrom('event').select(['id', 'xid', 'at', 'kind', 'resource', 'name', 'content']).where(settled)
      const { resource } = query
      if (resource !== undefined)
        rows = rows.where((is) =>
          is.or([is('resource', '=', resource), ...(isUuid(resource) ? [] : [is('name', '=', resource)])]),
        )
      if (patterns.length > 0)
        rows = rows.where(sql<boolean>`lower(event.kind || ' ' || coalesce(event.name, '')) LIKE ALL (${patterns})`)
      return pageOf({
        rows,
        keys: [
          { column: 'event.xid', kind: 'xid8', read: (row) => row.xid },
          { column: 'event.id', kind: 'integer', read: (row) => row.id },
        ],
        order: 'desc',
        context: ['event', query.resource, query.search],
        cursor: query.cursor,
        limit: query.limit,
        toItem: eventFromRow,
      })
    },
  }
}
