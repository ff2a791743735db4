/** Pages of a list that is no address of its own (operations, audit): the cursor is held by the page. */
import type { Reply } from '@typevisor/api'
import { keepPreviousData, useQuery } from '@tanstack/react-query'
import { useState } from 'react'
import type { Asked, CallOperation } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import { EMPTY_TRAIL, nextPage, previousPage, type PageStep } from './pager.ts'

type ListName = {
  [N in CallOperation]: Reply<N> extends { items: unknown[]; total: number; nextCursor: string | null } ? N : never
}[CallOperation]

const FIRST: PageStep = { cursor: undefined, trail: EMPTY_TRAIL }

export function useCursorPages<N extends ListName>(name: N, query: object, limit: number) {
  const [step, setStep] = useState(FIRST)
  // The query's shape is checked by the operation's own caller; the page adds what every list takes.
  const asked = { query: { ...query, limit, ...(step.cursor !== undefined && { cursor: step.cursor }) } } as unknown as Asked<N>
  const answer = useQuery({ ...apiQuery(name, asked), placeholderData: keepPreviousData })
  const page = answer.data as { total: number; nextCursor: string | null } | undefined
  return {
    answer,
    first: () => setStep(FIRST),
    foot: {
      trail: step.trail,
      cursor: step.cursor,
      limit,
      total: page?.total ?? 0,
      nextCursor: page?.nextCursor ?? null,
      onNext: (next: string) => setStep(nextPage(step.trail, step.cursor, next)),
      onPrevious: () => setStep(previousPage(step.trail)),
    },
  }
}
