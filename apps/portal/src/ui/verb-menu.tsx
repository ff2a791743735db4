/** The verbs of an instance as buttons and menu items, and what they need: the call, the confirmation, the operation's following. */
import { ActionIcon, Button, Menu, Tooltip } from '@mantine/core'
import { createContext, lazy, useCallback, useContext, useMemo, useState, type ReactNode } from 'react'
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
  VERBS,
  verbsOf,
  type Instance,
  type VerbName,
} from '../api/verbs.ts'
import { Confirm } from './confirm.tsx'
import { Icon, type IconName } from './icons.tsx'
import { instanceDialog } from './instance-dialog.tsx'
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

/** Loaded when they are asked for. */
const Migrate = instanceDialog({
  title: 'Migrate',
  icon: 'right',
  testId: 'verb-migrate',
  Form: lazy(async () => ({ default: (await import('./migrate.tsx')).MigrateInstance })),
})
const Copy = instanceDialog({
  title: 'Copy',
  icon: 'copy',
  testId: 'verb-copy',
  Form: lazy(async () => ({ default: (await import('./copy-instance.tsx')).CopyInstance })),
})

/** Verbs that are sent at once for a choice of many; more would queue in the browser anyway. */
const LANES = 4

type Do = (verb: VerbName, instances: readonly Instance[]) => void
const VerbContext = createContext<Do>(() => undefined)
export const useVerbs = (): Do => useContext(VerbContext)

interface Asked {
  readonly verb: VerbName
  readonly instances: readonly Instance[]
}

/** Stands above the pages, so that a confirmation outlives the menu that asked for it. */
export function VerbProvider({ children }: { readonly children: ReactNode }) {
  const [asked, setAsked] = useState<Asked | null>(null)
  const { follow } = useActivity()
  const { complain } = useComplaints()

  const send = useCallback(
    async ({ verb, instances }: Asked) => {
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

  const begin = useCallback<Do>(
    (verb, instances) => (VERBS[verb].destroys ? setAsked({ verb, instances }) : void send({ verb, instances })),
    [send],
  )
  const confirmed = () => {
    if (asked !== null) void send(asked)
    setAsked(null)
  }
  const value = useMemo(() => begin, [begin])
  return (
    <VerbContext value={value}>
      <Migrate.Provider>
        <Copy.Provider>{children}</Copy.Provider>
      </Migrate.Provider>
      <ConfirmVerb asked={asked} onClose={() => setAsked(null)} onConfirm={confirmed} />
    </VerbContext>
  )
}

function snapshotsText(instances: readonly Instance[]): string {
  const count = instances.reduce((sum, instance) => sum + instance.snapshotCount, 0)
  return count === 0 ? '' : count === 1 ? ' and a snapshot' : ` and ${count} snapshots`
}

function ConfirmVerb({
  asked,
  onClose,
  onConfirm,
}: {
  readonly asked: Asked | null
  readonly onClose: () => void
  readonly onConfirm: () => void
}) {
  const [first] = asked?.instances ?? []
  const count = asked?.instances.length ?? 0
  const what = count === 1 ? (first?.name ?? '') : `${count} instances`
  const title = asked === null ? '' : VERBS[asked.verb].title
  const away = asked?.instances.filter((instance) => byForce(asked.verb, instance)) ?? []
  const lost =
    asked?.verb === 'destroy'
      ? `${what} will be removed with ${count === 1 ? 'its' : 'their'} disks${snapshotsText(asked.instances)}. This cannot be undone.`
      : `The power of ${what} is cut at once. What the guest has not written to its disks is lost.`
  const hosts = [...new Set(away.map((instance) => instance.host))].join(', ')
  return (
    <Confirm
      opened={asked !== null}
      onClose={onClose}
      onConfirm={onConfirm}
      title={`${title} ${what}?`}
      text={
        <>
          <p>{lost}</p>
          {away.length > 0 && (
            <p data-testid="by-force">
              {count > away.length ? `${away.length} of them: host` : 'Host'} {hosts} is not connected, so this is done by force:
              removed from the platform now, and ended on the host if it ever comes back.
            </p>
          )}
        </>
      }
      word={count === 1 ? (first?.name ?? '') : String(count)}
      action={title}
    />
  )
}

export function VerbItems({ instance }: { readonly instance: Instance }) {
  const { account } = useSession()
  const begin = useVerbs()
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
  if (verbs.length === 0) return <Menu.Label>Nothing can be done while it is {instance.state.kind}</Menu.Label>
  return (
    <>
      {gentle.map(item)}
      {canMove(instance) && <Migrate.Item instance={instance} reason={migrateRefusal(instance, account.role)} />}
      {canCopy(instance) && <Copy.Item instance={instance} reason={copyRefusal(instance, account.role)} />}
      {gentle.length > 0 && hard.length > 0 && <Menu.Divider />}
      {hard.map(item)}
    </>
  )
}

export function VerbMenu({ instance }: { readonly instance: Instance }) {
  return (
    <Menu width={190}>
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
      <Menu width={200}>
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
