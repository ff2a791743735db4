import { Fault } from '@typevisor/base'
import { useQuery } from '@tanstack/react-query'
import { createContext, useCallback, useContext, useEffect, useMemo, useState, type ReactNode } from 'react'
import {
  dismissed,
  ended,
  followed,
  forgotten,
  NO_ACTIVITY,
  operationTitle,
  reconciled,
  type Activity,
  type Operation,
} from './activity.ts'
import { call } from './client.ts'
import { apiQuery } from './queries.ts'

interface ActivityStore extends Activity {
  /** Follow an operation that the server has just accepted, or has just been told to turn round. */
  readonly follow: (accepted: { readonly operation: Operation }, name: string) => void
  readonly dismiss: (operationId: string) => void
}

const ActivityContext = createContext<ActivityStore | null>(null)

export function useActivity(): ActivityStore {
  const store = useContext(ActivityContext)
  if (store === null) throw new Error('useActivity: no ActivityProvider above')
  return store
}

/** How often progress is asked for while something of this tab is under way. */
const PROGRESS_MS = 1_200
const MOST_FOLLOWED = 500

export function ActivityProvider({ children }: { readonly children: ReactNode }) {
  const [activity, setActivity] = useState<Activity>(NO_ACTIVITY)
  const busy = activity.follows.length > 0
  const unfinished = useQuery({
    ...apiQuery('operation.list', { query: { unfinished: 'true', limit: MOST_FOLLOWED } }),
    enabled: busy,
    refetchInterval: PROGRESS_MS,
    staleTime: 0,
  })
  const { data, dataUpdatedAt } = unfinished

  useEffect(() => {
    if (!busy || data === undefined) return
    const step = reconciled(activity, data.items)
    // An answer that was on its way when an operation began says nothing of it.
    const settled = step.ended.filter((id) => {
      const begun = activity.follows.find((each) => each.operation.id === id)?.begunAt ?? 0
      return dataUpdatedAt > begun
    })
    if (step.activity.follows.some((each, index) => each !== activity.follows[index]))
      setActivity((now) => reconciled(now, data.items).activity)
    for (const id of settled) {
      call('operation.get', { params: { operation: id } })
        .then((operation) => setActivity((now) => ended(now, operation)))
        .catch((error: unknown) => {
          if (error instanceof Fault && error.code === 'not_found') setActivity((now) => forgotten(now, id))
        })
    }
    // Once for each answer: what it says does not change with the follows.
  }, [dataUpdatedAt])

  const follow = useCallback(({ operation }: { readonly operation: Operation }, name: string) => {
    setActivity((now) =>
      followed(now, {
        operation,
        title: `${operationTitle(operation.name)} ${name}`,
        instance: operation.name.startsWith('instance.') ? name : null,
        begunAt: Date.now(),
      }),
    )
  }, [])
  const dismiss = useCallback((id: string) => setActivity((now) => dismissed(now, id)), [])
  const store = useMemo(() => ({ ...activity, follow, dismiss }), [activity, follow, dismiss])
  return <ActivityContext value={store}>{children}</ActivityContext>
}
