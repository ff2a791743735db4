/**
 * Keyset paging: a page goes on after the sort key of the last row, so that it costs the same at any depth and neither repeats nor skips
 * a row that stayed, whatever was inserted or removed meanwhile.
 *
 *   cursor = base64url(JSON [context, value of each key ...])
 *
 * The context names the list with its order and filters: a cursor of another list is refused, not read as nonsense. A cursor is no
 * secret and grants nothing: it only says where to go on. It is parsed like any input.
 */
import { createHash } from 'node:crypto'
import { sql, type RawBuilder, type SelectQueryBuilder } from 'kysely'
import { Fault } from '@typevisor/base'
import { isUuid } from '@typevisor/model'
import type { Database } from './schema.ts'

type KeyKind = 'text' | 'integer' | 'time' | 'uuid' | 'xid8'

export interface PageKey<Row> {
  /** Column, qualified where the query joins: `instance.name`. Never from input. */
  readonly column: string
  readonly kind: KeyKind
  readonly read: (row: Row) => string | number | Date
}

export interface PageRequest<Row, Item> {
  /** Filtered, neither ordered nor limited. */
  readonly rows: SelectQueryBuilder<Database, any, Row> // any: the tables joined do not matter here
  /** Together unique; the last one is usually the id. */
  readonly keys: readonly PageKey<Row>[]
  readonly order: 'asc' | 'desc'
  /** What the list is of, with everything that changes its order or its rows. */
  readonly context: readonly (string | number | undefined)[]
  readonly cursor: string | undefined
  readonly limit: number
  readonly toItem: (row: Row) => Item
}

export interface PageReply<Item> {
  items: Item[]
  total: number
  nextCursor: string | null
}

const CAST: Record<KeyKind, string> = { text: 'text', integer: 'bigint', time: 'timestamptz', uuid: 'uuid', xid8: 'xid8' }
/** Years 1 to 9999: what both Date and PostgreSQL can hold. */
const TIME_MS_MAX = 253_402_300_799_999

const FITS: Record<KeyKind, (value: unknown) => boolean> = {
  text: (value) => typeof value === 'string' && !value.includes('\0') && value.isWellFormed(),
  integer: (value) => Number.isSafeInteger(value),
  time: (value) => Number.isSafeInteger(value) && Math.abs(value as number) <= TIME_MS_MAX,
  uuid: (value) => typeof value === 'string' && isUuid(value),
  xid8: (value) => typeof value === 'string' && /^\d{1,20}$/.test(value) && BigInt(value) < 2n ** 64n,
}

const contextText = (context: PageRequest<never, never>['context']): string =>
  createHash('sha256')
    .update(JSON.stringify(context.map((part) => part ?? null)))
    .digest('base64url')
    .slice(0, 8)

export function encodeCursor(context: PageRequest<never, never>['context'], values: readonly (string | number | Date)[]): string {
  const plain = values.map((value) => (value instanceof Date ? value.getTime() : value))
  return Buffer.from(JSON.stringify([contextText(context), ...plain])).toString('base64url')
}

/** @throws Fault `invalid` naming `query.cursor` for what this list did not give. */
export function decodeCursor(
  context: PageRequest<never, never>['context'],
  kinds: readonly KeyKind[],
  cursor: string,
): (string | number)[] {
  const refuse = (): Fault => {
    const detail = {
      path: 'query.cursor',
      want: 'nextCursor of the page before, with the same order and filters',
      got: JSON.stringify(cursor.slice(0, 60)),
    }
    return new Fault('invalid', `${detail.path}: got ${detail.got}, want ${detail.want}`, { details: [detail] })
  }
  let parsed: unknown
  try {
    if (!/^[A-Za-z0-9_-]{1,500}$/.test(cursor)) throw refuse()
    parsed = JSON.parse(Buffer.from(cursor, 'base64url').toString())
  } catch {
    throw refuse()
  }
  if (!Array.isArray(parsed) || parsed.length !== kinds.length + 1 || parsed[0] !== contextText(context)) throw refuse()
  const values: unknown[] = parsed.slice(1)
  if (!values.every((value, index) => FITS[kinds[index] as KeyKind](value))) throw refuse()
  return values as (string | number)[]
}

const columnRef = (column: string): RawBuilder<unknown> => sql.ref(column)

/** One page of a list, with the number of rows in all and the cursor of the next page. */
export async function pageOf<Row, Item>(request: PageRequest<Row, Item>): Promise<PageReply<Item>> {
  const { keys, order, context, cursor, limit, toItem } = request
  let rows = request.rows
  if (cursor !== undefined) {
    const values = decodeCursor(
      context,
      keys.map((key) => key.kind),
      cursor,
    )
    const left = sql.join(keys.map((key) => columnRef(key.column)))
    const right = sql.join(
      values.map((value, index) => {
        const kind = (keys[index] as PageKey<Row>).kind // as many values as keys: decodeCursor saw to it
        return sql`${kind === 'time' ? new Date(value as number) : String(value)}::${sql.raw(CAST[kind])}`
      }),
    )
    rows = rows.where(sql<boolean>`(${left}) ${sql.raw(order === 'asc' ? '>' : '<')} (${right})`)
  }
  for (const key of keys) rows = rows.orderBy(columnRef(key.column), order)
  const [found, counted] = await Promise.all([
    rows.limit(limit + 1).execute(),
    request.rows
      .clearSelect()
      .select(sql<number>`count(*)`.as('total'))
      .executeTakeFirstOrThrow(),
  ])
  const last = found.length > limit ? found[limit - 1] : undefined
  return {
    items: found.slice(0, limit).map(toItem),
    total: (counted as { total: number }).total,
    nextCursor:
      last === undefined
        ? null
        : encodeCursor(
            context,
            keys.map((key) => key.read(last)),
          ),
  }
}

/**
 * Every word of `search` as a pattern for a `search` column: `column LIKE ALL (patterns)`, which the trigram index serves. The
 * characters that mean something to LIKE are taken as they are.
 */
export function searchPatterns(search: string | undefined): string[] {
  const words = (search ?? '')
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== '')
  return words.slice(0, 10).map((word) => `%${word.replaceAll(/[\\%_]/g, '\\$&')}%`)
}
