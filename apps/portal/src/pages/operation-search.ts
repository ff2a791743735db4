/** Which operations the address bar asks for. Anything that is not understood is dropped: an old link still opens the list. */
import type { Query } from '@typevisor/api'

export const SHOWN = [
  { show: 'all', title: 'all' },
  { show: 'unfinished', title: 'those not ended' },
  { show: 'stuck', title: 'those stuck' },
] as const
export type Shown = (typeof SHOWN)[number]['show']

export interface OperationSearch {
  readonly show?: Exclude<Shown, 'all'>
}

export const parseOperationSearch = ({ show }: Record<string, unknown>): OperationSearch =>
  show === 'unfinished' || show === 'stuck' ? { show } : {}

const QUERIES: Record<Shown, Omit<Query<'operation.list'>, 'limit'>> = {
  all: {},
  unfinished: { unfinished: 'true' },
  stuck: { state: 'stuck' },
}
export const toOperationQuery = (show: Shown): Omit<Query<'operation.list'>, 'limit'> => QUERIES[show]
