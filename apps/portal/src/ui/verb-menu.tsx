/** The verbs of an instance as buttons and menu items, and what they need: the call, the confirmation, the operation's following. */
import { ActionIcon, Button, Menu, Tooltip } from '@mantine/core'
import { createContext, Suspense, useCallback, useContext, useMemo, useState, type ReactNode } from 'react'
import { useActivity } from '../api/activity-provider.tsx'
import { call } from '../api/client.ts'
import { useSession } from '../api/session.ts'
import {
  byForce,
  canCopy,
  canMove,
  copyRefusal,
  firstVerb,
  migrateRefusal,
  refusal,
  renameRefusal,
  VERBS,
  verbsOf,
  type Instance,
  type VerbName,
} from '../api/verbs.ts'
import { lazyPart } from '../lazy-page.ts'
import { Icon, type IconName } from './icons.tsx'
import type { AskedVerb, Dialog } from './instance-dialogs.tsx'
import { useComplaints } from './notices.tsx'

const ICONS: Record<VerbName, IconName> = {
  start: 'play',
  pause: 'pause',
  unpause: 'play',
  shutdown: 'power',
  reboot: 'refresh',
  save: 'save',
  restore: 'restore',
  dump: 'copy',
  poweroff: 'power',
  destroy: 'trash',
}

/** Verbs that are sent at once for a choice of many; more would queue in the browser anyway. */
const LANES = 4

type Do = (verb: VerbName, instances: readonly Instance[]) => void
interface Verbs {
  readonly begin: Do
  readonly ask: (dialog: Dialog) => void
}
const VerbContext = createContext<Verbs>({ begin: () => undefined, ask: () => undefined })
export const useVerbs = (): Do => useContext(VerbContext).begin

const loadDialogs = async () => (await import('./instance-dialogs.tsx')).InstanceDialogs
/** Loaded when a menu opens or something is asked: the first load has a bound. */
const InstanceDialogs = lazyPart(loadDialogs)
/** What fails here is tried again, and told, when it is wanted. */
const prefetchDialogs = () => void loadDialogs().catch(() => undefined)

/** Stands above the pages, so that a confirmation outlives the menu that asked for it. */
export function VerbProvider({ children }: { readonly children: ReactNode }) {
  const [dialog, setDialog] = useState<Dialog | null>(null)
  const [opened, setOpened] = useState(false)
  const { follow } = useActivity()
  const { complain } = useComplaints()

  const send = useCallback(
    async ({ verb, instances }: AskedVerb) => {
      const queue = [...instances]
      const lane = async () => {
        for (let instance = queue.shift(); instance !== undefined; instance = queue.shift()) {
          try {
            // By id: a name may meanwhile belong to another.
            const params = { instance: instance.id }
            const accepted = byForce(verb, instance)
              ? await call('instance.destroy', { params, query: { force: 'true' } })
              : await call(`instance.${verb}`, { params, query: {} })
            follow(accepted, instance.name)
          } catch (error) {
            complain(`${VERBS[verb].title} ${instance.name} was refused`, error)
          }
        }
      }
      await Promise.all(Array.from({ length: LANES }, lane))
    },
    [follow, complain],
  )

  const value = useMemo<Verbs>(() => {
    const ask = (asked: Dialog) => {
      setDialog(asked)
      setOpened(true)
    }
    const begin: Do = (verb, instances) =>
      VERBS[verb].destroys ? ask({ kind: 'confirm', verb, instances }) : void send({ verb, instances })
    return { begin, ask }
  }, [send])
  return (
    <VerbContext value={value}>
      {children}
      {/* Closed it stays, so that it fades with what it said. */}
      {dialog !== null && (
        <Suspense fallback={null}>
          <InstanceDialogs
            dialog={dialog}
            opened={opened}
            onClose={() => setOpened(false)}
            onConfirm={(asked) => void send(asked)}
          />
        </Suspense>
      )}
    </VerbContext>
  )
}

export function VerbItems({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const { begin, ask } = useContext(VerbContext)
  const verbs = verbsOf(instance)
  const item = (verb: VerbName) => {
    const reason = refusal(verb, instance, account.role)
    return (
      <Menu.Item
        key={verb}
        leftSection={<Icon name={ICONS[verb]} size={16} />}
        disabled={reason !== null}
        title={reason ?? undefined}
        {...(VERBS[verb].destroys && { color: 'red' })}
        onClick={() => begin(verb, [instance])}
        data-testid={`verb-${verb}`}
      >
        {VERBS[verb].title}
        {VERBS[verb].destroys ? '\u2026' : ''}
      </Menu.Item>
    )
  }
  const gentle = verbs.filter((verb) => !VERBS[verb].destroys)
  const hard = verbs.filter((verb) => VERBS[verb].destroys)
  const asking = (kind: 'migrate' | 'copy' | 'rename', icon: IconName, title: string, reason: string | null) => (
    <Menu.Item
      leftSection={<Icon name={icon} size={16} />}
      disabled={reason !== null}
      title={reason ?? undefined}
      onClick={() => ask({ kind, instance })}
      data-testid={`verb-${kind}`}
    >
      {title}
      {'\u2026'}
    </Menu.Item>
  )
  const { kind } = instance.state
  if (verbs.length === 0) return <Menu.Label>Nothing can be done while it is {instance.state.kind}</Menu.Label>
  return (
    <>
      {gentle.map(item)}
      {canMove(instance) && asking('migrate', 'right', 'Migrate', migrateRefusal(instance, account.role))}
      {canCopy(instance) && asking('copy', 'copy', 'Copy', copyRefusal(instance, account.role))}
      {kind !== 'failed' && asking('rename', 'edit', 'Rename', renameRefusal(instance, account.role))}
      {gentle.length > 0 && hard.length > 0 && <Menu.Divider />}
      {hard.map(item)}
    </>
  )
}

export function VerbMenu({ instance }: { readonly instance: Instance }) {
  return (
    <Menu width={190} onOpen={prefetchDialogs}>
      <Menu.Target>
        <ActionIcon aria-label={`Actions of ${instance.name}`} data-testid="row-menu">
          <Icon name="dots" />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        <VerbItems instance={instance} />
      </Menu.Dropdown>
    </Menu>
  )
}

/** In the head of an instance's page: the likely verb as a button, all of them behind it. */
export function VerbButtons({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const begin = useVerbs()
  const verb = firstVerb(instance)
  const reason = verb === null ? null : refusal(verb, instance, account.role)
  return (
    <>
      {verb !== null && (
        <Tooltip label={reason ?? ''} disabled={reason === null}>
          <Button
            variant={verb === 'start' || verb === 'restore' || verb === 'unpause' ? 'filled' : 'default'}
            leftSection={<Icon name={ICONS[verb]} />}
            disabled={reason !== null}
            onClick={() => begin(verb, [instance])}
            data-testid={`do-${verb}`}
          >
            {VERBS[verb].title}
          </Button>
        </Tooltip>
      )}
      <Menu width={200} onOpen={prefetchDialogs}>
        <Menu.Target>
          <Button variant="default" rightSection={<Icon name="dots" />} data-testid="verbs">
            Actions
          </Button>
        </Menu.Target>
        <Menu.Dropdown>
          <VerbItems instance={instance} />
        </Menu.Dropdown>
      </Menu>
    </>
  )
}
