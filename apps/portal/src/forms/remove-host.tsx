/** Forgets a host that is gone. What ran on it goes from the platform with it, so the instances are named before the host's name is typed. */
import { Skeleton } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query'
import { call } from '../api/client.ts'
import { apiQuery } from '../api/queries.ts'
import { Confirm } from '../ui/confirm.tsx'
import { useComplaints } from '../ui/notices.tsx'

type Host = Reply<'host.list'>['items'][number]

const NAMED_MAX = 100

export function RemoveHost({ host, onClose }: { readonly host: Host | null; readonly onClose: () => void }) {
  const queryClient = useQueryClient()
  const { complain } = useComplaints()
  const removing = useMutation({
    mutationFn: ({ name, instanceCount }: Host) =>
      call('host.delete', { params: { host: name }, query: { force: instanceCount > 0 ? 'true' : 'false' } }),
    onSuccess: onClose,
    onError: (error, { name }) => {
      onClose()
      complain(`Host ${name} was not removed`, error)
    },
    onSettled: () => {
      for (const stale of ['host.list', 'instance.list', 'image.list']) void queryClient.invalidateQueries({ queryKey: [stale] })
    },
  })
  return (
    <Confirm
      opened={host !== null}
      onClose={onClose}
      onConfirm={() => host !== null && removing.mutate(host)}
      busy={removing.isPending}
      title={`Remove host ${host?.name ?? ''}?`}
      text={host !== null && <WhatGoes host={host} />}
      word={host?.name ?? ''}
      action="Remove"
    />
  )
}

function WhatGoes({ host }: { readonly host: Host }) {
  const query = { host: host.name, limit: NAMED_MAX }
  const instances = useQuery({ ...apiQuery('instance.list', { query }), enabled: host.instanceCount > 0 })
  const token = 'Its token ends: an agent that comes back is refused until the host is added again.'
  if (host.instanceCount === 0) return <p>The platform forgets the machine. {token}</p>
  const names = instances.data?.items.map((instance) => instance.name) ?? []
  const more = (instances.data?.total ?? 0) - names.length
  return (
    <>
      <p>
        The platform forgets the machine, and with it{' '}
        {host.instanceCount === 1 ? 'the instance' : `the ${host.instanceCount} instances`} on it. {token} What it still has of
        them is ended if it is added again.
      </p>
      {instances.isPending ? (
        <Skeleton height={18} width="60%" />
      ) : (
        <ul className="names" data-testid="goes-with-it">
          {names.map((name) => (
            <li key={name}>{name}</li>
          ))}
          {more > 0 && <li className="dim">and {more} more</li>}
        </ul>
      )}
    </>
  )
}
