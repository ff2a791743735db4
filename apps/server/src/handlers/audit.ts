import { sql } from 'kysely'
import type { Db } from '../db/database.ts'
import { pageOf, searchPatterns } from '../db/paging.ts'
import type { Handlers } from '../http/handler.ts'

export function auditHandlers(db: Db): Pick<Handlers, 'audit.list'> {
  return {
    'audit.list': async ({ query }) => {
      const patterns = searchPatterns(query.search)
      let rows = db
        .selectFrom('audit')
        .select(['id', 'at', 'account', 'via', 'operation', 'resource', 'resource_name', 'outcome', 'address'])
      if (patterns.length > 0) rows = rows.where(sql<boolean>`audit.search LIKE ALL (${patterns})`)
      return pageOf({
        rows,
        keys: [{ column: 'audit.id', kind: 'integer', read: (row) => row.id }],
        order: 'desc',
        context: ['audit', query.search],
        cursor: query.cursor,
        limit: query.limit,
        toItem: ({ resource_name, ...row }) => ({
          ...row,
          resourceName: resource_name,
          id: String(row.id),
          at: row.at.getTime(),
        }),
      })
    },
  }
}
