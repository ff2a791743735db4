/** Snapshots of an instance: taking one, going back to one, cloning one, deleting one. */
import { ActionIcon, Button, Checkbox, Menu, TextInput, Tooltip } from '@mantine/core'
import type { Reply } from '@typevisor/api'
import { formatBytes } from '@typevisor/base'
import type { Quiesce } from '@typevisor/model'
import { useMutation, useQuery } from '@tanstack/react-query'
import { useState, type ReactNode } from 'react'
import { useActivity } from '../../api/activity-provider.tsx'
import { call } from '../../api/client.ts'
import { apiQuery } from '../../api/queries.ts'
import { useSession } from '../../api/session.ts'
import { snapshotRefusal, type Instance } from '../../api/verbs.ts'
import { OperationForm } from '../../forms/operation-form.tsx'
import { QuiesceField } from '../../forms/quiesce-field.tsx'
import { FormDialog } from '../../forms/small-form.tsx'
import { WORD_PROPS } from '../../forms/word-props.ts'
import { DataTable, type Column } from '../../table/data-table.tsx'
import { Confirm } from '../../ui/confirm.tsx'
import { Icon } from '../../ui/icons.tsx'
import { useComplaints } from '../../ui/notices.tsx'
import { Ago } from '../../ui/now.tsx'
import { Empty, Failure, Rows } from '../../ui/page.tsx'
import { momentName } from '../../ui/time.ts'
import { useInstance } from './instance.tsx'

type Snapshot = Reply<'instance.snapshots'>['items'][number]
interface Asked {
  readonly act: 'revert' | 'clone' | 'snapshot-delete'
  readonly snapshot: Snapshot
}

const COLUMNS: readonly Column<Snapshot>[] = [
  { title: 'Name', main: true, cell: (snapshot) => <strong>{snapshot.name}</strong> },
  { title: 'Taken', label: true, cell: (snapshot) => <Ago at={snapshot.takenAt} /> },
  { title: 'While it was', label: true, cell: (snapshot) => snapshot.state },
  {
    title: 'Holds',
    label: true,
    cell: (snapshot) => (snapshot.memoryBytes === null ? 'disks' : `disks and memory (${formatBytes(snapshot.memoryBytes)})`),
  },
  {
    title: 'File systems',
    label: true,
    cell: (snapshot) =>
      snapshot.quiesced ? (
        'at rest'
      ) : (
        <span className="dim" title="They were in use, and recover as after a power cut">
          recover as after a power cut
        </span>
      ),
  },
]

export function Snapshots() {
  const instance = useInstance()
  const { account } = useSession()
  const found = useQuery(apiQuery('instance.snapshots', { params: { instance: instance.id } }))
  const [taking, setTaking] = useState(false)
  const [asked, setAsked] = useState<Asked | null>(null)
  const reason = snapshotRefusal('snapshot', instance, account.role)
  const button = (
    <Tooltip label={reason ?? ''} disabled={reason === null}>
      <Button
        leftSection={<Icon name="snapshot" />}
        disabled={reason !== null}
        onClick={() => setTaking(true)}
        data-testid="take-snapshot"
      >
        Take a snapshot
      </Button>
    </Tooltip>
  )
  // The newest first, as people look for it.
  const items = found.data?.items.toReversed()
  return (
    <>
      <div className="panel">
        {items === undefined ? (
          found.isPending ? (
            <Rows count={3} />
          ) : (
            <Failure what="The snapshots" error={found.error} onRetry={() => void found.refetch()} />
          )
        ) : items.length === 0 ? (
          <Empty
            icon="snapshot"
            title="No snapshots"
            text="A snapshot keeps the disks, and the memory if you like, as they are now: to go back to, or to make new instances of. It takes a moment, however large the disks are."
            action={button}
          />
        ) : (
          <>
            <div className="toolbar" style={{ justifyContent: 'flex-end' }}>
              {button}
            </div>
            <DataTable
              label={`Snapshots of ${instance.name}`}
              rows={items}
              columns={COLUMNS}
              rowKey={(row) => row.id}
              rowName={(row) => row.name}
              menu={(row) => <SnapshotMenu instance={instance} snapshot={row} onAsk={setAsked} />}
            />
          </>
        )}
      </div>
      <FormDialog opened={taking} onClose={() => setTaking(false)} title={`Snapshot of ${instance.name}`}>
        <TakeSnapshot instance={instance} onClose={() => setTaking(false)} />
      </FormDialog>
      <FormDialog
        opened={asked?.act === 'clone'}
        onClose={() => setAsked(null)}
        title={`Clone ${instance.name} as it was at ${asked?.snapshot.name ?? ''}`}
      >
        {asked !== null && <Clone instance={instance} snapshot={asked.snapshot} onClose={() => setAsked(null)} />}
      </FormDialog>
      <Revert instance={instance} snapshot={asked?.act === 'revert' ? asked.snapshot : null} onClose={() => setAsked(null)} />
      <Delete
        instance={instance}
        snapshot={asked?.act === 'snapshot-delete' ? asked.snapshot : null}
        onClose={() => setAsked(null)}
      />
    </>
  )
}

interface SnapshotMenuProps {
  readonly instance: Instance
  readonly snapshot: Snapshot
  readonly onAsk: (asked: Asked) => void
}

function SnapshotMenu({ instance, snapshot, onAsk }: SnapshotMenuProps) {
  const { account } = useSession()
  const item = (act: Asked['act'], icon: 'restore' | 'copy' | 'trash', text: string) => {
    const reason = snapshotRefusal(act, instance, account.role)
    return (
      <Menu.Item
        leftSection={<Icon name={icon} size={16} />}
        disabled={reason !== null}
        title={reason ?? undefined}
        {...(act !== 'clone' && { color: 'red' })}
        onClick={() => onAsk({ act, snapshot })}
        data-testid={`snapshot-${act}`}
      >
        {text}
        {'\u2026'}
      </Menu.Item>
    )
  }
  return (
    <Menu width={190}>
      <Menu.Target>
        <ActionIcon aria-label={`Actions of snapshot ${snapshot.name}`} data-testid="row-menu">
          <Icon name="dots" />
        </ActionIcon>
      </Menu.Target>
      <Menu.Dropdown>
        {item('clone', 'copy', 'Clone')}
        <Menu.Divider />
        {item('revert', 'restore', 'Revert to it')}
        {item('snapshot-delete', 'trash', 'Delete')}
      </Menu.Dropdown>
    </Menu>
  )
}

function TakeSnapshot({ instance, onClose }: { readonly instance: Instance; readonly onClose: () => void }) {
  const [name, setName] = useState(() => momentName(new Date()))
  const [memory, setMemory] = useState(false)
  const [quiesce, setQuiesce] = useState<Quiesce>('try')
  const { kind } = instance.state
  const isLive = kind === 'running' || kind === 'paused'
  const body = { name: name.trim(), memory: memory && isLive, quiesce }
  return (
    <OperationForm
      name={instance.name}
      onClose={onClose}
      fields={['name', 'memory', 'quiesce']}
      send={() => call('instance.snapshot', { params: { instance: instance.id }, query: {}, body })}
      action="Take it"
      testId="snapshot-form"
    >
      {(errors) => (
        <>
          <TextInput
            data-autofocus
            label="Name"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
            error={errors.name}
            data-testid="field-snapshot-name"
            {...WORD_PROPS}
          />
          <Checkbox
            label="Keep its memory too"
            description={
              isLive
                ? 'It stands still while its memory is written, and goes on from there after a revert'
                : `It is ${kind}: there is no memory to keep`
            }
            checked={memory && isLive}
            disabled={!isLive}
            onChange={(event) => setMemory(event.currentTarget.checked)}
            error={errors.memory}
            data-testid="field-memory"
          />
          {kind === 'running' && !memory && <QuiesceField value={quiesce} onChange={setQuiesce} error={errors.quiesce} />}
        </>
      )}
    </OperationForm>
  )
}

interface OfSnapshot {
  readonly instance: Instance
  readonly snapshot: Snapshot
  readonly onClose: () => void
}

const NAME_LENGTH_MAX = 63

function Clone({ instance, snapshot, onClose }: OfSnapshot) {
  const [name, setName] = useState(() => `${instance.name}-${snapshot.name}`.slice(0, NAME_LENGTH_MAX).replace(/-+$/, ''))
  const [starts, setStarts] = useState(true)
  const body = { name: name.trim(), start: starts }
  const params = { instance: instance.id, snapshot: snapshot.name }
  return (
    <OperationForm
      name={body.name}
      onClose={onClose}
      fields={['name', 'start']}
      send={() => call('instance.clone', { params, query: {}, body })}
      action="Clone it"
      testId="clone-form"
    >
      {(errors) => (
        <>
          <TextInput
            data-autofocus
            label="Name of the new instance"
            value={name}
            onChange={(event) => setName(event.currentTarget.value)}
            error={errors.name}
            data-testid="field-clone-name"
            {...WORD_PROPS}
          />
          <Checkbox
            label="Start it at once"
            description={`It boots from the disks, with addresses of its own${snapshot.memoryBytes === null ? '' : '; memory is not cloned'}`}
            checked={starts}
            onChange={(event) => setStarts(event.currentTarget.checked)}
            error={errors.start}
          />
        </>
      )}
    </OperationForm>
  )
}

type MaybeOfSnapshot = Omit<OfSnapshot, 'snapshot'> & { readonly snapshot: Snapshot | null }

/** What is asked before, and sent when it is answered. */
function useSending({ instance, snapshot, onClose }: MaybeOfSnapshot, what: string) {
  const { follow } = useActivity()
  const { complain } = useComplaints()
  return useMutation({
    mutationFn: (send: (params: { instance: string; snapshot: string }) => ReturnType<typeof call<'instance.revert'>>) =>
      send({ instance: instance.id, snapshot: snapshot?.name ?? '' }),
    onSuccess: (accepted) => follow(accepted, instance.name),
    onError: (error) => complain(`${what} was refused`, error),
    onSettled: onClose,
  })
}

function Revert(props: MaybeOfSnapshot) {
  const { instance, snapshot, onClose } = props
  const [starts, setStarts] = useState(true)
  const sending = useSending(props, `Reverting ${instance.name}`)
  const start = starts && snapshot?.memoryBytes === null
  return (
    <Confirm
      opened={snapshot !== null}
      onClose={onClose}
      onConfirm={() => sending.mutate((params) => call('instance.revert', { params, query: {}, body: { start } }))}
      busy={sending.isPending}
      title={`Revert ${instance.name} to ${snapshot?.name ?? ''}?`}
      text={snapshot !== null && <RevertText instance={instance} snapshot={snapshot} starts={starts} onStarts={setStarts} />}
      word={instance.name}
      action="Revert"
    />
  )
}

interface RevertTextProps extends Omit<OfSnapshot, 'onClose'> {
  readonly starts: boolean
  readonly onStarts: (starts: boolean) => void
}

function RevertText({ instance, snapshot, starts, onStarts }: RevertTextProps): ReactNode {
  const { kind } = instance.state
  return (
    <>
      <p>
        What was written to its disks since then (<Ago at={snapshot.takenAt} />) is lost
        {kind === 'running' || kind === 'paused' ? ', and what runs in it now ends' : ''}
        {kind === 'saved' ? ', and so is its saved memory' : ''}. Its other snapshots stay.
      </p>
      {snapshot.memoryBytes === null ? (
        <Checkbox
          label="Start it afterwards"
          description="The snapshot holds disks only: it boots from them"
          checked={starts}
          onChange={(event) => onStarts(event.currentTarget.checked)}
        />
      ) : (
        <p>It goes on from the memory of the snapshot, {snapshot.state}.</p>
      )}
    </>
  )
}

function Delete(props: MaybeOfSnapshot) {
  const { instance, snapshot, onClose } = props
  const sending = useSending(props, `Deleting ${snapshot?.name ?? 'the snapshot'}`)
  return (
    <Confirm
      opened={snapshot !== null}
      onClose={onClose}
      onConfirm={() => sending.mutate((params) => call('instance.snapshot-delete', { params, query: {} }))}
      busy={sending.isPending}
      title={`Delete snapshot ${snapshot?.name ?? ''}?`}
      text={`${instance.name} can no longer go back to it. What was cloned from it stays, and so do the other snapshots.`}
      word={snapshot?.name ?? ''}
      action="Delete"
    />
  )
}
