/** Addresses as the guest's agent tells them: also how one sees whether it answers. */
import { apiQuery } from '../../api/queries.ts'
import type { Instance } from '../../api/verbs.ts'

const AGAIN_MS = 5_000

export const addressesQuery = (instance: Instance, running: boolean) => ({
  ...apiQuery('instance.addresses', { params: { instance: instance.id } }),
  enabled: running,
  retry: false,
  // The guest's agent answers some seconds after the boot; once it has, an event or a visit asks again.
  refetchInterval: (query: { readonly state: { readonly data?: unknown } }) =>
    query.state.data === undefined ? AGAIN_MS : false,
})
