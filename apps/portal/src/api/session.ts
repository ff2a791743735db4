/** Who is signed in. The session itself is an HttpOnly cookie that no script can read; what is held here is what the server said of it. */
import type { OperationName, Reply } from '@typevisor/api'
import type { Fault } from '@typevisor/base'
import { queryOptions, useSuspenseQuery, type QueryClient } from '@tanstack/react-query'
import { call, rememberCsrfToken } from './client.ts'
import { mayCall } from './permission.ts'

export type Session = Reply<'session.get'>

export const sessionQuery = queryOptions<Session, Fault>({
  queryKey: ['session.get', {}],
  queryFn: async ({ signal }) => {
    const session = await call('session.get', {}, { signal })
    rememberCsrfToken(session.csrfToken)
    return session
  },
  staleTime: Number.POSITIVE_INFINITY,
  retry: false,
})

export async function signIn(queryClient: QueryClient, credentials: { account: string; password: string }): Promise<void> {
  const session = await call('session.create', { body: credentials })
  rememberCsrfToken(session.csrfToken)
  // What an account before this one saw is not for this one.
  queryClient.clear()
  queryClient.setQueryData(sessionQuery.queryKey, session)
}

/** `leave` goes to a page that shows nothing of the session; only then is what is known of it forgotten. */
export async function signOut(queryClient: QueryClient, leave: () => Promise<void>): Promise<void> {
  await call('session.delete', {})
  rememberCsrfToken(null)
  await leave()
  queryClient.clear()
}

export const useSession = (): Session => useSuspenseQuery(sessionQuery).data

export function useMay(): (operation: OperationName) => boolean {
  const { role } = useSession().account
  return (operation) => mayCall(role, operation)
}
