import { Button, Text } from '@mantine/core'
import { useQuery, useQueryClient } from '@tanstack/react-query'
import { Outlet, useNavigate, useParams } from '@tanstack/react-router'
import { createContext, useContext, useEffect } from 'react'
import { decisionsOf, isUnfinished, operationTitle } from '../../api/activity.ts'
import { apiQuery } from '../../api/queries.ts'
import { useMay, useSession } from '../../api/session.ts'
import { isAway, type Instance } from '../../api/verbs.ts'
import { path, PATHS } from '../../paths.ts'
import { Icon } from '../../ui/icons.tsx'
import { ButtonLink, TextLink } from '../../ui/link.tsx'
import { Failure, PageHead, Rows } from '../../ui/page.tsx'
import { OperationButtons } from '../../ui/operation-buttons.tsx'
import { ProgressStrip } from '../../ui/progress-strip.tsx'
import { StateBadge } from '../../ui/state-badge.tsx'
import { Tabs, usePart } from '../../ui/tabs.tsx'
import { useVerbs, VerbButtons } from '../../ui/verb-menu.tsx'
import { GonePage } from '../page-states.tsx'

const InstanceContext = createContext<Instance | null>(null)

/** The instance whose page one is on; its tabs are drawn only when there is one. */
export function useInstance(): Instance {
  const instance = useContext(InstanceContext)
  if (instance === null) throw new Error('useInstance: outside an instance page')
  return instance
}

/** The states in which there is, or soon will be, something to connect to. */
export const LIVE: ReadonlySet<Instance['state']['kind']> = new Set(['running', 'paused', 'creating'])

const PARTS = {
  console: 'Console',
  screen: 'Screen',
  guest: 'Guest',
  devices: 'Devices',
  snapshots: 'Snapshots',
  events: 'Events',
} as const

export function InstancePage() {
  const { instance: name } = useParams({ from: `/signed-in${PATHS.instance}` })
  const found = useQuery(apiQuery('instance.get', { params: { instance: name } }))
  const may = useMay()
  const part = usePart(PARTS)
  const isRenamed = useNewName(found.error?.code === 'not_found' ? found.data : undefined)
  if (isRenamed) return <Rows count={8} />
  // One whose making failed is still there, with its reason, until it is destroyed.
  if (found.error?.code === 'not_found')
    return (
      <GonePage
        name={name}
        what="instance"
        text="It was destroyed, or it never was."
        action={<ButtonLink {...path.instances()}>To the instances</ButtonLink>}
      />
    )
  if (found.isPending) return <Rows count={8} />
  if (found.data === undefined) return <Failure what={name} error={found.error} onRetry={() => void found.refetch()} />
  const instance = found.data
  return (
    <InstanceContext value={instance}>
      <Text size="sm" mb={4}>
        <TextLink c="dimmed" {...path.instances()}>
          Instances
        </TextLink>
      </Text>
      <PageHead
        title={instance.name}
        part={part}
        beside={<StateBadge instance={instance} />}
        actions={may('instance.start') ? <VerbButtons instance={instance} /> : undefined}
      />
      <OperationStrip instance={instance} />
      <StuckNotice instance={instance} />
      <StateDetail instance={instance} />
      {isAway(instance) && <AwayNotice instance={instance} />}
      <Tabs
        label={`Pages of ${instance.name}`}
        tabs={[
          { title: 'Overview', at: path.instance(name), first: true },
          ...(may('instance.console') ? [{ title: PARTS.console, at: path.console(name) }] : []),
          ...(may('instance.vnc') ? [{ title: PARTS.screen, at: path.screen(name) }] : []),
          ...(may('instance.exec') ? [{ title: PARTS.guest, at: path.guest(name) }] : []),
          { title: PARTS.devices, at: path.devices(name) },
          { title: PARTS.snapshots, at: path.snapshots(name) },
          { title: PARTS.events, at: path.events(name) },
        ]}
      />
      {/* A new instance of the same name is another machine: nothing of the old one's tabs may stay. */}
      <Outlet key={instance.id} />
    </InstanceContext>
  )
}

/** `gone`: an instance that was here under this name and is not any more. If it has another name now, the page goes on there, on the same tab. */
function useNewName(gone: Instance | undefined): boolean {
  const navigate = useNavigate()
  const queryClient = useQueryClient()
  const { data, isPending } = useQuery({
    ...apiQuery('instance.get', { params: { instance: gone?.id ?? '' } }),
    enabled: gone !== undefined,
  })
  const renamed = gone !== undefined && data !== undefined && data.name !== gone.name ? data : null
  useEffect(() => {
    if (renamed === null) return
    // There at once: the tab stays as it is, with its connections.
    queryClient.setQueryData(apiQuery('instance.get', { params: { instance: renamed.name } }).queryKey, renamed)
    void navigate({ to: '.', params: { instance: renamed.name }, replace: true })
  }, [renamed?.name])
  return gone !== undefined && (isPending || renamed !== null)
}

/** Its host is away: what that means for what is shown, and the way out when it never comes back. */
function AwayNotice({ instance }: { readonly instance: Instance }) {
  const may = useMay()
  const begin = useVerbs()
  return (
    <div className="notice flat tone-amber" role="status" data-testid="away">
      <Icon name="host" />
      <div>
        <strong>Host {instance.host} is not connected</strong>
        <p>
          What is shown is what was last known; a guest goes on running without its agent. It can be acted on again when the host
          is back: see <TextLink {...path.hosts()}>Hosts</TextLink>.
        </p>
        {may('instance.destroy') && (
          <span className="decisions">
            <Button
              size="compact-xs"
              variant="light"
              color="red"
              onClick={() => begin('destroy', [instance])}
              data-testid="destroy-by-force"
            >
              It is gone for good: destroy{'\u2026'}
            </Button>
          </span>
        )}
      </div>
    </div>
  )
}

const PROGRESS_MS = 1_000

function OperationStrip({ instance }: { readonly instance: Instance }) {
  const id = instance.operation?.id ?? ''
  const following = useQuery({
    ...apiQuery('operation.get', { params: { operation: id }, query: {} }),
    enabled: id !== '',
    refetchInterval: (query) => (query.state.data === undefined || isUnfinished(query.state.data) ? PROGRESS_MS : false),
  })
  if (instance.operation === null) return null
  const { data } = following
  return (
    <ProgressStrip
      title={operationTitle(instance.operation.name)}
      operation={data}
      actions={data !== undefined && <OperationButtons operation={data} name={instance.name} />}
    />
  )
}

/** An operation that failed and could not be taken back: it holds the instance until somebody decides. */
function StuckNotice({ instance }: { readonly instance: Instance }) {
  const stuck = useQuery(apiQuery('operation.list', { query: { resource: instance.id, state: 'stuck', limit: 1 } }))
  const { account } = useSession()
  const [operation] = stuck.data?.items ?? []
  if (operation === undefined) return null
  const decides = decisionsOf(operation, account.role).length > 0
  return (
    <div className="notice flat tone-red" role="alert" data-testid="stuck">
      <Icon name="alert" />
      <div>
        <strong>{operationTitle(operation.name)} is stuck: it failed, and what it had done could not be undone</strong>
        {operation.fault !== null && <p>{operation.fault.message}</p>}
        {decides ? <OperationButtons operation={operation} name={instance.name} /> : <p>An admin can try again or abandon it.</p>}
      </div>
    </div>
  )
}

const WHAT_NEXT: Partial<Record<Instance['state']['kind'], string>> = {
  failed: 'Destroy it, and create it again when the reason is mended.',
  crashed: 'Its console shows its last words. Power it off, then start it again.',
}

const PAUSED_BY_DISK: Readonly<Record<string, string>> = {
  'disk-full': 'Make room where its disk lies: it goes on by itself, where it stopped.',
  'io-error': 'Mend its disk, then unpause it: it goes on where it stopped.',
}

/** Why it is in this state, where the state alone does not say: a crash's last words, a failed host. */
function StateDetail({ instance }: { readonly instance: Instance }) {
  const { state } = instance
  const told =
    state.kind === 'crashed' || state.kind === 'failed' || (state.kind === 'paused' && Object.hasOwn(PAUSED_BY_DISK, state.cause))
  if (!told) return null
  return (
    <div className="notice flat tone-red" role="alert" data-testid="state-detail">
      <Icon name="alert" />
      <div>
        <strong>
          {state.kind === 'paused' ? 'Paused' : state.kind === 'failed' ? 'Failed' : 'Crashed'}: {state.cause}
        </strong>
        {state.detail !== null && <p>{state.detail}</p>}
        <p className="next">{state.kind === 'paused' ? PAUSED_BY_DISK[state.cause] : WHAT_NEXT[state.kind]}</p>
      </div>
    </div>
  )
}
