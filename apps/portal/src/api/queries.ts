/** Every answer of the API under one key shape, `[operation, { params, query }]`, which is what `live.ts` judges. */
import type { Reply } from '@typevisor/api'
import { Fault, retryable } from '@typevisor/base'
import { QueryCache, MutationCache, QueryClient, queryOptions } from '@tanstack/react-query'
import { call, type Asked, type CallOperation } from './client.ts'

export const apiQuery = <N extends CallOperation>(name: N, asked: Asked<N>) =>
  queryOptions<Reply<N>, Fault>({
    queryKey: [name, asked],
    queryFn: ({ signal }) => call(name, asked, { signal }),
  })

const MOST_TRIES = 2

/** `onSignedOut` is called whenever any answer says that nobody is signed in. */
export function makeQueryClient(onSignedOut: () => void): QueryClient {
  const watch = (error: unknown) => {
    if (error instanceof Fault && error.code === 'unauthenticated') onSignedOut()
  }
  return new QueryClient({
    queryCache: new QueryCache({ onError: watch }),
    mutationCache: new MutationCache({
      onError: (error, _variables, _result, mutation) => (mutation.meta?.['signsIn'] === true ? undefined : watch(error)),
    }),
    defaultOptions: {
      queries: {
        // Events say when an answer is stale; a page that is opened again may show what it knows meanwhile.
        staleTime: 30_000,
        gcTime: 300_000,
        refetchOnWindowFocus: false,
        networkMode: 'always',
        retry: (count, error) => retryable(error) && count < MOST_TRIES,
        retryDelay: (count) => 400 * 2 ** count,
      },
      mutations: { networkMode: 'always', retry: false },
    },
  })
}
