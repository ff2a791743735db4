/** What the address bar holds of the instance list. Anything that is not understood is dropped: an old link still opens the list. */
import type { Query } from '@typevisor/api'

export type InstanceStateKind = NonNullable<Query<'instance.list'>['state']>
export type InstanceSort = 'name' | 'createdAt' | 'state' | 'memoryBytes'

export interface InstanceSearch {
  readonly search?: string
  readonly state?: InstanceStateKind
  readonly sort?: InstanceSort
  readonly order?: 'asc' | 'desc'
  readonly cursor?: string
  readonly limit?: number
  /** The create drawer is open. */
  readonly create?: boolean
}

export const STATE_KINDS = [
  'running',
  'stopped',
  'paused',
  'saved',
  'crashed',
  'failed',
  'creating',
  'destroying',
] as const satisfies readonly InstanceStateKind[]
const SORTS = ['name', 'createdAt', 'state', 'memoryBytes'] as const satisfies readonly InstanceSort[]

export const PAGE_SIZES = [25, 50, 100, 250] as const
export const DEFAULT_PAGE_SIZE = 50

const oneOf = <T extends string>(options: readonly T[], value: unknown): T | undefined =>
  options.find((option) => option === value)
const text = (value: unknown, most: number): string | undefined => {
  const words = typeof value === 'number' ? String(value) : value
  return typeof words === 'string' && words !== '' ? words.slice(0, most) : undefined
}

export function parseInstanceSearch(raw: Record<string, unknown>): InstanceSearch {
  const search = text(raw['search'], 200)
  const state = oneOf(STATE_KINDS, raw['state'])
  const sort = oneOf(SORTS, raw['sort'])
  const order = oneOf(['asc', 'desc'] as const, raw['order'])
  const cursor = text(raw['cursor'], 500)
  const limit = PAGE_SIZES.find((size) => size === Number(raw['limit']))
  const create = raw['create'] === true || raw['create'] === 'true' || raw['create'] === 1
  return {
    ...(search !== undefined && { search }),
    ...(state !== undefined && { state }),
    ...(sort !== undefined && { sort }),
    ...(order !== undefined && { order }),
    ...(cursor !== undefined && { cursor }),
    ...(limit !== undefined && { limit }),
    ...(create && { create }),
  }
}

/** The question that the list asks the server. */
export function toListQuery(search: InstanceSearch): Query<'instance.list'> {
  const { create: _drawer, limit = DEFAULT_PAGE_SIZE, ...asked } = search
  return { ...asked, limit }
}

export const isFiltered = (search: InstanceSearch): boolean => search.search !== undefined || search.state !== undefined

/** A change of what is searched, or in which order, begins at the first page: a cursor belongs to the question it came from. */
export function narrowed(
  search: InstanceSearch,
  change: { [K in keyof InstanceSearch]?: InstanceSearch[K] | undefined },
): InstanceSearch {
  const { cursor: _page, ...rest } = search
  return parseInstanceSearch({ ...rest, ...change })
}

/** Another click on the same column turns the order round. */
export function sortedBy(search: InstanceSearch, sort: InstanceSort): InstanceSearch {
  const same = (search.sort ?? 'name') === sort
  const order = same && (search.order ?? 'asc') === 'asc' ? 'desc' : 'asc'
  return narrowed(search, { sort, order })
}
