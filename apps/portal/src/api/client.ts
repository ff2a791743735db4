/** The portal's one client: its own origin, the cookie's session, the session's CSRF token. */
import type { OperationName, Reply } from '@typevisor/api'
import { createClient, type CallInput, type CallOperation } from '@typevisor/api/client'

export type { CallOperation }
export type Asked<N extends OperationName> = CallInput<N>

let csrfToken: string | null = null
export const rememberCsrfToken = (token: string | null): void => {
  csrfToken = token
}

export const client = createClient({ baseUrl: location.origin, csrf: () => csrfToken })

type Call = <N extends CallOperation>(name: N, asked: Asked<N>, options?: { signal?: AbortSignal }) => Promise<Reply<N>>
/** With what is asked always given, `{}` where there is nothing to give: one shape for calls, query keys and mutations. */
export const call: Call = client.call as Call
